"""Refusing what cannot fit into memory before any of it is taken, and saying what would fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..errors import ConfigurationError, ResourceError
from .free import free_memory
from .kernels import Precision, choose
from .methods import Method
from .plan import Plan, Size, gigabytes, plan
from .source import Feed

SMALLER = 0.9
"""Of a size that has just run out of memory, the share that may be advised at most."""
_MAIN = torch.device("cpu")
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def check_memory(
    feed: Feed,
    members: Sequence[tuple[int, Method]],
    batch: int,
    precision: Precision = "float32",
    kernels: str = "auto",
) -> Plan:
    """What training will take, when there is enough of it. `members` are pairs (number of the source, method).

    Raises `ConfigurationError` otherwise, naming what is needed, what is free, and the largest number of
    latents for which there is enough.
    """
    sizes = _sizes(feed, members)
    make = _planner(feed, batch, precision, kernels)
    planned = make(sizes)
    free = {device: free_memory(device) for device in {feed.device, _MAIN}}

    def lacking(tried: Plan) -> list[str]:
        needed = _needed(tried, feed.device)
        return [
            f"{gigabytes(size)} of memory on {device}, but {gigabytes(room)} are free"
            for device, size in needed.items()
            if (room := free[device]) is not None and size > room
        ]

    if lacking(planned):
        found = largest(sizes, lambda tried: not lacking(make(tried)))
        raise ConfigurationError(
            f"training needs about {' and '.join(lacking(planned))} ({planned}). {_advice(found, batch)}"
        )
    return planned


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is PyTorch, NumPy or Python saying that there is no memory left.

    >>> is_out_of_memory(MemoryError())
    True
    """
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def out_of_memory(
    error: BaseException,
    feed: Feed,
    members: Sequence[tuple[int, Method]],
    batch: int,
    step: int,
    saved: int,
    precision: Precision = "float32",
    kernels: str = "auto",
) -> ResourceError:
    """What to raise when memory ran out at `step`. `saved` is the step of the last checkpoint, 0 where there is none.

    The size that is advised fits into what is free now together with what the members held, and is
    smaller than the one that failed.
    """
    sizes = _sizes(feed, members)
    make = _planner(feed, batch, precision, kernels)
    planned = make(sizes)
    held = planned.weights + planned.moments
    free = free_memory(feed.device)
    cap = int(SMALLER * max(size.n_latents for size in sizes))
    fits = largest(
        _capped(sizes, cap), lambda tried: free is None or make(tried).total - planned.reading <= free + held
    )
    kept = "Nothing was saved, since `out` was not given or no step was done."
    if saved:
        when = "before that step" if saved == step else f"before step {saved}"
        kept = f"The state {when} is saved: resume when there is more memory."
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ResourceError(
        f"memory ran out at step {step} ({reason}). Training takes about {gigabytes(planned.total)} ({planned}). "
        f"{_advice(fits, batch)} {kept}"
    )


def largest(sizes: Sequence[Size], fits: Callable[[Sequence[Size]], bool]) -> int | None:
    """The largest number of latents to which members must be cut down for all of them to fit; None where none will.

    It is never below the active latents that some member asks for.
    """
    low = math.ceil(max(size.method.wanted or 1 for size in sizes))
    high = max(size.n_latents for size in sizes)
    if low > high or not fits(_capped(sizes, low)):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(_capped(sizes, middle)):
            low = middle
        else:
            high = middle - 1
    return low


def _capped(sizes: Sequence[Size], cap: int) -> list[Size]:
    return [replace(size, n_latents=min(size.n_latents, cap)) for size in sizes]


def _advice(found: int | None, batch: int) -> str:
    if found is None:
        return f"At batch {batch:,} no size would fit: give a smaller batch, or train fewer members together."
    return (
        f"At batch {batch:,} the largest size that would fit is {found:,} latents per member: ask for that, for a "
        "smaller batch, or for fewer members together."
    )


def _sizes(feed: Feed, members: Sequence[tuple[int, Method]]) -> list[Size]:
    sources = [(feed.sources[number], method) for number, method in members]
    return [Size(method, method.latents(source.width), source.width, source.output_width) for source, method in sources]


def _planner(feed: Feed, batch: int, precision: Precision, kernels: str) -> Callable[[Sequence[Size]], Plan]:
    chosen = choose(feed.device, kernels)
    fused = chosen.name != "reference"
    reading = feed.held_bytes(batch)

    def make(sizes: Sequence[Size]) -> Plan:
        workers = min(len(sizes), torch.get_num_threads()) if feed.device.type == "cpu" else 1
        products = chosen.product_bytes
        return plan(sizes, batch, precision=precision, workers=workers, fused=fused, products=products, reading=reading)

    return make


def _needed(planned: Plan, device: torch.device) -> dict[torch.device, int]:
    """What is needed on each device; what reading holds is in main memory."""
    if device == _MAIN:
        return {_MAIN: planned.total}
    return {device: planned.total - planned.reading, _MAIN: planned.reading}
