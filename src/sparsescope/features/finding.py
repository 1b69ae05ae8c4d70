"""Searching the latents of a run: by words, by token, by rule, and by the text they respond to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .card import Card, card_id, cards_of
from .card_columns import best_latents
from .card_schema import SHIFT
from .rules import Term, parse
from .words import bare, plain, query_of, storable

if TYPE_CHECKING:
    from .browsing import FeatureBrowser

RANKED = 4_000
"""Of more latents with the same words, the first so many are ranked."""
LATENTS = 12
"""So many latents are given for a context."""
LONGEST = 200
"""Characters in a pattern of tokens: the time that matching takes grows with them."""
TOKENS = 1_000
"""A rule's pattern may stand for so many different tokens."""
SETS = ("token", "label", "words")
"""Terms of a rule that SQLite has an index for."""
_CARD = f"(dictionary << {SHIFT}) + latent"


@dataclass(frozen=True)
class FoundContext:
    """A fragment that a search found, and latents it is among the strongest of, with their largest code there."""

    split: str
    fragment: int
    document: int
    text: str
    pieces: list[str]
    latents: list[tuple[Card, float]]


def having_words(browser: "FeatureBrowser", text: str, dictionary: int) -> list[int]:
    """Latents of a dictionary with all words of a text, or where it has no word those that respond to that token."""
    query, parameters = _having(text, dictionary)
    first, _ = cards_of(dictionary)
    return [number - first for (number,) in browser.rows(query, parameters)]


def _having(text: str, dictionary: int | None) -> tuple[str, list[Any]]:
    """The query for the cards with all words of a text, or where it has no word those that respond to that token."""
    words = query_of(text)
    if words:
        query, within = "SELECT rowid FROM card_words WHERE card_words MATCH ?", "rowid BETWEEN ? AND ?"
        bounds = () if dictionary is None else cards_of(dictionary)
        parameters = [words, *bounds]
    else:
        query = f"SELECT {_CARD} FROM token_shares WHERE token = (SELECT id FROM tokens WHERE text = ?)"
        within, parameters = "dictionary = ?", [bare(storable(text)), *([] if dictionary is None else [dictionary])]
    return (query if dictionary is None else f"{query} AND {within}"), parameters


