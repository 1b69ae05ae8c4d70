"""What dictionaries and the run are called: in the report, in the database, and in commands."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ...report.words import is_baseline, kind, number, where
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


def described(entries: Mapping[str, Entry]) -> dict[str, str]:
    """What the name of each dictionary says, in words: its method, sparsity, width and seed.

    Widths are told in multiples of the activation's where the run has all neurons or principal components of a site,
    else as the number of latents.

    >>> sae = {"method": "tied_l1", "site": "s", "n_latents": 768, "k": None, "target_l0": 16.0, "l1": None, "seed": 0}
    >>> pca = {"method": "pca", "site": "s", "n_latents": 192, "k": None, "target_l0": None, "l1": None, "seed": 0}
    >>> described({"tied_l1-l0_16-x4": sae, "pca": pca})
    {'tied_l1-l0_16-x4': 'tied L1, L0 16, 4× wide', 'pca': 'PCA'}
    """
    widths = {
        where(each): int(each["n_latents"])
        for each in entries.values()
        if each["method"] in ("neurons", "pca") and each["k"] is None
    }
    return {name: _description(each, widths.get(where(each))) for name, each in entries.items()}


def _description(entry: Entry, width: int | None) -> str:
    parts = [kind({**entry, "k": None})]
    sparsity = entry["k"] if entry["k"] is not None else entry.get("target_l0")
    if sparsity is not None:
        parts.append(f"L0 {sparsity:g}")
    elif entry.get("l1") is not None:
        parts.append(f"l1 {number(entry['l1'])}" if entry["l1"] else "no sparsity penalty")
    if width is None:
        parts.append(f"{entry['n_latents']:,} latents")
    elif entry["n_latents"] != width or not is_baseline(entry):
        parts.append(f"{entry['n_latents'] / width:.3g}× wide")
    if entry.get("seed"):
        parts.append(f"seed {entry['seed']}")
    return ", ".join(parts)


def run_in_commands(explored: Explored, links: Links) -> str:
    """The run in a command that somebody may copy: where it lies, or in a folder of files only what it is called."""
    return shlex.quote(explored.path.resolve().name if isinstance(links, StaticLinks) else str(explored.path))
