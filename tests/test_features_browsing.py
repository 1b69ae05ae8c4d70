"""Browsing a prepared database: every answer against brute force over the world that the database was made from."""

import fnmatch
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsescope.bench.explored_latents import Block
from sparsescope.bench.explored_run import fragments_of, make_run, planted_pairs, world_of
from sparsescope.bench.explored_world import World
from sparsescope.errors import ConfigurationError
from sparsescope.features.browsing import Chosen, FeatureBrowser
from sparsescope.features.card import SORTABLE, Card, Detail
from sparsescope.features.card_columns import SHOWN
from sparsescope.features.cards import put_cards
from sparsescope.features.database import FeatureDatabase
from sparsescope.features.fragments import LENGTH
from sparsescope.features.overview import SINGLE, overview_of
from sparsescope.features.searching.affirming import affirmed
from sparsescope.features.searching.punctuation import named
from sparsescope.features.searching.rules import mixed, parse

LATENTS = 120


@pytest.fixture(scope="module")
def world() -> World:
    return world_of(LATENTS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("browsing") / "run", latents=LATENTS)


@pytest.fixture(scope="module")
def truth(world: World) -> list[Card]:
    """Every card that was put, of both dictionaries."""
    blocks = [Block(world, fragments_of(world), place, range(LATENTS), LATENTS) for place in (0, 1)]
    return [card for place, block in enumerate(blocks) for card in block.cards(place + 1)]


@pytest.fixture
def browser(run: Path) -> Any:
    with FeatureBrowser.open(run / "features.sqlite") as opened:
        yield opened


def key(card: Card) -> tuple[int, int]:
    return card.dictionary, card.latent


def same(found: list[Card], expected: list[Card]) -> None:
    assert [key(card) for card in found] == [key(card) for card in expected]
    for one, other in zip(found, expected, strict=True):
        for name in ("density", "maximum", "entropy", "explainer", "explanation", "score", "label", "f1", "effect"):
            assert getattr(one, name) == getattr(other, name)
        assert [text for text, _ in one.tokens] == [text for text, _ in other.tokens]
        np.testing.assert_allclose([share for _, share in one.tokens], [share for _, share in other.tokens], atol=1e-6)


KINDS: dict[str, Callable[[Card], bool]] = {
    "all": lambda card: True,
    "active": lambda card: card.density > 0,
    "dead": lambda card: card.density == 0,
    "dense": lambda card: card.density > 0.1,
    "explained": lambda card: card.explanation is not None,
}


def test_tables_of_latents_are_sorted_chosen_and_paged_as_brute_force_does(
    browser: FeatureBrowser, truth: list[Card]
) -> None:
    mine = [card for card in truth if card.dictionary == 2]
    assert set(KINDS) == set(SHOWN)
    for sort in ("latent", *SORTABLE):
        for descending in (False, True):
            sign = -1 if descending else 1

            def order(card: Card, sort: str = sort, sign: int = sign) -> tuple[bool, float, int]:
                value = getattr(card, sort)
                return value is None, 0 if value is None else sign * value, card.latent

            expected = sorted(mine, key=order)
            same(browser.cards(2, sort=sort, descending=descending, limit=500), expected)
            page, total = browser.page(2, sort=sort, descending=descending, offset=100, limit=7)
            same(page, expected[100:107])
            assert total == len(expected)
            active = Chosen(show="active", ranges=(("maximum", 2.0, 6.0), ("effect", None, 0.9)))
            some = [
                c
                for c in expected
                if c.density > 0 and 2 <= c.maximum <= 6 and c.effect is not None and c.effect <= 0.9
            ]
            same(browser.cards(2, active, sort=sort, descending=descending, limit=500), some)
    for show, holds in KINDS.items():
        expected = [card for card in mine if holds(card)]
        same(browser.cards(2, Chosen(show=show), limit=500), expected)
        assert browser.count(2, Chosen(show=show)) == len(expected) > 0
        for words, has in (("and more", lambda card: "and more" in card.explanation), (")", responds(")"))):
            chosen = [card for card in expected if (card.explanation or words == ")") and has(card)]
            same(browser.cards(2, Chosen(words, show), limit=500), chosen)
            assert browser.count(2, Chosen(words, show)) == len(chosen)
    scored = browser.count(2, Chosen(ranges=(("score", None, None),)))
    assert scored == sum(card.score is not None for card in mine)
    assert browser.cards(2, offset=LATENTS) == browser.cards(3) == browser.cards(2, limit=-1) == []
    for wrong in (Chosen(show="some"), Chosen(ranges=(("id", 0, 1),))):
        with pytest.raises(ConfigurationError, match=r"expected"):
            browser.cards(1, wrong)
    with pytest.raises(ConfigurationError, match=r"cannot sort by 'densty'.*Did you mean 'density'"):
        browser.cards(1, sort="densty")


