"""What every method has: its description, checked when it is made, and what training asks of it.

A method is a small frozen value. It says what a dictionary shall be (its sparsity, its number of
latents, its own seed) and holds the mathematics of its codes; how long and on what it is trained is
said once, to `train`, for all members of an ensemble. What changes in training lives in `Member`.

The mathematics is written for *entries*: pre-activations, codes and slopes of the same shape, be it a
table of the active latents of each row or all latents of a few rows. Both forms of a step use it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from ...artifact import digest
from ...dictionaries import Dictionary, Provenance
from ...errors import ConfigurationError
from ..source import Source

Selection = Literal["positive", "largest", "batch"]
"""Which entries a step works on: all positive ones, the k largest of each row, or k per row over the batch."""


@dataclass
class Weights:
    """What a member learns. Rows of `directions` have unit norm; `encoder` None means that it equals them.

    `vectors` are small: "encoder_bias" (latent) always, "bias" (d_out) where there is one, and those of
    the method. With `centred`, "bias" is subtracted from the input before encoding; else "centre", where
    there is one, which stays as it is.
    """

    directions: Float[Tensor, "latent d_out"]
    vectors: dict[str, Tensor]
    encoder: Float[Tensor, "latent d_in"] | None = None
    centred: bool = False

    @property
    def encoding(self) -> Float[Tensor, "latent d_in"]:
        return self.directions if self.encoder is None else self.encoder


@dataclass
class Entries:
    """Entries of a batch, all of one shape. `slope` is how the loss grows with each code by reconstruction alone,
    and `gate_slope` the same through a second decoding of the positive scores (Gated)."""

    score: Tensor
    """x · E_j + `Method.shift`: an entry matters where this is above 0."""
    vectors: Mapping[str, Tensor]
    latent: Int32[Tensor, "row slot"] | None = None
    """Which latent each entry belongs to; None where the last axis is all latents."""
    value: Tensor = field(default_factory=lambda: torch.empty(0))
    slope: Tensor = field(default_factory=lambda: torch.empty(0))
    gate_slope: Tensor | None = None

    def at(self, name: str) -> Tensor:
        """A vector's number for each entry."""
        vector = self.vectors[name]
        return vector if self.latent is None else vector[self.latent]


@dataclass(frozen=True)
class Moment:
    """Where in its run a member is: the share of steps done, the weight of its penalty, its sums on the last batch."""

    share: float
    coefficient: float
    sums: Mapping[str, float]


