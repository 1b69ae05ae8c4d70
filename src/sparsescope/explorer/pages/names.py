"""What dictionaries and the run are called: in the report, in the database, and in commands."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..explored import Explored
from ..links import Links, StaticLinks

_HOME = "dictionaries/"

Entry = Mapping[str, Any]


def entry_names(entries: Sequence[Entry]) -> list[str]:
    """The name of each entry's dictionary in the database: its own, or with its place where several share one.

    >>> entry_names([{"name": "topk", "path": "dictionaries/topk/0"}])
    ['topk']
    >>> twins = [{"name": "topk", "path": f"dictionaries/topk@{site}/0"} for site in ("embed", "resid_post.1")]
    >>> entry_names(twins)
    ['topk (topk@embed/0)', 'topk (topk@resid_post.1/0)']
    """
    places = [str(entry.get("path") or "").removeprefix(_HOME) for entry in entries]
    names = [str(entry.get("name") or place) for entry, place in zip(entries, places, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({place})" for name, place in zip(names, places, strict=True)]


def entries_by_name(report: Mapping[str, Any]) -> dict[str, Entry]:
    """The entries of `report.json` by the names of the database; none for a run that was never evaluated."""
    entries = report.get("dictionaries") or []
    return dict(zip(entry_names(entries), entries, strict=True))


def run_in_commands(explored: Explored, links: Links) -> str:
    """The run in a command that somebody may copy: where it lies, or in a folder of files only what it is called."""
    return shlex.quote(explored.path.resolve().name if isinstance(links, StaticLinks) else str(explored.path))
