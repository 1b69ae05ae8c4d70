"""Preparing the next batch while this one trains."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def ahead(items: Iterator[T], threads: int) -> Generator[T, None, None]:
    """The same items, each made in a background thread while the one before it is in use.

    One item is made ahead, no more. What making one raises is raised where that item is asked for. The
    thread ends, after the item that it is making, when this iterator ends, is closed or is let go of.
    `threads` is how many of torch's threads the background thread uses: said outright, since it would
    otherwise depend on what other threads set before, and with it the last bits of matrix products.

    >>> list(ahead(iter("abc"), threads=1))
    ['a', 'b', 'c']
    """
    pool = ThreadPoolExecutor(1, "prefetch", torch.set_num_threads, (threads,))
    try:
        waiting = pool.submit(_next, items)
        while found := waiting.result():
            waiting = pool.submit(_next, items)
            yield found.pop()  # it is not held here while the next but one is made
    finally:
        pool.shutdown()
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _next(items: Iterator[T]) -> list[T]:
    """The next item, or nothing where there is none."""
    for item in items:
        return [item]
    return []


def moved(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`: itself where it is there already; on CUDA copied beside the work that the device is doing.

    The copy is complete when this returns. It may be used on the device's default stream.
    """
    if device.type != "cuda":
        return x.to(device)
    stream = _copying(device)
    with torch.cuda.stream(stream):
        copy = x.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    copy.record_stream(torch.cuda.default_stream(device))  # its memory is not reused before work there is done
    return copy


@lru_cache
def _copying(device: torch.device) -> "torch.cuda.Stream":
    """The stream that copies to a device run on."""
    return torch.cuda.Stream(device)
