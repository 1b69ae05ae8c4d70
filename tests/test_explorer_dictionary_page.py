"""The dictionary page: rows in the order of `sorted`, filters as brute force has them, points where their numbers
say, and a page without a server that shows the same as a served one."""

import doctest
import importlib
import json
import math
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from explorer_browser import browser, explored_run, hostile_run, served, visit, visiting  # noqa: F401

from sparsescope.explorer.explored import Explored
from sparsescope.explorer.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, density_scatter
from sparsescope.explorer.files import asset_files
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.pages.choosing import NOTHING, SHOWS, SORTS, read_filter
from sparsescope.explorer.pages.dictionary import dictionary_page
from sparsescope.explorer.pages.rows import rows_script
from sparsescope.explorer.query import BadRequest, NotThere
from sparsescope.explorer.rendering import number, percent, render
from sparsescope.features.browsing import Chosen

SHOWN = {
    "all": lambda card: True,
    "active": lambda card: card.density > 0,
    "dead": lambda card: card.density == 0,
    "dense": lambda card: card.density > 0.1,
    "explained": lambda card: card.explanation is not None,
}


@pytest.fixture
def explored(explored_run):  # noqa: F811
    return Explored(explored_run)


@pytest.fixture
def slug(explored):
    return explored.slug(explored.shelves()[0].id)


@pytest.fixture
def cards(explored):
    shelf = explored.shelves()[0]
    return [explored.browser().card(shelf.id, latent) for latent in range(shelf.n_latents)]


def rows_of(explored, slug, **query):
    page = dictionary_page(explored, ServedLinks(False), slug, query)
    return [card.latent for card, _ in page.values["rows"]], page.values


def in_order(cards, sort, order):
    """The oracle: unknown values last either way, ties by latent."""

    def key(card):
        value = getattr(card, sort)
        return (value is None, 0.0 if value is None else -value if order == "desc" else value, card.latent)

    return [card.latent for card in sorted(cards, key=key)]


def test_rows_of_all_pages_together_are_the_sorted_latents(explored, slug, cards):
    for show in SHOWS:
        chosen = [card for card in cards if SHOWN[show](card)]
        for sort in SORTS:
            for order in ("asc", "desc"):
                first, values = rows_of(explored, slug, show=show, sort=sort, order=order)
                second = rows_of(explored, slug, show=show, sort=sort, order=order, page="2")[0]
                assert values["total"] == len(chosen)
                together = first + second if len(chosen) > 50 else first
                assert together == in_order(chosen, sort, order), (show, sort, order)
                assert len(first) == min(50, len(chosen))


def test_headings_links_and_counts_agree_with_the_database(explored, slug, cards):
    _, values = rows_of(explored, slug, sort="density", order="desc", q="density<=0.5", page="2")
    assert [tab.count for tab in values["tabs"]] == [sum(map(SHOWN[show], cards)) for show in SHOWS]
    for head in values["heads"]:
        if not head.column:
            continue
        query = parse_qs(urlsplit(head.href).query)
        assert query["sort"] == [head.column]
        assert query["q"] == ["density<=0.5"]
        assert "page" not in query
        turned = {"density": "asc", "latent": "asc"}.get(head.column, "desc")
        assert query["order"] == [turned]
        assert head.aria == ("descending" if head.column == "density" else "none")
    before = parse_qs(urlsplit(values["pages"]["hrefs"]["previous"]).query)
    assert {key: before[key] for key in ("sort", "q")} == {"sort": ["density"], "q": ["density<=0.5"]}
    assert "page" not in before or before["page"] == ["1"]


def test_filters_find_what_brute_force_finds(explored, slug, cards):
    token = cards[0].tokens[0][0]
    word = re.findall(r"[^\W_]+", next(card.explanation for card in cards if card.explanation))[0]

    def words(card):
        texts = [card.explanation or "", card.label or "", " ".join(text for text, _ in card.tokens)]
        return {found.lower() for text in texts for found in re.findall(r"[^\W_]+", text)}

    truth = {
        "density>0.01 score<=0.9": lambda c: c.density > 0.01 and c.score is not None and c.score <= 0.9,
        "effect>=0.2": lambda c: c.effect is not None and c.effect >= 0.2,
        "f1<0.5": lambda c: c.f1 is not None and c.f1 < 0.5,
        token: lambda c: token in {text for text, _ in c.tokens},
        word: lambda c: word.lower() in words(c),
        "BRACKETS": lambda c: "bracket" in words(c),
        "brack": lambda c: "bracket" in words(c),
        "label:brackets": lambda c: "bracket" in words(c) and c.f1 >= 0.05,
        "token:word5* Score>0.2": lambda c: (
            any(text.strip().startswith("word5") for text, _ in c.tokens) and c.score is not None and c.score > 0.2
        ),
        f"{word} density<1e-2": lambda c: word.lower() in words(c) and c.density < 0.01,
        "nothinglikethis": lambda c: False,
    }
    for asked, holds in truth.items():
        found, values = rows_of(explored, slug, q=asked, sort="latent")
        assert found == [card.latent for card in cards if holds(card)][:50], asked
        assert values["total"] == sum(map(holds, cards))
    exact = cards[4].density
    assert 4 in rows_of(explored, slug, q=f"density>={exact!r}", sort="latent")[0]
    assert 4 not in rows_of(explored, slug, q=f"density>{exact!r}", sort="latent")[0]


