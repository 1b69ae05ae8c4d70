"""The run page: what was studied, a way in by search, and the dictionaries side by side with their evidence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...features.browsing import Chosen, Shelf
from ...features.card import DENSE
from ...report import patching
from ...report.charts import Link, colour, frontiers
from ...report.comparison import headline
from ...report.words import METHODS, Entry, and_list, in_order, kind, where
from ..explored import Explored
from ..links import Links
from ..query import Query
from ..rendering import Page
from .asked import plain
from .beside_controls import of_the_run
from .brief import Brief, Briefs, precedence
from .interpretation import SCORES, ScoreRow, score_rows
from .names import described, entries_by_name, run_in_commands
from .recommended import recommended
from .terms import RUN_TERMS, TERMS

STARTS = 6
"""Latents to begin with."""
EXAMPLES = (
    ("what fires on closing brackets", ")", "words"),
    ("on full stops", ".", "words"),
    ("on line ends", "⏎", "words"),
    ("explained by a capital letter", "capital letter", "words"),
    ("on words that end in “ing”", "token:*ing", "rule"),
    ("rare, and well explained", "density<0.01 score>=0.6", "rule"),
    ("strong effects on the next token", "effect>=0.5", "rule"),
)
"""What each search finds, in words; what is asked, and by what. Those that find something in the run are offered."""
WELL = 0.5
"""The score from which an explanation counts as good where latents to begin with are chosen."""
_OPEN_SITES = 2
"""Sites whose charts are not folded away."""


@dataclass(frozen=True)
class Row:
    """A dictionary in the list of all; `entry` is that of the report, None where it was never evaluated."""

    shelf: Shelf
    href: str
    colour: str
    method: str
    entry: Entry | None

    @property
    def latents(self) -> int:
        """How many latents it has, though it may not be prepared."""
        return self.shelf.n_latents or (0 if self.entry is None else int(self.entry["n_latents"]))


def run_page(explored: Explored, links: Links, query: Query) -> Page:
    """The first page. It takes no parameters; whatever part of the run is missing says which command makes it."""
    report = explored.report
    entries = entries_by_name(report)
    shelves = sorted(explored.shelves(), key=lambda shelf: (precedence(shelf), -shelf.explained, shelf.id))
    hrefs = {shelf.name: links.dictionary(explored.slug(shelf.id)) for shelf in shelves}
    rows = [_row(shelf, hrefs[shelf.name], entries.get(shelf.name)) for shelf in shelves]
    judged = report.get("interpretation")
    scores = score_rows(judged, lambda name: hrefs.get(name, "")) if judged else []
    values = {
        "studied": _studied(report.get("run") or {}),
        "examples": _examples(explored, links),
        "start": _start(explored, links, shelves, report),
        "rows": rows,
        "row_groups": _row_groups(rows),
        "told": described(entries),
        "headline": headline(in_order(list(entries.values()))) if entries else [],
        "frontiers": _frontiers(entries, hrefs),
        "alone": _alone(entries),
        "scores": scores,
        "score_groups": _score_groups(scores),
        "verdict": of_the_run(judged) if judged else ("", ""),
        "best_control": _best_control(judged or {}),
        "score_keys": SCORES,
        "explainer": (judged or {}).get("explainer"),
        "patching": _patching(report.get("patching"), hrefs),
        "circuits": [(task, links.circuit(task)) for task in explored.circuits()],
        "latents": sum(row.latents for row in rows),
        "explained": sum(shelf.explained for shelf in shelves),
        "sample": _sample(shelves),
        "terms": TERMS,
        "page_terms": RUN_TERMS,
        "where": run_in_commands(explored, links),
        "open_sites": _OPEN_SITES,
    }
    return Page("run.html", explored.title, "run", values, scripts=("terms.js",), styles=("search.css", "run.css"))


def _studied(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, text, sites and tokens: what the first line says, as (what it is, its name)."""
    facts = []
    for key, name in (("model", "model"), ("text", "text")):
        if run.get(key):
            facts.append((name, _listed(run[key])))
    sites = run.get("sites") or []
    if sites:
        facts.append(("site" if len(sites) == 1 else f"{len(sites)} sites", _listed(sites)))
    if run.get("tokens"):
        facts.append(("tokens", f"{run['tokens']:,}"))
    if run.get("split"):
        facts.append(("measured on", f"the {run['split']} documents"))
    return facts


def _listed(value: Any) -> str:
    return and_list([str(each) for each in value]) if isinstance(value, (list, tuple)) and value else str(value)


