"""A planted dictionary: activations that are sparse sums of known directions.

    x = Σ_i s_i f_i + offset,   s_i = 0 with probability 1 - p, else uniform in [low, high]

with f_i independent uniform unit directions, more of them than dimensions. There is no noise, and no
offset unless it is asked for, so the directions are all there is to find. Source: Sharkey et al. 2022,
"Taking features out of superposition", in the form of arXiv 2309.08600 §8 without decay and correlation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..artifact import digest
from ..errors import ConfigurationError, SiteError

SITE = "planted"
_STREAMS = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class PlantedWorld:
    """`n_features` directions in `d` dimensions, each active with probability `active` / `n_features`.

    It reads like a store with the one site "planted", so `train` takes it in the place of one; rows
    never repeat. Row `i` of step `t` depends on (`seed`, the reading's seed, split, t, batch) alone.
    Raises `ConfigurationError` for numbers that make no world.

    >>> world = PlantedWorld(d=4, n_features=8, active=1)
    >>> x, codes = world.sample(3, seed=0, step=0)
    >>> torch.allclose(x, codes @ world.directions)
    True
    """

    d: int = 64
    n_features: int = 256
    active: float = 5.0
    low: float = 0.5
    high: float = 1.5
    seed: int = 0
    offset: float = 0.0
    """What is added to every component of every row."""

    def __post_init__(self) -> None:
        for name in ("d", "n_features"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"PlantedWorld: {name} = {getattr(self, name)!r}, expected 1 or more.")
        if not 0 < self.active <= self.n_features:
            raise ConfigurationError(
                f"PlantedWorld: active = {self.active!r}, expected a number above 0 and at most n_features "
                f"= {self.n_features}: the mean number of active features per row."
            )
        if not 0 < self.low <= self.high:
            raise ConfigurationError(
                f"PlantedWorld: strengths from {self.low!r} to {self.high!r}, expected 0 < low ≤ high."
            )
        if not math.isfinite(self.offset):
            raise ConfigurationError(f"PlantedWorld: offset = {self.offset!r}, expected a finite number.")

    @cached_property
    def directions(self) -> Float[Tensor, "feature d"]:
        """The truth: unit rows."""
        drawn = torch.randn(self.n_features, self.d, generator=_generator("directions", self.seed))
        return torch.nn.functional.normalize(drawn, dim=1)

    @property
    def probability(self) -> float:
        """How often each feature is active."""
        return self.active / self.n_features

    def sample(
        self, rows: int, *, seed: int = 0, step: int = 0, split: str = "train"
    ) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row feature"]]:
        """Activations, and the strengths they were made of."""
        if split not in _STREAMS:
            raise ConfigurationError(f"unknown split {split!r}, expected one of {', '.join(_STREAMS)}.")
        generator = _generator("rows", self.seed, seed, _STREAMS[split], step)
        drawn = torch.rand(rows, self.n_features, generator=generator)
        # a uniform number below p is, divided by p, again uniform: one draw decides both
        p = self.probability
        codes = torch.where(drawn < p, self.low + drawn * ((self.high - self.low) / p), 0.0)
        return codes @ self.directions + self.offset, codes

    # What follows is how stores are read.

    @property
    def sites(self) -> list[str]:
        return [SITE]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, which decide every row."""
        return digest(["PlantedWorld", *(getattr(self, field.name) for field in fields(self))])

    def rows(self, split: str) -> int:
        """How many rows stand for a split; more are made when more are asked for."""
        return 100_000

    def width(self, site: str) -> int:
        """`d`. Raises `SiteError` for any site but "planted"."""
        if site != SITE:
            raise SiteError(f"a planted world has no site {site!r}, only {SITE!r}.")
        return self.d

    def mean(self, site: str) -> Float64[Tensor, " d"]:
        """The exact mean: p · E[s] · Σ f + offset."""
        return self.probability * (self.low + self.high) / 2 * self.directions.double().sum(0) + self.offset

    def mean_square(self, site: str) -> float:
        """The exact mean of x² over rows and dimensions: (‖mean‖² + n (p E[s²] − (p E[s])²)) / d."""
        p = self.probability
        second = p * (self.low**2 + self.low * self.high + self.high**2) / 3
        first = p * (self.low + self.high) / 2
        return (float(self.mean(site).square().sum()) + self.n_features * (second - first**2)) / self.d

    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float[Tensor, "batch d"]]:
        """New rows, `batch` at a time, from step `start` on; without end where `steps` is None."""
        self.width(site)
        step = start
        while steps is None or step < start + steps:
            yield self.sample(batch, seed=seed, step=step, split=split)[0]
            step += 1


def _generator(*key: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(int(digest(list(key))[:15], 16))
