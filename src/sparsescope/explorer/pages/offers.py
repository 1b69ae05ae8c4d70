"""Which comparisons of two dictionaries are offered: first those that answer a question, each with its reason."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...features.browsing import Shelf
from ...report.comparison import CLOSE
from ..explored import Explored
from ..links import Links
from .brief import precedence
from .names import entries_by_name

_MOST = 10
"""Comparisons offered beside a form that allows all others."""
REASONS = (
    "two seeds of one training",
    "two methods of the same L0 and width",
    "one method and L0, two widths",
    "one method and width, two L0",
    "",
)
"""Why two dictionaries are worth comparing, best first; "" where they differ in several things."""


@dataclass(frozen=True)
class Offer:
    """A comparison that there is: its address, the two dictionaries, and what they have in common."""

    address: str
    pair: tuple[Shelf, Shelf]
    reason: str


def prepared_by_site(explored: Explored) -> list[tuple[str, list[tuple[str, Shelf]]]]:
    """Dictionaries with their slugs by site, autoencoders first."""
    sites: dict[str, list[tuple[str, Shelf]]] = {}
    for shelf in sorted(explored.shelves(), key=precedence):
        if shelf.prepared:
            sites.setdefault(shelf.site, []).append((explored.slug(shelf.id), shelf))
    return list(sites.items())


def offers(explored: Explored, links: Links, left: Shelf | None) -> list[Offer]:
    """Comparisons that there are, of the given dictionary or of any: the most telling, or where no form asks, all."""
    entries, browser = entries_by_name(explored.report), explored.browser()

    def rank(pair: tuple[Shelf, Shelf]) -> int:
        first, second = (entries.get(shelf.name) for shelf in pair)
        return REASONS.index("" if first is None or second is None else reason(first, second))

    found: list[Offer] = []
    for pair in sorted(_pairs(explored, left), key=rank):
        if links.rows("") is None and len(found) == _MOST:
            break
        if browser.matched(pair[0].id, pair[1].id) is not None:
            address = links.compare(*(explored.slug(shelf.id) for shelf in pair))
            found.append(Offer(address, pair, REASONS[rank(pair)]))
    return found


def _pairs(explored: Explored, left: Shelf | None) -> Iterator[tuple[Shelf, Shelf]]:
    """Two prepared dictionaries of one site, the given one first."""
    for _, members in prepared_by_site(explored):
        shelves = [shelf for _, shelf in members]
        for place, first in enumerate(shelves):
            if left is None:
                yield from ((first, second) for second in shelves[place + 1 :])
            elif first.id == left.id:
                yield from ((first, second) for second in shelves if second.id != first.id)


def reason(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """What two entries of the report have in common: one of REASONS.

    >>> one = {"method": "topk", "n_latents": 768, "seed": 0, "k": 16, "l0": {"value": 16.0}}
    >>> reason(one, {**one, "seed": 1})
    'two seeds of one training'
    >>> reason(one, {**one, "method": "tied_l1", "k": None, "l0": {"value": 15.8}})
    'two methods of the same L0 and width'
    """
    method, wide = first["method"] == second["method"], first["n_latents"] == second["n_latents"]
    trained = all(first.get(key) == second.get(key) for key in ("k", "target_l0", "l1"))
    sparsities = (first["l0"]["value"], second["l0"]["value"])
    sparse = None not in sparsities and abs(sparsities[0] - sparsities[1]) <= CLOSE * max(sparsities)
    if method and wide and trained and first.get("seed") != second.get("seed"):
        return REASONS[0]
    if sparse and wide and not method:
        return REASONS[1]
    if method and sparse and not wide:
        return REASONS[2]
    return REASONS[3] if method and wide and not sparse and None not in sparsities else REASONS[4]
