"""Truth: which label of a story a latent stands for, how well, and which automatic score knows it.

A latent stands for the label of the stories that fits it best on the explaining split; how well, is its F1
on the documents of the scoring split, beside the F1 with that label shifted along the text (`matching`).
Only documents that have labels count: of others nobody knows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..activations.base import Activations
from ..dictionaries.base import Dictionary
from ..errors import ConfigurationError
from ..features.coding import coded, rows_of
from ..features.memory import CodeMemory
from ..metrics.statistics import Estimate
from .base import Skipped
from .comparison import correlation_over_latents
from .labels import LabelledTokens, candidates
from .matching import PERMUTATIONS, best_labels


@dataclass(frozen=True)
class LatentTruth:
    """The label that a latent stands for, and its F1 on documents that the label was not chosen on.

    `value` is None where the label is meant whatever its value. `threshold` is the share of the largest
    code above which the latent counts as firing, `chosen_at` the F1 on the explaining split, `null` the
    mean F1 of the null and `p` = (1 + number of null F1 ≥ F1) / (1 + number of null F1).
    """

    latent: int
    name: str
    value: str | None
    threshold: float
    f1: Estimate
    chosen_at: float
    null: float
    p: float

    @property
    def above_null(self) -> float:
        """F1 less the mean F1 of the null."""
        return self.f1.value - self.null


def truth(
    dictionary: Dictionary,
    store: Activations,
    latents: Sequence[int] | Int64[np.ndarray, " latent"],
    explaining: LabelledTokens,
    scoring: LabelledTokens,
    *,
    site: str | None = None,
    permutations: int = PERMUTATIONS,
    memory: CodeMemory | None = None,
    seed: int = 0,
) -> list[LatentTruth | Skipped]:
    """What each latent stands for: chosen on the `explaining` tokens, measured on the `scoring` ones.

    Latents that fire on no labelled document of the explaining split are skipped. Raises
    `ConfigurationError` where no label is frequent enough in both splits.
    """
    numbers = np.asarray(latents, np.int64)
    at = site or dictionary.provenance.site
    if at is None:
        raise ConfigurationError(
            f"this {dictionary.method} dictionary does not say which site it belongs to: give site=."
        )
    names = candidates(explaining, scoring)
    measured = best_labels(
        codes_of(dictionary, store, at, numbers, explaining, memory),
        codes_of(dictionary, store, at, numbers, scoring, memory),
        explaining.table(names),
        scoring.table(names),
        scoring.document,
        permutations=permutations,
        seed=seed,
    )
    return [
        Skipped("never fires")
        if best is None
        else LatentTruth(latent, *names[best.label], best.threshold, best.f1, best.chosen_at, best.null, best.p)
        for latent, best in zip(numbers.tolist(), measured, strict=True)
    ]


def codes_of(
    dictionary: Dictionary,
    store: Activations,
    site: str,
    latents: Int64[np.ndarray, " latent"],
    tokens: LabelledTokens,
    memory: CodeMemory | None = None,
) -> Any:
    """scipy CSC, row × latent: the positive codes of `latents` on the labelled tokens."""
    from scipy.sparse import csc_matrix

    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for chunk in coded(dictionary, store, site, rows_of(tokens.fragments, store), latents, memory=memory):
        inside = chunk.fragment < chunk.fragments
        row = tokens.row[chunk.first + chunk.fragment[inside], chunk.offset[inside]]
        parts.append((row[row >= 0], chunk.place[inside][row >= 0], chunk.code[inside][row >= 0]))
    row, place, code = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return csc_matrix((code, (row, place)), shape=(len(tokens), len(latents)))


@dataclass(frozen=True)
class Ranking:
    """How well a score predicts truth: Spearman's ρ over latents. `demoted` when its interval reaches zero."""

    score: str
    agreement: Estimate

    @property
    def demoted(self) -> bool:
        return not self.agreement.low > 0


def rank_scores(
    scores: Mapping[str, Float[np.ndarray, " latent"]],
    f1: Float[np.ndarray, " latent"],
    *,
    dictionaries: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Ranking]:
    """Every score's rank correlation with F1, or F1 above the null, over latents, the best predictor first.

    A latent without a score (nan) is left out of that score's.

    With `dictionaries`, the dictionary that each latent is from, those are resampled first: the interval
    then says what to expect in other dictionaries.

    >>> f1 = np.linspace(0, 1, 20)
    >>> [ranking.score for ranking in rank_scores({"useless": np.cos(40 * f1), "good": f1**2}, f1)]
    ['good', 'useless']
    """
    rankings = [
        Ranking(name, correlation_over_latents(np.asarray(values), f1, groups=dictionaries, seed=seed))
        for name, values in scores.items()
    ]
    return sorted(rankings, key=lambda ranking: -np.nan_to_num(ranking.agreement.value, nan=-math.inf))