def responds(token: str) -> Callable[[Card], bool]:
    return lambda card: any((text.strip() or text) == token for text, _ in card.tokens)


def test_one_latent_is_what_the_world_says(browser: FeatureBrowser, world: World, truth: list[Card]) -> None:
    for latent in (0, 7, 19, 33):
        card = next(card for card in truth if key(card) == (2, latent))
        found = browser.card(2, latent)
        assert found is not None
        same([found], [card])
        rows, codes = world.active(1, latent)
        detail = browser.detail(2, latent)
        assert detail.histogram is not None
        assert detail.firing is not None
        assert (detail.histogram.active, detail.histogram.rows) == (len(rows), world.rows)
        edges = np.linspace(0, max(card.maximum, 1e-9), 31)
        np.testing.assert_array_equal(
            np.cumsum(detail.histogram.counts[:-1]), [(codes < edge).sum() for edge in edges[1:-1]]
        )
        assert np.flatnonzero(detail.firing).tolist() == np.unique(rows // LENGTH).tolist()
        facts = browser.statistics(2, latent)
        assert facts is not None
        assert facts.density == card.density
        assert facts.mean == pytest.approx(codes.sum() / world.rows, rel=1e-6)
        assert browser.texts(facts.rankings["tokens"][0]) == [text for text, _ in card.tokens]
        said = browser.explanations_of(2, latent)
        assert [each.text for each in said] == ([] if card.explanation is None else [card.explanation])
        scores = {each.score: each.value for each in browser.scores_of(2, latent)}
        assert scores.get("corpus_rho") == card.score
    assert detail.effect is not None
    assert detail.effect["kl"]["value"] == card.effect
    assert (
        browser.card(2, LATENTS) is browser.card(1, -1) is browser.card(2, 1 << 40) is browser.statistics(9, 0) is None
    )
    assert browser.detail(2, LATENTS).histogram is None
    assert browser.texts([10**6, 0, 0]) == ["", ")", ")"]


def test_contexts_hold_the_codes_of_the_world_and_what_was_predicted(browser: FeatureBrowser, world: World) -> None:
    for latent in (0, 7, 8):
        rows, codes = world.active(0, latent)
        table = np.zeros(world.ids.shape, np.float32)
        table.reshape(-1)[rows] = codes
        maximum = codes.max()
        shown = {kind: browser.shown(1, latent, kind) for kind in ("top", "active", "random")}
        for each in (*shown["top"], *shown["active"], *shown["random"]):
            size = world.lengths[each.fragment]
            np.testing.assert_allclose(each.codes, table[each.fragment, :size], atol=0.009 * maximum)
            assert each.ids == world.ids[each.fragment, :size].tolist()
            assert each.pieces == [world.vocabulary.texts[token] for token in each.ids]
            assert each.document == each.fragment // 3
        explained = world.explanation(0, latent) is not None
        for each in shown["top"]:
            assert (each.simulated is not None) == explained
            if each.simulated is not None:
                np.testing.assert_allclose(each.simulated, each.codes, atol=0.07 * maximum)
        assert all(each.simulated is None for each in shown["random"])
        strongest = np.argsort(-table.max(1), kind="stable")[: len(shown["top"])]
        assert [each.fragment for each in shown["top"]] == strongest.tolist()
        assert [each.fragment for each in browser.shown(1, latent, limit=2)] == strongest[:2].tolist()
        parts = browser.shown_quantiles(1, latent, parts=3, each=2)
        drawn = sorted(shown["active"], key=lambda at: -at.codes.max())
        assert [len(part) for part in parts] == [min(2, len(drawn))] * 3
        ranks = [[[at.fragment for at in drawn].index(at.fragment) for at in part] for part in parts]
        assert ranks == sorted(ranks)
        for number, part in enumerate(ranks):
            assert all(number * len(drawn) / 3 - 0.5 <= rank < (number + 1) * len(drawn) / 3 + 0.5 for rank in part)
    apart = browser.apart(1, 0, 3, limit=4)
    silent = set(range(world.fragments)) - set((world.active(0, 3)[0] // LENGTH).tolist())
    assert apart
    assert {each.fragment for each in apart} <= silent
    peaks = [float(each.codes.max()) for each in apart]
    assert peaks == sorted(peaks, reverse=True)
    kept = [each for each in (*browser.shown(1, 0), *browser.shown(1, 0, "active")) if each.fragment in silent]
    assert peaks == sorted((float(each.codes.max()) for each in kept), reverse=True)[:4]
    assert browser.shown(1, LATENTS) == browser.apart(1, 0, LATENTS) == browser.shown(1, 0, "silent") == []


def test_searching_by_token_word_rule_and_context_finds_what_brute_force_finds(
    browser: FeatureBrowser, world: World, truth: list[Card]
) -> None:
    for text in (")", "the", "Paris", "*ing", "w*2", "?", "[*", "\n", "nothing", "wor?2?"):
        tokens = {one.strip() or one for card in truth for one, _ in card.tokens}
        meant = (
            {text} if text in tokens else {one for one in tokens if fnmatch.fnmatchcase(one, text.replace("[", "[[]"))}
        )
        for dictionary in (None, 1, 2):
            largest = {
                key(card): max((share for one, share in card.tokens if (one.strip() or one) in meant), default=0)
                for card in truth
                if dictionary in (None, card.dictionary)
            }
            expected = sorted(((-share, *latent) for latent, share in largest.items() if share > 0))
            for limit in (5, 1000):
                found = [(-share, *key(card)) for card, share in browser.by_token(text, dictionary, limit)]
                assert [row[1:] for row in found] == [row[1:] for row in expected[:limit]]
                np.testing.assert_allclose([row[0] for row in found], [row[0] for row in expected[:limit]], rtol=1e-9)
    for text, holds in (
        ("number3", lambda card: "number3" in words(card)),
        ("AND more return", lambda card: {"and", "more", "return"} <= words(card)),
        *((text, lambda card: "bracket" in words(card)) for text in ("bracket", "Brackets", "brack")),
        ("openings bracketing", lambda card: {"opening", "bracket"} <= words(card)),
        ("returns lon", lambda card: {"return", "london"} <= words(card)),
        ("word2", lambda card: "word2" in words(card)),  # a number is no beginning of another
        ("(", responds("(")),
        ("paris' OR NOT-london --", lambda card: {"paris", "or", "not", "london"} <= words(card)),
    ):
        for dictionary in (None, 2):
            having = {key(card) for card in browser.by_words(text, dictionary, 1000)}
            assert having == {key(card) for card in truth if dictionary in (None, card.dictionary) and holds(card)}
    assert browser.by_words("  ") == browser.by_words("nowhere") == []
    assert len(browser.by_words("more", limit=3)) == 3
    check_rules(browser, truth)
    check_contexts(browser, world, truth)


def words(card: Card) -> set[str]:
    """All words of a card, cut as FTS5 cuts them."""
    return cut(" ".join((card.explanation or "", card.label or "", *(text for text, _ in card.tokens))))


def cut(text: str) -> set[str]:
    return set("".join(c.lower() if c.isalnum() else " " for c in text).split())


def five(token: tuple[str, float]) -> bool:
    return fnmatch.fnmatchcase(token[0].strip(), "word5?")


def either(text: str) -> bool:
    return text.endswith("ing") or five((text, 0.0))


def check_rules(browser: FeatureBrowser, truth: list[Card]) -> None:
    ending = lambda text: text.endswith("ing")  # noqa: E731
    for rule, holds, on in (
        ('token:")"', responds(")"), ")".__eq__),
        ("Token:*ing Density<0.05", lambda c: any(ending(t.strip()) for t, _ in c.tokens) and c.density < 0.05, ending),
        ("label:brackets F1>=0.5", lambda c: c.label is not None and "brack" in c.label and c.f1 >= 0.5, None),
        ("label:brack", lambda c: c.label is not None and "brack" in c.label and c.f1 >= 0.05, None),
        (
            'words:"and more" score<=0.3',
            lambda c: {"and", "more"} <= words(c) and c.score is not None and c.score <= 0.3,
            None,
        ),
        ("method:tied_l1 latent=8", lambda c: c.dictionary == 2 and c.latent == 8, None),
        ("dictionary:topk* site:resid_post.2 effect>0.9", lambda c: c.dictionary == 1 and (c.effect or 0) > 0.9, None),
        ("dictionary:topk latent=8", lambda c: False, None),
        ('token:"\\n"', responds("\n"), "\n".__eq__),
        ("maximum>3 entropy<1", lambda c: c.maximum > 3 and c.entropy is not None and c.entropy < 1, None),
        ("token:word5? token:*ing", lambda c: any(map(five, c.tokens)) and responds("ing")(c), either),
    ):
        expected = [card for card in truth if holds(card)]
        if on is None:
            expected.sort(key=lambda card: (card.score is None, -(card.score or 0), *key(card)))
            same(browser.by_rule(rule, limit=1000), expected)
            same(browser.by_rule(rule, 2, limit=3), [card for card in expected if card.dictionary == 2][:3])
            continue
        found = browser.by_terms(parse(rule), limit=1000)
        assert {key(card) for card, _ in found} == set(map(key, expected))
        shares = [share or 0.0 for _, share in found]
        sums = [math.fsum(part for one, part in card.tokens if on(one.strip() or one)) for card, _ in found]
        np.testing.assert_allclose(shares, sums, atol=2e-5)  # cards round what they show
        assert shares == sorted(shares, reverse=True)
        mine = [key(card) for card, _ in found if card.dictionary == 2]
        assert [key(card) for card in browser.by_rule(rule, 2, limit=3)] == mine[:3]
    for wrong, reason in (
        ("densty<1", r"unknown field 'densty' in 'densty<1'\. Did you mean 'density'\? Known: density, "),
        ("density<1 bracket", "'bracket'"),
        ("density:1", "it is compared"),
        ("density<much", "'much' is no number"),
        ("density<nan", "no number"),
        ("label=x", "takes a colon"),
        ("token:", "nothing follows"),
        ('token:"a', r"token:\"a"),
        ("", "0 conditions"),
        ("latent=1 " * 30, "30 conditions"),
        ("x" * 2000, "2,000 characters"),
        ("token:*" + "a" * 300, "pattern of"),
        ("label:)", "no letter"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            browser.by_rule(wrong)
    assert [(term.key, term.operator, term.value) for term in parse('token:"a \\"b\\"\\\\"  f1>=.5')] == [
        ("token", ":", 'a "b"\\'),
        ("f1", ">=", 0.5),
    ]


def check_contexts(browser: FeatureBrowser, world: World, truth: list[Card]) -> None:
    texts = [world.vocabulary.decode(ids[:size]) for ids, size in zip(world.ids, world.lengths, strict=True)]
    found = browser.contexts_with("paris", 1000)
    assert {each.fragment for each in found} == {number for number, text in enumerate(texts) if "paris" in cut(text)}
    places: dict[int, list[tuple[Any, ...]]] = {}
    for card in truth:
        rows, codes = world.active(card.dictionary - 1, card.latent)
        largest = np.zeros(world.fragments)
        np.maximum.at(largest, rows // LENGTH, codes)
        for place, number in enumerate(np.argsort(-largest, kind="stable")[:5].tolist()):
            if largest[number] > 0:
                rank = (place, card.score is None, -(card.score or 0), *key(card))
                places.setdefault(number, []).append((rank, largest[number]))
    for each in found:
        expected = sorted(places.get(each.fragment, []))[:12]
        assert [key(card) for card, _ in each.latents] == [rank[3:] for rank, _ in expected]
        np.testing.assert_allclose([code for _, code in each.latents], [code for _, code in expected], rtol=0.01)
        assert "".join(each.pieces) == each.text == texts[each.fragment]
    assert {each.fragment for each in browser.contexts_with(") (", 1000)} == {
        n for n, t in enumerate(texts) if ") (" in t
    }
    assert browser.contexts_with("  ") == []
    of_one = browser.contexts_with("paris", 1000, [2])  # of twelve latents each, all are of the one asked for
    assert {card.dictionary for each in of_one for card, _ in each.latents} == {2}


def test_matches_overviews_and_shelves_are_what_was_put(browser: FeatureBrowser, truth: list[Card]) -> None:
    pairs = planted_pairs(LATENTS, 1)
    forward, backward = browser.matched(1, 2), browser.matched(2, 1)
    assert forward is not None
    assert backward is not None
    assert sorted((a, b, round(c, 2)) for a, b, c in forward.pairs) == pairs
    assert sorted((b, a, round(c, 2)) for a, b, c in backward.pairs) == pairs
    assert [pair[2] for pair in forward.pairs] == sorted((pair[2] for pair in forward.pairs), reverse=True)
    assert forward.only_first.tolist() == backward.only_second.tolist() == list(range(0, LATENTS, 10))
    assert forward.only_second.tolist() == list(range(1, LATENTS, 10))
    assert browser.matched(1, 3) is None
    assert [(d, n) for d, n, _ in browser.counterparts(1, 3)] == [(2, 4)]
    assert [(d, n) for d, n, _ in browser.counterparts(2, 4)] == [(1, 3)]
    for shelf in browser.shelves():
        mine = [card for card in truth if card.dictionary == shelf.id]
        counts = (shelf.n_latents, shelf.active, shelf.dead, shelf.dense, shelf.explained)
        assert counts == tuple(sum(map(KINDS[kind], mine)) for kind in ("all", "active", "dead", "dense", "explained"))
        assert (shelf.kind, shelf.prepared) == ("dictionary", True)
        overview = browser.overview(shelf.id)
        for y in ("score", "f1", "effect"):
            drawn = [card for card in mine if card.density > 0 and getattr(card, y) is not None]
            expected = [(math.log10(card.density), getattr(card, y), card.latent, 1) for card in drawn]
            np.testing.assert_allclose(overview.scatter(y), expected, atol=1e-3)
    with pytest.raises(ConfigurationError, match=r"not prepared"):
        browser.overview(77)


def test_many_latents_are_drawn_as_cells_that_account_for_all() -> None:
    source = np.random.default_rng(0)
    density, effect = 10 ** source.uniform(-5, 0, 5000), source.exponential(1, 5000)
    rows = [(n, d, None if n % 2 else 0.5, None, e, 1) for n, (d, e) in enumerate(zip(density, effect, strict=True))]
    counts, scatters = overview_of([*rows, (5000, 0.0, 0.3, None, None, 0)], 0.1)
    dense = int((density > 0.1).sum())
    assert counts == {"latents": 5001, "active": 5000, "dead": 1, "dense": dense, "explained": 5000}
    assert scatters["f1"] == []
    assert sum(cell[3] for cell in scatters["score"]) == 2500
    assert all(cell[1] == 0.5 and cell[2] % 2 == 0 for cell in scatters["score"])
    cells = scatters["effect"]
    assert len(cells) <= SINGLE
    assert len({cell[2] for cell in cells}) == len(cells)
    totals = np.array([(x * n, y * n, n) for x, y, _, n in cells]).sum(0)
    np.testing.assert_allclose(totals, [np.log10(density).sum(), effect.sum(), 5000], rtol=1e-3)
    for x, y, latent, _ in cells:  # who stands for a cell lies in it
        assert abs(math.log10(density[latent]) - x) <= np.ptp(np.log10(density)) / 48
        assert abs(math.sqrt(effect[latent]) - math.sqrt(y)) <= 2 * math.sqrt(effect.max()) / 30


def test_words_of_labels_lead_then_tokens_then_what_is_affirmed(tmp_path: Path) -> None:
    """The order by hand: each card has the word in one place."""
    said = {
        0: "no bracket before it",
        1: "'x' right after a bracket",
        4: "a token not right after {'(', 'bracket and '} and with ' no'",
        6: "brackets without a digit",
    }
    labels = {2: ("bracket depth = 1", 0.4), 3: ("bracket depth = 2", 0.9), 5: ("brackets", 0.01)}
    tokens = {7: ((" bracket", 0.2),), 8: ((" brackets", 0.9),), 9: (("Bracket", 0.7),), 10: ((" racket", 1.0),)}
    cards = [
        Card(
            1, latent, 0.1, 1.0, explainer="rules" if latent in said else None, explanation=said.get(latent),
            label=labels.get(latent, (None,))[0], f1=labels.get(latent, (None, None))[1], tokens=tokens.get(latent, ()),
        )
        for latent in range(11)
    ]  # fmt: skip
    with FeatureDatabase.create(tmp_path / "features.sqlite") as database, database.transaction():
        number = database.put_dictionary("sae", "topk", "resid_post.2", {})
        put_cards(database, number, cards, [Detail()] * len(cards))
    with FeatureBrowser.open(tmp_path / "features.sqlite") as browser:
        for text in ("bracket", "Brackets", "brack"):
            found = [card.latent for card in browser.by_words(text)]
            own_word = [8, 9, 7] if text == "Brackets" else [9, 7, 8] if text == "bracket" else [8, 9, 7]
            assert found[:5] == [3, 2, *own_word]
            assert set(found[5:7]) == {1, 6}  # affirmed
            assert set(found[7:]) == {0, 4, 5}  # denied, and a label at chance
            for limit in range(len(found)):
                assert [card.latent for card in browser.by_words(text, limit=limit)] == found[:limit]
            assert browser.count(1, Chosen(text)) == 10
        assert {card.latent for card in browser.by_rule("label:brackets")} == {2, 3}


def test_negations_reach_to_the_next_part_and_quoted_texts_are_no_words() -> None:
    for text, left in (
        ("' not' (0.5); ')' not after a bracket (0.2)", "' not' (0.5); ')' (0.2)"),
        (
            "any token with no 'a, b' before it and with {',', 'no'} before",
            "any token with and with {',', 'no'} before",
        ),
        ("Words that don't follow a digit, but letters", "Words that , but letters"),
        ("notable knots", "notable knots"),
        ("fires outside brackets", "fires"),
    ):
        assert affirmed(text).split() == left.split()
    hostile = "{" * 3_000 + "'" * 900
    assert affirmed(hostile) == hostile
    assert affirmed("not " * 5_000) == "not " * 5_000


def test_names_of_punctuation_stand_for_its_tokens() -> None:
    for names, tokens in (
        (("closing bracket", "Closing Brackets", "right parenthesis", "close paren"), ")"),
        (("bracket", "parentheses", "round brackets"), "()"),
        (("full stop", "period", "full-stops"), "."),
        (("comma", "Commas"), ","),
        (("quotation mark", "quotes", "speech marks"), '"“”'),
        (("new line", "newline", "line ends", "end of line"), "\n"),
        (("dash", "dashes"), "-–—"),
        (("equals sign", "equals", "equal signs"), "="),
        (("semicolon",), ";"),
        (("closing square brackets",), "]"),
        (("", "house", "full", "the comma"), ""),
    ):
        for name in names:
            assert named(name) == tuple(tokens), name


def test_a_rule_may_be_mixed_with_words_and_tokens() -> None:
    for text, terms in (
        ("bracket", []),
        ("http://x.y a<b note: x=1", []),
        ("score>=0.9 )", [("score", 0.9), ("token", ")")]),
        ("Closing bracket SCORE>=.9", [("score", 0.9), ("token", (")",))]),
        ("*ing label:name", [("label", "name"), ("token", "*ing")]),
        ('capital letter f1=1 "of a"', [("f1", 1.0), ("words", "capital letter of a")]),
        ('token:" a" "', [("token", " a"), ("token", '"')]),
    ):
        assert [(term.key, term.value) for term in mixed(text)] == terms
    for wrong, reason in (
        ("the densty<0.1", "unknown field 'densty'"),
        ("q<3", "unknown field 'q'"),
        ("tokens:x", "Did you mean 'token'"),
        ("score>high", "no number"),
        ("latent>=0 " * 21, "21 conditions"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            mixed(wrong)
