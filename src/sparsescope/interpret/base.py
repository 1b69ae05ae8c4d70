"""What an explanation is, and the two protocols behind which everything that makes or uses one stands.

    evidence --Explainer--> explanation --Simulator--> expected activations --scores--> numbers

Explanations are made from one split and scored on another, whose documents are different ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from ..features.fragments import Fragments
from ..features.gathering import Sample

LEVELS = 10
"""Activations are shown and predicted on a scale from 0 to this."""

Reason = Literal[
    "never fires",
    "fires on every token",
    "too few contexts",
    "no explanation",
    "constant activation",
    "constant prediction",
    "unparseable answer",
    "request failed",
]
"""Why a latent has no explanation or no score."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an explainer sees of one latent: fragments of the explaining split, and what it did on all of that split.

    `sample` holds fragments with their true codes; `token_sum` and `token_count` are, by token id, the sum
    of the latent's codes and the number of rows; `vocabulary` is the text of every token id by itself.
    """

    dictionary: str
    latent: int
    fragments: Fragments
    sample: Sample
    maximum: float
    density: float
    token_sum: Float64[ndarray, " vocabulary"]
    token_count: Int64[ndarray, " vocabulary"]
    vocabulary: Sequence[str]


@dataclass(frozen=True)
class Explanation:
    """A sentence for people, and in `body` (JSON) what the simulator of the same kind needs."""

    text: str
    explainer: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Skipped:
    """No answer, and why. Never a zero in its place."""

    reason: Reason


class Explainer(Protocol):
    """Says what latents respond to."""

    name: str

    def explain(self, evidences: Sequence[Evidence]) -> list[Explanation | Skipped]:
        """One answer for each latent, in order."""
        ...


class Simulator(Protocol):
    """Says how active a latent would be, given only an explanation and text."""

    name: str

    def simulate(
        self, explanations: Sequence[Explanation], fragments: Fragments, numbers: Sequence[Int64[ndarray, " piece"]]
    ) -> list[Float32[ndarray, "piece position"]]:
        """Expected activation from 0 to `LEVELS` of each token of the fragments `numbers[i]`, for explanation i.

        NaN where there is no answer: a failed request is missing, never zero.
        """
        ...