class Method(ABC):
    """Abstract base. A subclass is a final frozen dataclass with at least `ratio`, `n_latents` and `seed`."""

    method: ClassVar[str]
    selection: ClassVar[Selection] = "positive"
    gated: ClassVar[bool] = False
    """Whether positive scores are decoded a second time, with the directions held fixed."""
    all_active: ClassVar[bool] = True
    """Whether every entry that is worked on has a code above 0."""
    ratio: float | None
    n_latents: int | None
    seed: int | None

    # The description

    def latents(self, d: int) -> int:
        """The number of latents on activations of width `d`: `n_latents`, or round(`ratio` · d).

        Raises `ConfigurationError` when that is none at all, or fewer than the sparsity asked for.
        """
        count = self.n_latents if self.n_latents is not None else round((self.ratio or 0) * d)
        if count < 1:
            raise ConfigurationError(f"{self} has no latents at width {d}: give a larger ratio, or n_latents.")
        self.check_sparsity(count)
        return count

    @property
    def wanted(self) -> float | None:
        """Active latents per row that are asked for: `k` or `target_l0`; None where a coefficient decides."""
        fields = self.settings()
        return fields.get("k") or fields.get("target_l0")

    @property
    def coefficient(self) -> float:
        """The weight of the penalty: `l1`, or `l0`. 0 where there is none, or where it is to be found."""
        fields = self.settings()
        return float(fields.get("l1") or fields.get("l0") or 0.0)

    @property
    def resampled(self) -> bool:
        """Whether dead latents are given new directions."""
        return False

    @property
    def target_l0(self) -> float | None:
        """See the methods that have it."""
        return None

    @property
    def frozen(self) -> bool:
        """Whether directions stay as they are drawn: see the methods that can."""
        return False

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON, with the method's name: what is written to a manifest."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {"method": self.method, **plain}

    def init_seed(self, seed: int) -> int:
        """The seed of this member's initial weights: it depends on `seed` and the fields alone.

        So a member starts the same whatever stands beside it in an ensemble. Its own `seed`, where
        given, takes the place of the run's.
        """
        own = {**self.settings(), "seed": seed if self.seed is None else self.seed}
        return int(digest(own)[:15], 16)

    def label(self) -> str:
        """A short name for reports: 'tied_l1-l0_16-x4', 'topk-k_16-m512-s1'."""
        given = [f"{key}_{value:g}" for key, value in self.settings().items() if key in _SPARSITY and value is not None]
        size = f"m{self.n_latents}" if self.n_latents is not None else f"x{self.ratio:g}"
        seed = [] if self.seed is None else [f"s{self.seed}"]
        return "-".join([self.method, *(part.replace("target_", "") for part in given), size, *seed])

    def check_sparsity(self, count: int) -> None:
        """Raise `ConfigurationError` when more active latents are asked for than there are latents."""
        if self.wanted is not None and self.wanted > count:
            what = "k" if "k" in vars(self) else "target_l0"
            raise ConfigurationError(
                f"{type(self).__name__}: {what} = {self.wanted:g} of only {count} latents: "
                "ask for fewer active latents, or for more latents."
            )

    # What training asks

    @abstractmethod
    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        """The weights at step 0, around directions drawn uniformly on the sphere."""

    def shift(self, vectors: Mapping[str, Tensor]) -> Float[Tensor, " latent"]:
        """What is added to x · E_j so that an entry matters exactly where the sum, its score, is above 0."""
        return vectors["encoder_bias"]

    def keep(self, share: float) -> int | None:
        """Latents per row that are kept after `share` of the run; None where all positive ones are."""
        return None

    def bounds(self, n_latents: int) -> tuple[int, ...]:
        """Sizes of the leading groups of latents that each reconstruct by themselves; the last is all."""
        return (n_latents,)

    def values(self, entries: Entries) -> Tensor:
        """The codes: 0 wherever the score is not above 0. May overwrite the scores."""
        return entries.score.relu_() if entries.latent is None else entries.score

    def costs(self, entries: Entries, now: Moment) -> dict[str, Tensor]:
        """What the sums of a pass are taken over: the coefficient multiplies that of "penalty", if there is one."""
        return {"penalty": entries.value}

    def pull(self, entries: Entries, now: Moment, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        """How the loss grows with each pre-activation, and with each entry's share of the vectors.

        The gradient of a vector is the sum over its latent's entries; "encoder_bias" gets the first answer
        unless it is named. Where a code is 0 both are 0, but for what a method adds by design.
        """
        slope = entries.slope
        if now.coefficient:
            slope.add_(now.coefficient / rows)
        return masked(slope, entries.value), {}

    def constrain(self, vectors: Mapping[str, Tensor]) -> None:  # noqa: B027 - most have nothing to do
        """Bring vectors back to where they may be, in place, after a step."""

    @abstractmethod
    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        """The dictionary in the units of the activations."""


_SPARSITY = ("l1", "l0", "target_l0", "k")


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_float(method: Method, key: str) -> None:
    """8 and 8.0 are one and the same request: keep it in one form, since seeds depend on it."""
    if getattr(method, key) is not None:
        object.__setattr__(method, key, float(getattr(method, key)))


def check_size(method: Method) -> None:
    """`ratio` or `n_latents`, and `seed`."""
    name = type(method).__name__
    if (method.ratio is None) == (method.n_latents is None):
        raise ConfigurationError(
            f"{name}: ratio = {method.ratio}, n_latents = {method.n_latents}: give exactly one of the two. "
            "ratio is latents per dimension of the activations."
        )
    if method.ratio is not None and (not number(method.ratio) or method.ratio <= 0):
        raise ConfigurationError(f"{name}: ratio = {method.ratio!r}, expected a number above 0.")
    as_float(method, "ratio")
    if method.n_latents is not None and (not whole(method.n_latents) or method.n_latents < 1):
        raise ConfigurationError(f"{name}: n_latents = {method.n_latents!r}, expected a whole number of 1 or more.")
    if method.seed is not None and (not whole(method.seed) or method.seed < 0):
        raise ConfigurationError(f"{name}: seed = {method.seed!r}, expected a whole number of 0 or more, or None.")
    if method.n_latents is not None:
        method.check_sparsity(method.n_latents)


def check_penalty(method: Method, weight: str) -> None:
    """Exactly one of the coefficient called `weight` and `target_l0`; then the size."""
    name = type(method).__name__
    given, target = getattr(method, weight), method.target_l0
    if (given is None) == (target is None):
        raise ConfigurationError(
            f"{name}: {weight} = {given}, target_l0 = {target}: give exactly one of the two. "
            f"target_l0 is the number of active latents per row; {weight} the weight of the penalty."
        )
    if given is not None and (not number(given) or given < 0):
        raise ConfigurationError(f"{name}: {weight} = {given!r}, expected a number of 0 or more.")
    if target is not None and (not number(target) or target <= 0):
        raise ConfigurationError(f"{name}: target_l0 = {target!r}, expected a number above 0.")
    as_float(method, weight)
    as_float(method, "target_l0")
    check_size(method)


def check_share(method: Method, key: str) -> None:
    """A number from 0 to 1."""
    value = getattr(method, key)
    if not number(value) or not 0 <= value <= 1:
        raise ConfigurationError(f"{type(method).__name__}: {key} = {value!r}, expected a share from 0 to 1.")
    as_float(method, key)


def masked(slope: Tensor, value: Tensor) -> Tensor:
    """`slope` where `value` is above 0, else 0, in place."""
    return torch.ops.aten.threshold_backward.grad_input(slope, value, 0, grad_input=slope)


def exceeded(x: Float[Tensor, "row d"], encoder: Float[Tensor, "latent d"], share: float) -> Float[Tensor, " latent"]:
    """For each latent, the projection that this share of the rows exceeds."""
    kept = max(1, round(share * len(x)))
    return torch.cat([(part @ x.t()).topk(kept, dim=1).values[:, -1] for part in encoder.split(1024)])