def by_words(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[Card]:
    """Latents whose explanation, tokens and label together hold all words of `text`, best match first.

    Nothing in `text` is an operator. Without a word in it, it is taken for a token. Of very many matches the
    first RANKED are ranked.
    """
    words = query_of(text)
    if not words:
        return [card for card, _ in by_token(browser, text, dictionary, limit)] if text.strip() else []
    within, bounds = ("", ()) if dictionary is None else ("AND rowid BETWEEN ? AND ?", cards_of(dictionary))
    some = f"SELECT rowid AS id, rank AS place FROM card_words WHERE card_words MATCH ? {within} LIMIT {RANKED}"
    rows = browser.rows(f"SELECT id FROM ({some}) ORDER BY place, id LIMIT ?", (words, *bounds, max(0, limit)))
    return browser.cards_at([number for (number,) in rows])


def by_token(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[tuple[Card, float]]:
    """Latents that respond to a token, with its share of their activation, largest first.

    White space around the token does not count. A text that is no token itself is a pattern, in which "*"
    stands for any characters and "?" for one; a latent is found by the token that it responds to most.
    """
    limit = max(0, limit)
    mine, bounds = ("", []) if dictionary is None else ("AND dictionary = ?", [dictionary])
    tokens = _tokens(browser, text)
    if len(tokens) > limit:
        # The latents with the largest shares are all among those of the tokens with the largest largest share.
        largest = f"(SELECT share FROM token_shares WHERE token = each.value {mine} ORDER BY share DESC LIMIT 1)"
        query = f"SELECT each.value FROM json_each(?) AS each ORDER BY {largest} DESC NULLS LAST LIMIT ?"
        tokens = [token for (token,) in browser.rows(query, (_listed(tokens), *bounds, limit))]
    found: dict[int, float] = {}
    order = "share DESC, dictionary, latent"
    query = f"SELECT {_CARD}, share FROM token_shares WHERE token = ? {mine} ORDER BY {order} LIMIT ?"
    for token in tokens:
        for number, share in browser.rows(query, (token, *bounds, limit)):
            found[number] = max(share, found.get(number, 0.0))
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:limit]
    cards = browser.cards_at([number for number, _ in best])
    return list(zip(cards, (share for _, share in best), strict=True))


def by_rule(browser: "FeatureBrowser", rule: str, dictionary: int | None, limit: int) -> list[Card]:
    """Latents of which all terms of a rule hold (see `rules`), best explained first.

    Raises `ConfigurationError` for a rule that is not understood.
    """
    terms, limit = parse(rule), max(0, limit)
    if any(term.key in SETS for term in terms):
        found = _by_sets(browser, terms, dictionary, limit)
    else:
        found = _by_numbers(browser, terms, dictionary, limit)
    return browser.cards_at(found)


def _by_sets(browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None, limit: int) -> list[int]:
    """The best cards by the indexes of words and tokens, which leave few to compare numbers of."""
    conditions, parameters = ["1"], list[Any]()
    if dictionary is not None:
        conditions, parameters = ["id BETWEEN ? AND ?"], list(cards_of(dictionary))
    for term in terms:
        condition, more = _condition(browser, term)
        conditions.append(condition)
        parameters += more
    where = " AND ".join(conditions)
    query = f"SELECT id FROM cards NOT INDEXED WHERE {where} ORDER BY score DESC NULLS LAST, id LIMIT ?"
    return [number for (number,) in browser.rows(query, (*parameters, limit))]


def _by_numbers(browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None, limit: int) -> list[int]:
    """The best cards by their columns, of which numpy reads only those that are compared."""
    named = [_condition(browser, term) for term in terms if term.operator == ":"]
    where = " AND ".join(["1", *(condition.replace("dictionary IN", "id IN", 1) for condition, _ in named)])
    rows = browser.rows(f"SELECT id FROM dictionaries WHERE {where}", [value for _, more in named for value in more])
    bounds = [(term.key, term.operator, float(term.value)) for term in terms if term.operator != ":"]
    best: list[tuple[bool, float, int]] = []
    for (owner,) in rows:
        if dictionary in (None, owner):
            column = partial(browser.column, owner)
            latents, scores = best_latents(column, bounds, limit)
            best += [
                (math.isnan(score), 0.0 if math.isnan(score) else -score, card_id(owner, latent))
                for latent, score in zip(latents.tolist(), scores.tolist(), strict=True)
            ]
    return [number for _, _, number in sorted(best)[:limit]]


def contexts_with(browser: "FeatureBrowser", text: str, limit: int) -> list[FoundContext]:
    """Fragments of the test split that hold all words of `text`, best match first, with latents strongest there.

    Without a word in it, that very text is looked for. The latents of a fragment are those for which it is the
    strongest of all, then those for which it is the second, and so on; well explained ones first.
    """
    words = query_of(text)
    if words:
        source = (
            "(SELECT rowid AS found, rank AS place FROM fragment_words WHERE fragment_words MATCH ?) "
            "JOIN fragments ON fragments.id = found"
        )
        order, parameter = "place, found", words
    elif text.strip():
        source, order, parameter = "fragments", "fragments.id", plain(text).strip()
    else:
        return []
    query = (
        f"SELECT split, number, document, corpus FROM {source} JOIN corpora ON corpora.id = corpus "
        f"WHERE split = 'test' {'' if words else 'AND instr(text, ?)'} ORDER BY {order} LIMIT ?"
    )
    found = []
    for split, number, document, corpus in browser.rows(query, (parameter, max(0, limit))):
        _, _, pieces = browser.fragment(corpus, number)
        latents = _strongest(browser, corpus, number)
        found.append(FoundContext(split, number, document, "".join(pieces), pieces, latents))
    return found


def _strongest(browser: "FeatureBrowser", corpus: int, fragment: int) -> list[tuple[Card, float]]:
    rows = browser.rows(
        f"SELECT id, code FROM strongest JOIN cards ON cards.id = (strongest.dictionary << {SHIFT}) + strongest.latent "
        "WHERE corpus = ? AND fragment = ? ORDER BY place, score DESC NULLS LAST, id LIMIT ?",
        (corpus, fragment, LATENTS),
    )
    cards = browser.cards_at([number for number, _ in rows])
    return list(zip(cards, (code for _, code in rows), strict=True))


def _condition(browser: "FeatureBrowser", term: Term) -> tuple[str, list[Any]]:
    """A term as a condition on `cards`; keys and operators come from the lists of `rules`."""
    if term.operator != ":":
        return f"{term.key} {term.operator} ?", [term.value]
    text = str(term.value)
    if term.key == "words":
        query, parameters = _having(text, None)
        return f"id IN ({query})", parameters
    if term.key == "label":
        words = query_of(text, prefix=True)
        if not words:
            raise ConfigurationError(f"label:{text} has no letter or digit: name a word of the label.")
        return "id IN (SELECT rowid FROM card_words WHERE card_words MATCH ?)", [f"label : ({words})"]
    if term.key == "token":
        tokens = _tokens(browser, text)
        if len(tokens) > TOKENS:
            raise ConfigurationError(
                f"token:{text} stands for {len(tokens):,} different tokens: give more of its letters, so that at most "
                f"{TOKENS:,} match."
            )
        among = "token IN (SELECT value FROM json_each(?))"
        return f"id IN (SELECT {_CARD} FROM token_shares WHERE {among})", [_listed(tokens)]
    column = {"dictionary": "name"}.get(term.key, term.key)
    return f"dictionary IN (SELECT id FROM dictionaries WHERE {column} GLOB ?)", [_glob(text)]


def _tokens(browser: "FeatureBrowser", text: str) -> list[int]:
    """The tokens that a text stands for: itself, or where there is no such token all that match it as a pattern."""
    key = bare(storable(text))
    rows = browser.rows("SELECT id FROM tokens WHERE text = ?", (key,))
    if not rows and ("*" in key or "?" in key):
        rows = browser.rows("SELECT id FROM tokens WHERE text GLOB ?", (_glob(key),))
    return [number for (number,) in rows]


def _glob(text: str) -> str:
    """SQLite's pattern in which only "*" and "?" stand for other characters."""
    if len(text) > LONGEST:
        raise ConfigurationError(f"a pattern of {len(text):,} characters was given: at most {LONGEST} are read.")
    return plain(text).replace("[", "[[]")


def _listed(numbers: Sequence[int]) -> str:
    return "[" + ",".join(map(str, numbers)) + "]"
