"""The one interface of the sparse kernels, and the two forms in which they hand codes to each other.

A step of training meets a batch × latents table only inside the selection, a block of rows at a time;
behind it there are entries: one per active latent of a row. Three implementations give the same
numbers: `reference` in plain PyTorch, `compiled` in C++ for processors, `gpu` in Triton.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

Precision = Literal["float32", "screened", "bf16"]
"""How pre-activations are computed: by float32 products; screened in a short format, with every entry
that could be selected computed again in float32 (the same selection, proven by a bound on the error);
or by bfloat16 products, which is another, coarser calculation."""


@dataclass
class Codes:
    """Entries by row: row i has `count[i]` of them, in the first slots of row i of `latent` and `value`.

    Latents are distinct within a row, in no particular order. Unused slots hold latent 0 and value 0.
    `value` is the pre-activation.
    """

    latent: Int32[Tensor, "row slot"]
    value: Float[Tensor, "row slot"]
    count: Int32[Tensor, " row"]


@dataclass
class ByLatent:
    """The same entries by latent: those of latent j are `entry[start[j]:start[j + 1]]`, rows ascending.

    `entry` is a position in the flattened (row, slot) tables, so its row is entry // `slots`.
    """

    start: Int64[Tensor, " latent+1"]
    entry: Int64[Tensor, " entry"]
    slots: int

    @property
    def fired(self) -> Int64[Tensor, " latent"]:
        """In how many rows each latent has an entry."""
        return self.start.diff()


@dataclass
class Encoder:
    """The matrix that pre-activations are computed with; `screen` is what a kernel keeps beside it."""

    weight: Float[Tensor, "latent d"]
    precision: Precision = "float32"
    screen: Any = None


@dataclass
class Decoded:
    """What decoding a batch yields. With x̂_l the reconstruction by the latents below bound l, and r_l = x̂_l − target:

    `residual[l]` is factor · Σ r_m over levels m ≥ l: the gradient that reaches latents of level l;
    `squared_error[l]` is Σ r_l² over rows and dimensions; `slope` is residual[level] · direction for
    each entry, in the slots of the codes, and 0 in unused ones.
    """

    residual: Float[Tensor, "level row d"]
    squared_error: list[float]
    slope: Float[Tensor, "row slot"]


@dataclass
class Term:
    """A part of a matrix's gradient: row j gets Σ factor[e] · table[level of j][row of e] over its entries e."""

    entries: ByLatent
    factor: Float[Tensor, "row slot"]
    table: Float[Tensor, "level row d"]
    bounds: Sequence[int]
    """Level l holds the latents from bounds[l - 1] (0 for the first) up to bounds[l]."""


@dataclass(frozen=True)
class Adam:
    """The constants of one Adam step (Kingma & Ba 2015, algorithm 1), for step `count` = 1, 2, ..."""

    lr: float
    count: int
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @property
    def step_size(self) -> float:
        return self.lr / (1 - self.beta1**self.count)

    @property
    def root_correction(self) -> float:
        """What the root of the mean square is divided by."""
        return (1 - self.beta2**self.count) ** 0.5


@dataclass
class Matrix:
    """A learned matrix with Adam's averages. With `unit`, rows keep norm 1: the part of the gradient along a
    row is taken off before the step, and the row is brought back to norm 1 after it."""

    weight: Float[Tensor, "latent d"]
    mean: Float[Tensor, "latent d"]
    square: Float[Tensor, "latent d"]
    unit: bool


class Kernels(ABC):
    """What every implementation provides. Tensors are float32 and contiguous. Results may lie in buffers that
    the next call of the same method with the same `use` overwrites; `use` tells apart what is alive together."""

    name: str
    product_bytes: int | None = None
    """What is held of pre-activations at a time, where that is much more than a few megabytes."""

    @abstractmethod
    def encoder(self, weight: Float[Tensor, "latent d"], precision: Precision) -> Encoder:
        """An encoder over `weight`, not copied. Raises `ConfigurationError` for a precision that the device lacks."""

    @abstractmethod
    def refresh(self, encoder: Encoder) -> None:
        """To be called when `encoder.weight` has changed by other means than `update`."""

    @abstractmethod
    def positive(self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], use: str) -> Codes:
        """All entries with x · E_j + bias_j above 0. NaN counts as above, so that it reaches the loss."""

    @abstractmethod
    def largest(
        self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], k: int, use: str
    ) -> Codes:
        """Of each row the k largest x · E_j + bias_j, without those that are not above 0. NaN counts as largest."""

    @abstractmethod
    def largest_of_batch(
        self,
        x: Float[Tensor, "row d"],
        encoder: Encoder,
        bias: Float[Tensor, " latent"],
        total: int,
        expected: float | None,
        use: str,
    ) -> tuple[Codes, float]:
        """The `total` largest positive entries of the whole batch, and the smallest of them (0 where there are fewer).

        `expected` is what the smallest will be, about: it saves work and changes nothing in the answer.
        Among equal values at the threshold any may be kept.
        """

    @abstractmethod
    def decode(
        self,
        codes: Codes,
        value: Float[Tensor, "row slot"],
        directions: Float[Tensor, "latent d"],
        bias: Float[Tensor, " d"] | None,
        target: Float[Tensor, "row d"],
        factor: float,
        bounds: Sequence[int],
        use: str,
    ) -> Decoded:
        """Reconstructions from `value` at the latents of `codes`, and slopes: see `Decoded`. No bias counts as 0."""

    @abstractmethod
    def by_latent(self, codes: Codes, n_latents: int, use: str) -> ByLatent:
        """The entries of `codes`, ordered by latent."""

    @abstractmethod
    def sums(self, entries: ByLatent, factor: Float[Tensor, "row slot"]) -> Float[Tensor, " latent"]:
        """For each latent the sum of `factor` over its entries."""

    @abstractmethod
    def gradient(self, terms: Sequence[Term], n_latents: int) -> Float[Tensor, "latent d"]:
        """The sum of the terms as a matrix, for tests and for adding gradients up; `update` does without."""

    @abstractmethod
    def update(
        self,
        matrix: Matrix,
        adam: Adam,
        terms: Sequence[Term] = (),
        gradient: Float[Tensor, "latent d"] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """One Adam step on the gradient `terms` + `gradient`, in place; refreshes the screen of `encoder` over it."""


def rows_of(entries: ByLatent) -> Int[Tensor, " entry"]:
    """The row of each entry."""
    return torch.div(entries.entry, entries.slots, rounding_mode="floor")
