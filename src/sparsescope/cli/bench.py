"""`sparsescope bench`: training speed and quality beside other libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ..artifact import write_json
from ..bench.contenders import INSTALL, LIBRARIES
from ..bench.quality import measure_quality
from ..bench.training import expected_seconds, measure_training
from ..errors import ConfigurationError, suggest
from .console import Console, duration, size, table
from .options import BenchOptions

QUICK: dict[str, Any] = {"seeds": 2, "tokens": 200_000, "worlds": ("plain",), "methods": ("topk",)}


def run_the_bench(options: BenchOptions, console: Console, command: str) -> None:
    """Measure, show tables, and write the numbers where they were asked for."""
    _check(options)
    result: dict[str, Any] = {}
    shown: list[Table | str] = []
    if options.what != "quality":
        result = _speed(options, console)
        shown += [*speed_tables(result), targets_table(result)]
    if options.what != "speed":
        result["quality"] = _quality(options, console)
        shown += ["", quality_table(result["quality"])]
    missing = [name for name in (options.library or LIBRARIES) if LIBRARIES[name].version is None]
    if missing:
        shown.append(f"\nnot installed: {', '.join(missing)}. Install them with: {INSTALL}")
    for target in (options.json_out, options.out and Path(options.out) / "bench.json"):
        if target:
            write_json(Path(target), result)
    console.result(result, *shown)


def _check(options: BenchOptions) -> None:
    for name in options.library:
        if name not in LIBRARIES:
            raise ConfigurationError(
                f"--library {name!r}, expected one of {', '.join(LIBRARIES)}.{suggest(name, LIBRARIES)}"
            )
    if min(options.n_latents) < 1:
        raise ConfigurationError(f"--n-latents {min(options.n_latents)}, expected a number of latents, 1 or more.")
    if options.k > min(options.n_latents):
        raise ConfigurationError(f"--k {options.k} of only {min(options.n_latents)} latents: give a smaller k.")


def _speed(options: BenchOptions, console: Console) -> dict[str, Any]:
    settings: dict[str, Any] = {key: getattr(options, key) for key in ("d_in", "batch", "k", "rounds", "quick")}
    settings |= {"n_latents": options.n_latents, "threads": options.threads, "libraries": options.library or None}
    console.say(f"expected: about {duration(expected_seconds(**settings))}", style="dim")
    return measure_training(**settings, progress=console.progress)


def _quality(options: BenchOptions, console: Console) -> dict[str, Any]:
    settings: dict[str, Any] = {"seeds": options.seeds, "tokens": options.tokens}
    settings |= QUICK if options.quick else {}
    peers = ("SAELens", "dictionary_learning")
    chosen = [name for name in peers if not options.library or name in options.library]
    return measure_quality(
        **settings, libraries=chosen, first_seed=options.seed, threads=options.threads, progress=console.progress
    )


def speed_tables(result: Mapping[str, Any]) -> list[Table]:
    """One table for each number of latents, fastest first."""
    columns = ["step", "library", "L0", "precision", "malloc", "ms", "ratio", "peak memory", ""]
    tables = []
    for count in dict.fromkeys(row["n_latents"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["n_latents"] == count]
        rows.sort(key=lambda row: (row["ms"] is None, row["ratio"] or 0.0))
        title = f"d_in {rows[0]['d_in']}, {count:,} latents, batches of {result['settings']['batch']:,}"
        tables.append(table(columns, [_speed_line(row) for row in rows], title))
    return tables


def _speed_line(row: Mapping[str, Any]) -> list[str]:
    l0 = "–" if row["l0"] is None else f"{row['l0']:.0f}"
    name = row["name"] + (", outlier dimensions" if row["data"] == "outliers" else "")
    head = [name, row["library"], l0, row["precision"], row["memory"]]
    if row["ms"] is None:
        return [*head, "–", "–", "–", row["note"] or ""]
    peak = "–" if row["peak_bytes"] is None else size(row["peak_bytes"])
    disturbed = f"{row['disturbed']} of {row['n']} disturbed" if row["disturbed"] else ""
    return [*head, f"{row['ms']:.1f}", f"{row['ratio']:.2f}" if row["ratio"] else "–", peak, disturbed]


def targets_table(result: Mapping[str, Any]) -> Table | str:
    """What was asked for and what was measured, where the sizes are those of the targets."""
    if not result["targets"]:
        return ""
    rows = [
        [
            target["what"],
            f"{target['n_latents']:,}",
            "–" if target["measured"] is None else f"{target['measured']:.2f}",
            f"≤ {target['at_most']:g}" if "at_most" in target else f"≥ {target['at_least']:g}",
            {True: "met", False: "missed", None: "not measured"}[target["met"]],
        ]
        for target in result["targets"]
    ]
    return table(["target", "latents", "measured", "asked", ""], rows)


def quality_table(result: Mapping[str, Any]) -> Table | str:
    """Ours beside each library, with the paired difference in recovery and its interval."""
    if not result["pairs"]:
        return "quality: no other library to compare with is installed"
    columns = ["method", "world", "beside", "recovery", "theirs", "difference (95%)", "FVU", "theirs", "L0", "theirs"]
    rows = []
    for pair in result["pairs"]:
        gap = pair["recovery"]["difference"]
        interval = "" if gap["low"] is None else f" ({gap['low']:+.3f} to {gap['high']:+.3f})"
        cells = [f"{pair['recovery'][key]:.3f}" for key in ("ours", "theirs")]
        tail = [f"{pair[m][key]:.{p}f}" for m, p in (("fvu", 4), ("l0", 2)) for key in ("ours", "theirs")]
        rows.append([pair["method"], pair["world"], pair["library"], *cells, f"{gap['value']:+.3f}{interval}", *tail])
    told = result["settings"]
    title = f"planted directions: {told['tokens']:,} rows, {told['seeds']} seeds, {told['n_latents']} latents"
    return table(columns, rows, title)
