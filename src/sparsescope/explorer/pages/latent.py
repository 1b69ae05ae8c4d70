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
from ..query import NotThere, Query, choice, integer
from ..rendering import Page
from .latent_contexts import Line, Window, line
from .latent_explanation import repeats
from .latent_figures import histogram, linked_tree
from .latent_neighbours import neighbours
from .latent_output import output
from .latent_scores import explained

STRONGEST, QUANTILES = 8, 5
"""Contexts shown of the strongest, and quantiles of the rest."""
NAMED = 5
"""Tokens named that it fires on."""


@dataclass(frozen=True)
class _Room:
    """How much is shown: text of the strongest contexts and of others, and how many from each quantile and of any."""

    strongest: Window
    others: Window
    each: int = 3


_WHOLE, _LONG = _Room(Window(1_000, 1_000), Window(1_000, 1_000)), _Room(Window(32, 14), Window(22, 10))
_SHORT, _SHORT_DENSE = _Room(Window(18, 4), Window(12, 3), 2), _Room(Window(11, 4), Window(8, 2), 2)
"""In a folder there may be many thousands of pages; nearly every token is active where a latent is dense."""
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
    """One latent. `beside` in the query is a neighbour whose contexts that tell the two apart are shown; with `text`
    "whole" every context is shown to its ends.

    Raises `NotThere` for a dictionary or a latent that the run does not have.
    """
    beside = integer(query, "beside", -1)
    whole = choice(query, "text", ("short", "whole"), "short") == "whole"
    short = links.rows(slug) is not None
    values = latent_values(explored, links, slug, latent, beside=beside, apart=int(short), short=short, whole=whole)
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
    explored: Explored,
    links: Links,
    slug: str,
    latent: int,
    *,
    beside: int = -1,
    apart: int = 0,
    short: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """What the templates of the page need to know; for `beside` and `apart` see `neighbours`.

    With `short` less text is shown, as in a folder of many pages; with `whole` every context to its ends.
    """
    served = links.rows(slug) is None
    shelf = explored.by_slug(slug)
    if shelf.prepared and latent >= shelf.n_latents:  # of another one nobody knows how many it has
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
        "more_text": f"{links.latent(slug, latent)}{'' if whole else '?text=whole'}#contexts" if served else "",
        "whole": whole,
        "method": METHODS.get(shelf.method, shelf.method),
    }
    card = explored.browser().card(shelf.id, latent) if shelf.prepared else None
    if card is None:
        return {**values, "card": None, "command": f"sparsescope explore {_run(explored, links, slug)}"}
    found = explored.browser().statistics(shelf.id, latent)
    near = {} if found is None else neighbours(explored, links, slug, found, beside=beside, apart=apart, short=short)
    groups = _groups(explored.browser(), card, _WHOLE if whole else _room(card) if short else _LONG)
    return {**values, "card": card, "neighbours": near, **_known(explored, links, shelf, card, found, groups)}


def _known(
    explored: Explored, links: Links, shelf: Shelf, card: Card, found: StoredLatent | None, groups: list[Group]
) -> dict[str, Any]:
    """Everything the database holds of a latent."""
    browser, report = explored.browser(), explored.report
    run = _run(explored, links, explored.slug(shelf.id))
    detail = browser.detail(shelf.id, card.latent)
    case = explored.case(shelf.name, card.latent)
    tree = case is not None and case["tree"] is not None
    return {
        "histogram": None if detail.histogram is None else histogram(detail.histogram, card.maximum),
        "rows": None if detail.histogram is None else detail.histogram.rows,
        "active": None if detail.histogram is None else detail.histogram.active,
        "named": card.tokens[:NAMED],
        "explained": (told := explained(browser, shelf.id, card.latent, shelf.name, report)),
        "repeating": [repeats(each.text, [text for text, _ in card.tokens[:NAMED]]) for each in told],
        "usual_f1": (usual := _usual_f1(report, shelf.name)),
        "fits": card.fits and (card.f1 or 0.0) > ((usual or {}).get("null") or 0.0),
        "output": output(browser, detail.effect, found),
        "groups": groups,
        "simulated": any(each.predicted for group in groups for each in group.lines),
        "example": _example(browser, card),
        "tree": linked_tree(case, explored, links) if tree and case is not None else None,
        "tree_command": f"sparsescope feature {run} {quote(shelf.name)} {card.latent} --tree",
        "traceable": shelf.method != "transcoder" and _several_sites(explored),
        "explain_command": f"sparsescope explain {run} --dictionary {quote(shelf.name)}",
    }


def _room(card: Card) -> _Room:
    """How much is shown in a folder of many pages."""
    return _SHORT_DENSE if card.density > DENSE else _SHORT


def _groups(browser: FeatureBrowser, card: Card, room: _Room) -> list[Group]:
    """The contexts of the page, by how they were chosen; kinds of which there are none are left out.

    Of a dead latent there are none: a text it is silent on says nothing.
    """
    if card.density == 0:
        return []
    strongest = browser.shown(card.dictionary, card.latent, "top", STRONGEST)
    parts = browser.shown_quantiles(card.dictionary, card.latent, QUANTILES, room.each)
    drawn = browser.shown(card.dictionary, card.latent, "random", room.each)
    named = [
        ("Strongest", strongest, room.strongest),
        *((name, part, room.others) for name, part in zip(_FIFTHS, parts, strict=True)),
        ("Random text, active or not", drawn, room.others),
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
