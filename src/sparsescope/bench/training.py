"""What one training step costs, ours and other libraries', beside the one product that cannot be avoided.

Every contender runs in a process of its own; their steps are interleaved, so that whatever else the
machine does falls on all of them. The floor is the float32 encoder product `torch.mm(x, W.T, out=)`,
measured among them; ratios are medians over the median of the floor of the same batch.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from .contenders import OURS, Contender, contenders
from .heats import available_bytes, heats
from .machine import cores, machine
from .race import Progress, Race
from .targets import targets

BATCH, K, D = 4096, 32, 512
SIZES = (2048, 16384)
WARM, RETRIES = 2, 2
"""Steps before the first that is measured, and how often a disturbed sample is taken again. Quick: 1 and 0."""


def measure_training(
    *,
    n_latents: Sequence[int] = SIZES,
    d_in: int = D,
    batch: int = BATCH,
    k: int = K,
    rounds: int = 5,
    quick: bool = False,
    threads: int | None = None,
    libraries: Sequence[str] | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time one training step of every contender at every number of latents.

    `rounds` samples are taken of each, in turn, after steps to warm up. `quick` leaves out variations,
    takes at most three rounds, and spends about `budget` seconds on the rounds of each size (60). Only
    `libraries` are measured beside our own methods, by default all that are installed. `threads` None
    means all cores. Where memory does not hold all processes at once, there are several heats, each with
    the floor in it.

    Returns JSON: `machine`, `settings`, and `rows`, one per contender and size: name, library, method,
    d_in, n_latents, batch, l0, precision ("bf16": screened in a shorter format, computed in float32), `ms` per step
    (and member), `ratio` to the floor, `peak_bytes` of the steps above what was in memory before, and how
    far the samples spread. Samples during which other processes had the processor do not count where two or
    more are left. `missed` is the number of rows of one batch whose screened selection is not what exact
    products select. What could not be measured has `ms` None and says why in `note`.
    """
    threads = threads or cores()
    rounds = min(rounds, 3) if quick else rounds
    budget = 60.0 if quick and budget is None else budget
    rows: list[dict[str, Any]] = []
    for size in n_latents:
        chosen = _chosen(size, n_latents, quick, libraries)
        shape = {"d_in": d_in, "n_latents": size, "k": min(k, size), "threads": threads}
        free = available_bytes()
        for number, heat in enumerate(heats(chosen, d_in=d_in, n_latents=size, batch=batch, available=free)):
            settings = {"warm": 1 if quick else WARM, "retries": 0 if quick else RETRIES}
            found = Race(heat, shape, batch, progress).run(rounds, budget=budget, **settings)
            rows += [{**row, "heat": number} for row in found]
    given = {"d_in": d_in, "batch": batch, "k": k, "rounds": rounds, "quick": quick, "n_latents": list(n_latents)}
    return {"machine": machine(threads), "settings": given, "rows": rows, "targets": targets(rows)}


def _chosen(size: int, sizes: Sequence[int], quick: bool, libraries: Sequence[str] | None) -> list[Contender]:
    """Who races at one size: all of ours, and of the others those asked for. The ensemble only at the smallest."""
    return [
        each
        for each in contenders(quick, n_latents=size, ensemble=size == min(sizes))
        if each.library in (OURS, "torch") or libraries is None or each.library in libraries
    ]


TYPICAL = {OURS: 2.0, "torch": 2.0, "sparsify": 4.0}
"""Encoder products that a step costs, about; 10 for the other libraries."""


def expected_seconds(
    *,
    n_latents: Sequence[int] = SIZES,
    d_in: int = D,
    batch: int = BATCH,
    k: int = K,
    rounds: int = 5,
    quick: bool = False,
    threads: int | None = None,
    libraries: Sequence[str] | None = None,
) -> float:
    """How long `measure_training` will take, from the time of one small product on this machine."""
    x, w = torch.randn(256, 512), torch.randn(512, 512)
    torch.mm(x, w)
    begun = time.perf_counter()
    torch.mm(x, w)
    each = (time.perf_counter() - begun) / (256 * 512 * 512)
    total = 0.0
    for size in n_latents:
        running = [one for one in _chosen(size, n_latents, quick, libraries) if one.missing is None]
        products = sum(TYPICAL.get(one.library, 10.0) * one.members for one in running)
        turns = products * each * d_in * size * batch
        measured = rounds * turns
        total += 4 * len(running) + WARM * turns + (min(measured, 60.0) if quick else measured)
    return total