def _examples(explored: Explored, links: Links) -> list[tuple[str, str, str]]:
    """(what it finds, what is asked, its address) of the examples that find something here."""
    browser = explored.browser()

    def finds(asked: str, by: str) -> bool:
        if by == "rule":
            return bool(browser.by_rule(asked, limit=1))
        return bool(browser.by_token(plain(asked), limit=1) or browser.by_words(plain(asked), limit=1))

    return [
        (words, asked, links.search(q=asked, by=None if by == "words" else by))
        for words, asked, by in EXAMPLES
        if finds(asked, by)
    ]


def _start(
    explored: Explored, links: Links, shelves: Sequence[Shelf], report: Mapping[str, Any]
) -> tuple[Shelf, str, list[Brief]] | None:
    """The autoencoder that is explained best, and of its well explained latents those that change predictions most."""
    shelf = recommended(shelves, report)
    if shelf is None or not (shelf.explained and shelf.prepared):
        return None
    chosen = Chosen(show="explained", ranges=(("score", WELL, None), ("density", None, DENSE)))
    cards = explored.browser().cards(shelf.id, chosen, sort="effect", descending=True, limit=STARTS)
    briefs = Briefs.of(explored, links)
    return shelf, links.dictionary(explored.slug(shelf.id)), [briefs.brief(card) for card in cards]


def _best_control(found: Mapping[str, Any]) -> str:
    """The control that every excess is measured from; "" where they differ."""
    names = {each["control"] for each in found.get("excess", {}).get("corpus_rho", {}).values()}
    return names.pop() if len(names) == 1 else ""


def _row_groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Autoencoders, baselines and controls, each with the heading of its fold; that of what stands open is ""."""
    groups: list[tuple[str, list[Row]]] = []
    for place, name in enumerate(("autoencoder", "baseline", "control")):
        members = [row for row in rows if precedence(row.shelf) == place]
        if members:
            if place == 2:
                kinds = [row.shelf.kind for row in members]
            else:
                kinds = [METHODS.get(row.shelf.method, row.shelf.method) for row in members]
            groups.append((_heading(name, kinds), members))
    return [("", members) if place == 0 else (title, members) for place, (title, members) in enumerate(groups)]


def _score_groups(rows: Sequence[ScoreRow]) -> list[tuple[str, list[ScoreRow]]]:
    """As `_row_groups`, with the controls among the autoencoders, which they are to be held against."""
    first, folded = [row for row in rows if not row.baseline], [row for row in rows if row.baseline]
    if all(row.control for row in first):
        return [("", list(rows))] if rows else []
    if not folded:
        return [("", first)]
    title = _heading("baseline", [METHODS.get(row.method, row.method) for row in folded])
    return [("", first), (title, folded)]


def _heading(name: str, kinds: Sequence[str]) -> str:
    """Such as '3 baselines: PCA and ICA'."""
    return f"{len(kinds)} {name}{'' if len(kinds) == 1 else 's'}: {and_list(list(dict.fromkeys(kinds)))}"


def _sample(shelves: Sequence[Shelf]) -> str:
    """How many latents of a dictionary were explained, such as 'up to 150'; "" where it was all that are active."""
    some = [shelf for shelf in shelves if shelf.explained]
    if all(shelf.explained >= shelf.active for shelf in some):
        return ""
    counts = sorted({shelf.explained for shelf in some})
    return f"{'up to ' if len(counts) > 1 else ''}{counts[-1]:,}"


def _row(shelf: Shelf, href: str, entry: Entry | None) -> Row:
    look: Entry = {"method": shelf.method, "k": None} if entry is None else entry
    return Row(shelf, href, colour(look), kind(look), entry)


def _frontiers(entries: Mapping[str, Entry], hrefs: Mapping[str, str]) -> list[tuple[str, str]]:
    """(site, charts as HTML) of every site with several dictionaries; each point leads to its own."""
    addresses = {id(entry): hrefs.get(name, "") for name, entry in entries.items()}
    ordered = in_order(list(entries.values()))
    return [
        (site, frontiers(ordered, site, lambda entry: addresses[id(entry)]))
        for site, count in Counter(map(where, ordered)).items()
        if count > 1
    ]


def _alone(entries: Mapping[str, Entry]) -> list[str]:
    """Sites with a single dictionary, which has nothing to be compared with."""
    return [site for site, count in Counter(map(where, entries.values())).items() if count == 1]


def _linked(hrefs: Mapping[str, str]) -> Link:
    """From what is named like a dictionary to its page."""
    return lambda entry: hrefs.get(entry["name"], "")


def _patching(found: Mapping[str, Any] | None, hrefs: Mapping[str, str]) -> dict[str, Any] | None:
    """What patching found in words, and its curves as (site, HTML)."""
    if found is None:
        return None
    link = _linked(hrefs)
    return {
        "lead": patching.lead(found),
        "task": found["task"]["task"],
        "sites": [(site["site"], patching.curves(site, found["curves"], link)) for site in found["sites"]],
    }
