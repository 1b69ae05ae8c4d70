"""Autoencoders that keep a fixed number of codes: per row, per batch, or per batch in nested groups."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ...dictionaries import BatchTopKSAE, Dictionary, MatryoshkaSAE, Provenance, TopKSAE
from ...errors import ConfigurationError
from ..source import Source
from .base import Entries, Method, Moment, Selection, Weights, check_share, check_size, number, whole

K_START = 2.5
"""Annealing begins with so many times k (the best of the schedules compared in the synthetic literature: 60 to 25)."""


class KeepsK(Method):
    """What they have in common: k, its annealing, and the auxiliary loss that revives dead latents."""

    k: int
    aux: float
    anneal: float
    dead_after: int | None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not whole(self.k) or self.k < 1:
            raise ConfigurationError(f"{name}: k = {self.k!r}, expected a whole number of 1 or more.")
        if not number(self.aux) or self.aux < 0:
            raise ConfigurationError(f"{name}: aux = {self.aux!r}, expected a number of 0 or more.")
        if self.dead_after is not None and (not whole(self.dead_after) or self.dead_after < 1):
            raise ConfigurationError(f"{name}: dead_after = {self.dead_after!r}, expected a number of rows, or None.")
        check_share(self, "anneal")
        check_size(self)

    def begin(self, source: Source, directions: Float[Tensor, "latent d_out"], generator: torch.Generator) -> Weights:
        vectors = {"encoder_bias": torch.zeros(len(directions)), "bias": source.mean.clone()}
        return Weights(directions, vectors, directions.clone(), centred=True)

    def keep(self, share: float) -> int | None:
        if share >= self.anneal:
            return self.k
        return round(self.k * (1 + (K_START - 1) * (1 - share / self.anneal)))

    def values(self, entries: Entries) -> Tensor:
        return entries.score  # what is selected is positive

    def costs(self, entries: Entries, now: Moment) -> dict[str, Tensor]:
        return {}

    def pull(self, entries: Entries, now: Moment, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        return entries.slope, {}


@final
@dataclass(frozen=True)
class TopK(KeepsK):
    """c = the `k` largest of E (x − b) + e, negatives set to zero; x̂ = Dᵀ c + b, rows of D of unit norm.

    Source: Gao et al. 2024, arXiv 2406.04093 §2.3 and appendix A. It minimises mean((x − x̂)²) plus
    `aux` times the squared error, as a share of the variance of e = x − x̂, of writing e with the d/2
    largest pre-activations among dead latents: those silent for `dead_after` rows (by default 10 million,
    or a fiftieth of the run where that is less). With `anneal`, k starts 2.5 times as large and falls
    linearly over that share of the run. Deviations: E starts equal to D, b at the mean of the
    activations (there: the geometric median), and there is no clipping of gradients, whose scale Adam removes.

    With `frozen`, a control: rows of D stay where they were drawn at random, and only E, e and b learn. What
    is as good there owes nothing to the directions that were learned (the frozen-decoder baseline of the sanity
    checks in the literature). Drawn are the directions that the same method without `frozen` starts from.

    >>> TopK(k=16, n_latents=512).latents(64)
    512
    >>> TopK(k=16, ratio=4, frozen=True).label()
    'topk-k_16-x4-frozen'
    """

    k: int
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    aux: float = 1 / 32
    anneal: float = 0.0
    dead_after: int | None = None
    frozen: bool = False

    method: ClassVar[str] = "topk"
    selection: ClassVar[Selection] = "largest"

    def __post_init__(self) -> None:
        if not isinstance(self.frozen, bool):
            raise ConfigurationError(f"TopK: frozen = {self.frozen!r}, expected true or false.")
        super().__post_init__()

    def settings(self) -> dict[str, Any]:
        """As for other methods; `frozen` is named only where it is set, so that what was trained before it could be
        set is still the same request."""
        found = super().settings()
        return found if self.frozen else {key: value for key, value in found.items() if key != "frozen"}

    def init_seed(self, seed: int) -> int:
        return replace(self, frozen=False).init_seed(seed) if self.frozen else super().init_seed(seed)

    def label(self) -> str:
        return super().label() + "-frozen" * self.frozen

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        return TopKSAE(**_folded(weights), k=self.k, provenance=provenance).scaled(1 / source.scale)


@final
@dataclass(frozen=True)
class BatchTopK(KeepsK):
    """`TopK` that keeps the `k` · rows largest codes of the whole batch, so that rows may differ in how many they need.

    Source: Bussmann et al. 2024, arXiv 2412.06410. Deployed with a threshold, so that a row's codes
    depend on that row alone: the one that keeps k per row, on average, of a sample of the training rows.

    >>> BatchTopK(k=16, ratio=4).latents(64)
    256
    """

    k: int
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    aux: float = 1 / 32
    anneal: float = 0.0
    dead_after: int | None = None

    method: ClassVar[str] = "batchtopk"
    selection: ClassVar[Selection] = "batch"

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        threshold = numbers["threshold"]
        sae = BatchTopKSAE(**_folded(weights), k=self.k, threshold=threshold, provenance=provenance)
        return sae.scaled(1 / source.scale)


@final
@dataclass(frozen=True)
class Matryoshka(KeepsK):
    """`BatchTopK` whose leading groups of latents must each reconstruct by themselves: general features come first.

    Source: Bussmann et al. 2025, arXiv 2503.17547. It minimises the mean over groups j of
    mean((x − b − D[:m_j]ᵀ c[:m_j])²). `widths` are the sizes m_j as shares of all latents, rising to 1.

    >>> Matryoshka(k=16, ratio=4).bounds(256)
    (16, 32, 64, 128, 256)
    """

    k: int
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None
    widths: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    aux: float = 1 / 32
    anneal: float = 0.0
    dead_after: int | None = None

    method: ClassVar[str] = "matryoshka"
    selection: ClassVar[Selection] = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths) if isinstance(self.widths, (tuple, list)) else ())
        numbers = bool(self.widths) and all(number(width) for width in self.widths)
        if (
            not numbers
            or list(self.widths) != sorted({*self.widths} - {0})
            or self.widths[0] < 0
            or self.widths[-1] != 1
        ):
            raise ConfigurationError(
                f"Matryoshka: widths = {self.widths}, expected rising shares that end with 1, such as (0.25, 0.5, 1)."
            )
        super().__post_init__()

    def bounds(self, n_latents: int) -> tuple[int, ...]:
        return tuple(sorted({max(1, round(width * n_latents)) for width in self.widths}))

    def fold(
        self, weights: Weights, numbers: Mapping[str, float], source: Source, provenance: Provenance
    ) -> Dictionary:
        sae = MatryoshkaSAE(
            **_folded(weights),
            k=self.k,
            threshold=numbers["threshold"],
            widths=self.bounds(len(weights.directions)),
            provenance=provenance,
        )
        return sae.scaled(1 / source.scale)


def _folded(weights: Weights) -> dict[str, Tensor]:
    return {"directions": weights.directions, "encoder": weights.encoding, **weights.vectors}
