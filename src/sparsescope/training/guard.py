"""The massive-norm guard: rows of enormous norm are shortened before anything is learned from them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GUARD = 10.0
"""Rows are shortened to this many times the median norm.

Ordinary rows stay within a factor of two or three of the median; the massive activations of attention
sinks (Sun et al. 2024, arXiv 2402.17762) are hundreds of times as long, and their squares would
outweigh all other rows'.
"""


def row_norms(x: Float[Tensor, "row d"]) -> Float[Tensor, " row"]:
    """The length of each row, infinite where its square overflows."""
    return torch.linalg.vector_norm(x, dim=1)


def all_finite(x: Float[Tensor, "row d"], norms: Float[Tensor, " row"]) -> bool:
    """Whether `x`, whose rows have these norms, holds neither a NaN nor an infinity."""
    return bool(norms.isfinite().all()) or bool(x.isfinite().all())


@dataclass(frozen=True)
class Limit:
    """The largest norm that a row may have, in the units of the activations."""

    norm: float = math.inf

    def shorten(
        self, x: Float[Tensor, "row d"], norms: Float[Tensor, " row"] | None = None
    ) -> tuple[Float[Tensor, "row d"], int]:
        """`x` with its longer rows brought to the limit, and how many these are. `norms` are those of its rows.

        Other rows keep every bit; `x` is not written to, and is itself the answer where no row is longer.
        """
        norms = row_norms(x) if norms is None else norms
        if self.norm == math.inf or not bool((norms > self.norm).any()):
            return x, 0
        # a norm that overflowed is infinite, and so above the limit: float64 tells how long the row is
        long = (norms > self.norm).nonzero().squeeze(1)
        exact = x[long].double()
        factor = (self.norm / torch.linalg.vector_norm(exact, dim=1, keepdim=True)).clamp_(max=1.0)
        return x.index_copy(0, long, (exact * factor).to(x.dtype)), len(long)


def limit_of(sample: Float[Tensor, "row d"], guard: float = GUARD) -> Limit:
    """`guard` times the median norm of `sample`; no limit where half of its rows are zero.

    >>> limit_of(torch.eye(3), guard=2.0)
    Limit(norm=2.0)
    """
    median = float(torch.linalg.vector_norm(sample, dim=1, dtype=torch.float64).quantile(0.5))
    return Limit(guard * median if median > 0 else math.inf)
