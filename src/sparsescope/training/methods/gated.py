"""Gated autoencoders: which latents are active is decided apart from how active they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ...dictionaries import Dictionary, GatedSAE, Provenance
from ..source import Source
from .base import Entries, Method, Moment, Weights, check_penalty, exceeded


@final
@dataclass(frozen=True)
class Gated(Method):
    """π = E (x − b); c = 1{π + g > 0} · ReLU(e^r · π + m); x̂ = Dᵀ c + b, rows of D of unit norm.

    Source: Rajamanoharan et al. 2024, arXiv 2404.16014 §3.2. It minimises mean((x − x̂)²) plus
    `l1` · ‖ReLU(π + g)‖₁ (mean over rows) plus mean((x − x̂_gate)²), where x̂_gate decodes ReLU(π + g)
    with D and b held fixed: only this trains the gate, so codes need not shrink. Deviations: b starts at
    the mean of the activations, E equal to D, and rows of D are kept at unit norm by projection.

    Give `l1` or `target_l0`, `ratio` or `n_latents`, as in `TiedL1`.

    >>> Gated(target_l0=16, ratio=4).latents(64)
    256
    """

    l1: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None

    method: ClassVar[str] = "gated"
    gated: ClassVar[bool] = True

    all_active: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_penalty(self, "l1")

    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        count = len(directions)
        zero = torch.zeros(count)
        vectors = {"encoder_bias": zero, "magnitude": zero.clone(), "magnitude_bias": zero.clone()}
        vectors["bias"] = source.mean.clone()
        if self.target_l0 is not None:
            zero -= exceeded(source.sample - source.mean, directions, self.target_l0 / count)
        return Weights(directions, vectors, directions.clone(), centred=True)

    def values(self, entries: Entries) -> Tensor:
        magnitude = self._magnitude(entries).relu_()
        return (
            magnitude.mul_(entries.score > 0)
            if entries.latent is None
            else magnitude.masked_fill_(
                entries.score == 0,
                0.0,  # unused slots
            )
        )

    def costs(self, entries: Entries, now: Moment) -> dict[str, Tensor]:
        return {"penalty": entries.score.relu()}

    def pull(self, entries: Entries, now: Moment, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert entries.gate_slope is not None
        gate = (entries.gate_slope + now.coefficient / rows).mul_(entries.score > 0)
        linear = entries.slope * (entries.value > 0)
        scaled = linear * entries.at("magnitude").exp()
        growth = scaled * (entries.score - entries.at("encoder_bias"))
        return scaled.add_(gate), {"encoder_bias": gate, "magnitude": growth, "magnitude_bias": linear}

    def _magnitude(self, entries: Entries) -> Tensor:
        plain = entries.score - entries.at("encoder_bias")
        return plain.mul_(entries.at("magnitude").exp()).add_(entries.at("magnitude_bias"))

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        vectors = weights.vectors
        return GatedSAE(
            directions=weights.directions,
            encoder=weights.encoding,
            gate_bias=vectors["encoder_bias"],
            magnitude_scale=vectors["magnitude"],
            magnitude_bias=vectors["magnitude_bias"],
            bias=vectors["bias"],
            provenance=provenance,
        ).scaled(1 / source.scale)
