"""Tokens of a latent's sample, as rules are fitted on them and judged by them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

TELLING, OTHER = 1200, 400
"""The most rows fitted on: of those where the latent is active or its token suggests so, and of all others."""
MOST_ROWS = TELLING + OTHER

STEP, SURE = 0.01, 1.64
"""What a stage must add: to the correlation on left-out documents, and in standard errors."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Tokens of the sample that rules are fitted on, with what is known and what is expected of each.

    `position` counts from the first token of the split's contexts; `activation` is from 0 to `LEVELS`;
    `expected` is what the rules so far expect, without having seen the row's document; `document` counts
    from 0.
    """

    position: Int64[ndarray, " row"]
    activation: Float64[ndarray, " row"]
    expected: Float64[ndarray, " row"]
    weight: Float64[ndarray, " row"]
    document: Int64[ndarray, " row"]

    def __len__(self) -> int:
        return len(self.position)

    def take(self, rows: Any) -> "Rows":
        return Rows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def variance(self) -> float:
        """Σ w (a − ā)²."""
        mean = np.average(self.activation, weights=self.weight)
        return float(self.weight @ (self.activation - mean) ** 2)


def correlation(rows: Rows, expected: Float64[ndarray, " row"]) -> float:
    """Weighted Pearson correlation; 0 where one of the two does not vary."""
    w = rows.weight / rows.weight.sum()
    x, y = expected - w @ expected, rows.activation - w @ rows.activation
    scale = np.sqrt((w @ (x * x)) * (w @ (y * y)))
    return float(w @ (x * y) / scale) if scale > 0 else 0.0


def better(rows: Rows, new: Float64[ndarray, " row"], old: Float64[ndarray, " row"]) -> bool:
    """Whether `new` fits left-out documents better than `old`: by a step in correlation, and beyond chance.

    Beyond chance is: the squared error removed, summed over documents, exceeds `SURE` standard errors of
    that sum, documents being independent.
    """
    if correlation(rows, new) < correlation(rows, old) + STEP:
        return False
    removed = np.bincount(rows.document, rows.weight * (_scaled(rows, old) ** 2 - _scaled(rows, new) ** 2))
    return bool(removed.sum() > SURE * np.sqrt((removed**2).sum()))


def _scaled(rows: Rows, expected: Float64[ndarray, " row"]) -> Float64[ndarray, " row"]:
    """What is left of the activation after the best line in what was expected."""
    w = rows.weight / rows.weight.sum()
    x, y = expected - w @ expected, rows.activation - w @ rows.activation
    spread = float(w @ (x * x))
    return y - x * (float(w @ (x * y)) / spread if spread > 0 else 0.0)