def test_labels_that_fit_by_chance_are_not_shown(explored, slug, cards):
    page = dictionary_page(explored, ServedLinks(False), slug, {"sort": "f1", "order": "asc"})
    shown = re.findall(r'data-name="label">(.*?)</td>', render(page, explored, ServedLinks(False)))
    known = [card for card, _ in page.values["rows"]]
    assert any(card.label is not None and card.f1 < 0.05 for card in known)
    assert [each != "–" for each in shown] == [card.label is not None and card.f1 >= 0.05 for card in known]


def test_bounds_and_terms_are_told_from_words():
    chosen, complaint = read_filter("a density<0.5 x:y")
    assert (chosen.words, chosen.ranges, complaint) == ("a x:y", (("density", None, math.nextafter(0.5, -1)),), "")
    chosen, _ = read_filter("Density<=.5 score>=1e-3 F1=1 latent>5")
    expected = (
        ("density", None, 0.5),
        ("score", 0.001, None),
        ("f1", 1.0, 1.0),
        ("latent", math.nextafter(5, 9), None),
    )
    assert (chosen.words, chosen.ranges) == ("", expected)
    terms = [(term.key, term.value) for term in read_filter('token:")" label:brackets words')[0].terms]
    assert terms == [("token", ")"), ("label", "brackets")]
    for words in ("density", "<0.5", "nan :) a<b"):
        assert read_filter(words) == (Chosen(words), "")
    for wrong, named in (
        ("a densty<0.5", "unknown field 'densty' in 'densty<0.5'. Did you mean 'density'? Known: density, maximum,"),
        ("q7>3", "unknown field 'q7' in 'q7>3'. Known: "),
        ("labels:x", "Did you mean 'label'"),
        ("density<", "no number"),
        ("density<٣", "no number"),
        ("label:)", "no letter"),
        ("method:topk", "this table is of one"),
    ):
        chosen, complaint = read_filter(wrong)
        assert chosen == NOTHING, wrong
        assert named in complaint


def test_what_cannot_be_meant_is_refused(explored, slug):
    wrong = ({"sort": "name"}, {"show": "some"}, {"order": "up"}, {"y": "x"}, {"page": "0"}, {"page": "-1"})
    for query in (*wrong, {"page": "1e9"}, {"q": "x" * 201}):
        with pytest.raises(BadRequest):
            dictionary_page(explored, ServedLinks(False), slug, query)
    with pytest.raises(NotThere):
        dictionary_page(explored, ServedLinks(False), "none", {})
    last, values = rows_of(explored, slug, page="999")
    assert values["choice"].page == 2
    assert len(last) == 10
    empty = dictionary_page(explored, ServedLinks(False), slug, {"q": "nothinglikethis"})
    assert "No latent is like that" in render(empty, explored, ServedLinks(False), "token")


def test_points_lie_where_their_numbers_say(explored, slug, cards):
    overview = explored.browser().overview(explored.shelves()[0].id)
    for name, root, limits in (("score", False, (0.0, 1.0)), ("effect", True, (0.0, 0.1))):
        points = overview.scatter(name)
        drawn = density_scatter(points, name, limits, lambda latent: f"/{latent}", root=root)
        found = re.findall(r'<a href="/(\d+)" [^>]*><circle class="one" [^>]*cx="([\d.]+)" cy="([\d.]+)"', drawn)
        known = {card.latent: card for card in cards if card.density > 0 and getattr(card, name) is not None}
        assert {int(latent) for latent, _, _ in found} == set(known)
        scale = math.sqrt if root else float
        densities = [math.log10(card.density) for card in known.values()]
        room_across = max(0.03 * (max(densities) - min(densities)), 0.06)
        left, right = min(densities) - room_across, max(densities) + room_across
        heights = [scale(value) for value in (*limits, *(getattr(card, name) for card in known.values()))]
        room = 0.03 * (max(heights) - min(heights))
        low, high = min(heights) - room, max(heights) + room
        for latent, x, y in found:
            card = known[int(latent)]
            across = (math.log10(card.density) - left) / (right - left)
            up = (scale(getattr(card, name)) - low) / (high - low)
            assert float(x) == pytest.approx(LEFT + across * (WIDTH - LEFT - RIGHT), abs=0.2)
            assert float(y) == pytest.approx(HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP), abs=0.2)
    without = density_scatter([point for point in points if point[0] < -1], name, limits, str, root=root)
    assert 'class="dense"' not in without
    dense = float(re.search(r'<rect class="dense" x="([\d.]+)"', drawn)[1])
    assert all((float(x) > dense) == (known[int(latent)].density > 0.1) for latent, x, _ in found)


