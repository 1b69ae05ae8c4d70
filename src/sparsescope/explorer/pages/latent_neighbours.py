"""The latents that a latent could be taken for: those of the closest direction, and those active in the same places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...features.browsing import FeatureBrowser
from ...features.card import Card
from ...features.reading import StoredLatent
from ..explored import Explored
from ..links import Links
from .latent_contexts import Line, Window, line

SHOWN = 5
"""Neighbours of each kind."""
APART, _FEWER = 2, 1
"""Contexts that tell two latents apart, on either side; fewer, and less of them, in a folder of many pages."""
_WINDOW, _NARROW = Window(9, 4), Window(7, 2)
_KINDS = (("alike", "cosine"), ("together", "Jaccard"))


@dataclass(frozen=True)
class Neighbour:
    """Another latent of the dictionary: `value` is the cosine or the Jaccard index.

    `here` are contexts of the latent of the page on which the other is silent, `there` those of the other; both
    None where they were not looked up. `more` is the address of the page on which they are ("": there is none).
    """

    card: Card
    href: str
    value: float
    measure: str
    here: Sequence[Line] | None
    there: Sequence[Line] | None
    more: str
    opened: bool


def neighbours(
    explored: Explored,
    links: Links,
    slug: str,
    found: StoredLatent,
    *,
    beside: int = -1,
    apart: int = 0,
    short: bool = False,
) -> dict[str, list[Neighbour]]:
    """Neighbours under "alike" and "together", closest first.

    The contexts that tell them apart are looked up for the neighbour `beside`, and for the closest `apart` of each
    kind; for others there is an address, where there is a server to ask. With `short` there is less of them.
    """
    dictionary = explored.by_slug(slug).id
    browser = explored.browser()
    served = links.rows(slug) is None
    page = links.latent(slug, found.latent)
    ranked = {kind: _closest(found.rankings, kind) for kind, _ in _KINDS}
    cards: dict[str, list[Neighbour]] = {}
    for kind, measure in _KINDS:
        cards[kind] = []
        for place, (other, value) in enumerate(ranked[kind]):
            card = browser.card(dictionary, other)
            if card is None:
                continue
            here, there = None, None
            if other == beside or place < apart:
                here, there = _apart(browser, dictionary, found.latent, card, found.maximum, short=short)
            more = f"{page}?beside={other}#near-{kind}-{other}" if served and here is None else ""
            href = links.latent(slug, other)
            cards[kind].append(Neighbour(card, href, value, measure, here, there, more, other == beside))
    return cards


def _closest(rankings: Mapping[str, tuple[list[int], list[float]]], kind: str) -> list[tuple[int, float]]:
    numbers, values = rankings.get(kind, ([], []))
    return list(zip(numbers, values, strict=True))[:SHOWN]


def _apart(
    browser: FeatureBrowser, dictionary: int, latent: int, other: Card, maximum: float, *, short: bool
) -> tuple[list[Line], list[Line]]:
    count, window = (_FEWER, _NARROW) if short else (APART, _WINDOW)
    here = browser.apart(dictionary, latent, other.latent, count)
    there = browser.apart(dictionary, other.latent, latent, count)
    return (
        [line(shown, maximum, window) for shown in here],
        [line(shown, other.maximum, window) for shown in there],
    )
