"""Search: what is found against brute force over the raw cards, and the search of an exported folder against it."""

import sqlite3
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from explorer_browser import Visit, browser, explored_run, hostile_run, served, visit, visiting  # noqa: F401

from sparsescope.bench.explored_run import make_run, world_of
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.files import asset_files
from sparsescope.explorer.links import Links, ServedLinks, StaticLinks
from sparsescope.explorer.pages.asked import spellings
from sparsescope.explorer.pages.quotation import quotation
from sparsescope.explorer.pages.rows import rows_script
from sparsescope.explorer.pages.search import search_page
from sparsescope.explorer.query import BadRequest, NotThere
from sparsescope.explorer.rendering import percent, render
from sparsescope.features.card import Card

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Key = tuple[int, int]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """An autoencoder, a baseline, another autoencoder and a control, in this order."""
    run = make_run(tmp_path_factory.mktemp("mixed") / "run", latents=60, dictionaries=4)
    connection = sqlite3.connect(run / "features.sqlite")
    with connection:
        connection.execute("UPDATE dictionaries SET method = 'pca' WHERE id = 2")
    connection.close()
    return Explored(run)


def all_cards(explored: Explored) -> list[Card]:
    """Every card of a run."""
    return [card for shelf in explored.shelves() for card in explored.browser().cards(shelf.id, limit=1_000)]


def rank(explored: Explored) -> dict[int, int]:
    """Autoencoders 0, baselines 1, controls 2: written out anew."""
    kinds = {shelf.id: shelf for shelf in explored.shelves()}
    return {i: 2 if each.kind != "dictionary" else int(each.method == "pca") for i, each in kinds.items()}


def found(values: Any, anchor: str) -> list[Key]:
    """The latents of a group, in their order."""
    groups = [group for group in values["groups"] if group.anchor == anchor]
    return [(b.card.dictionary, b.card.latent) for group in groups for b in (*group.first, *group.more)]


def searched(explored: Explored, links: Links | None = None, **query: str) -> Any:
    return search_page(explored, links or ServedLinks(), query=query).values


@pytest.mark.parametrize("given", [")", " the ", "⏎", "WORD54"])
def test_a_token_finds_who_fires_on_it_autoencoders_first_by_share(mixed: Explored, given: str) -> None:
    token = {"⏎": "\n", "WORD54": "word54"}.get(given, given.strip())
    order = rank(mixed)
    expected: dict[Key, float] = {}
    for card in all_cards(mixed):
        parts = [part for text, part in card.tokens if (text.strip() or text) == token]
        if parts:
            expected[card.dictionary, card.latent] = sum(parts)
    values = searched(mixed, q=given)
    shares = {(b.card.dictionary, b.card.latent): b.share for g in values["groups"][:1] for b in (*g.first, *g.more)}
    assert shares == pytest.approx(expected, abs=2e-6)  # cards round what they show
    keys = found(values, "tokens")
    for one, other in pairwise(keys):
        ranks = order[one[0]], order[other[0]]
        assert ranks[0] < ranks[1] or (ranks[0] == ranks[1] and expected[one] > expected[other] - 4e-6)
    assert {order[dictionary] for dictionary, _ in keys} == {0, 1, 2}
    # Nothing is twice on the page.
    assert not set(found(values, "words")) & set(shares)


def test_the_first_answer_for_a_bracket_is_the_planted_feature(explored_run: Path) -> None:  # noqa: F811
    world = world_of(60)
    favourite = world.vocabulary.texts[int(world.favourites(0, 0)[0][0])]
    group = searched(Explored(explored_run), q=favourite)["groups"][0]
    assert (group.first[0].shelf.name, group.first[0].card.latent, favourite) == ("topk-k_16-x4", 0, ")")
    assert group.first[0].fires[0][0] == ")"


