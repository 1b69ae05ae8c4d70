"""The dictionary page: its numbers, its latents by density and score, and a table that sorts, filters and pages.

Everything that can be chosen is in the address:

    q        words of explanations, top tokens and labels, and bounds such as density<=0.01
    show     all, active, dead, dense or explained
    sort     latent, density, maximum, entropy, score, f1 or effect
    order    asc or desc
    page     1 and on, 50 latents each
    y        what the scatter shows above density: score, f1 or effect
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...features.browsing import FeatureBrowser, Shelf
from ...features.card import LABELLED, Card
from ...features.overview import Overview
from ...report.charts import colour
from ...report.words import Entry, kind
from ..explored import Explored
from ..figures import DENSE, density_scatter
from ..links import Links
from ..query import Query, choice
from ..rendering import Page
from .beside_controls import of_a_dictionary
from .choosing import SHOWS, Choice, read_choice
from .names import described, entries_by_name, run_in_commands
from .terms import DICTIONARY_TERMS, TERMS

HEIGHTS = {
    "score": ("score", (0.0, 1.0), "explain"),
    "f1": ("F1 of the best label", (0.0, 1.0), "explain"),
    "effect": ("effect", (0.0, 0.1), "explore"),
}
"""What the scatter can show: its name, what its axis holds at least, and the command that makes it."""
COLUMNS = (
    ("latent", "Latent", "its number"),
    ("", "Explanation", ""),
    ("score", "Score", TERMS["corpus_rho"][1]),
    ("", "Top tokens", "tokens that hold most of its activation, with their shares"),
    ("density", "Density", "share of tokens it is active on"),
    ("f1", "Best label", TERMS["f1"][1]),
    ("effect", "Effect", TERMS["effect"][1]),
)
"""Of the table: by what a click on the heading sorts ("": not at all), heading, and what it means."""
FACTS = ("l0", "fvu", "ce_recovered", "shrinkage")
JUDGED = ("corpus_rho", "excess", "context_gain", "detection", "fuzzing")
"""What is told of the dictionary, and of its explanations: keys of the report and of `TERMS`."""


@dataclass(frozen=True)
class Head:
    """A heading of the table; `href` sorts by `column`, `aria` is what `aria-sort` says."""

    column: str
    title: str
    meaning: str
    href: str
    aria: str

    @property
    def number(self) -> bool:
        """Whether what stands below is a number."""
        return self.column not in ("", "f1")


@dataclass(frozen=True)
class Tab:
    """One of a few views: its name, how many latents it holds (None: not a number of latents), and its address."""

    name: str
    count: int | None
    href: str
    current: bool


def dictionary_page(explored: Explored, links: Links, slug: str, query: Query) -> Page:
    """One dictionary. Raises `NotThere` for an unknown one, `BadRequest` for a choice that cannot be meant."""
    shelf = explored.by_slug(slug)
    browser = explored.browser()
    overview = browser.overview(shelf.id) if shelf.prepared else None
    chosen = read_choice(query, explained=shelf.explained > 0)
    height = choice(query, "y", tuple(HEIGHTS), _first_height(overview))
    chosen, cards, total = _table(browser, shelf, chosen)
    report = explored.report
    entries = entries_by_name(report)
    entry = entries.get(shelf.name)
    values = {
        "shelf": shelf,
        "slug": slug,
        "method": described(entries).get(shelf.name) or kind({"method": shelf.method, "k": None}),
        "colour": colour({"method": shelf.method}),
        "facts": _facts(entry, _judged(report, shelf)),
        "verdict": of_a_dictionary(report["interpretation"], shelf.name) if report.get("interpretation") else "",
        "terms": TERMS,
        "page_terms": DICTIONARY_TERMS,
        "labelled": LABELLED,
        "choice": chosen,
        "total": total,
        "heads": _heads(links, slug, chosen, height),
        "tabs": _tabs(links, slug, chosen, shelf, height),
        "rows": [(card, links.latent(slug, card.latent)) for card in cards],
        "pages": _pages(links, slug, chosen, total, height),
        "heights": _heights(links, slug, chosen, height),
        "height": height,
        "scatters": _scatters(links, slug, overview, height),
        "dense_href": links.dictionary(slug, show="dense") + "#latents",
        "dead_href": links.dictionary(slug, show="dead") + "#latents",
        "bare": links.dictionary(slug) + "#latents",
        "where": run_in_commands(explored, links),
    }
    scripts = ("terms.js", "scatter.js", *(() if links.rows(slug) is None else ("dictionary.js",)))
    rows = () if links.rows(slug) is None else (slug,)
    return Page(
        "dictionary.html", shelf.name, "dictionary", values, scripts=scripts, styles=("dictionary.css",), rows=rows
    )


def _table(browser: FeatureBrowser, shelf: Shelf, chosen: Choice) -> tuple[Choice, list[Card], int]:
    """The page of the table that is asked for, or the last one where there are not so many; and how many are chosen."""

    def page(of: Choice) -> tuple[list[Card], int]:
        return browser.page(
            shelf.id,
            of.rule,
            sort=of.sort,
            descending=of.descending,
            offset=of.offset,
            limit=of.size,
        )

    cards, total = page(chosen)
    within = chosen.within(total)
    return (chosen, cards, total) if within.offset == chosen.offset else (within, *page(within))


def _address(links: Links, slug: str, chosen: Choice, height: str, **changed: object) -> str:
    """This page with something else chosen, at the table."""
    return f"{links.dictionary(slug, **{**chosen.query, 'y': height, **changed})}#latents"


def _heads(links: Links, slug: str, chosen: Choice, height: str) -> list[Head]:
    """Headings; a click on the one that is sorted by turns it round, numbers start with the largest."""
    heads = []
    for column, title, meaning in COLUMNS:
        href, aria = "", ""
        if column:
            here = column == chosen.sort
            descending = not chosen.descending if here else column != "latent"
            order = "desc" if descending else "asc"
            href = _address(links, slug, chosen, height, sort=column, order=order, page=None)
            aria = "none" if not here else "descending" if chosen.descending else "ascending"
        heads.append(Head(column, title, meaning, href, aria))
    return heads


def _tabs(links: Links, slug: str, chosen: Choice, shelf: Shelf, height: str) -> list[Tab]:
    counts = {
        "all": shelf.n_latents,
        "active": shelf.active,
        "dead": shelf.dead,
        "dense": shelf.dense,
        "explained": shelf.explained,
    }
    return [
        Tab(show, counts[show], _address(links, slug, chosen, height, show=show, page=None), show == chosen.rule.show)
        for show in SHOWS
    ]


def _pages(links: Links, slug: str, chosen: Choice, total: int, height: str) -> dict[str, Any]:
    """Where in the table this is, and the addresses of the pages around it ("": there is none)."""
    last = chosen.last(total)
    to = {"first": 1, "previous": chosen.page - 1, "next": chosen.page + 1, "last": last}
    hrefs = {
        name: _address(links, slug, chosen, height, page=page) if 1 <= page <= last and page != chosen.page else ""
        for name, page in to.items()
    }
    return {"first": chosen.offset + 1, "end": min(chosen.offset + chosen.size, total), "hrefs": hrefs, "last": last}


def _first_height(overview: Overview | None) -> str:
    """Score, or where nothing is scored, the first of the others that is known."""
    known = [] if overview is None else [height for height in HEIGHTS if overview.scatter(height)]
    return known[0] if known else "score"


def _heights(links: Links, slug: str, chosen: Choice, height: str) -> list[Tab]:
    return [
        Tab(name, None, links.dictionary(slug, **{**chosen.query, "y": key}), key == height)
        for key, (name, _, _) in HEIGHTS.items()
    ]


def _scatters(links: Links, slug: str, overview: Overview | None, height: str) -> list[dict[str, Any]]:
    """The chosen scatter; without a server all of them, the others hidden until they are asked for."""
    shown = []
    for key in HEIGHTS if links.rows(slug) is not None else (height,):
        name, limits, command = HEIGHTS[key]
        points = [] if overview is None else overview.scatter(key)
        link, root = partial(links.latent, slug), key == "effect"
        drawn = density_scatter(points, name, limits, link, root=root) if points else ""
        count = sum(point[3] for point in points)
        shown.append(
            {
                "key": key,
                "name": name,
                "drawn": drawn,
                "count": count,
                "gathered": count > len(points),
                "dense": any(point[0] > DENSE for point in points),
                "command": command,
                "hidden": key != height,
            }
        )
    return shown


def _judged(report: Mapping[str, Any], shelf: Shelf) -> Entry | None:
    """What the report says of the explanations of a dictionary or control, with its "excess" over the best control."""
    found = report.get("interpretation") or {}
    for entry in (*found.get("dictionaries", ()), *found.get("controls", ())):
        if entry["name"] == shelf.name:
            return {**entry, "excess": found.get("excess", {}).get("corpus_rho", {}).get(shelf.name)}
    return None


def _facts(entry: Entry | None, judged: Entry | None) -> list[tuple[str, Mapping[str, Any]]]:
    """(key, estimate) of what was measured."""
    return [
        (key, source[key])
        for source, keys in ((entry, FACTS), (judged, JUDGED))
        for key in keys
        if source is not None and source.get(key) is not None and source[key]["value"] is not None
    ]
