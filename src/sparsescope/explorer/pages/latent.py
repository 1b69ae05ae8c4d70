"""The page of one latent: what it fires on, what it does to the next token, and the evidence for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from ...features.browsing import FeatureBrowser, Shelf
from ...features.card import DENSE, Card
from ...features.reading import StoredLatent
from ...report.words import METHODS
from ..explored import Explored
from ..links import Links
from ..query import NotThere, Query, integer
from ..rendering import Page
from .latent_contexts import Line, Window, line
from .latent_figures import histogram, linked_tree
from .latent_neighbours import neighbours
from .latent_output import output
from .latent_scores import explained

STRONGEST, QUANTILES, EACH, RANDOM = 8, 5, 3, 3
"""Contexts shown: the strongest, `EACH` from every quantile, and some drawn from all text."""
_APART = 1
"""Neighbours of each kind whose contexts that tell them apart are in a page of a folder of files."""
_WIDE, _NARROW = Window(16, 8), Window(10, 6)
_WIDE_DENSE, _NARROW_DENSE = Window(11, 5), Window(7, 3)
"""Of dense latents less text is shown: nearly every token of it is active."""
_FIFTHS = ("Of the rest, the strongest fifth", "Second fifth", "Third fifth", "Fourth fifth", "Weakest fifth")


@dataclass(frozen=True)
class Group:
    """Contexts of one kind. `low` and `high` are the smallest and largest of their strongest activations."""

    title: str
    lines: Sequence[Line]

    @property
    def low(self) -> float:
        """The weakest context's largest activation."""
        return min(each.code for each in self.lines)

    @property
    def high(self) -> float:
        """The strongest context's largest activation."""
        return max(each.code for each in self.lines)


def latent_page(explored: Explored, links: Links, slug: str, latent: int, query: Query) -> Page:
    """One latent. `beside` in the query is a neighbour whose contexts that tell the two apart are shown.

    Raises `NotThere` for a dictionary or a latent that the run does not have.
    """
    served = links.rows(slug) is None
    beside = integer(query, "beside", -1)
    values = latent_values(explored, links, slug, latent, beside=beside, apart=0 if served else _APART)
    live = ("live.js", "live_panel.js") if links.live else ()
    return Page(
        "latent.html",
        f"Latent {latent:,} of {values['shelf'].name}",
        "dictionary",
        values,
        scripts=("latent.js", *live),
        styles=("latent.css", *(("live.css",) if links.live else ())),
    )


def latent_values(
    explored: Explored, links: Links, slug: str, latent: int, *, beside: int = -1, apart: int = 0
) -> dict[str, Any]:
    """What the templates of the page need to know; for `beside` and `apart` see `neighbours`."""
    shelf = explored.by_slug(slug)
    if latent >= shelf.n_latents:
        raise NotThere(f"{shelf.name} has no latent {latent:,}: it has 0 to {shelf.n_latents - 1:,}.")
    turns = {
        word: links.latent(slug, to)
        for word, to in (("prev", latent - 1), ("next", latent + 1))
        if 0 <= to < shelf.n_latents
    }
    values = {
        "dense": DENSE,
        "shelf": shelf,
        "slug": slug,
        "latent": latent,
        "turns": turns,
        "method": METHODS.get(shelf.method, shelf.method),
    }
    card = explored.browser().card(shelf.id, latent) if shelf.prepared else None
    if card is None:
        return {**values, "card": None, "command": f"sparsescope explore {_run(explored, links, slug)}"}
    found = explored.browser().statistics(shelf.id, latent)
    near = {} if found is None else neighbours(explored, links, slug, found, beside=beside, apart=apart)
    return {**values, "card": card, "neighbours": near, **_known(explored, links, shelf, card, found)}


def _known(explored: Explored, links: Links, shelf: Shelf, card: Card, found: StoredLatent | None) -> dict[str, Any]:
    """Everything the database holds of a latent."""
    browser, report = explored.browser(), explored.report
    run = _run(explored, links, explored.slug(shelf.id))
    detail = browser.detail(shelf.id, card.latent)
    groups = _groups(browser, card)
    case = explored.case(shelf.name, card.latent)
    tree = case is not None and case["tree"] is not None
    return {
        "histogram": None if detail.histogram is None else histogram(detail.histogram, card.maximum),
        "rows": None if detail.histogram is None else detail.histogram.rows,
        "active": None if detail.histogram is None else detail.histogram.active,
        "explained": explained(browser, shelf.id, card.latent, shelf.name, report),
        "usual_f1": _usual_f1(report, shelf.name),
        "output": output(browser, detail.effect, found),
        "groups": groups,
        "simulated": any(each.predicted for group in groups for each in group.lines),
        "example": _example(browser, card),
        "tree": linked_tree(case, explored, links) if tree and case is not None else None,
        "tree_command": f"sparsescope feature {run} {quote(shelf.name)} {card.latent} --tree",
        "traceable": shelf.method != "transcoder" and _several_sites(explored),
        "explain_command": f"sparsescope explain {run} --dictionary {quote(shelf.name)}",
    }


def _groups(browser: FeatureBrowser, card: Card) -> list[Group]:
    """The contexts of the page, by how they were chosen; kinds of which there are none are left out.

    Of a dead latent there are none: a text it is silent on says nothing.
    """
    if card.density == 0:
        return []
    wide, narrow = (_WIDE_DENSE, _NARROW_DENSE) if card.density > DENSE else (_WIDE, _NARROW)
    strongest = browser.shown(card.dictionary, card.latent, "top", STRONGEST)
    parts = browser.shown_quantiles(card.dictionary, card.latent, QUANTILES, EACH)
    drawn = browser.shown(card.dictionary, card.latent, "random", RANDOM)
    named = [
        ("Strongest", strongest, wide),
        *((name, part, narrow) for name, part in zip(_FIFTHS, parts, strict=True)),
        ("Random text, active or not", drawn, narrow),
    ]
    return [Group(name, [line(each, card.maximum, window) for each in shown]) for name, shown, window in named if shown]


def _example(browser: FeatureBrowser, card: Card) -> str:
    """A text on which the latent is active, "" where there is none."""
    strongest = browser.shown(card.dictionary, card.latent, "top", 1)
    return "".join(strongest[0].pieces) if strongest else ""


def _usual_f1(report: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The F1 of a dictionary's latents with their best labels: mean, interval, and that of shifted labels as "null"."""
    truth = (report.get("interpretation") or {}).get("truth") or {}
    entries = (each for each in truth.get("dictionaries", ()) if each["name"] == name and each["kind"] == "dictionary")
    return next(entries, None)


def _run(explored: Explored, links: Links, slug: str) -> str:
    """The run as a command names it. Pages that are passed on do not tell where it lies."""
    return quote(str(explored.path)) if links.rows(slug) is None else "RUN"


def _several_sites(explored: Explored) -> bool:
    """Whether the run has dictionaries at more than one site, so that a latent can come from another."""
    return len({each.site for each in explored.shelves() if each.kind == "dictionary"}) > 1