@pytest.mark.parametrize(
    ("given", "token"),
    [("closing bracket", ")"), ("Closing-Brackets", ")"), ("full stop", "."), ("new line", "\n"), ("equals sign", "=")],
)
def test_the_name_of_a_token_finds_what_the_token_finds(mixed: Explored, given: str, token: str) -> None:
    values, expected = searched(mixed, q=given), searched(mixed, q="⏎" if token == "\n" else token)
    assert found(values, "tokens") == found(expected, "tokens") != []
    group = values["groups"][0]
    assert (group.heading, group.tokens, group.name) == ("Fire on", (token,), given)
    assert [b.share for b in group.first] == [b.share for b in expected["groups"][0].first]
    html = render(search_page(mixed, ServedLinks(), query={"q": given}), mixed, ServedLinks(), "t")
    assert f"</bdi> ({given}) <small>" in html


def test_a_name_of_several_tokens_adds_their_shares_up(mixed: Explored) -> None:
    values = searched(mixed, q="brackets")
    shares = {(b.card.dictionary, b.card.latent): b.share for g in values["groups"][:1] for b in (*g.first, *g.more)}
    sums = {
        (card.dictionary, card.latent): sum(part for text, part in card.tokens if text.strip() in ("(", ")"))
        for card in all_cards(mixed)
    }
    assert shares == pytest.approx({key: part for key, part in sums.items() if part}, abs=1e-5)
    # Those whose label has the word come next, the best agreement first.
    labelled = next(group for group in values["groups"] if group.anchor == "words").first
    order = rank(mixed)
    scores = [(order[b.card.dictionary], -(b.card.f1 or 0)) for b in labelled]
    assert scores == sorted(scores)
    assert all("bracket" in (b.card.label or "") and b.card.fits for b in labelled)


def test_a_rule_is_read_in_the_search_of_words(mixed: Explored) -> None:
    order = rank(mixed)
    cards = {(card.dictionary, card.latent): card for card in all_cards(mixed)}

    def share(key: Key) -> float:
        return sum(part for text, part in cards[key].tokens if text.strip() == ")")

    chosen = [key for key, card in cards.items() if share(key) and card.score is not None and card.score >= 0.3]
    for given in ("score>=0.3 )", "SCORE>=0.3 closing bracket", 'score>=0.3 token:")"'):
        values = searched(mixed, q=given)
        assert set(found(values, "rule")) == set(chosen)
        ranks = [(order[key[0]], -round(share(key), 4)) for key in found(values, "rule")]
        assert ranks == sorted(ranks)
        first = values["groups"][0].first[0]
        assert first.share == pytest.approx(share((first.card.dictionary, first.card.latent)), abs=1e-5)
        assert values["complaint"] is None
    html = render(search_page(mixed, ServedLinks(), query={"q": "score>=0.3 )"}), mixed, ServedLinks(), "t")
    assert "score ≥ 0.3, fires on )" in html
    assert html.count('class="found"') == len(chosen)
    # A pattern in the box is the rule of that pattern.
    pattern, rule = searched(mixed, q="word5*"), searched(mixed, q="token:word5*")
    assert found(pattern, "tokens") == found(rule, "rule")[:24] != []
    nothing = search_page(mixed, ServedLinks(), query={"q": "score>=0.3 score<0.2"})
    assert "No latent satisfies this rule." in render(nothing, mixed, ServedLinks(), "t")


def test_a_label_at_chance_is_not_on_a_card(mixed: Explored) -> None:
    poor = next(card for card in all_cards(mixed) if card.label is not None and not card.fits)
    assert poor.f1 is not None
    assert poor.f1 < 0.05
    rule = f"latent={poor.latent} dictionary:{mixed.shelves()[poor.dictionary - 1].name}"
    page = search_page(mixed, ServedLinks(), query={"q": rule, "by": "rule"})
    assert "F1" not in render(page, mixed, ServedLinks(), "t").split('id="rule"')[1].split("</section>")[0]
    assert poor.label not in [
        b.card.label for b in searched(mixed, q="label:closing")["groups"][0].first if not b.card.fits
    ]


