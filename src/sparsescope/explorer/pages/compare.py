"""The comparison page: two dictionaries of one site matched one to one, what they share and what only one has.

Latents are paired so that the sum of the cosines of their directions is largest. A latent counts as shared where its
pair has a cosine of at least 0.7 (or 0.9), and as only here where it has no pair or one below 0.5. Dead latents count
as neither; a latent that is paired with a dead one has no pair.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from ...features.browsing import Chosen, FeatureBrowser, Shelf
from ...features.card import card_id
from ...features.matched import Matched
from ..explored import Explored
from ..links import Links
from ..match_figure import cosine_histogram
from ..query import Query, choice, integer, text
from ..rendering import Page
from .brief import Brief, Briefs
from .offers import offers, prepared_by_site

SHARED = (0.9, 0.7)
ALONE = 0.5
"""Cosines from which a pair counts as shared, and below which each of its latents is only in its own dictionary."""
_ROWS, _ALONE = 25, 12
_Z = 1.959964
"""The normal distribution's 97.5% quantile."""


@dataclass(frozen=True)
class PairRow:
    """Two matched latents."""

    cosine: float
    first: Brief | None
    second: Brief | None


@dataclass(frozen=True)
class Side:
    """One of the two dictionaries: shares of its living latents, and those that the other has not.

    `shared` has (threshold, estimate) for each of SHARED; `alone` is an estimate of what is only here; `shown` are
    those latents with the largest effects, of `n_alone`.
    """

    shelf: Shelf
    href: str
    shared: Sequence[tuple[float, Mapping[str, Any]]]
    alone: Mapping[str, Any]
    n_alone: int
    shown: Sequence[Brief]


def compare_page(
    explored: Explored, links: Links, first: str | None = None, second: str | None = None, *, query: Query
) -> Page:
    """Two dictionaries side by side, named in the path or in the query; else the choice of two.

    Raises `NotThere` for an unknown dictionary, `BadRequest` for a wrong query.
    """
    first, second = first or text(query, "first").strip(), second or text(query, "second").strip()
    left = explored.by_slug(first) if first else None
    right = explored.by_slug(second) if second else None
    values: dict[str, Any] = {
        "sites": prepared_by_site(explored),
        "first": first,
        "second": second,
        "left": left,
        "right": right,
        "served": links.rows(first) is None,
        "alone_below": ALONE,
    }
    title, matched = "Compare", None
    if left is not None and right is not None:
        title = f"{left.name} and {right.name}"
        if left.prepared and right.prepared:
            matched = explored.browser().matched(left.id, right.id)
    if left is None or right is None or matched is None:
        values |= _unmatched(explored, links, left, right)
    else:
        values |= _compared(explored, links, left, right, matched, query)
    values["matched"] = matched is not None
    return Page("compare.html", title, "compare", values, scripts=("compare.js",), styles=("search.css", "compare.css"))


def _unmatched(explored: Explored, links: Links, left: Shelf | None, right: Shelf | None) -> dict[str, Any]:
    """What to do where two dictionaries were not chosen, or not matched."""
    command = ["sparsescope", "explore", str(explored.path)]
    if left is not None and right is not None:
        command += ["--dictionary", left.name, "--dictionary", right.name]
    helps = left is None or right is None or (left.id != right.id and left.site == right.site)
    offered, preset = offers(explored, links, left), {}
    if left is None and right is None and offered:  # a form that is ready to be sent
        preset = dict(zip(("first", "second"), (explored.slug(shelf.id) for shelf in offered[0].pair), strict=True))
    return {
        **preset,
        "offered": offered,
        "reason": _reason(left, right) if left is not None and right is not None else "",
        "command": shlex.join(command) if helps else "",
    }


def _reason(left: Shelf, right: Shelf) -> str:
    """Why two dictionaries were not matched."""
    if left.id == right.id:
        return "This is one dictionary twice: choose another beside it."
    if left.site != right.site:
        return f"They are of different sites, {left.site} and {right.site}: their directions live in different spaces."
    missing = [shelf.name for shelf in (left, right) if not shelf.prepared]
    if missing:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not prepared yet."
    return "These two were not matched: autoencoders of one site are, when they are prepared."


