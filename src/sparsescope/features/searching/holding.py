"""Searching the latents of a run by words: of their explanation, their tokens and their label."""

from typing import TYPE_CHECKING, Any

from ..card import LABELLED, Card, cards_of
from .finding import CARD, LONGEST, by_token, by_tokens
from .words import bare, plain, query_of, storable

if TYPE_CHECKING:
    from ..browsing import FeatureBrowser

RANKED = 4_000
"""Of more latents with the same words, the first so many are ranked."""


def having(text: str, dictionary: int | None, column: str = "") -> tuple[str, list[Any]]:
    """The query for the cards with all words of a text, or where it has no word those that respond to that token.

    Words are found by their stem, in any case, and by their beginning; `column` is of the index, "" for all of it.
    """
    words = query_of(text, prefix=True)
    if words:
        query, within = "SELECT rowid FROM card_words WHERE card_words MATCH ?", "rowid BETWEEN ? AND ?"
        bounds = () if dictionary is None else cards_of(dictionary)
        parameters = [f"{column} : ({words})" if column else words, *bounds]
    else:
        query = f"SELECT {CARD} FROM token_shares WHERE token = (SELECT id FROM tokens WHERE text = ?)"
        within, parameters = "dictionary = ?", [bare(storable(text)), *([] if dictionary is None else [dictionary])]
    return (query if dictionary is None else f"{query} AND {within}"), parameters


def by_words(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[Card]:
    """Latents whose explanation, tokens and label together hold all words of `text`, the most telling first.

    First come those with all of them in a label that they agree with, by F1; then those that respond to such tokens,
    then those whose explanation says so, and last those where they are spread, or in a negated part of the
    explanation. Words are found by their stem and by their beginning, and nothing in `text` is an operator. Without
    a word in it, it is taken for a token. Of very many matches of a kind the first RANKED are ranked.
    """
    words, limit = query_of(text, prefix=True), max(0, limit)
    if not words:
        return [card for card, _ in by_token(browser, text, dictionary, limit)] if text.strip() else []
    found: dict[int, None] = {}
    for look in (_labelled, _responding, _saying, _holding):
        if len(found) < limit:
            found |= dict.fromkeys(look(browser, text, dictionary, 2 * limit))  # some are found already
    return browser.cards_at(list(found)[:limit])


def _labelled(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[int]:
    """Cards with the words in a label that says something of them, the best agreement first."""
    query, parameters = having(text, dictionary, "label")
    chosen = f"SELECT id FROM cards WHERE id IN ({query}) AND f1 >= ? ORDER BY f1 DESC, id LIMIT ?"
    return [number for (number,) in browser.rows(chosen, (*parameters, LABELLED, limit))]


def _responding(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[int]:
    """Cards with the words among their tokens: of a single word, the largest share of their activation first.

    A token that is the word itself counts before those that begin with it.
    """
    word = plain(text).strip()
    if len(word) > LONGEST or not word.isalnum():
        return _ranked(browser, "words", text, dictionary, limit)
    beginning = word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word
    patterns = [word, beginning, beginning + "%"] if query_of(word, prefix=True).endswith("*") else [word]
    found: dict[int, None] = {}
    for pattern in dict.fromkeys(patterns):
        tokens = [token for (token,) in browser.rows("SELECT id FROM tokens WHERE text LIKE ?", (pattern,))]
        if len(found) < limit:
            found |= dict.fromkeys(number for number, _ in by_tokens(browser, tokens, dictionary, limit))
    return list(found)


def _saying(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[int]:
    """Cards with the words in what the explanation affirms, or among tokens."""
    return _ranked(browser, "{affirmed words}", text, dictionary, limit)


def _holding(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[int]:
    """Cards with the words anywhere."""
    return _ranked(browser, "", text, dictionary, limit)


def _ranked(browser: "FeatureBrowser", column: str, text: str, dictionary: int | None, limit: int) -> list[int]:
    query, parameters = having(text, dictionary, column)
    some = query.replace("rowid", "rowid AS id, rank AS place", 1) + f" LIMIT {RANKED}"
    rows = browser.rows(f"SELECT id FROM ({some}) ORDER BY place, id LIMIT ?", (*parameters, limit))
    return [number for (number,) in rows]
