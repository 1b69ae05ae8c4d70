"""Bills ρ: the score of the paper, for comparison with what others publish.

Five fragments where the latent is most active and five drawn from everywhere; Pearson over all their
tokens, laid end to end (not a mean of ten correlations), between the codes and the expected activations
0 to 10 that the explanation leads to:

    top-and-random   all ten fragments      top   the first five      random   the last five

Sources: Bills et al. 2023; Cunningham et al. 2023, whose code takes every fourth of the 20 strongest
fragments, from rank 0 to explain and from rank 2 to score, and correlates the codes as they are: only the
explainer is shown them as integers (`quantise`). Random fragments are drawn here from all of them, as
Bills et al. do; the paper's code rejects those in which the latent is silent, and so never sees what an
explanation wrongly predicts. The interval comes from ten fragments: it is wide, and rough.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..base import Reason, Skipped
from .corpus import answered, correlation, fragment_moments, undefined
from .intervals import Score, percentile
from .quantise import quantise
from .resampling import DocumentDraws

SCORED = 5
"""Fragments of either kind."""

TOP_RANKS = (2, 6, 10, 14, 18)
RANDOM_RANKS = (1, 4, 7, 10, 13)
"""Which of the 20 strongest and of the random fragments are scored, as in the paper."""


@dataclass(frozen=True, eq=False)
class Bills:
    """The score on all ten fragments, on the five strongest, and on the five random ones."""

    top_and_random: Score | Skipped
    top: Score | Skipped
    random: Score | Skipped


def ranks(available: int, asked: tuple[int, ...]) -> list[int] | None:
    """The ranks `asked` where there are as many fragments, else evenly spread ones; None with too few.

    >>> ranks(20, TOP_RANKS), ranks(8, TOP_RANKS), ranks(4, TOP_RANKS)
    ([2, 6, 10, 14, 18], [0, 2, 4, 5, 7], None)
    """
    if available < len(asked):
        return None
    if available > asked[-1]:
        return list(asked)
    return [int((i + 0.5) * available / len(asked)) for i in range(len(asked))]


def bills_rho(
    codes: Float[np.ndarray, "fragment position"],
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    *,
    quantised: bool = False,
) -> float | Skipped:
    """Pearson over the known tokens of all fragments laid end to end.

    `quantised` correlates the codes as integers 0 to 10 instead, the largest code of these fragments
    being 10. Fragments without an answer are left out. `Skipped` where codes or predictions are constant.

    >>> codes = np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    >>> bills_rho(codes, 5 * codes, codes >= 0)
    1.0
    """
    sums = _sums(codes, predicted, known, quantised).sum(0)
    return _reason(sums) or float(correlation(sums))


def bills(
    codes: Float[np.ndarray, "fragment position"],
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    top: Bool[np.ndarray, " fragment"],
    document: Int[np.ndarray, " fragment"],
    draws: DocumentDraws,
    *,
    quantised: bool = False,
    missing: Reason = "unparseable answer",
) -> Bills:
    """The three scores of one latent; `top` says which fragments are the strong ones.

    A kind of which no fragment was answered leaves its scores undefined, for the reason `missing`.
    """
    usable = answered(predicted, known)
    sums = _sums(codes, predicted, known & usable[:, None], quantised)
    place = draws.places(document)

    def score(chosen: np.ndarray, kinds: list[np.ndarray]) -> Score | Skipped:
        if not all((kind & usable).any() for kind in kinds):
            return Skipped(missing)
        return _score(sums, chosen & usable, kinds, place, draws)

    return Bills(
        score(np.ones(len(top), bool), [top, ~top]),
        score(top, [top]),
        score(~top, [~top]),
    )


def _sums(codes: np.ndarray, predicted: np.ndarray, known: np.ndarray, quantised: bool) -> np.ndarray:
    shown = np.where(known, codes, 0)
    return fragment_moments(quantise(shown) if quantised else shown, predicted, known)


def _reason(total: np.ndarray) -> Skipped | None:
    reason = undefined(total)
    # Silent on these few fragments is not yet silent everywhere.
    return Skipped("constant activation") if reason == Skipped("never fires") else reason


def _score(
    sums: np.ndarray, chosen: np.ndarray, kinds: list[np.ndarray], place: np.ndarray, draws: DocumentDraws
) -> Score | Skipped:
    total = sums[chosen].sum(0)
    if (reason := _reason(total)) is not None:
        return reason
    weights = draws.counts[:, place].astype(np.float64) * chosen
    complete = np.ones(len(weights), bool)
    for kind in kinds:
        # There are always as many fragments of either kind, whatever documents are drawn.
        drawn = weights[:, kind].sum(1)
        weights[:, kind] *= ((kind & chosen).sum() / np.where(drawn > 0, drawn, 1))[:, None]
        complete &= drawn > 0
    replicates = np.where(complete, correlation(weights @ sums), math.nan)
    return percentile(float(correlation(total)), replicates, len(np.unique(place[chosen])))
