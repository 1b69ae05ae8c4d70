"""Searching the latents of a run by the terms of a rule (see `rules`)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ..card import LABELLED, Card, card_id, cards_of
from ..card_columns import best_latents
from .finding import CARD, glob, listed, tokens_of
from .holding import having
from .rules import Term, texts_of
from .words import query_of

if TYPE_CHECKING:
    from ..browsing import FeatureBrowser

TOKENS = 1_000
"""A rule's pattern may stand for so many different tokens."""
SETS = ("token", "label", "words")
"""Terms of a rule that SQLite has an index for."""


def by_terms(
    browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None, limit: int
) -> list[tuple[Card, float | None]]:
    """Latents of which all terms hold; where tokens are asked for, with the share of their activation on these.

    Those with the largest share come first, or without such a term those that are explained best. Raises
    `ConfigurationError` for a term that stands for too much.
    """
    limit = max(0, limit)
    found: list[tuple[int, float | None]]
    if any(term.key == "token" for term in terms):
        found = _by_shares(browser, terms, dictionary, limit)
    elif any(term.key in SETS for term in terms):
        found = [(number, None) for number in _by_sets(browser, terms, dictionary, limit)]
    else:
        found = [(number, None) for number in _by_numbers(browser, terms, dictionary, limit)]
    cards = browser.cards_at([number for number, _ in found])
    return list(zip(cards, (share for _, share in found), strict=True))


def having_terms(browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int) -> list[int]:
    """The latents of a dictionary of which all of some terms of SETS hold, at least one. Raises as `by_terms`."""
    found: set[int] | None = None
    for term in terms:
        query, parameters = _cards(browser, term, dictionary)
        numbers = {number for (number,) in browser.rows(query, parameters)}
        found = numbers if found is None else found & numbers
    first, _ = cards_of(dictionary)
    return [number - first for number in found or ()]


def _where(browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None) -> tuple[str, list[Any]]:
    conditions, parameters = ["1"], list[Any]()
    if dictionary is not None:
        conditions, parameters = ["id BETWEEN ? AND ?"], list(cards_of(dictionary))
    for term in terms:
        condition, more = _condition(browser, term, dictionary)
        conditions.append(condition)
        parameters += more
    return " AND ".join(conditions), parameters


def _by_shares(
    browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None, limit: int
) -> list[tuple[int, float | None]]:
    """The cards by the share of their activation on the tokens of all terms together."""
    of_tokens = [term for term in terms if term.key == "token"]
    tokens = {token for term in of_tokens for token in _tokens(browser, term)}
    # Who responds to the tokens of a single term is among the shares; of several terms each must hold.
    left = [term for term in terms if term is not of_tokens[0]] if len(of_tokens) == 1 else terms
    where, parameters = _where(browser, left, dictionary)
    within = "" if dictionary is None else f"AND dictionary = {int(dictionary)}"
    shares = (
        f"SELECT {CARD} AS card, min(sum(share), 1.0) AS share FROM token_shares "
        f"WHERE token IN (SELECT value FROM json_each(?)) {within} GROUP BY card"
    )
    query = (
        f"SELECT id, share FROM ({shares}) CROSS JOIN cards ON id = card WHERE {where} ORDER BY share DESC, id LIMIT ?"
    )
    return [(number, share) for number, share in browser.rows(query, (listed(sorted(tokens)), *parameters, limit))]


def _by_sets(browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None, limit: int) -> list[int]:
    """The best cards by the indexes of words and tokens, which leave few to compare numbers of."""
    where, parameters = _where(browser, terms, dictionary)
    query = f"SELECT id FROM cards NOT INDEXED WHERE {where} ORDER BY score DESC NULLS LAST, id LIMIT ?"
    return [number for (number,) in browser.rows(query, (*parameters, limit))]


def _by_numbers(browser: "FeatureBrowser", terms: Sequence[Term], dictionary: int | None, limit: int) -> list[int]:
    """The best cards by their columns, of which numpy reads only those that are compared."""
    named = [_condition(browser, term) for term in terms if term.operator == ":"]
    where = " AND ".join(["1", *(condition.replace("dictionary IN", "id IN", 1) for condition, _ in named)])
    rows = browser.rows(f"SELECT id FROM dictionaries WHERE {where}", [value for _, more in named for value in more])
    bounds = [(term.key, term.operator, term.value) for term in terms if isinstance(term.value, float)]
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


def _condition(browser: "FeatureBrowser", term: Term, dictionary: int | None = None) -> tuple[str, list[Any]]:
    """A term as a condition on `cards`; keys and operators come from the lists of `rules`."""
    if term.operator != ":":
        return f"{term.key} {term.operator} ?", [term.value]
    if term.key in SETS:
        query, parameters = _cards(browser, term, dictionary)
        return f"id IN ({query})", parameters
    column = {"dictionary": "name"}.get(term.key, term.key)
    return f"dictionary IN (SELECT id FROM dictionaries WHERE {column} GLOB ?)", [glob(str(term.value))]


def _cards(browser: "FeatureBrowser", term: Term, dictionary: int | None) -> tuple[str, list[Any]]:
    """The query for the cards of which a term of SETS holds."""
    text = str(term.value)
    if term.key == "token":
        within = "" if dictionary is None else f"AND dictionary = {int(dictionary)}"
        among = f"token IN (SELECT value FROM json_each(?)) {within}"
        return f"SELECT {CARD} FROM token_shares WHERE {among}", [listed(_tokens(browser, term))]
    if term.key == "words":
        return having(text, dictionary)
    if not query_of(text):
        raise ConfigurationError(f"label:{text} has no letter or digit: name a word of the label.")
    query, parameters = having(text, dictionary, "label")
    return f"SELECT id FROM cards WHERE id IN ({query}) AND f1 >= ?", [*parameters, LABELLED]


def _tokens(browser: "FeatureBrowser", term: Term) -> list[int]:
    """The tokens that a term stands for. Raises `ConfigurationError` for too many."""
    tokens = sorted({token for text in texts_of(term) for token in tokens_of(browser, text)})
    if len(tokens) > TOKENS:
        raise ConfigurationError(
            f"token:{texts_of(term)[0]} stands for {len(tokens):,} different tokens: give more of its letters, so "
            f"that at most {TOKENS:,} match."
        )
    return tokens
