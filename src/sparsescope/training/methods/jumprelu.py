"""JumpReLU autoencoders: a learned threshold for each latent, trained through straight-through estimates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ...dictionaries import Dictionary, JumpReLUSAE, Provenance
from ...errors import ConfigurationError
from ..source import Source
from .base import Entries, Method, Moment, Weights, as_float, check_penalty, exceeded, number

TYPICAL_L0 = 16
"""The L0 by which the bandwidth is set where none is asked for."""


@final
@dataclass(frozen=True)
class JumpReLU(Method):
    """π = E (x − b) + e; c = π · 1{π > θ}; x̂ = Dᵀ c + b, rows of D of unit norm, θ learned for each latent.

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435 §3. It minimises mean((x − x̂)²) plus `l0` times
    the number of active latents (mean over rows). The gradient in θ is estimated from the entries within
    half a bandwidth ε of it: ∂c/∂θ = −(θ/ε) and ∂L0/∂θ = −1/ε where |π − θ| < ε/2, else 0. The step sees
    π − θ alone, so the opposite is handed to π as well, and on to E, e and b (as in Conerly et al. 2025,
    "Dictionary Learning Optimization Techniques"): without it a latent just below its threshold never
    learns that it is wanted (planted directions found: 0.39 without, 1.00 with).

    Give the penalty's weight `l0`, or `target_l0`: then training moves the weight until that many
    latents are active per row. ε is `bandwidth` times what a code is about, √(d / L0) on activations of
    unit mean square (with L0 = 16 where no target is given): wide, which suits runs of millions of rows.
    Deviations: θ itself is learned, not its logarithm, which hardly moves; b starts at the mean of the
    activations; for a `target_l0` θ starts where each latent is active in target / n_latents of the
    rows, else at ε / 2.

    >>> JumpReLU(target_l0=16, ratio=4).latents(64)
    256
    """

    l0: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    bandwidth: float = 0.6

    method: ClassVar[str] = "jumprelu"

    all_active: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_penalty(self, "l0")
        if not number(self.bandwidth) or self.bandwidth <= 0:
            raise ConfigurationError(f"JumpReLU: bandwidth = {self.bandwidth!r}, expected a number above 0.")
        as_float(self, "bandwidth")

    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        count = len(directions)
        epsilon = self.bandwidth * math.sqrt(source.width * source.mean_square / (self.target_l0 or TYPICAL_L0))
        threshold = torch.full((count,), epsilon / 2)
        if self.target_l0 is not None:
            threshold = exceeded(source.sample - source.mean, directions, self.target_l0 / count).clamp_(min=0)
        vectors = {
            "encoder_bias": torch.zeros(count),
            "threshold": threshold,
            "epsilon": torch.full((1,), epsilon),
            "bias": source.mean.clone(),
        }
        return Weights(directions, vectors, directions.clone(), centred=True)

    def shift(self, vectors: Mapping[str, Tensor]) -> Float[Tensor, " latent"]:
        """Entries below the threshold matter too, down to half a bandwidth."""
        return vectors["encoder_bias"] - vectors["threshold"] + vectors["epsilon"] / 2

    def values(self, entries: Entries) -> Tensor:
        above = entries.score - entries.vectors["epsilon"] / 2
        return (above + entries.at("threshold")).mul_(above > 0)

    def costs(self, entries: Entries, now: Moment) -> dict[str, Tensor]:
        return {"penalty": (entries.value > 0).to(entries.value.dtype)}

    def pull(self, entries: Entries, now: Moment, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        epsilon = entries.vectors["epsilon"]
        near = (entries.score > 0) & (entries.score < epsilon)
        threshold = (entries.slope * entries.at("threshold")).add_(now.coefficient / rows).div_(-epsilon).mul_(near)
        return (entries.slope * (entries.value != 0)).sub_(threshold), {"threshold": threshold}

    def constrain(self, vectors: Mapping[str, Tensor]) -> None:
        vectors["threshold"].clamp_(min=0)

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        vectors = weights.vectors
        return JumpReLUSAE(
            directions=weights.directions,
            encoder=weights.encoding,
            encoder_bias=vectors["encoder_bias"],
            threshold=vectors["threshold"],
            bias=vectors["bias"],
            provenance=provenance,
        ).scaled(1 / source.scale)