def _compared(
    explored: Explored, links: Links, left: Shelf, right: Shelf, matched: Matched, query: Query
) -> dict[str, Any]:
    """The values of a comparison."""
    briefs = Briefs.of(explored, links)
    matched = _living(briefs.browser, left, right, matched)
    order = choice(query, "order", ("closest", "farthest"), "closest")
    places = matched.closest if order == "closest" else matched.closest[::-1]
    last = max(1, -(-len(places) // _ROWS))
    page = integer(query, "page", 1, least=1)
    page = min(page, last)
    begin = (page - 1) * _ROWS
    rows = [
        PairRow(cosine, briefs.at(left.id, latent, story=False), briefs.at(right.id, other, story=False))
        for latent, other, cosine in matched.at(places[begin : begin + _ROWS])
    ]

    def apart(latents: np.ndarray) -> np.ndarray:
        return latents[matched.cosines < ALONE]

    address = links.compare(explored.slug(left.id), explored.slug(right.id))

    def to(number: int) -> str | None:
        return f"{address}?order={order}&page={number}#pairs" if 1 <= number <= last and number != page else None

    sides = [
        _side(briefs, left, matched, np.append(matched.only_first, apart(matched.latents))),
        _side(briefs, right, matched, np.append(matched.only_second, apart(matched.others))),
    ]
    return {
        "rows": rows,
        "n_pairs": len(places),
        "begin": begin,
        "order": order,
        "orders": {name: f"{address}?order={name}#pairs" for name in ("closest", "farthest")},
        "pages": {"first": to(1), "previous": to(page - 1), "next": to(page + 1), "last": to(last)},
        "figure": cosine_histogram(
            matched.cosines.tolist(), f"Cosines of matched latents of {left.name} and {right.name}"
        ),
        "sides": sides,
        "alike": (sides[0].shared, sides[0].alone) == (sides[1].shared, sides[1].alone),
        "swapped": links.compare(explored.slug(right.id), explored.slug(left.id)),
    }


def _side(briefs: Briefs, shelf: Shelf, matched: Matched, apart: Int64[np.ndarray, " latent"]) -> Side:
    """`apart` are latents without a close pair, dead ones among them."""
    by_effect = briefs.browser.ordered(shelf.id, Chosen(show="active"), "effect", True)
    is_apart = np.zeros(shelf.n_latents, bool)
    is_apart[apart] = True
    alone = by_effect[is_apart[by_effect]]
    shared = [(limit, share(int((matched.cosines >= limit).sum()), shelf.active)) for limit in SHARED]
    cards = briefs.browser.cards_at([card_id(shelf.id, latent) for latent in alone[:_ALONE].tolist()])
    shown = [briefs.brief(card, story=False) for card in cards]
    home = briefs.links.dictionary(briefs.explored.slug(shelf.id))
    return Side(shelf, home, shared, share(len(alone), shelf.active), len(alone), shown)


def _living(browser: FeatureBrowser, left: Shelf, right: Shelf, matched: Matched) -> Matched:
    """The pairs of which neither latent is dead."""
    active, others_active = (browser.column(shelf.id, "density") > 0 for shelf in (left, right))
    living = active[matched.latents] & others_active[matched.others]
    columns = (matched.latents[living], matched.others[living], matched.cosines[living])
    return Matched(*columns, matched.n_first, matched.n_second)


def share(count: int, n: int) -> dict[str, Any]:
    """A share as an estimate with Wilson's 95% interval: latents are taken as drawn from many that training could give.

    >>> [round(share(8, 10)[key], 3) for key in ("value", "low", "high")]
    [0.8, 0.49, 0.943]
    """
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0, "unit": "latent"}
    p, spread = count / n, _Z**2 / n
    middle = (p + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * np.sqrt(p * (1 - p) / n + spread / (4 * n))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": p, "low": float(low), "high": float(high), "n": n, "unit": "latent"}
