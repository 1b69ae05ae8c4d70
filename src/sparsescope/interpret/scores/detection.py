"""Detection: can the explanation tell in which fragments a latent fires?

A fragment is predicted to be active by its largest prediction. Fragments are weighted to natural
frequency, so the silent ones, most of the corpus, are where they belong.

    AUROC               the chance that a fragment where it fires is given more than one where it does not
    balanced accuracy   (sensitivity + specificity) / 2, active being predicted from 1 of 10 upwards

Both are 0.5 for a constant prediction: detection knows no undefined answer there, only an uninformed one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from ..base import Reason, Skipped
from .corpus import answered, answers_every_stratum
from .intervals import Score, percentile
from .resampling import Design, DocumentDraws, checked_lengths

ACTIVE_FROM = 1.0
"""The least prediction, of 10, that counts as "active"."""


@dataclass(frozen=True, eq=False)
class Discrimination:
    """How well predictions tell what is true from what is not."""

    auroc: Score | Skipped
    balanced_accuracy: Score | Skipped


def auroc(
    truth: Bool[np.ndarray, " item"],
    predicted: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, "*batch item"],
) -> Float64[np.ndarray, "*batch"]:
    """Area under the ROC curve of weighted items, ties counting half; nan without both kinds.

    Source: Hanley & McNeil 1982. One value for each row of `weights`.

    >>> float(auroc(np.array([True, False, False]), np.array([2.0, 1.0, 2.0]), np.array([1.0, 3.0, 1.0])))
    0.875
    """
    order = np.argsort(predicted, kind="stable")
    begins = np.flatnonzero(np.diff(predicted[order], prepend=np.nan) != 0)  # of each group of equal predictions
    ranked = np.take(np.asarray(weights, np.float64), order, -1)
    given, taken = (
        np.add.reduceat(np.where(kind, ranked, 0), begins, axis=-1) for kind in (truth[order], ~truth[order])
    )
    mass = given.sum(-1) * taken.sum(-1)
    won = (given * (np.cumsum(taken, -1) - taken / 2)).sum(-1)
    return np.where(mass > 0, np.clip(won / np.where(mass > 0, mass, 1), 0, 1), np.nan)


def balanced_accuracy(
    truth: Bool[np.ndarray, " item"],
    predicted: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, "*batch item"],
    threshold: float = ACTIVE_FROM,
) -> Float64[np.ndarray, "*batch"]:
    """Mean of the shares of true and of false items that are called right; nan without both kinds.

    >>> float(balanced_accuracy(np.array([True, False, False]), np.array([2.0, 0.0, 9.0]), np.ones(3)))
    0.75
    """
    correct = (predicted >= threshold) == truth
    columns = np.stack([truth, ~truth, truth & correct, ~truth & correct], 1).astype(np.float64)
    given, taken, hit, spared = np.moveaxis(np.asarray(weights, np.float64) @ columns, -1, 0)
    both = (given > 0) & (taken > 0)
    shares = hit / np.where(both, given, 1) + spared / np.where(both, taken, 1)
    return np.where(both, shares / 2, np.nan)


def discrimination(
    truth: Bool[np.ndarray, " item"],
    predicted: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, " item"],
    resampled: Float[np.ndarray, "resample item"],
    units: int,
) -> Discrimination:
    """Both numbers with percentile intervals, given each item's weight in every bootstrap sample."""
    return Discrimination(
        *(
            percentile(float(measure(truth, predicted, weights)), measure(truth, predicted, resampled), units)
            for measure in (auroc, balanced_accuracy)
        )
    )


def detection(
    codes: Float[np.ndarray, "fragment position"],
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    design: Design,
    draws: DocumentDraws,
    *,
    missing: Reason = "unparseable answer",
) -> Discrimination:
    """Detection of one latent by one explanation, from a stratified sample of fragments.

    Undefined for a latent that fires in no fragment of the sample, or in every one ("constant activation").
    """
    checked_lengths(codes=codes, predicted=predicted, known=known)
    usable = answered(predicted, known)
    fires = ((codes > 0) & known).any(1)
    reason: Reason | None = None
    if not fires.any():
        reason = "never fires"
    elif fires.all():
        reason = "constant activation"
    elif not answers_every_stratum(design, usable):
        reason = missing
    if reason is not None:
        return Discrimination(Skipped(reason), Skipped(reason))
    kept = design.keep(usable)
    largest = np.where(known, predicted, -np.inf).max(1)[usable]
    return discrimination(fires[usable], largest, kept.weights, kept.resampled(draws.counts), kept.units)