def test_words_rules_and_texts_against_brute_force(mixed: Explored) -> None:
    order = rank(mixed)
    cards = {(card.dictionary, card.latent): card for card in all_cards(mixed)}
    number = [key for key, card in cards.items() if "number13" in (card.explanation or "")]
    assert sorted(found(searched(mixed, q="number13"), "words")) == sorted(number) != []
    chosen = [
        key
        for key, card in cards.items()
        if card.density < 0.05 and card.effect is not None and card.effect > 0.6 and card.score is not None
    ]
    values = searched(mixed, by="rule", q="density<0.05 effect>0.6 score>-2")
    scores = {key: cards[key].score or 0.0 for key in chosen}
    assert found(values, "rule") == sorted(chosen, key=lambda key: (order[key[0]], -scores[key], key))
    only = searched(mixed, by="rule", q="density<0.05 effect>0.6 score>-2", dictionary=mixed.slug(2))
    assert {dictionary for dictionary, _ in found(only, "rule")} == {2}
    texts = searched(mixed, by="context", q="London Paris")["texts"]
    assert texts
    for text in texts:
        marked = "".join(part for part, mark in text.quotation.parts if mark)
        assert {"London", "Paris"} & set(marked.replace("London", "London ").replace("Paris", "Paris ").split())
        keys = [(order[b.card.dictionary], -(b.code or 0.0) / b.card.maximum) for b in text.latents]
        assert keys == sorted(keys)


def test_a_run_shown_in_part_finds_only_that_part(mixed: Explored) -> None:
    part = Explored(mixed.path, only=[mixed.shelves()[1].name])
    for query in ({"q": ")"}, {"q": "token"}, {"q": "token:)", "by": "rule"}, {"q": "the", "by": "context"}):
        values = search_page(part, ServedLinks(), query=query).values
        briefs = [b for group in values["groups"] for b in (*group.first, *group.more)]
        briefs += [b for text in values["texts"] for b in text.latents]
        assert {b.card.dictionary for b in briefs} == {2}, query


def test_what_is_wrong_is_said_kindly(mixed: Explored) -> None:
    page = search_page(mixed, ServedLinks(), query={"by": "rule", "q": "toke:x"})
    html = render(page, mixed, ServedLinks(), "t")
    assert page.status == 200
    assert "&#39;toke:x&#39;" in html
    assert "Did you mean &#39;token&#39;" in html
    for by in ("words", "rule"):
        page = search_page(mixed, ServedLinks(), query={"q": "densty<0.1", "by": by})
        html = render(page, mixed, ServedLinks(), "t")
        assert "unknown field &#39;densty&#39;" in html
        assert "Did you mean &#39;density&#39;? Known: density, maximum," in html
        assert "Nothing was found" not in html
    assert searched(mixed, q="note: x<y http://a")["complaint"] is None
    with pytest.raises(BadRequest, match="by='wrods' is unknown"):
        searched(mixed, by="wrods")
    with pytest.raises(NotThere, match="topk-k_16-x4"):
        searched(mixed, dictionary="topk-k_16-x")
    with pytest.raises(BadRequest, match=r"2,000 characters"):
        searched(mixed, q="x" * 2000)
    # Wild cards are read as such only where no token is spelled so, and a long text with one is no pattern.
    assert not searched(mixed, q="?")["groups"]
    assert not found(searched(mixed, q="x" * 300 + "*"), "tokens")
    modelless = ServedLinks(live=False)
    page = search_page(mixed, modelless, query={"by": "example"})
    assert "The model is not at hand" in render(page, mixed, modelless, "t")


