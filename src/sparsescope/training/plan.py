"""How much memory training takes, by what it is for: arithmetic alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from .batches import SPLIT
from .finish import CHUNK as FINISH_CHUNK
from .kernels import Precision
from .kernels.reference import CHUNK
from .methods import KeepsK, Method
from .step import CHUNK as DENSE_CHUNK
from .step import DENSE_ABOVE

ENTRY = 24
"""Bytes per slot of a table of codes: latent, value, slope, pull and what a kernel adds, and its place by latent."""
UNEVEN = 4
"""A row may have so many times the mean number of codes."""
MEASURED = 2
"""Tables of codes that measuring a finished dictionary holds at once."""


@dataclass(frozen=True)
class Size:
    """A member as far as its memory goes. Widths are those of its input and its output."""

    method: Method
    n_latents: int
    d_in: int
    d_out: int

    @property
    def matrices(self) -> int:
        """Numbers in its matrices."""
        tied = getattr(self.method, "tied", False)
        return self.n_latents * (self.d_out + (0 if tied else self.d_in))

    @property
    def learned(self) -> int:
        """Numbers that learn, each with two averages of Adam: all but frozen directions."""
        return self.matrices + self.vectors - self.n_latents * self.d_out * self.method.frozen

    @property
    def vectors(self) -> int:
        """Numbers in its other weights: a few per latent, biases, and a transcoder's skip."""
        return 3 * self.n_latents + self.d_out + self.d_in * self.d_out * bool(getattr(self.method, "skip", False))

    @property
    def dense(self) -> bool:
        """Whether it may have to compute all of its codes, and so whole gradients."""
        return self.method.selection == "positive"

    @property
    def aux(self) -> bool:
        """Whether it has the auxiliary loss of dead latents."""
        return isinstance(self.method, KeepsK) and self.method.aux > 0

    @property
    def slots(self) -> int:
        """Codes per row that its tables have room for, about."""
        kept, target = self.method.keep(0.0), self.method.target_l0
        if kept is not None:
            wanted = kept * (UNEVEN if self.method.selection == "batch" else 1)
        else:
            most = 2 * DENSE_ABOVE * self.n_latents
            wanted = math.ceil(most if target is None else min(most, UNEVEN * target))
        return max(1, min(self.n_latents, wanted))


@dataclass(frozen=True)
class Plan:
    """Bytes at the peak of training, by what they are for."""

    weights: int
    """Of all members, with what is kept of them in a shorter format."""
    moments: int
    """Adam's averages of all members."""
    gradients: int
    """Whole gradients, where the form of the step or the kernels need them, and copies of dead latents."""
    codes: int
    """Tables of active latents."""
    products: int
    """Pre-activations and slopes of a block of rows."""
    batches: int
    """Batches, and what is computed from them row by row."""
    finishing: int
    """Dictionaries in the units of the activations, and measuring them, beyond what ends with the last step."""
    reading: int = 0
    """What reading holds in main memory, whatever the device."""

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        """'weights 1.2 GB, moments 2.5 GB, ...', without what is nothing."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items() if size)


def plan(
    sizes: Sequence[Size],
    batch: int,
    *,
    precision: Precision = "float32",
    workers: int = 1,
    fused: bool = True,
    products: int | None = None,
    reading: int = 0,
) -> Plan:
    """What training these members together takes, at its peak.

    Each member keeps its weights and two averages of Adam per weight. Everything else is shared: each of
    `workers`, which step members side by side, has tables for the largest member. Methods with a penalty
    hold whole gradients as long as most of their codes are active; kernels that are not `fused` hold two
    matrices while one is updated. `products` is what kernels hold of pre-activations, where they say so.
    At the end every member is copied once, on the CPU. `reading` is what the feed holds (`Feed.held_bytes`).

    >>> from sparsescope.training import TopK
    >>> plan([Size(TopK(k=32, n_latents=16384), 16384, 512, 512)], batch=4096).moments >> 20
    128
    """
    whole = [4 * (size.matrices + size.vectors) for size in sizes]
    screens = [0 if precision == "float32" else 2 * size.n_latents * size.d_in for size in sizes]
    silent = [8 * size.n_latents for size in sizes]
    gradients = workers * max(_gradients(size, fused) for size in sizes)
    tables = MEASURED * 4 * max(min(FINISH_CHUNK, SPLIT * size.n_latents) for size in sizes)
    return Plan(
        weights=sum(whole) + sum(screens) + sum(silent),
        moments=4 * sum(2 * size.learned + size.vectors for size in sizes),
        gradients=gradients,
        codes=workers * max(_codes(size, batch) for size in sizes),
        products=workers * (max(_products(size, fused) for size in sizes) if products is None else products),
        batches=workers * max(_rows(size, batch) for size in sizes),
        finishing=max(0, sum(whole) + tables - gradients),
        reading=reading,
    )


def _gradients(size: Size, fused: bool) -> int:
    dense = size.matrices if size.dense else 0
    update = 0 if fused else 2 * size.n_latents * max(size.d_in, size.d_out)
    dead = size.n_latents * size.d_in if size.aux else 0
    return 4 * (max(dense + update, dead + update))


def _codes(size: Size, batch: int) -> int:
    dead = min(size.n_latents, size.d_in // 2) if size.aux else 0
    return ENTRY * batch * (size.slots * (2 if size.method.gated else 1) + dead)


def _products(size: Size, fused: bool) -> int:
    if size.dense:
        return 3 * 4 * max(DENSE_CHUNK, size.n_latents)
    table = max(CHUNK, size.n_latents)
    return 4 * table if fused else 5 * table


def _rows(size: Size, batch: int) -> int:
    """The centred input, the target less a skip, residuals of every level, and those of gates and dead latents."""
    levels = len(size.method.bounds(size.n_latents))
    outputs = levels + bool(getattr(size.method, "skip", False)) + size.method.gated + 2 * size.aux
    return 4 * batch * (size.d_in + outputs * size.d_out)


def gigabytes(size: float) -> str:
    """'1.5 GB'; megabytes where it is less than one.

    >>> gigabytes(1.5e9), gigabytes(2e6)
    ('1.5 GB', '2 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
