"""One card for every latent of a dictionary, dead ones too: what a table of latents shows, sorts and searches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from .card_schema import SHIFT

DENSE = 0.1
"""A latent active on more than this share of rows is dense."""
BINS = 30
LABELLED = 0.05
"""A label that agrees with a latent by a lower F1 says nothing of it."""
SORTABLE = ("density", "maximum", "entropy", "score", "f1", "effect")
"""Numbers of a card that latents can be sorted and chosen by, beside that of the latent."""


@dataclass(frozen=True)
class Card:
    """What a table of latents shows of one; None where a number is undefined or was not measured.

    `density` is the share of rows where the latent is active (0: dead), `maximum` its largest code, both on
    the test split; `entropy` of its tokens in nats. `score` is the corpus ρ of the explanation. `label` is the
    truth label that it predicts best, with the threshold, and `f1` how well. `effect` is the mean
    KL(clean ‖ ablated) of the next token in nats over its strongest contexts. `tokens` are the tokens with the
    most of its activation, and their share of it.
    """

    dictionary: int
    latent: int
    density: float
    maximum: float
    entropy: float | None = None
    explainer: str | None = None
    explanation: str | None = None
    score: float | None = None
    label: str | None = None
    f1: float | None = None
    effect: float | None = None
    tokens: tuple[tuple[str, float], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether its label says something of it."""
        return self.label is not None and self.f1 is not None and self.f1 >= LABELLED


@dataclass(frozen=True, eq=False)
class Histogram:
    """How strong a latent is where it is active: `counts` of rows in equal bins from 0 to its maximum.

    `active` of the `rows` looked at have a positive code.
    """

    counts: Int64[np.ndarray, " bin"]
    active: int
    rows: int


@dataclass(frozen=True, eq=False)
class Detail:
    """What only a latent's own page shows.

    `firing` tells on which fragments of the test corpus the latent is active. `effect` is JSON: "kl" (an
    estimate), "contexts", "raised" and "lowered" ([token text, mean change of its probability as the next
    token], clean less ablated), and "control", the KL when a random other active latent is ablated at the same places.
    """

    histogram: Histogram | None = None
    firing: Bool[np.ndarray, " fragment"] | None = None
    effect: Mapping[str, Any] | None = None


def card_id(dictionary: int, latent: int) -> int:
    """The row of a card."""
    return (dictionary << SHIFT) + latent


def cards_of(dictionary: int) -> tuple[int, int]:
    """The first and the last row that a card of a dictionary can have."""
    return card_id(dictionary, 0), card_id(dictionary + 1, 0) - 1
