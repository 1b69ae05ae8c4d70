"""The training rows that a dictionary is fitted on: of a store's site, or of a plain tensor."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..artifact import digest
from ..errors import ConfigurationError, NumericalError

if TYPE_CHECKING:
    from ..activations.base import Activations

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total)."""

BLOCK = 8192
"""Rows read at a time."""


class Rows(ABC):
    """Rows of one width, read in blocks; every block is checked to be finite."""

    site: str | None
    model: str | None
    width: int
    count: int

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What stands for the rows in manifests."""

    @abstractmethod
    def mean(self) -> Float64[Tensor, " d"]:
        """The mean over all rows."""

    @abstractmethod
    def _ordered(self) -> Iterator[Float[Tensor, "row d"]]:
        """All rows."""

    @abstractmethod
    def _shuffled(self, batch: int, seed: int) -> Iterator[Float[Tensor, "batch d"]]:
        """All rows in a seeded random order; what comes after the last of them does not matter."""

    def blocks(self, rows: int | None = None, seed: int = 0) -> Iterator[Float[Tensor, "row d"]]:
        """All rows, or `rows` of them drawn at random without repetition.

        Raises `NumericalError` at the first block that holds a NaN or an infinity.
        """
        if rows is None:
            for block in self._ordered():
                yield self._finite(block)
            return
        size = min(BLOCK, rows)
        left = rows
        for block in self._shuffled(size, seed):
            yield self._finite(block[:left])
            left -= size
            if left <= 0:
                return

    def sample(self, rows: int, seed: int) -> Float[Tensor, "row d"]:
        """`rows` rows drawn at random, as one tensor."""
        return torch.cat(list(self.blocks(rows, seed)))

    @property
    def name(self) -> str:
        return "the activations" if self.site is None else f"the activations at {self.site}"

    def _finite(self, block: Tensor) -> Tensor:
        block = block.detach().cpu()
        wrong = ~block.isfinite()
        if wrong.any():
            raise NumericalError(
                f"{self.name} hold {int(wrong.sum())} values that are NaN or infinite (the first in dimension "
                f"{int(wrong.nonzero()[0, 1])}); expected finite numbers. Harvest again in bfloat16 or float32 "
                "(float16 ends at 65,504), without massive activations, or leave such rows out."
            )
        return block


class TensorRows(Rows):
    """The rows of a tensor (rows, d); all of them are used."""

    def __init__(self, x: Float[Tensor, "row d"]) -> None:
        if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
            raise ConfigurationError(
                f"activations are a {x.dtype} tensor of shape {tuple(x.shape)}, expected floating rows × dimensions: "
                "flatten batch and position first."
            )
        self._x = x.detach().cpu()
        self.site = None
        self.model = None
        self.count, self.width = self._x.shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, dtype and bytes."""
        data = self._x.contiguous().view(torch.uint8).numpy().data
        return digest([list(self._x.shape), str(self._x.dtype), hashlib.sha256(data).hexdigest()])

    def mean(self) -> Float64[Tensor, " d"]:
        total = torch.zeros(self.width, dtype=torch.float64)
        for block in self.blocks():
            total += block.to(torch.float64).sum(0)
        return total / self.count

    def _ordered(self) -> Iterator[Float[Tensor, "row d"]]:
        yield from self._x.split(BLOCK)

    def _shuffled(self, batch: int, seed: int) -> Iterator[Float[Tensor, "batch d"]]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
        for places in order.split(batch):
            yield self._x[places]


class SiteRows(Rows):
    """The train split of one site of a store, on disk or streamed."""

    def __init__(self, activations: "Activations", site: str) -> None:
        self._activations = activations
        self.width = activations.width(site)  # an unknown site is refused here
        self.count = activations.rows("train")
        self.site = site
        self.model = activations.model_name
        self._site = site

    @property
    def fingerprint(self) -> str:
        return self._activations.fingerprint

    def mean(self) -> Float64[Tensor, " d"]:
        mean = self._activations.mean(self._site).to(torch.float64)
        return self._finite(mean[None])[0]

    def _ordered(self) -> Iterator[Float[Tensor, "row d"]]:
        for block in self._activations.blocks(self._site, "train", rows=BLOCK):
            yield block.x

    def _shuffled(self, batch: int, seed: int) -> Iterator[Float[Tensor, "batch d"]]:
        steps = -(-self.count // batch)
        yield from self._activations.batches(self._site, batch=batch, seed=seed, steps=steps)


def open_rows(activations: "Activations | Tensor", site: str | None) -> Rows:
    """The rows to fit on. Raises `ConfigurationError` when a store comes without a site."""
    if isinstance(activations, Tensor):
        if site is not None:
            raise ConfigurationError(f"site is {site!r}, expected None with a plain tensor: a tensor has no sites.")
        return TensorRows(activations)
    if site is None:
        raise ConfigurationError(f"site is None, expected the site to fit on: one of {', '.join(activations.sites)}.")
    return SiteRows(activations, site)


def streaming_covariance(
    data: Rows, rows: int, seed: int, progress: Progress
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
    """Mean and covariance in one pass, in float64, of deviations from the first block's mean.

    Taking the deviations first keeps all digits where the mean is far larger than the spread.
    """
    origin = torch.zeros(data.width, dtype=torch.float64)
    total = torch.zeros(data.width, dtype=torch.float64)
    products = torch.zeros(data.width, data.width, dtype=torch.float64)
    done = 0
    for block in data.blocks(None if rows == data.count else rows, seed):
        exact = block.to(torch.float64)
        if not done:
            origin = exact.mean(0)
        exact = exact - origin
        total += exact.sum(0)
        products += exact.T @ exact
        done += len(exact)
        progress("covariance", done, rows)
    mean = total / done
    return origin + mean, products / done - mean[:, None] * mean
