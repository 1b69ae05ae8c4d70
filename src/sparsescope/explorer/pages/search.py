"""The search page: one box over tokens, words, rules and texts; and an example text, read by the model.

A text that is a token or names one is looked for as one first, since who types ")" or "closing bracket" wants the
feature that fires on it; below come latents whose explanation, tokens or label hold the words, and the held-out texts
that hold them. A text with a term of the rule language in it is a rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ...features.browsing import Shelf
from ...features.card import Card
from ...features.searching.finding import LONGEST, FoundContext
from ...features.searching.punctuation import NAMES, named
from ...features.searching.rules import Term, mixed, parse
from ...features.searching.words import bare
from ..explored import Explored
from ..links import Links
from ..query import Query, choice, text
from ..rendering import Page
from .asked import plain, spellings, written
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
_FETCHED, _OPEN = 24, 12
"""Latents of one kind that are fetched, and those shown before the rest is folded away."""
_CANDIDATES = 400
"""Latents that a token is looked up for before those of baselines are put last."""
_TEXTS, _FEW_TEXTS, _LATENTS_OF_TEXT = 20, 6, 4
_WILD = {"*", "?"}
_BY_SHARE = "By the share of their activation that falls on it; autoencoders before baselines."
_BY_PLACE = "In their best label, among their tokens, or in their explanation; in this order."


@dataclass(frozen=True)
class FoundText:
    """A held-out text that holds what was looked for, with the latents that are strongest in it."""

    quotation: Quotation
    split: str
    document: int
    latents: tuple[Brief, ...]


@dataclass(frozen=True)
class Group:
    """Latents of one kind: the first ones, and those folded away. `tokens` stand behind the heading, and their name."""

    anchor: str
    heading: str
    note: str
    first: tuple[Brief, ...]
    more: tuple[Brief, ...]
    tokens: tuple[str, ...] = ()
    name: str = ""


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
        "ruled": by == "rule",
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
        if by == "context":
            return {"texts": self._texts(given, _TEXTS)}
        try:
            terms = parse(given) if by == "rule" else mixed(given)
            return self._by_rule(terms) if terms else self._by_words(given)
        except ConfigurationError as error:
            # A text with a colon in it may be no rule after all.
            return {**(self._by_words(given) if by == "words" else {}), "complaint": str(error)}

    def _by_words(self, given: str) -> dict[str, Any]:
        groups, seen = [], set[tuple[int, int]]()

        def add(found: Sequence[tuple[Card, float | None]], *about: Any) -> None:
            new = [(card, share) for card, share in found if (card.dictionary, card.latent) not in seen][:_FETCHED]
            seen.update((card.dictionary, card.latent) for card, _ in new)
            if new:
                briefs = [self._briefs.brief(card, share=share) for card, share in new]
                groups.append(_group(briefs, *about))

        tokens = named(given)
        spelling, on_token = self._on_token(given)
        if set(tokens) - {spelling}:
            add(self._on_name(tokens), "tokens", "Fire on", _BY_SHARE, tokens, given.strip())
        add(on_token, "literal" if groups else "tokens", "Fire on", _BY_SHARE, (spelling,))
        # A text without a word would be looked for as a token again, and a pattern is one of tokens.
        worded = any(map(str.isalnum, given)) and not (on_token and _WILD & set(spelling))
        holding = self._first(self._all(self._browser.by_words, given)) if worded else []
        heading = "Also hold these words" if groups else "Hold these words"
        add([(card, None) for card in holding], "words", heading, _BY_PLACE)
        return {"groups": groups, "texts": self._texts(given, _FEW_TEXTS)}

    def _on_name(self, tokens: tuple[str, ...]) -> list[tuple[Card, float | None]]:
        """Latents by the share of their activation on tokens that have a name, autoencoders first."""
        return self._by_share([Term("token", ":", tokens)], _CANDIDATES)

    def _on_token(self, given: str) -> tuple[str, list[tuple[Card, float | None]]]:
        """The spelling of a token that is one, and latents by the share of their activation on it, likewise."""
        if len(given) > LONGEST and _WILD & set(given):
            return given, []
        for spelling in spellings(given):
            # A pattern may stand for hundreds of tokens.
            found = self._by_share(
                [Term("token", ":", spelling)], 2 * _FETCHED if _WILD & set(spelling) else _CANDIDATES
            )
            if set(spelling) <= _WILD:  # a question mark that is looked for is meant as one
                found = [(card, part) for card, part in found if spelling in map(bare, dict(card.tokens))]
            if found:
                return spelling, found
        return given, []

    def _by_share(self, terms: Sequence[Term], limit: int) -> list[tuple[Card, float | None]]:
        found = [each for scope in self._scopes for each in self._browser.by_terms(terms, scope, limit=limit)]
        return sorted(found, key=lambda pair: (self._rank[pair[0].dictionary], -(pair[1] or 0.0)))

    def _by_rule(self, terms: list[Term]) -> dict[str, Any]:
        found = self._by_share(terms, 2 * _FETCHED)
        briefs = [self._briefs.brief(card, share=share) for card, share in found]
        on_tokens = any(term.key == "token" for term in terms)
        first = "The largest share of their activation on these tokens" if on_tokens else "The best explained"
        note = f"All of this holds for each of them: {', '.join(map(written, terms))}. {first} first, and autoencoders."
        many = len(briefs) == 2 * _FETCHED
        group = _group(briefs, "rule", "The first latents of this rule" if many else "Latents of this rule", note)
        return {"groups": [group] if briefs else [], "ruled": True}

    def _texts(self, given: str, limit: int) -> list[FoundText]:
        """Of all dictionaries, autoencoders alone, where there are any: baselines would crowd them out."""
        best = min(self._rank.values(), default=0)
        chosen = [number for number, rank in self._rank.items() if rank == best]
        among = chosen if self._chosen is None else [self._chosen.id]
        found = self._browser.contexts_with(plain(given), limit=limit, dictionaries=among)
        return [self._text(each, given) for each in found]

    def _text(self, found: FoundContext, given: str) -> FoundText:
        latents = sorted(found.latents, key=lambda pair: -relative(*pair))
        briefs = tuple(self._briefs.brief(card, code=code) for card, code in latents[:_LATENTS_OF_TEXT])
        return FoundText(quotation(found.text, plain(given)), found.split, found.document, briefs)

    def _all(self, look: Callable[..., list[Card]], given: str) -> list[Card]:
        return [card for scope in self._scopes for card in look(given, scope, limit=2 * _FETCHED)]

    def _first(self, cards: Sequence[Card]) -> list[Card]:
        """Autoencoders first, each kind in the order it was found in."""
        return sorted(cards, key=lambda card: self._rank[card.dictionary])

    def client_data(self, served: bool) -> dict[str, Any]:
        """What the search in the browser needs: where the rows of each dictionary are, and the addresses of latents."""
        if served:
            return {}
        return {
            "names": NAMES,
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
            ],
        }


def relative(card: Card, code: float) -> float:
    """A code as a share of the latent's largest, so that dictionaries of different scales can be compared."""
    return code / card.maximum if card.maximum > 0 else 0.0


def _group(
    briefs: Sequence[Brief], anchor: str, heading: str, note: str, tokens: tuple[str, ...] = (), name: str = ""
) -> Group:
    return Group(anchor, heading, note, tuple(briefs[:_OPEN]), tuple(briefs[_OPEN:]), tokens, name)
