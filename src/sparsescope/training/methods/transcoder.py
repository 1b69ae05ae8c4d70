"""Transcoders: from the activations of one site to those of another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ...dictionaries import Dictionary, Provenance, TranscoderDictionary
from ..source import Source
from .base import Selection, Weights
from .topk import KeepsK


@final
@dataclass(frozen=True)
class Transcoder(KeepsK):
    """c = the `k` largest of E x + e, negatives set to zero; ŷ = Dᵀ c + b, rows of D of unit norm; with `skip`, + S x.

    Trained on a pair of sites (input, output), rows aligned by token; it minimises mean((y − ŷ)²) plus the
    auxiliary loss of `TopK`. Sources: Dunefsky et al. 2024, arXiv 2406.11944 (with an L1 penalty there);
    Paulo et al. 2025, arXiv 2501.18823 (TopK, and the skip S, which starts at zero). E starts with rows
    drawn uniformly on the sphere, b at the mean of y. In training the mean of x is taken off before encoding (and
    folded into e at the end): gradients of E else point along that mean first of all (planted directions
    found with an offset: 0.73 without this, 1.00 with it).

    >>> Transcoder(k=16, n_latents=512, skip=True).latents(64)
    512
    """

    k: int
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    skip: bool = False
    aux: float = 1 / 32
    anneal: float = 0.0
    dead_after: int | None = None

    method: ClassVar[str] = "transcoder"
    selection: ClassVar[Selection] = "largest"

    def label(self) -> str:
        return super().label() + "-skip" * self.skip

    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        encoder = torch.randn(len(directions), source.width, generator=generator)
        encoder /= encoder.norm(dim=1, keepdim=True)
        vectors = {"encoder_bias": torch.zeros(len(encoder)), "bias": source.output_mean.clone()}
        vectors["centre"] = source.mean.clone()
        if self.skip:
            vectors["skip"] = torch.zeros(source.output_width, source.width)
        return Weights(directions, vectors, encoder)

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        trained = TranscoderDictionary(
            directions=weights.directions,
            encoder=weights.encoding,
            encoder_bias=weights.vectors["encoder_bias"] - weights.encoding @ weights.vectors["centre"],
            bias=weights.vectors["bias"],
            skip=weights.vectors.get("skip"),
            k=self.k,
            provenance=provenance,
        )
        return trained.scaled(1 / source.scale, 1 / source.output_scale)
