"""The page of one latent: against the world that the made-up run was made of, under hostile text, and in a browser."""

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_browser import (  # noqa: F401
    LATENTS,
    Visit,
    browser,
    explored_run,
    hostile_run,
    served,
    visit,
    visiting,
)

from sparsescope.bench.explored_run import world_of
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.mailing import one_page
from sparsescope.explorer.pages.latent import STRONGEST, latent_page
from sparsescope.explorer.pages.latent_contexts import Window, line, marked_text
from sparsescope.explorer.pages.latent_explanation import repeats
from sparsescope.explorer.pages.latent_figures import linked_tree
from sparsescope.explorer.pages.latent_output import output
from sparsescope.explorer.pages.latent_scores import score_rows
from sparsescope.explorer.query import NotThere
from sparsescope.explorer.rendering import HEAT, render, visible
from sparsescope.features.browsing import Shown
from sparsescope.features.reading import StoredScore

SLUG = "topk-k_16-x4"
NASTY = [
    "<script>",
    " &amp;",
    "",
    "\u202e",
    "a\x00",
    "x" * 100_000,
    "",
    "",
    "👩‍👩‍👧",
    " שלום",
    "\n",
    "  ",
    "\ud800",
    '"',
    "'",
]


class Parsed(HTMLParser):
    """The elements of a document with their attributes, and the text inside `b` elements and between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.runs: list[tuple[dict[str, str] | None, str]] = []
        self._inside: dict[str, str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, known := {name: value or "" for name, value in attrs}))
        if tag == "b":
            self._inside = known

    def handle_endtag(self, tag: str) -> None:
        if tag == "b":
            self._inside = None

    def handle_data(self, data: str) -> None:
        self.runs.append((self._inside, data))

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def explored(explored_run: Path) -> Iterator[Explored]:  # noqa: F811
    run = Explored(explored_run)
    yield run
    run.close()


def page_of(run: Explored, latent: int, slug: str = SLUG, **query: str) -> str:
    links = ServedLinks(live=False)
    return render(latent_page(run, links, slug, latent, query), run, links, "token")


def test_marked_text_holds_every_token_and_its_values() -> None:
    source = np.random.default_rng(0)
    for _ in range(50):
        pieces = [NASTY[place] for place in source.integers(0, len(NASTY), 30)] + ["end"]
        codes = np.where(source.random(31) < 0.4, source.random(31) * 8, 0.0)
        predicted = np.where(source.random(31) < 0.4, source.random(31) * 8, 0.0)
        found = Parsed(str(marked_text(pieces, codes, predicted, 8.0)))
        # By brute force: hidden pieces give what they have to the next one that shows.
        owners = [next(later for later in range(place, 31) if pieces[later]) for place in range(31)]
        expected = [
            (
                pieces[owner],
                codes[[own == owner for own in owners]].max(),
                predicted[[own == owner for own in owners]].max(),
            )
            for owner in dict.fromkeys(owners)
        ]
        marked = [(code, guess) for _, code, guess in expected if code > 0 or round(HEAT * guess / 8) > 0]
        shown = [attributes for attributes, _ in found.runs if attributes is not None]
        assert len(shown) == len(marked)
        for attributes, (code, guess) in zip(shown, marked, strict=True):
            assert float(attributes.get("data-v") or 0) == pytest.approx(code, rel=5e-3)
            if "data-p" in attributes:
                assert float(attributes["data-p"] or 0) == pytest.approx(guess, rel=5e-3)
            classes = (attributes["class"] or "").split()
            assert [int(each[1:]) for each in classes if each[0] == "a"] == (
                [int(np.ceil(HEAT * code / 8))] if code else []
            )
            assert [int(each[1:]) for each in classes if each[0] == "p"] == [n for n in [round(HEAT * guess / 8)] if n]
        plain = "".join(text for _, text in found.runs).replace("\u200b", "").replace("␣", " ").replace("⏎", "\n")
        whole = "".join(text if len(text) <= 60 else text[:60] + "…" for text, _, _ in expected)
        assert visible(plain) == visible(whole).replace("\ud800", "?")
    assert "👩‍👩‍👧" in str(marked_text(["", "", "👩‍👩‍👧"], np.array([0, 3.0, 0]), None, 3.0))


def test_a_window_holds_the_peak_and_whole_characters() -> None:
    pieces = ["a", "b", "", "", "é", "c", "", "🙂", "d", "e"]
    codes = np.zeros(10, np.float32)
    codes[5] = 2.0
    seen = line(Shown(0, 0, list(range(10)), pieces, codes, None), 2.0, Window(1, 1))
    assert str(seen.marked) == "…é<b class=a20 data-v=2>c</b>🙂…"
    assert seen.code == 2.0
    assert not seen.predicted
    silent = line(Shown(0, 0, list(range(10)), pieces, codes * 0, None), 2.0, Window(1, 1))
    assert str(silent.marked) == "abé…"


@pytest.mark.parametrize("latent", [0, 7, 10, 23])
def test_the_page_tells_what_the_world_is(explored: Explored, latent: int) -> None:
    world = world_of(LATENTS)
    rows, codes = world.active(0, latent)
    found = Parsed(page_of(explored, latent))
    lines = [float(each["data-c"].replace(",", "")) for each in found.all("li") if each.get("data-c")]
    strongest = np.zeros(world.fragments)
    np.maximum.at(strongest, rows // 64, codes)
    expected = np.sort(strongest)[::-1][:STRONGEST]
    assert lines[:STRONGEST] == pytest.approx(expected.tolist(), abs=0.013 * float(codes.max()))
    liked = {world.vocabulary.texts[token] for token in world.favourites(0, latent)[0].tolist()}
    for attributes, text in found.runs:
        if attributes is not None and "data-v" in attributes:
            assert text.replace("\u200b", "").replace("␣", " ").replace("⏎", "\n").replace("→\t", "\t") in liked
    counts = next(each["data-counts"] for each in found.all("svg") if "data-counts" in each)
    assert sum(map(int, (counts or "").split())) == len(rows)
    told = "".join(text for _, text in found.runs)
    assert f"{len(rows):,} of {world.rows:,} tokens" in told
    assert found.all("a")
    assert any(each.get("rel") == "next" and each["href"].endswith(f"/{latent + 1}") for each in found.all("a"))


def test_neighbours_are_told_apart_by_contexts_where_the_other_is_silent(explored: Explored) -> None:
    world, page = world_of(LATENTS), Parsed(page_of(explored, 0))
    other = next(
        int(each["id"].rsplit("-", 1)[1])
        for each in page.all("details")
        if each.get("id", "").startswith("near-together")
    )
    text = page_of(explored, 0, beside=str(other))
    start = text.index(f'id="near-together-{other}"')
    body = text[start : text.index("</details>", start)]
    assert " open" in text[start : start + 80]
    assert f"{other} without 0" in body
    browser_ = explored.browser()
    dictionary = explored.by_slug(SLUG).id
    for own, silent in ((0, other), (other, 0)):
        firing = np.zeros(world.fragments, bool)
        firing[world.active(0, silent)[0] // 64] = True
        for shown in browser_.apart(dictionary, own, silent, 2):
            assert not firing[shown.fragment]
    assert body.count("<li") == sum(len(browser_.apart(dictionary, a, b, 2)) for a, b in ((0, other), (other, 0)))


def test_states(explored: Explored, tmp_path: Path) -> None:
    dead = page_of(explored, 19)
    assert "Dead: never active" in dead
    assert 'id="contexts"' in dead
    assert "No context" in dead
    assert 'id="histogram"' not in dead
    unexplained = page_of(explored, 2)
    assert "not explained" in unexplained
    assert "sparsescope explain" in unexplained
    assert 'id="view-real"' not in unexplained
    with pytest.raises(NotThere, match="0 to 59"):
        page_of(explored, LATENTS)
    with pytest.raises(NotThere):
        page_of(explored, 0, "nothing")
    assert 'rel="prev"' not in page_of(explored, 0)
    assert 'rel="next"' not in page_of(explored, LATENTS - 1)


def test_the_live_panel_is_there_only_with_a_model_and_an_active_latent(explored: Explored) -> None:
    for latent, live, expected in ((0, True, True), (0, False, False), (19, True, False)):
        links = ServedLinks(live=live)
        page = latent_page(explored, links, SLUG, latent, {})
        assert ("data-live" in render(page, explored, links, "token")) is expected
        assert ("live_panel.js" in page.scripts) is live


def test_whole_fragments_are_shown_where_they_are_asked_for(explored: Explored) -> None:
    browser_ = explored.browser()
    for shown in browser_.shown(explored.by_slug(SLUG).id, 0, "top", 3):
        fragment = visible("".join(shown.pieces)).replace("\n", "⏎")
        lines = {}
        for text in ("short", "whole"):
            page = page_of(explored, 0, text=text)
            plain = re.sub("<[^>]*>", "", page.replace("\u200b", "").replace("␣", " "))
            lines[text] = fragment in html.unescape(plain).replace("→\t", "\t")
        assert lines == {"short": False, "whole": True}
    assert f'href="/dictionary/{SLUG}/latent/0?text=whole#contexts"' in page_of(explored, 0)
    links = StaticLinks(f"dictionary/{SLUG}/latent/0.html")
    assert "more text" not in render(latent_page(explored, links, SLUG, 0, {}), explored, links)


def test_a_label_is_named_where_it_fits_and_tokens_are_not_named_twice(explored: Explored) -> None:
    shelf = explored.by_slug(SLUG)
    for latent in range(0, LATENTS, 3):
        card = explored.browser().card(shelf.id, latent)
        values = latent_page(explored, ServedLinks(live=False), SLUG, latent, {}).values
        chance = (values["usual_f1"] or {}).get("null") or 0.0
        assert values["fits"] is (card.label is not None and card.f1 >= 0.05 and card.f1 > chance)
        if card.label is not None:
            assert ("no label fits" in page_of(explored, latent)) is not values["fits"]
    named = [")", "\n", "it's"]
    assert repeats("{')', '\\n'} (0.77 of the activation); \"it's\" (0.10)", named)
    assert not repeats("')' (0.77 of the activation); ']' (0.10)", named)
    assert not repeats("')' right after '\\n' (0.77 of the activation)", named)
    assert not repeats("", named)
    assert not repeats("'" + "\\" * 298, named)


def test_an_unprepared_dictionary_says_what_to_do(explored: Explored, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    shelf = explored.by_slug(SLUG)
    monkeypatch.setattr(explored, "by_slug", lambda slug: replace(shelf, prepared=False))
    assert "not prepared" in page_of(explored, 0)
    assert "sparsescope explore" in page_of(explored, 0)


def test_pages_of_a_folder_are_small_and_do_not_say_where_the_run_lies(explored: Explored) -> None:
    sizes = []
    for latent in range(0, LATENTS, 4):
        links = StaticLinks(f"dictionary/{SLUG}/latent/{latent}.html")
        text = render(latent_page(explored, links, SLUG, latent, {}), explored, links)
        assert str(explored.path) not in text
        assert "beside=" not in text
        sizes.append(len(gzip.compress(text.encode())))
    assert np.mean(sizes) <= 5 * 1024, sizes


def test_hostile_text_stays_text(hostile_run: Path) -> None:  # noqa: F811
    run = Explored(hostile_run)
    slug = run.slug(run.shelves()[0].id)
    for latent in (*range(0, 14, 2), 5, 19):
        for text in (page_of(run, latent, slug), *([one_page(run, slug, latent)] if latent < 5 else [])):
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
            assert len(text) < 300_000
            found = Parsed(text)
            assert not found.all("img")
            for tag, attributes in found.tags:
                assert not any(name.startswith("on") for name in attributes), (tag, attributes)
                assert "style" not in attributes
            assert all("src" in each for each in found.all("script")) or "<style>" in text
    run.close()


def test_scores_stand_beside_those_of_their_dictionary() -> None:
    typical = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 150, "unit": "latent"}
    summary = {
        "dictionaries": [{"name": "a", "kind": "dictionary", "corpus_rho": typical}],
        "controls": [
            {"name": "a (shuffled explanations)", "kind": "shuffled explanations", "corpus_rho": {"value": 0.0}}
        ],
    }
    found = [
        StoredScore(3, "rules", "corpus_rho", 0.5, None),
        StoredScore(3, "rules", "intruder", None, "no explanation"),
    ]
    rho, intruder = score_rows(found, "a", summary)
    assert (rho.value, rho.typical, rho.floor) == (0.5, typical, 0.0)
    assert (intruder.value, intruder.skipped, intruder.typical) == (None, "no explanation", None)
    # On the axis from −0.25 (5) to 1 (127), 0.5 is at 78.2, the interval from 88 to 107, and 0 at 29.
    assert 'cx="78"' in rho.strip
    assert "M88 9H107" in rho.strip
    assert "M29 4v10" in rho.strip
    assert score_rows(found, "b", {})[0].typical is None


def test_the_lists_of_tokens_hold_what_moves_their_way(explored: Explored) -> None:
    effect = {
        "kl": None,
        "control": None,
        "contexts": 5,
        "raised": [[" a", 0.4], ["b", -0.1]],
        "lowered": [["c", -0.8]],
    }
    found = output(explored.browser(), effect, None)
    assert [(each.text, each.change, each.told, each.width) for each in found.true.raised] == [(" a", 0.4, "+40", 10)]
    assert [(each.text, each.told, each.width) for each in found.true.lowered] == [("c", "−80", 20)]
    assert not found.direct
    assert output(explored.browser(), None, None).effect is None


def test_the_tree_links_to_the_latents_that_are_there(explored: Explored) -> None:
    node = {"density": 0.1, "maximum": 2.0, "tokens": [[3, 0.5]], "contexts": 5, "tested": 2, "others": None}
    sites = ["resid_post.1", "resid_post.2"]
    effect = {"value": 0.4, "low": 0.2, "high": 0.6, "n": 5, "unit": "document"}
    tree = {
        "sites": sites,
        "nodes": [{**node, "site": sites[1], "latent": 7}, {**node, "site": sites[0], "latent": 9}],
        "edges": [
            {
                "parent": [sites[0], 9],
                "child": [sites[1], 7],
                "effect": effect,
                "held_out": None,
                "active": 5,
                "cosine": None,
            }
        ],
        "dictionaries": {sites[1]: SLUG, sites[0]: "not in the database"},
    }
    drawn = str(linked_tree({"tree": tree, "texts": {"3": "<b>"}}, explored, ServedLinks(live=False)))
    assert re.findall(r'<a href="([^"]*)"', drawn) == [f"/dictionary/{SLUG}/latent/7"]
    assert "latent 9" in drawn
    assert "<b>" not in drawn


def test_one_page_stands_alone(explored: Explored, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    text = one_page(explored, SLUG, 0)
    found = Parsed(text)
    policy = next(each["content"] for each in found.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    for kind in ("style", "script"):
        inside = re.search(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert inside is not None
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")
    assert str(explored.path) not in text
    assert not [each for each in found.all("a") if each.get("href")]
    assert not found.all("img")
    assert [each["href"] for each in found.all("link")] == ["data:,"]
    assert all("src" not in each for each in found.all("script"))
    file = tmp_path / "latent.html"
    file.write_text(text, "utf-8")
    with visiting(browser, tmp_path.as_uri()) as go:
        page = go("latent.html", offline=True)
        page.hover(".ctxs b[data-v] >> nth=0")
        assert "activation" in page.inner_text("#tip")
        assert page.locator(".near li").count() > 0


def test_reading_the_page_with_mouse_and_keys(visit: Visit) -> None:  # noqa: F811
    page = visit(f"/dictionary/{SLUG}/latent/0")
    token = page.locator(".groups b[data-v]").first
    token.hover()
    assert f"activation {token.get_attribute('data-v')}" in page.inner_text("#tip")
    page.hover("th[data-score=corpus_rho]")
    assert "Correlation" in page.inner_text("#tip")
    real = token.evaluate("each => getComputedStyle(each).backgroundColor")
    page.click("label[for=view-predicted]")
    assert token.evaluate("each => getComputedStyle(each).backgroundColor") != real
    page.click("label[for=view-both]")
    assert token.evaluate("each => getComputedStyle(each).backgroundColor") == real
    page.locator(".ctxs li").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.localName") == "b"
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    near = page.locator("#neighbours details").first
    near.locator("summary").click(position={"x": 300, "y": 10})
    near.locator("h4").first.wait_for()
    assert " without " in near.inner_text()
    assert near.locator("a[href*=beside]").count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.wait_for_url("**/latent/1")
