"""Shuffling what can only be read in order: a buffer of bounded size, drawn from at random."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

LEAST_BATCHES = 4
"""A buffer holds this many batches at least."""


def capacity(buffer_rows: int, batch: int) -> int:
    """How many rows a buffer of `buffer_rows` holds when it is drawn from `batch` at a time."""
    return max(buffer_rows, LEAST_BATCHES * batch)


def mixed(
    rows: Iterator[dict[str, Float[Tensor, "row d"]]], *, batch: int, seed: int, buffer_rows: int
) -> Iterator[dict[str, Float32[Tensor, "batch d"]]]:
    """Batches drawn from a buffer that is filled with `rows` in their order.

    `rows` yields pieces of any length: for each name a table, all tables with the same rows. Each time
    half of the buffer is drawn at random and replaced by what comes next. Batch t depends on `rows`,
    (`seed`, t) and the size of the buffer alone, and the same rows are drawn of every table. When `rows`
    ends, all that is left is drawn, but for a last part that does not fill a batch.

    >>> one = mixed(iter([{"x": torch.arange(10.0)[:, None]}]), batch=4, seed=0, buffer_rows=8)
    >>> [len(batch["x"]) for batch in one]
    [4, 4]
    """
    size = capacity(buffer_rows, batch)
    generator = np.random.default_rng([seed, size])
    waiting = next(rows, None)
    if waiting is None:
        return
    buffer = {name: torch.empty(size, x.shape[1], dtype=x.dtype) for name, x in waiting.items()}
    held = 0
    while True:
        while held < size and waiting is not None:
            count = min(size - held, _length(waiting))
            for name, x in waiting.items():
                buffer[name][held : held + count] = x[:count]
            held += count
            waiting = {name: x[count:] for name, x in waiting.items()}
            if not _length(waiting):
                waiting = next(rows, None)
        ended = waiting is None
        order = torch.from_numpy(generator.permutation(held))
        drawn = (held if ended else held // 2) // batch * batch
        for chosen in order[:drawn].split(batch) if drawn else ():
            yield {name: x[chosen].float() for name, x in buffer.items()}
        if ended:
            return
        held -= drawn
        for x in buffer.values():
            x[:held] = x[order[drawn:]]


def _length(tables: dict[str, Tensor]) -> int:
    return len(next(iter(tables.values())))
