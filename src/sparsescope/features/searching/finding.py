"""Searching the latents of a run: by token and by the text they respond to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ConfigurationError
from ..card import Card
from ..card_schema import SHIFT
from .words import bare, plain, query_of, storable

if TYPE_CHECKING:
    from ..browsing import FeatureBrowser

LATENTS = 12
"""So many latents are given for a context."""
LONGEST = 200
"""Characters in a pattern of tokens: the time that matching takes grows with them."""
CARD = f"(dictionary << {SHIFT}) + latent"


@dataclass(frozen=True)
class FoundContext:
    """A fragment that a search found, and latents it is among the strongest of, with their largest code there."""

    split: str
    fragment: int
    document: int
    text: str
    pieces: list[str]
    latents: list[tuple[Card, float]]


def by_token(browser: "FeatureBrowser", text: str, dictionary: int | None, limit: int) -> list[tuple[Card, float]]:
    """Latents that respond to a token, with its share of their activation, largest first.

    White space around the token does not count. A text that is no token itself is a pattern, in which "*"
    stands for any characters and "?" for one; a latent is found by the token that it responds to most.
    """
    best = by_tokens(browser, tokens_of(browser, text), dictionary, max(0, limit))
    cards = browser.cards_at([number for number, _ in best])
    return list(zip(cards, (share for _, share in best), strict=True))


def by_tokens(
    browser: "FeatureBrowser", tokens: Sequence[int], dictionary: int | None, limit: int
) -> list[tuple[int, float]]:
    """The cards that respond to any of some tokens, with the largest of the shares, largest first."""
    mine, bounds = ("", []) if dictionary is None else ("AND dictionary = ?", [dictionary])
    if len(tokens) > limit:
        # The latents with the largest shares are all among those of the tokens with the largest largest share.
        largest = f"(SELECT share FROM token_shares WHERE token = each.value {mine} ORDER BY share DESC LIMIT 1)"
        query = f"SELECT each.value FROM json_each(?) AS each ORDER BY {largest} DESC NULLS LAST LIMIT ?"
        tokens = [token for (token,) in browser.rows(query, (listed(tokens), *bounds, limit))]
    found: dict[int, float] = {}
    order = "share DESC, dictionary, latent"
    query = f"SELECT {CARD}, share FROM token_shares WHERE token = ? {mine} ORDER BY {order} LIMIT ?"
    for token in tokens:
        for number, share in browser.rows(query, (token, *bounds, limit)):
            found[number] = max(share, found.get(number, 0.0))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))[:limit]


def contexts_with(
    browser: "FeatureBrowser", text: str, limit: int, dictionaries: Sequence[int] | None
) -> list[FoundContext]:
    """Fragments of the test split that hold all words of `text`, best match first, with latents strongest there.

    Without a word in it, that very text is looked for. The latents of a fragment are those for which it is the
    strongest of all, then those for which it is the second, and so on; well explained ones first. With
    `dictionaries`, only theirs are looked for.
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
        latents = _strongest(browser, corpus, number, dictionaries)
        found.append(FoundContext(split, number, document, "".join(pieces), pieces, latents))
    return found


def _strongest(
    browser: "FeatureBrowser", corpus: int, fragment: int, dictionaries: Sequence[int] | None
) -> list[tuple[Card, float]]:
    among = "" if dictionaries is None else f"AND strongest.dictionary IN ({', '.join('?' * len(dictionaries))}) "
    rows = browser.rows(
        f"SELECT id, code FROM strongest JOIN cards ON cards.id = (strongest.dictionary << {SHIFT}) + strongest.latent "
        f"WHERE corpus = ? AND fragment = ? {among}ORDER BY place, score DESC NULLS LAST, id LIMIT ?",
        (corpus, fragment, *(dictionaries or ()), LATENTS),
    )
    cards = browser.cards_at([number for number, _ in rows])
    return list(zip(cards, (code for _, code in rows), strict=True))


def tokens_of(browser: "FeatureBrowser", text: str) -> list[int]:
    """The tokens that a text stands for: itself, or where there is no such token all that match it as a pattern."""
    key = bare(storable(text))
    rows = browser.rows("SELECT id FROM tokens WHERE text = ?", (key,))
    if not rows and ("*" in key or "?" in key):
        rows = browser.rows("SELECT id FROM tokens WHERE text GLOB ?", (glob(key),))
    return [number for (number,) in rows]


def glob(text: str) -> str:
    """SQLite's pattern in which only "*" and "?" stand for other characters."""
    if len(text) > LONGEST:
        raise ConfigurationError(f"a pattern of {len(text):,} characters was given: at most {LONGEST} are read.")
    return plain(text).replace("[", "[[]")


def listed(numbers: Sequence[int]) -> str:
    """Numbers as SQLite takes them in one parameter."""
    return "[" + ",".join(map(str, numbers)) + "]"
