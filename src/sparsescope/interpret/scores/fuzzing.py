"""Fuzzing: can the explanation tell on which tokens of a fragment a latent fires?

Every fragment where the latent is active is shown twice: once with the tokens marked on which it fires
strongly, once with equally many other tokens marked, on which it is silent. The answer is the mean
prediction over the marked tokens. Both kinds come from the same fragments, so topic does not help, and
the wrong marks of each fragment are drawn by themselves, anywhere in it.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from ...features.reservoirs import priorities
from ..base import Reason, Skipped
from .corpus import answered
from .detection import Discrimination, discrimination
from .resampling import Design, DocumentDraws, checked_lengths

MARKED_ABOVE = 0.3
"""Tokens are marked on which the code exceeds this share of the largest in the fragment, as in Delphi."""


def marks(
    codes: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    numbers: Int[np.ndarray, " fragment"],
    seed: int = 0,
) -> tuple[Bool[np.ndarray, "fragment position"], Bool[np.ndarray, "fragment position"]]:
    """Right and wrong marks, equally many in each fragment; none where it is never silent, or always.

    `numbers` are the fragments' numbers in their split: with the seed they decide the wrong marks, so
    that a fragment gets the same ones in whatever sample it is. Where too few tokens are silent, the
    strongest are marked.

    >>> right, wrong = marks(np.array([[0.0, 3.0, 0.0, 0.5]]), np.ones((1, 4), bool), np.array([0]))
    >>> right.astype(int).tolist(), int(wrong.sum()), bool((wrong[:, [1, 3]]).any())
    ([[0, 1, 0, 0]], 1, False)
    """
    checked_lengths(codes=codes, known=known)
    code = np.where(known, codes, 0).astype(np.float64)
    strong = (code > 0) & (code > MARKED_ABOVE * code.max(1, keepdims=True))
    silent = known & (code <= 0)
    wanted = np.minimum(strong.sum(1), silent.sum(1))[:, None]
    chance = priorities(seed, np.asarray(numbers), np.arange(codes.shape[1]))
    return _first(code, strong, wanted), _first(chance, silent, wanted)


def _first(
    keys: Float[np.ndarray, "fragment position"],
    among: Bool[np.ndarray, "fragment position"],
    wanted: Int[np.ndarray, "fragment 1"],
) -> Bool[np.ndarray, "fragment position"]:
    """In each fragment the `wanted` places with the largest keys `among` the given, of equal ones the earlier."""
    order = np.argsort(np.where(among, -keys, np.inf), axis=1, kind="stable")
    return among & (np.argsort(order, axis=1) < wanted)


def fuzzing(
    codes: Float[np.ndarray, "fragment position"],
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    numbers: Int[np.ndarray, " fragment"],
    design: Design,
    draws: DocumentDraws,
    *,
    seed: int = 0,
    missing: Reason = "unparseable answer",
) -> Discrimination:
    """Fuzzing of one latent by one explanation, from the active fragments of a stratified sample.

    Undefined for a latent that fires in no fragment, or that is silent on no token of those where it does.
    """
    checked_lengths(codes=codes, predicted=predicted, known=known)
    right, wrong = marks(codes, known, numbers, seed)
    marked, usable = right.any(1), answered(predicted, known)
    reason: Reason | None = None
    if not ((codes > 0) & known).any():
        reason = "never fires"
    elif not marked.any():
        reason = "fires on every token"
    elif not (marked & usable).any():
        reason = missing
    if reason is not None:
        return Discrimination(Skipped(reason), Skipped(reason))
    kept = design.keep(marked & usable)
    shown = predicted[marked & usable]
    answers = np.concatenate([_mean(shown, which[marked & usable]) for which in (right, wrong)])
    truth = np.arange(len(answers)) < len(shown)
    weights, resampled = (np.concatenate([w, w], -1) for w in (kept.weights, kept.resampled(draws.counts)))
    return discrimination(truth, answers, weights, resampled, kept.units)


def _mean(predicted: np.ndarray, marked: np.ndarray) -> np.ndarray:
    return np.where(marked, predicted, 0).sum(1) / marked.sum(1)
