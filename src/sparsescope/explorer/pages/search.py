"""The search page: one box over tokens, words and texts; rules; and an example text, read by the model.

A text that is a token is looked for as one first, since who types ")" wants the feature that fires on it; below come
latents whose explanation, tokens or label hold the words, and the held-out texts that hold them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ...features.browsing import Shelf
from ...features.card import Card
from ...features.finding import LONGEST, FoundContext
from ...features.rules import parse
from ...features.words import bare
from ..explored import Explored
from ..links import Links
from ..query import Query, choice, text
from ..rendering import Page
from .brief import Brief, Briefs, precedence
from .quotation import Quotation, quotation

KINDS = {"words": "Words", "context": "Texts", "rule": "Rule", "example": "Example"}
EXAMPLES = (
    ('token:")"', "fires mostly on this token"),
    ("token:*ing", "fires on tokens that end so"),
    ('words:"capital letter"', "these words in the explanation, tokens or label"),
    ("label:bracket f1>0.2", "agrees with a known label of the text"),
    ("score>=0.6 density<0.01", "rare, and well explained"),
    ("effect>0.1 method:topk", "moves the next token, in dictionaries of one method"),
)
SUGGESTIONS = (")", "the", "⏎", "(", "bracket", "capital")
_FETCHED, _OPEN = 48, 12
"""Latents of one kind that are fetched, and those shown before the rest is folded away."""
_CANDIDATES = 400
"""Latents that a token is looked up for before those of baselines are put last."""
_TEXTS, _FEW_TEXTS, _LATENTS_OF_TEXT = 20, 6, 4
_WILD = {"*", "?"}
_WRITTEN = {"⏎": "\n", "␣": " ", "·": " ", "\\n": "\n", "\\t": "\t"}


@dataclass(frozen=True)
class FoundText:
    """A held-out text that holds what was looked for, with the latents that are strongest in it."""

    quotation: Quotation
    split: str
    document: int
    latents: tuple[Brief, ...]


@dataclass(frozen=True)
class Group:
    """Latents of one kind: the first ones, and those folded away."""

    anchor: str
    heading: str
    note: str
    first: tuple[Brief, ...]
    more: tuple[Brief, ...]


def search_page(explored: Explored, links: Links, query: Query) -> Page:
    """What was found, or the form alone. Raises `BadRequest` and `NotThere` for a wrong query."""
    given, by = text(query, "q"), choice(query, "by", tuple(KINDS), "words")
    slug = text(query, "dictionary").strip()
    chosen = explored.by_slug(slug) if slug else None
    search = _Search(explored, links, chosen)
    served = links.rows(search.slugs[0]) is None if search.slugs else True
    found = search.find(given, by) if served else {}
    values: dict[str, Any] = {
        "given": given,
        "by": by,
        "slug": slug,
        "served": served,
        "kinds": [
            (key, name, links.search(q=given or None, by=key, dictionary=slug or None)) for key, name in KINDS.items()
        ],
        "shelves": search.choices(),
        "examples": [
            (rule, means, links.search(q=rule, by="rule", dictionary=slug or None)) for rule, means in EXAMPLES
        ],
        "suggestions": [(each, links.search(q=each)) for each in SUGGESTIONS],
        "groups": [],
        "texts": [],
        "complaint": None,
        "data": search.client_data(served),
        "few_texts": _FEW_TEXTS,
        "example_address": links.latent("SLUG", 0).removesuffix("0") + "NUMBER" if links.live else "",
        "run_path": explored.path,
        **found,
    }
    title = f"Search: {given}" if given else "Search"
    styles = ("search.css", "live.css") if by == "example" else ("search.css",)
    live = ("live.js", "search_example.js") if by == "example" and links.live else ()
    scripts = live if served else ("search_rows.js",)
    return Page("search.html", title, "search", values, scripts=scripts, styles=styles)


class _Search:
    """One search, over a dictionary or over all."""

    def __init__(self, explored: Explored, links: Links, chosen: Shelf | None) -> None:
        self._explored, self._links, self._chosen = explored, links, chosen
        self.ordered: list[Shelf] = sorted(explored.shelves(), key=precedence)
        self.slugs = [explored.slug(shelf.id) for shelf in self.ordered]
        self._briefs = Briefs.of(explored, links)
        self._browser = self._briefs.browser
        self._rank = {shelf.id: precedence(shelf) for shelf in self.ordered}

    @property
    def _scopes(self) -> list[int | None]:
        """What to ask the database for: one dictionary, all at once, or each of those that are shown alone."""
        if self._chosen is not None:
            return [self._chosen.id]
        return [shelf.id for shelf in self.ordered] if self._explored.only else [None]

    def choices(self) -> list[tuple[str, Shelf, int]]:
        """The prepared dictionaries with their slugs, and whether they come first (0) or later."""
        pairs = zip(self.slugs, self.ordered, strict=True)
        return [(slug, shelf, self._rank[shelf.id]) for slug, shelf in pairs if shelf.prepared]

    def find(self, given: str, by: str) -> dict[str, Any]:
        """Values for the template, by the kind of search."""
        if not given or by == "example":
            return {}
        if by == "rule":
            return self._by_rule(given)
        if by == "context":
            return {"texts": self._texts(given, _TEXTS)}
        return self._by_words(given)

    def _by_words(self, given: str) -> dict[str, Any]:
        on_token = self._on_token(given)
        seen = {(card.dictionary, card.latent) for card, _ in on_token}
        # A text without a word would be looked for as a token again.
        worded = any(map(str.isalnum, given))
        holding = self._all(self._browser.by_words, given) if worded else []
        others = [card for card in self._first(holding) if (card.dictionary, card.latent) not in seen]
        groups = []
        if on_token:
            note = "By the share of their activation that falls on it; autoencoders before baselines."
            briefs = [self._briefs.brief(card, share=share) for card, share in on_token]
            groups.append(_group("tokens", "Fire on this token", note, briefs))
        if others:
            note = "In their explanation, among their tokens, or in their best label."
            briefs = [self._briefs.brief(card) for card in others[:_FETCHED]]
            groups.append(
                _group("words", "Hold these words" if not on_token else "Also hold these words", note, briefs)
            )
        return {"groups": groups, "texts": self._texts(given, _FEW_TEXTS)}

    def _on_token(self, given: str) -> list[tuple[Card, float]]:
        """Latents by the share of their activation on a token, autoencoders first."""
        if len(given) > LONGEST and _WILD & set(given):
            return []
        for spelling in spellings(given):
            # A pattern may stand for hundreds of tokens, each of which is looked up.
            limit = 2 * _FETCHED if _WILD & set(spelling) else _CANDIDATES
            found = [each for scope in self._scopes for each in self._browser.by_token(spelling, scope, limit=limit)]
            if set(spelling) <= _WILD:  # a question mark that is looked for is meant as one
                found = [(card, part) for card, part in found if spelling in map(bare, dict(card.tokens))]
            if found:
                found.sort(key=lambda pair: (self._rank[pair[0].dictionary], -pair[1]))
                return found[:_FETCHED]
        return []

    def _by_rule(self, given: str) -> dict[str, Any]:
        try:
            parse(given)
            found = self._all(self._browser.by_rule, given)
        except ConfigurationError as error:
            return {"complaint": str(error)}
        briefs = [self._briefs.brief(card) for card in self._first(found)]
        note = "All terms hold for each of them."
        return {"groups": [_group("rule", "Latents of this rule", note, briefs, len(briefs))] if briefs else []}

    def _texts(self, given: str, limit: int) -> list[FoundText]:
        found = self._browser.contexts_with(plain(given), limit=limit)
        return [self._text(each, given) for each in found]

    def _text(self, found: FoundContext, given: str) -> FoundText:
        latents = [(card, code) for card, code in found.latents if self._holds(card)]
        latents.sort(key=lambda pair: (self._rank[pair[0].dictionary], -relative(*pair)))
        briefs = tuple(self._briefs.brief(card, code=code) for card, code in latents[:_LATENTS_OF_TEXT])
        return FoundText(quotation(found.text, plain(given)), found.split, found.document, briefs)

    def _all(self, look: Callable[..., list[Card]], given: str) -> list[Card]:
        return [card for scope in self._scopes for card in look(given, scope, limit=2 * _FETCHED)]

    def _holds(self, card: Card) -> bool:
        chosen = self._chosen
        return card.dictionary in self._rank if chosen is None else card.dictionary == chosen.id

    def _first(self, cards: Sequence[Card]) -> list[Card]:
        """Autoencoders first, each kind in the order it was found in."""
        return sorted(cards, key=lambda card: self._rank[card.dictionary])

    def client_data(self, served: bool) -> dict[str, Any]:
        """What the search in the browser needs: where the rows of each dictionary are, and the addresses of latents."""
        if served:
            return {}
        return {
            "dictionaries": [
                {
                    "slug": slug,
                    "name": shelf.name,
                    "rank": rank,
                    "rows": self._links.rows(slug),
                    "home": self._links.dictionary(slug),
                    "latent": self._links.latent(slug, 0),
                }
                for slug, shelf, rank in self.choices()
            ]
        }


def relative(card: Card, code: float) -> float:
    """A code as a share of the latent's largest, so that dictionaries of different scales can be compared."""
    return code / card.maximum if card.maximum > 0 else 0.0


def plain(given: str) -> str:
    """What is meant by a text in which white space is written as pages show it.

    >>> plain("⏎"), plain("·word"), plain(" the ")
    ('\\n', ' word', ' the ')
    """
    for written, meant in _WRITTEN.items():
        given = given.replace(written, meant)
    return given


def spellings(given: str) -> list[str]:
    """The tokens to look for, the first that is found counts: as it is given, then in other cases.

    White space around a token is no part of it, unless there is nothing else.

    >>> spellings("The"), spellings(" ) ")
    (['The', 'the', 'THE'], [')'])
    """
    token = bare(plain(given))
    return list(dict.fromkeys([token, token.lower(), token.capitalize(), token.upper()]))


def _group(anchor: str, heading: str, note: str, briefs: Sequence[Brief], open_ones: int = _OPEN) -> Group:
    return Group(anchor, heading, note, tuple(briefs[:open_ones]), tuple(briefs[open_ones:]))