def test_a_cell_of_many_says_how_many():
    drawn = density_scatter([(-2.0, 0.5, 7, 40), (-1.5, 0.2, 9, 1)], "score", (0.0, 1.0), str)
    assert "40 latents here, among them latent 7" in drawn
    assert drawn.count('class="many"') == drawn.count('class="one"') == 1


def test_the_script_of_rows_holds_every_number_exactly(explored, slug, cards, hostile_run):  # noqa: F811
    script = rows_script(explored, slug)
    rows = script.split(f"sparsescope.rows[{json.dumps(slug)}] = ")[1]
    found = json.loads(rows.rstrip().rstrip(";"))
    assert [row[:7] for row in found] == [
        [c.latent, c.density, c.maximum, c.entropy, c.score, c.f1, c.effect] for c in cards
    ]
    assert [[share for _, share in row[9]] for row in found] == [[share for _, share in c.tokens] for c in cards]
    hostile = Explored(hostile_run)
    for shelf in hostile.shelves():
        text = rows_script(hostile, hostile.slug(shelf.id))
        assert text.isascii()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]|\\u202e|\\u2066|\\u0000|\\ud800\"", text)
        assert len(text) < 1_000 * shelf.n_latents


def test_hostile_text_stays_text(hostile_run):  # noqa: F811
    explored = Explored(hostile_run)
    for shelf in explored.shelves():
        page = dictionary_page(
            explored, ServedLinks(False), explored.slug(shelf.id), {"sort": "latent", "q": "<i>asked\u202e"}
        )
        page = render(page, explored, ServedLinks(False), "token")
        page += render(
            dictionary_page(explored, ServedLinks(False), explored.slug(shelf.id), {"sort": "latent"}),
            explored, ServedLinks(False), "token",
        )  # fmt: skip
        assert "<i>asked" not in page
        assert "<script>alert" not in page
        assert "<img" not in page
        assert not set("\u202e\u2066\x00\x1b") & set(page)


def test_sorting_paging_and_points_by_mouse(visit, explored, slug, cards):  # noqa: F811
    page = visit(f"/dictionary/{slug}", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 1280, "height": 900})

    def latents():
        return [int(text) for text in page.locator("#rows th a").all_inner_texts()]

    assert latents() == in_order(cards, "score", "desc")[:50]
    page.click("th[data-sort=density] a")
    page.wait_for_url("**sort=density&order=desc**")
    assert latents() == in_order(cards, "density", "desc")[:50]
    page.locator(".pager a", has_text="next").first.click()
    page.wait_for_url("**page=2**")
    assert latents() == in_order(cards, "density", "desc")[50:]
    page.go_back()
    assert latents() == in_order(cards, "density", "desc")[:50]
    page.fill(".filter input[type=search]", "density<=0.05")
    page.click(".filter button")
    page.wait_for_url("**q=density**")
    kept = [card for card in cards if card.density <= 0.05]
    assert latents() == in_order(kept, "density", "desc")[:50]
    assert page.locator("th[data-sort=density]").get_attribute("aria-sort") == "descending"
    page.click("a[data-show=dead]")
    page.wait_for_url("**show=dead**")
    assert latents() == in_order([card for card in kept if card.density == 0], "density", "desc")
    page.click("a.height:has-text('effect')")
    page.wait_for_url("**y=effect**")
    caption = page.locator(".map:not([hidden]) .caption")
    known = sorted((card for card in cards if card.density > 0 and card.effect is not None), key=lambda c: c.density)
    height = page.locator("#map").bounding_box()["height"]
    page.locator("svg.density a[tabindex='0']").focus()
    assert caption.inner_text().startswith(f"Latent {known[0].latent}: active on")
    page.keyboard.press("ArrowRight")
    assert caption.inner_text().endswith(f"effect {number(known[1].effect)}")
    assert page.locator("#map").bounding_box()["height"] == height
    point = page.locator("svg.density a").nth(5)
    target = point.get_attribute("href")
    point.locator("circle").click(force=True)
    page.wait_for_url(f"**{target}")


