"""How quick and how small the explorer is on a large run, and whether it stands many visitors.

A run of two dictionaries with known truth is made, and served by a process of its own. Then are measured:

    queries     every kind of question to the feature database, in this process
    answers     every kind of page over HTTP, from the request to the last byte
    paint       every kind of page in Chromium, to the first content on the screen, cold and warm
    visitors    many at once, who follow real links for a minute
    memory      of the server, after all of that
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from .explored_run import make_run
from .explorer_clients import browse
from .explorer_painting import chromium, measure_answers, measure_paint
from .explorer_queries import measure_queries
from .explorer_server import ServedRun
from .machine import machine
from .timing import foreign_seconds

LATENTS, CLIENTS, SECONDS = 100_000, 50, 60.0
PAINT, QUERY, MEMORY = 300.0, 100.0, 300_000_000
"""Targets: milliseconds, milliseconds, bytes."""

Progress = Callable[[str, int, int], None]


def measure_explorer(
    *,
    latents: int = LATENTS,
    clients: int = CLIENTS,
    seconds: float = SECONDS,
    think: float = 1.0,
    repeats: int = 7,
    paint: bool = True,
    run: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All of the above, as JSON: `settings`, `machine`, a list of rows for each, and whether the `targets` are met.

    Each of two dictionaries has so many latents; a visitor thinks `think` seconds between pages. `run` is one that
    `make_run` has made with as many, to spare the time of making it. Times are those of this machine as it is:
    `disturbed` is the share of a core that other processes took meanwhile, the browser and the server included.
    Raises `ConfigurationError` where there is no Chromium, unless `paint` is False.
    """
    if paint:
        chromium()
    begun, foreign = time.perf_counter(), foreign_seconds()
    with tempfile.TemporaryDirectory(prefix="sparsescope-bench-") as folder:
        made = run or make_run(Path(folder) / "run", latents=latents, seed=seed, progress=progress)
        making = time.perf_counter() - begun
        database = made / "features.sqlite"
        found: dict[str, Any] = {"queries": measure_queries(database, latents, repeats, seed)}
        size = database.stat().st_size
        pages = pages_of(latents)
        with ServedRun(made) as server:
            found["memory"] = {"begin": server.memory()}
            found["answers"] = measure_answers(server.url, pages, repeats)
            found["paint"] = measure_paint(server.url, pages, repeats, database) if paint else []
            found["visitors"] = browse(server.url, clients, seconds, think=think, seed=seed)
            found["memory"]["end"] = server.memory()
    spent = time.perf_counter() - begun
    settings = {"latents": latents, "dictionaries": 2, "clients": clients, "seconds": seconds, "repeats": repeats}
    return {
        "settings": {**settings, "think": think, "seed": seed},
        "machine": machine(1),
        "making_seconds": None if run else making,
        "bytes": size,
        "disturbed": (foreign_seconds() - foreign) / spent,
        **found,
        "targets": targets(found, latents),
    }


def pages_of(latents: int) -> Mapping[str, str]:
    """Every kind of page of a run of `make_run`, and the slowest views of those that have many, by name."""
    first, second = "/dictionary/topk-k_16-x4", "/dictionary/tied_l1-l0_16-x4"

    def asked(path: str, **query: Any) -> str:
        return f"{path}?{urlencode(query)}"

    return {
        "run": "/",
        "dictionary": first,
        "dictionary, sorted, far down": asked(second, sort="score", order="desc", page=max(1, latents // 100)),
        "dictionary, filtered": asked(first, q="more", show="active", sort="effect", order="desc"),
        "latent": f"{first}/latent/{latents // 2}",
        "latent, dense": f"{second}/latent/{7 + latents // 100 * 50}",
        "latent, dead": f"{first}/latent/19",
        "search": "/search",
        "search, words": asked("/search", q="token and more"),
        "search, a token": asked("/search", q=")"),
        "search, a rule": asked("/search", q="density<0.01 score>=0.6 f1>0.5", by="rule"),
        "compare": "/compare",
        "compare, two": "/compare/topk-k_16-x4/tied_l1-l0_16-x4",
        "circuit": "/circuit",
        "prompt": "/prompt",
    }


def targets(found: Mapping[str, Any], latents: int) -> list[dict[str, Any]]:
    """What was asked for and what was measured; times and memory are judged at the size they are stated for."""
    large = latents >= LATENTS
    end, visitors = found["memory"]["end"]["peak"], found["visitors"]
    painted = [row[kind]["median"] for row in found["paint"] for kind in ("cold", "warm")]
    rows = [
        ("first paint of any page, ms", PAINT, max(painted, default=None)),
        ("any query, ms", QUERY, max(row["median"] for row in found["queries"])),
        ("any page over HTTP, ms", QUERY, max(row["median"] for row in found["answers"])),
        ("server memory at its most, bytes", MEMORY, end),
    ]
    judged = [
        {
            "name": name,
            "target": target,
            "measured": value,
            "met": value <= target if large and value is not None else None,
        }
        for name, target, value in rows
    ]
    errors = f"errors of {visitors['clients']} visitors in {visitors['seconds']:g} s"
    none = {"name": errors, "target": 0, "measured": visitors["errors"], "met": visitors["errors"] == 0}
    return [*judged, none]
