"""Who can race together: as many processes at once as fit into memory, the rest in another heat.

Every heat has the floor in it, so that ratios stay comparable. Methods of one kind go into one heat as
long as they fit.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from .contenders import FLOOR, OURS, Contender

_MEMINFO = Path("/proc/meminfo")
KINDS = ("product", "topk", "batchtopk", "matryoshka", "l1")
PROCESS = {"torch": 150e6, OURS: 200e6}
"""Bytes that a process with its libraries has to itself; 450 million for other libraries."""
TABLES = 8
"""Tables of batch × latents that a step may hold for a while, and a process with tuned memory for good."""
USABLE = 0.85
"""Share of the free memory that is planned with."""


def needed_bytes(contender: Contender, d_in: int, n_latents: int, batch: int) -> float:
    """What a contender's process holds between its steps: libraries, weights with Adam's averages, what is kept."""
    if contender.method == "product":
        matrices = 1.0
    elif contender.library == OURS:
        matrices = (4.0 if contender.method == "l1" else 7.0) * contender.members
    else:
        matrices = 8.0
    held = PROCESS.get(contender.library, 450e6) + 4 * matrices * d_in * n_latents
    kept = contender.memory == "tuned" and contender.library != OURS
    return held + (table_bytes(n_latents, batch) if kept else 0.0)


def table_bytes(n_latents: int, batch: int) -> float:
    """What one running step of a library may take on top."""
    return TABLES * 4.0 * batch * n_latents


def heats(
    chosen: Sequence[Contender], *, d_in: int, n_latents: int, batch: int, available: float | None
) -> list[list[Contender]]:
    """`chosen` in groups that fit into `available` bytes together, each with the floors it needs first.

    None: everything fits. A contender that does not fit alone is in a heat of its own.

    >>> floor, topk = Contender(FLOOR, "torch", "product"), Contender("TopK", OURS, "topk")
    >>> [len(heat) for heat in heats([floor, topk], d_in=512, n_latents=2048, batch=4096, available=None)]
    [2]
    """
    floors = {each.batch: each for each in chosen if each.name == FLOOR}
    order = {kind: place for place, kind in enumerate(KINDS)}
    others = sorted((each for each in chosen if each.name != FLOOR), key=lambda each: order.get(each.method, 9))
    room = float("inf") if available is None else USABLE * available - table_bytes(n_latents, batch)
    found: list[list[Contender]] = []
    left = 0.0
    for each in others:
        need = needed_bytes(each, d_in, n_latents, each.batch or batch)
        if each.missing is not None:
            need = 0.0
        if not found or need > left:
            found.append([floors[None]])
            left = room - needed_bytes(floors[None], d_in, n_latents, batch)
        if each.batch is not None and floors[each.batch] not in found[-1]:
            found[-1].insert(1, floors[each.batch])
            left -= needed_bytes(floors[each.batch], d_in, n_latents, each.batch)
        found[-1].append(each)
        left -= need
    return found or [list(floors.values())]


def available_bytes() -> float | None:
    """Memory that programs can still take; None where the system does not say (not Linux)."""
    if not _MEMINFO.exists():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    return None if found is None else float(found[1]) * 1024
