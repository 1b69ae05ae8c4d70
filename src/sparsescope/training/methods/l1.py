"""The paper's autoencoders, with an L1 penalty on their codes, and the variant whose penalty is annealed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ...dictionaries import Dictionary, PAnnealSAE, Provenance, TiedSAE, UntiedSAE
from ...errors import ConfigurationError
from ..source import Source
from .base import Entries, Method, Moment, Weights, check_penalty, check_share, exceeded, masked, number


class _L1(Method):
    """What the three have in common: one matrix or two, an encoder bias, and a decoder bias where it is asked for."""

    l1: float | None
    target_l0: float | None
    resample: bool
    bias: bool
    tied: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_penalty(self, "l1")
        for key in ("resample", "bias"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigurationError(
                    f"{type(self).__name__}: {key} = {getattr(self, key)!r}, expected true or false."
                )

    @property
    def resampled(self) -> bool:
        return self.resample

    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        count, x = len(directions), source.sample
        vectors = {"encoder_bias": torch.zeros(count)}
        if self.bias:
            vectors["bias"] = source.mean.clone()
            x = x - source.mean
        if self.target_l0 is not None:
            # each latent fires in target / n_latents of the rows, so that L0 starts where it is to end
            vectors["encoder_bias"] -= exceeded(x, directions, self.target_l0 / count)
        return Weights(directions, vectors, None if self.tied else directions.clone(), centred=self.bias)

    def _folded(self, weights: Weights) -> dict[str, Tensor]:
        """The encoder bias for an input that is not centred first, and the decoder bias."""
        bias = weights.vectors.get("bias", torch.zeros_like(weights.directions[0]))
        encoder_bias = weights.vectors["encoder_bias"]
        if weights.centred:
            encoder_bias = encoder_bias - weights.encoding @ bias
        return {"directions": weights.directions, "encoder_bias": encoder_bias, "bias": bias}


@final
@dataclass(frozen=True)
class TiedL1(_L1):
    """The paper's autoencoder: c = ReLU(M x + b), x̂ = Mᵀ c, rows of M of unit norm, no decoder bias.

    It minimises mean((x − x̂)²) over rows and dimensions plus `l1` · ‖c‖₁ (mean over rows), on
    activations of unit mean square unless `train` is told otherwise. Source: Cunningham et al. 2023,
    arXiv 2309.08600 §2. The paper's code adds nothing for dead latents, and neither do we by default.

    Give either `l1`, or `target_l0`: then training moves l1 until that many latents are active per
    row. Give either `ratio` (latents per dimension) or `n_latents`. `seed` fixes this member's
    initial weights apart from the run's seed.

    Beyond the paper: `bias=True` adds a decoder bias that is also subtracted before encoding, starts at
    the mean of the activations and is learned, for activations that are far from centred.
    `resample=True` gives latents that have died new directions, four times in the first half of the
    run: those of rows that are reconstructed badly (Bricken et al. 2023), with Adam's averages cleared.

    Raises `ConfigurationError` for anything else.

    >>> TiedL1(target_l0=16, ratio=4).latents(256)
    1024
    """

    l1: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    resample: bool = False
    bias: bool = False

    method: ClassVar[str] = "tied_l1"
    tied: ClassVar[bool] = True

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        return TiedSAE(**self._folded(weights), provenance=provenance).scaled(1 / source.scale)


@final
@dataclass(frozen=True)
class UntiedL1(_L1):
    """The paper's autoencoder for MLP sites: c = ReLU(E x + b), x̂ = Dᵀ c, rows of D of unit norm.

    Objective and arguments are those of `TiedL1`. E starts equal to D.

    >>> UntiedL1(l1=3.2e-4, ratio=1).latents(512)
    512
    """

    l1: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    resample: bool = False
    bias: bool = False

    method: ClassVar[str] = "untied_l1"

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        folded = self._folded(weights)
        return UntiedSAE(**folded, encoder=weights.encoding, provenance=provenance).scaled(1 / source.scale)


@final
@dataclass(frozen=True)
class PAnneal(_L1):
    """`UntiedL1` with a decoder bias, whose penalty goes from ‖c‖₁ towards counting: λ_p Σ cᵖ, p from 1 to `p`.

    Source: Karvonen et al. 2024, arXiv 2408.00113 §4. p falls linearly between the shares `start` and `end`
    of the run. λ_p is such that the penalty's value stays l1 · ‖c‖₁ on the batch before, so that it
    moves without jumps. (There: ten steps of p, each rescaled by the codes of recent batches.) In the
    gradient a code counts as at least `FLOOR` root mean squares of the activations, since the slope of cᵖ
    has no bound near 0.

    >>> PAnneal(target_l0=16, ratio=4).exponent(1.0)
    0.2
    """

    l1: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    p: float = 0.2
    start: float = 0.1
    end: float = 0.75
    resample: bool = False
    bias: bool = True

    method: ClassVar[str] = "p_anneal"
    FLOOR: ClassVar[float] = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not number(self.p) or not 0 < self.p <= 1:
            raise ConfigurationError(f"PAnneal: p = {self.p!r}, expected a number above 0, at most 1.")
        check_share(self, "start")
        check_share(self, "end")
        if self.start > self.end:
            raise ConfigurationError(f"PAnneal: start = {self.start:g}, end = {self.end:g}: it must not end before.")

    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        weights = super().begin(source, directions, generator)
        weights.vectors["floor"] = torch.full((1,), self.FLOOR * math.sqrt(source.mean_square))
        return weights

    def exponent(self, share: float) -> float:
        """p after `share` of the run."""
        done = (share - self.start) / (self.end - self.start) if self.end > self.start else share > self.start
        return 1 - (1 - self.p) * min(1.0, max(0.0, float(done)))

    def costs(self, entries: Entries, now: Moment) -> dict[str, Tensor]:
        powers = entries.value.clamp(min=entries.vectors["floor"]).pow_(self.exponent(now.share))
        powers.mul_(entries.value > 0)
        return {"penalty": entries.value, "power": powers}

    def pull(self, entries: Entries, now: Moment, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        p, last = self.exponent(now.share), now.sums
        rescaled = now.coefficient * (last["penalty"] / last["power"] if last.get("power") else 1.0)
        slope = (
            entries.value.clamp(min=entries.vectors["floor"]).pow_(p - 1).mul_(p * rescaled / rows).add_(entries.slope)
        )
        return masked(slope, entries.value), {}

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        folded = self._folded(weights)
        return PAnnealSAE(**folded, encoder=weights.encoding, provenance=provenance).scaled(1 / source.scale)