def static_copy(explored, folder):
    """Dictionary pages, styles, scripts and rows as an export writes them."""
    for file in asset_files().values():
        (folder / "asset").mkdir(exist_ok=True)
        (folder / "asset" / file.name).write_bytes(file.body)
    for shelf in explored.shelves():
        slug = explored.slug(shelf.id)
        home = folder / "dictionary" / slug / "index.html"
        home.parent.mkdir(parents=True)
        links = StaticLinks(f"dictionary/{slug}/index.html")
        home.write_text(render(dictionary_page(explored, links, slug, {}), explored, links), "utf-8")
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{slug}.js").write_text(rows_script(explored, slug), "ascii")
    return folder


QUERIES = (
    {},
    {"sort": "density", "order": "asc", "page": "2"},
    {"sort": "effect", "order": "asc", "show": "active", "y": "effect"},
    {"q": "density>0.01 score<=0.9", "show": "explained", "sort": "f1"},
    {"q": ")", "sort": "latent"},
    {"q": "nothinglikethis"},
    {"q": 'brackets F1>0.2 words:"and more"', "sort": "latent"},
    {"q": "label:brack token:word*", "sort": "latent"},
    {"q": 'token:"<script>alert(1)</script>" density<=.5', "sort": "latent"},
    {"q": "a densty<1"},
    {"q": "density<x"},
    {"q": "ALERT", "sort": "latent"},
)
SEEN = """(html) => {
  const page = html === null ? document : new DOMParser().parseFromString(html, "text/html");
  const words = (each) => [each.textContent.replace(/\\s+/g, " ").trim(), each.ariaSort, each.ariaCurrent, each.hidden];
  const all = (what) => [...page.querySelectorAll(what)].map(words);
  return ["#rows th, #rows td", ".pager .count", "th[aria-sort]", "nav.choices a", "a.height", ".nothing"].map(all);
}"""
"""Everything that depends on what is asked for: of the page, or of HTML."""


def test_a_page_without_a_server_shows_what_a_served_one_does(browser, hostile_run, tmp_path):  # noqa: F811
    explored = Explored(hostile_run)
    slug = explored.slug(explored.shelves()[0].id)
    address = f"dictionary/{slug}/index.html"
    with visiting(browser, f"file://{static_copy(explored, tmp_path)}") as go:
        page = go(address, offline=True)
        for query in QUERIES:
            page.goto(f"{page.url.partition('?')[0]}?{urlencode(query)}")
            html = render(dictionary_page(explored, ServedLinks(False), slug, query), explored, ServedLinks(False), "t")
            assert page.evaluate(SEEN, None) == page.evaluate(SEEN, html), query
        page.click("th[data-sort=density] a")
        assert "sort=density" in page.url
        page.fill(".filter input[type=search]", "density<=0.05")
        page.click(".filter button")
        page.wait_for_url("**q=density**sort=density**")
        page.go_back()
        assert "q=ALERT" in page.url
        assert page.input_value(".filter input[type=search]") == "ALERT"


def test_numbers_are_written_alike_in_python_and_in_the_browser(browser):  # noqa: F811
    source = asset_files()["dictionary.js"].body.decode()
    begin, end = source.index("  function fixed("), source.index("  // Words as the search")
    values = [0.0, 0.0625, 0.1875, 0.3125, 2.5, 12.5, 0.125, 1e-5, 99999.5, 1234.5, 0.99995, -0.25, 3.0, 0.00012345]
    values += [math.exp(k / 7) * (1 + k % 3) for k in range(-70, 60)]
    shares = [min(abs(value), 1.0) for value in values] + [1e-7, 3.3e-6, 0.099951, 0.0995, 0.1, 0.0005, 0.00995, 0.9998]
    page = browser.new_page()
    script = f"([values, shares]) => {{ {source[begin:end]} return [values.map(number), shares.map(percent)]; }}"
    numbers, percents = page.evaluate(script, [values, shares])
    assert numbers == [number(value) for value in values]
    assert percents == [percent(share) for share in shares]
    page.close()


@pytest.mark.parametrize("name", ["figures", "pages.choosing", "pages.names", "pages.offers"])
def test_examples_in_docstrings_run(name):
    found = doctest.testmod(importlib.import_module(f"sparsescope.explorer.{name}"))
    assert found.attempted
    assert not found.failed