class _Tags(HTMLParser):
    """Elements of a page that could do something, and attributes that are handlers."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        source = dict(attributes).get("src") or ""
        kind = dict(attributes).get("type")
        if tag in ("img", "iframe") or (tag == "script" and not source.startswith("/asset/") and kind is None):
            self.found.append(tag)
        self.found += [name for name, _ in attributes if name.startswith("on") or name == "style"]


@pytest.mark.parametrize("given", ["script", ")", "<script>alert(1)</script>", "\x00", "\ud800", "שלום", '" OR "'])
@pytest.mark.parametrize("by", ["words", "context", "rule", "example"])
def test_hostile_texts_stay_texts(hostile_run: Path, given: str, by: str) -> None:  # noqa: F811
    explored = Explored(hostile_run)
    html = render(search_page(explored, ServedLinks(), query={"q": given, "by": by}), explored, ServedLinks(), "t")
    assert _Tags(html).found == []
    assert "\u202e" not in html
    assert "x" * 1_000 not in html


def test_quotations_are_parts_of_the_text() -> None:
    source = np.random.default_rng(0)
    words = source.choice(["the", "needle", "(", "other\n", "a"], 400)
    text = " ".join(words)
    for wanted in ("needle", "the needle", "nowhere needle"):
        parts = quotation(text, wanted).parts
        plain = "".join(part for part, _ in parts).strip("…").replace("⏎ ", "\n")
        assert plain in text
        assert len(plain) <= 250
        assert any(mark for _, mark in parts)
    assert quotation("no such thing", "needle").parts == (("no such thing", False),)
    assert spellings("\n") == ["\n"]


def export(explored: Explored, folder: Path) -> Path:
    """The search of an exported folder, with what it needs."""
    links = StaticLinks("search.html")
    for name, file in asset_files().items():
        (folder / "asset").mkdir(parents=True, exist_ok=True)
        (folder / "asset" / name).write_bytes(file.body)
    (folder / "data").mkdir()
    for shelf in explored.shelves():
        slug = explored.slug(shelf.id)
        (folder / "data" / f"{slug}.js").write_text(rows_script(explored, slug), "ascii")
    page = search_page(explored, links, query={})
    (folder / "search.html").write_text(render(page, explored, links), "utf-8", errors="replace")
    return folder


def test_the_search_of_an_exported_folder_finds_what_the_server_finds(
    browser: "Browser",  # noqa: F811
    mixed: Explored,
    hostile_run: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = export(mixed, tmp_path / "mixed")
    with visiting(browser, folder.as_uri() + "/") as go:
        for given in (")", "number13", "closing brackets", "bracket", "⏎"):
            page = go(f"search.html?q={quote(given)}", offline=True)
            page.wait_for_selector("#found article")
            shown = page.eval_on_selector_all(
                "#found section", "parts => parts.map(part => [...part.querySelectorAll('h3 > a')].map(a => a.href))"
            )
            values = searched(mixed, q=given)
            groups = [
                [
                    f"{folder.as_uri()}/dictionary/{quote(mixed.slug(b.card.dictionary))}/latent/{b.card.latent}.html"
                    for b in (*group.first, *group.more)
                ]
                for group in values["groups"]
            ]
            # Equal to six digits is equal in an exported folder, so that the order may differ there.
            assert list(map(sorted, shown)) == list(map(sorted, groups)), given
            shares = [b.share for group in values["groups"] for b in (*group.first, *group.more) if b.share is not None]
            assert page.locator("#found .found").all_inner_texts() == list(map(percent, shares))
            assert page.locator(".choices").count() == 0
        page.goto(page.url.partition("?")[0] + "?q=score>0.5")
        page.wait_for_function("document.getElementById('searching').textContent.startsWith('Rules need')")
    nasty = export(Explored(hostile_run), tmp_path / "hostile")
    with visiting(browser, nasty.as_uri() + "/") as go:  # fails for any script that runs, or is refused
        page = go("search.html?q=script", offline=True)
        page.wait_for_selector("#found article")
        assert "<script>alert(1)</script>" in page.inner_text("#found")
        assert page.locator("#found img").count() == 0


def test_typing_a_bracket_leads_to_its_feature(visit: Visit) -> None:  # noqa: F811
    page = visit("/search", width=390)
    page.fill("#asked", ")")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tokens article")
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.querySelector('h3 a').textContent") == "Latent 0"
    page.keyboard.press("Enter")
    page.wait_for_url("**/dictionary/topk-k_16-x4/latent/0")
    page.go_back()
    assert page.input_value("#asked") == ")"
