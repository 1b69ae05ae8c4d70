"""One site of some activations, or a pair of sites, in the units of training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations.base import Activations
from ..errors import NumericalError
from .guard import Limit, all_finite, row_norms
from .prefetch import moved
from .tensors import JointRows, Rows

HELD_OUT = 16_384
"""Rows at most on which a finished dictionary is measured."""
SPLIT = 4096
"""Rows at most in one batch of held-out rows."""
SAMPLE = 4096
"""Rows on which initial biases are set."""


@dataclass(frozen=True)
class Batch:
    """Rows to encode and what is to be made of them, in training units. For autoencoders `y` is `x` itself."""

    x: Float[Tensor, "row d_in"]
    y: Float[Tensor, "row d_out"]


@dataclass(frozen=True, eq=False)
class Source:
    """One site of some activations, or a pair of sites; rows are divided by `scale`, outputs by `output_scale`.

    The sites of plain tensors are "". `output_site` is None where there is no pair, and then everything
    about the output is that of the input. `mean`, `mean_square` and `sample` are in training units,
    that is, of rows already shortened and divided. Batches of a feed lie on `device`; the sample, the mean
    and held-out rows on the CPU.
    """

    activations: Rows
    columns: tuple[str, ...]
    """What `activations` call the input and, of a pair, the output."""
    site: str
    output_site: str | None
    seed: int
    scale: float
    output_scale: float
    limit: Limit
    output_limit: Limit
    mean: Float[Tensor, " d_in"]
    output_mean: Float[Tensor, " d_out"]
    mean_square: float
    sample: Float[Tensor, "row d_in"]
    """Up to `SAMPLE` rows of the training split, to set initial biases by."""
    output_sample: Float[Tensor, "row d_out"]
    """The outputs of the same rows."""
    device: torch.device

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def output_width(self) -> int:
        return len(self.output_mean)

    @property
    def paired(self) -> bool:
        """Whether inputs and outputs are different activations."""
        return len(self.columns) == 2

    @property
    def fingerprint(self) -> str:
        return self.activations.fingerprint

    @property
    def model(self) -> str | None:
        """The name of the model that the activations come from; None for a tensor or a synthetic world."""
        return self.activations.model_name if isinstance(self.activations, Activations) else None

    def batch(self, rows: dict[str, Float[Tensor, "row d"]], where: str, device: torch.device) -> tuple[Batch, int]:
        """Rows as they were read, as a batch on `device`, and how many of them were shortened.

        Raises `NumericalError`, with `where` in it, when they are not all finite.
        """
        plain = [rows[column].to(torch.float32) for column in self.columns]
        norms = [row_norms(x) for x in plain]
        for column, x, lengths in zip(self.columns, plain, norms, strict=True):
            if not all_finite(x, lengths):
                raise NumericalError(
                    f"activations{f' at {column}' if self.site else ''} hold a NaN or an infinity in {where}; expected "
                    "finite numbers. Nothing was learned from it: harvest again without the rows that hold it."
                )
        short, count = self.limit.shorten(plain[0], norms[0])
        x = y = moved(short / self.scale, device)
        if self.paired:
            short, more = self.output_limit.shorten(plain[1], norms[1])
            y, count = moved(short / self.output_scale, device), count + more
        return Batch(x, y), count

    def held_out(self) -> tuple[str, list[Batch]]:
        """Up to `HELD_OUT` rows that were not trained on, drawn at random, and the name of their split.

        Where the validation split is empty they come from the training split, and the name says so.
        """
        split = "validation" if self.activations.rows("validation") else "train"
        rows = min(HELD_OUT, self.activations.rows(split))
        size = min(SPLIT, rows)
        found = read(self.activations, self.columns, batch=size, seed=self.seed, steps=rows // size, split=split)
        return split, [self.batch(each, f"the {split} split", torch.device("cpu"))[0] for each in found]


def read(
    activations: Rows,
    columns: Sequence[str],
    *,
    batch: int,
    seed: int,
    steps: int,
    start: int = 0,
    split: str = "train",
) -> Iterator[dict[str, Float[Tensor, "row d"]]]:
    """Batches of one site or, aligned, of several."""
    if len(columns) > 1:
        joint = cast(JointRows, activations)
        return joint.joint_batches(columns, batch=batch, seed=seed, start=start, steps=steps, split=split)
    (column,) = columns
    found = activations.batches(column, batch=batch, seed=seed, start=start, steps=steps, split=split)
    return ({column: x} for x in found)
