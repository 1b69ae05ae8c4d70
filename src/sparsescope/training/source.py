"""Where rows come from: an activation store or anything that reads like one, or a plain tensor."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations.base import Activations
from ..activations.shuffle import shuffled
from ..artifact import digest
from ..errors import ConfigurationError, NumericalError

HELD_OUT = 16_384
"""Rows at most on which a finished dictionary is measured."""
SAMPLE = 4096
"""Rows on which initial biases are set."""
BLOCK = 65_536
"""Rows of a tensor that are converted at a time."""


class Rows(Protocol):
    """What training reads: `ActivationStore` has it, and so have streams and synthetic worlds."""

    @property
    def fingerprint(self) -> str: ...
    def rows(self, split: str) -> int: ...
    def width(self, site: str) -> int: ...
    def mean(self, site: str) -> Tensor: ...
    def mean_square(self, site: str) -> float: ...
    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Tensor]: ...


class TensorRows:
    """A plain tensor of rows, read in a seeded shuffled order, like a store with one site.

    One row in twenty, drawn with a fixed seed, is held out as the validation split. The batch of
    step t depends on (seed, t) alone; every epoch has its own order; batches run on over epoch ends.

    Raises `ConfigurationError` for anything but a floating tensor of at least two rows, and
    `NumericalError` when it holds a NaN or an infinity.
    """

    def __init__(self, x: Float[Tensor, "row d"]) -> None:
        if x.ndim != 2 or not x.is_floating_point() or len(x) < 2 or not x.shape[1]:
            raise ConfigurationError(
                f"activations are a {x.dtype} tensor of shape {tuple(x.shape)}, expected floating rows × dimensions "
                "with two rows or more: flatten batch and position first."
            )
        self._x = x.detach().cpu()
        self._refuse_non_finite()
        order = shuffled(0, len(x), len(x), seed=0)
        held = max(1, len(x) // 20)
        self._splits = {"validation": torch.from_numpy(order[:held]), "train": torch.from_numpy(order[held:])}
        self._mean, self._mean_square = self._moments(self._splits["train"])

    def _refuse_non_finite(self) -> None:
        for start in range(0, len(self._x), BLOCK):
            bad = ~self._x[start : start + BLOCK].isfinite().all(1)
            if bad.any():
                first = start + int(bad.nonzero()[0])
                raise NumericalError(
                    f"activations hold a NaN or an infinity, first in row {first:,} of {len(self._x):,}; expected "
                    "finite numbers. Leave such rows out, or find out where in the model they come from."
                )

    def _moments(self, rows: Tensor) -> tuple[Tensor, float]:
        total = torch.zeros(self._x.shape[1], dtype=torch.float64)
        square = 0.0
        for part in rows.split(BLOCK):
            block = self._x[part].to(torch.float64)
            total += block.sum(0)
            square += float(block.square().sum())
        return total / len(rows), square / (len(rows) * self._x.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, dtype and bytes."""
        data = self._x.contiguous().view(torch.uint8).numpy()
        return digest([list(self._x.shape), str(self._x.dtype), hashlib.sha256(data.data).hexdigest()])

    def rows(self, split: str) -> int:
        return len(self._splits[split])

    def width(self, site: str) -> int:
        return self._x.shape[1]

    def mean(self, site: str) -> Tensor:
        return self._mean

    def mean_square(self, site: str) -> float:
        return self._mean_square

    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float[Tensor, "batch d"]]:
        rows = self._splits[split]
        step = start
        while steps is None or step < start + steps:
            places = torch.from_numpy(shuffled(step * batch, batch, len(rows), seed))
            yield self._x[rows[places]].to(torch.float32)
            step += 1


@dataclass(frozen=True)
class Source:
    """One site of some activations, whose rows it divides by `scale`."""

    activations: Rows
    site: str
    seed: int
    scale: float

    @property
    def width(self) -> int:
        return self.activations.width(self.site)

    @property
    def fingerprint(self) -> str:
        return self.activations.fingerprint

    @property
    def model(self) -> str | None:
        """The name of the model that the activations come from; None for a tensor or a synthetic world."""
        return self.activations.model_name if isinstance(self.activations, Activations) else None

    @property
    def mean(self) -> Float[Tensor, " d"]:
        return (self.activations.mean(self.site) / self.scale).to(torch.float32)

    @property
    def mean_square(self) -> float:
        return self.activations.mean_square(self.site) / self.scale**2

    @cached_property
    def sample(self) -> Float[Tensor, "row d"]:
        """Rows of the training split, to set initial biases by."""
        (x,) = self.activations.batches(self.site, batch=SAMPLE, seed=self.seed, steps=1)
        return x.to(torch.float32) / self.scale

    def batches(self, batch: int, first: int, steps: int) -> Iterator[Float[Tensor, "batch d"]]:
        """The batches of steps `first` to `steps` - 1. Raises `NumericalError` at one that is not finite."""
        found = self.activations.batches(
            self.site, batch=batch, seed=self.seed, start=first, steps=steps - first, split="train"
        )
        for step, x in enumerate(found, first):
            if not math.isfinite(float(x.sum(dtype=torch.float64))):
                raise NumericalError(
                    f"activations{self._at()} hold a NaN or an infinity in the batch of step {step}; expected finite "
                    "numbers. Nothing was learned from it: harvest again without the rows that hold it."
                )
            yield x.to(torch.float32) / self.scale

    def held_out(self) -> tuple[str, list[Float[Tensor, "row d"]]]:
        """Up to `HELD_OUT` rows that were not trained on, drawn at random, and the name of their split.

        Where the validation split is empty they come from the training split, and the name says so.
        """
        split = "validation" if self.activations.rows("validation") else "train"
        rows = min(HELD_OUT, self.activations.rows(split))
        size = min(4096, rows)
        read = self.activations.batches(self.site, batch=size, seed=self.seed, steps=rows // size, split=split)
        return split, [x.to(torch.float32) / self.scale for x in read]

    def _at(self) -> str:
        return f" at {self.site}" if self.site else ""


def open_source(activations: Rows | Tensor, site: str | None, seed: int, scale: bool) -> Source:
    """The rows to train on. With `scale`, they are divided by the root of their mean square.

    Raises `ConfigurationError` when a store comes without a site, and `NumericalError` when the mean
    square is not a finite number above zero.
    """
    if not isinstance(activations, Tensor) and site is None:
        raise ConfigurationError("site is None, expected the site to train on, such as 'resid_post.2'.")
    held: Rows = TensorRows(activations) if isinstance(activations, Tensor) else activations
    name = site or ""
    held.width(name)  # an unknown site is refused here
    square = held.mean_square(name)
    if not (math.isfinite(square) and square > 0):
        raise NumericalError(
            f"activations{f' at {name}' if name else ''} have a mean square of {square}; expected a finite number "
            "above 0. They hold a NaN, an infinity, or nothing but zeros: look at them, then harvest again."
        )
    return Source(held, name, seed, math.sqrt(square) if scale else 1.0)
