"""A latent in a list of latents: where it is to be found, and what is said of it in two lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...features.browsing import FeatureBrowser, Shelf
from ...features.card import Card
from ...report.words import BASELINES
from ..explored import Explored
from ..links import Links

_RAISED = 4
"""Tokens named that a latent makes more likely."""
_FIRES = 3
"""Tokens named that a latent fires on."""
_ENOUGH = 0.8
"""Share of the activation after which no more of these tokens are named."""


@dataclass(frozen=True)
class Brief:
    """A latent's card with its place: `raised` are tokens that it makes more likely next, most first.

    `share` and `code` are what a search adds: the share of the latent's activation on the token that was looked for,
    and its activation in a text.
    """

    shelf: Shelf
    card: Card
    href: str
    dictionary_href: str
    raised: tuple[str, ...] = ()
    share: float | None = None
    code: float | None = None

    @property
    def fires(self) -> tuple[tuple[str, float], ...]:
        """The tokens that hold most of its activation, with their shares: as few as hold 80%, at most three."""
        named: list[tuple[str, float]] = []
        for token, share in self.card.tokens[:_FIRES]:
            if sum(part for _, part in named) >= _ENOUGH:
                break
            named.append((token, share))
        return tuple(named)


@dataclass(frozen=True)
class Briefs:
    """Makes briefs of one run for one page."""

    explored: Explored
    browser: FeatureBrowser
    links: Links
    shelves: Mapping[int, Shelf] = field(default_factory=dict)

    @classmethod
    def of(cls, explored: Explored, links: Links) -> "Briefs":
        """Over the run's database."""
        return cls(explored, explored.browser(), links, {shelf.id: shelf for shelf in explored.shelves()})

    def brief(self, card: Card, *, share: float | None = None, code: float | None = None, story: bool = True) -> Brief:
        """What to show of a card. Without its `story`, what it raises is not read."""
        slug = self.explored.slug(card.dictionary)
        return Brief(
            self.shelves[card.dictionary],
            card,
            self.links.latent(slug, card.latent),
            self.links.dictionary(slug),
            self._raised(card) if story else (),
            share,
            code,
        )

    def at(self, dictionary: int, latent: int, *, story: bool = True) -> Brief | None:
        """The brief of a latent; None where the database has no card of it."""
        card = self.browser.card(dictionary, latent)
        return None if card is None else self.brief(card, story=story)

    def _raised(self, card: Card) -> tuple[str, ...]:
        if card.effect is None:
            return ()
        effect = self.browser.detail(card.dictionary, card.latent).effect
        rows = [] if effect is None else effect["raised"]
        return tuple(token for token, gain in rows[:_RAISED] if gain > 0)


def precedence(shelf: Shelf) -> int:
    """Autoencoders come before baselines, and both before the dictionaries of a control."""
    if shelf.kind != "dictionary":
        return 2
    return 1 if shelf.method in BASELINES else 0
