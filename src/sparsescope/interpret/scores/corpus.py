"""Corpus ρ: how well predictions correlate with codes over the corpus as it is.

Top-activating text hides what an explanation says too much: a latent which fires on a tenth of some
word, explained as "that word", is nearly right on the fragments where it is most active, and nearly
always wrong elsewhere. So fragments are drawn by stratum, and every moment weights a fragment by N_h/n_h,
the number of fragments of the corpus that it stands for (Horvitz & Thompson 1952):

    S_ab = Σ_f (N_h(f) / n_h(f)) Σ_t a_t b_t      ρ = (S_1 S_xy − S_x S_y) / √((S_1 S_xx − S_x²)(S_1 S_yy − S_y²))

The interval is a symmetric studentised bootstrap over documents, on Fisher's scale z = artanh ρ, whose
standard error is the linearised (sandwich) one.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Float64

from ..base import Reason, Skipped
from .intervals import Score, studentised
from .resampling import Design, DocumentDraws, checked_lengths

_CLOSE = 1 - 1e-12  # a correlation nearer to 1 would have no finite z


def fragment_moments(
    codes: Float[np.ndarray, "fragment position"],
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
) -> Float64[np.ndarray, "fragment 6"]:
    """Σ1, Σx, Σy, Σx², Σxy, Σy² over the known tokens of each fragment, x the codes and y the predictions."""
    checked_lengths(codes=codes, predicted=predicted, known=known)
    x = np.where(known, codes, 0).astype(np.float64)
    y = np.where(known, predicted, 0).astype(np.float64)
    return np.stack([known.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1), (y * y).sum(1)], 1)


def correlation(sums: Float64[np.ndarray, "*batch 6"]) -> Float64[np.ndarray, "*batch"]:
    """Pearson's ρ, given the six sums; nan where x or y does not vary.

    >>> float(correlation(np.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])))  # (0, 0) and (1, 1)
    1.0
    """
    n, x, y, xx, xy, yy = np.moveaxis(sums, -1, 0)
    varies_x, varies_y = _varies(n, x, xx), _varies(n, y, yy)
    scale = np.sqrt(np.where(varies_x & varies_y, (n * xx - x * x) * (n * yy - y * y), 1))
    return np.where(varies_x & varies_y, np.clip((n * xy - x * y) / scale, -1, 1), math.nan)


def _varies(n: np.ndarray, total: np.ndarray, square: np.ndarray) -> np.ndarray:
    # What is left of a constant after rounding is no variance.
    return n * square - total * total > 1e-12 * n * square


def undefined(sums: Float64[np.ndarray, "6"]) -> Skipped | None:
    """Why these sums have no correlation; None when they have one."""
    n, x, y, xx, _, yy = sums
    if not xx > 0:
        return Skipped("never fires")
    if not _varies(n, x, xx):
        return Skipped("constant activation")
    return None if _varies(n, y, yy) else Skipped("constant prediction")


def answered(
    predicted: Float[np.ndarray, "fragment position"], known: Bool[np.ndarray, "fragment position"]
) -> Bool[np.ndarray, " fragment"]:
    """Fragments with a prediction at every known token: a fragment with less is missing, not zero."""
    return ~(np.isnan(predicted) & known).any(1) & known.any(1)


def corpus_rho(
    codes: Float[np.ndarray, "fragment position"],
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    design: Design,
    draws: DocumentDraws,
    *,
    missing: Reason = "unparseable answer",
) -> Score | Skipped:
    """Corpus ρ of one latent and one explanation, from a stratified sample of fragments.

    Unanswered fragments leave their stratum to the others in it; a stratum without any answer leaves the
    score undefined, for the reason `missing`.

    >>> from sparsescope.interpret.scores.resampling import draw_documents, natural
    >>> document = np.arange(8)
    >>> codes = np.random.default_rng(0).random((8, 4))
    >>> score = corpus_rho(codes, 3 * codes, codes >= 0, natural(document, 8), draw_documents(document))
    >>> round(score.value, 6)
    1.0
    """
    usable = answered(predicted, known)
    if not answers_every_stratum(design, usable):
        return Skipped(missing)
    kept = design.keep(usable)
    sums = fragment_moments(codes[usable], predicted[usable], known[usable])
    total = kept.weights @ sums
    if (reason := undefined(total)) is not None:
        return reason
    # Moments about the means lose no digits to large values that vary little.
    sums = _centred(sums, total)
    total = kept.weights @ sums
    weights = kept.resampled(draws.counts)
    replicates = weights @ sums
    ones = np.ones((1, draws.counts.shape[1]), np.float32)
    error = _fisher_error(total[None], kept.weights[None], sums, kept, ones)[0]
    errors = _fisher_error(replicates, weights, sums, kept, draws.counts)
    return studentised(float(_fisher(total)), float(error), _fisher(replicates), errors, kept.units)


def answers_every_stratum(design: Design, usable: Bool[np.ndarray, " fragment"]) -> bool:
    """Whether each stratum that was sampled still has a fragment."""
    return set(design.stratum[usable].tolist()) == set(design.stratum.tolist()) and bool(usable.any())


def _centred(
    sums: Float64[np.ndarray, "fragment 6"], total: Float64[np.ndarray, "6"]
) -> Float64[np.ndarray, "fragment 6"]:
    """The same sums, of x and y less their means."""
    n, x, y, xx, xy, yy = sums.T
    a, b = total[1] / total[0], total[2] / total[0]
    squares = (xx - 2 * a * x + a * a * n, xy - a * y - b * x + a * b * n, yy - 2 * b * y + b * b * n)
    return np.stack([n, x - a * n, y - b * n, *squares], 1)


def _fisher(sums: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(correlation(sums), -_CLOSE, _CLOSE))


def _gradient(sums: Float64[np.ndarray, "resample 6"]) -> Float64[np.ndarray, "resample 6"]:
    """∂z/∂sums, z = artanh ρ; zero where ρ is undefined."""
    n, x, y, xx, xy, yy = sums.T
    varies = _varies(n, x, xx) & _varies(n, y, yy)
    u, v = (np.where(varies, n * square - total * total, 1) for total, square in ((x, xx), (y, yy)))
    cross, scale = n * xy - x * y, np.sqrt(u * v)
    rho = np.clip(cross / scale, -_CLOSE, _CLOSE)
    columns = (
        xy / scale - rho * (xx / u + yy / v) / 2,
        -y / scale + rho * x / u,
        -x / scale + rho * y / v,
        -rho * n / (2 * u),
        n / scale,
        -rho * n / (2 * v),
    )
    return np.where(varies[:, None], np.stack(columns, 1) / (1 - rho * rho)[:, None], 0)


def _fisher_error(
    totals: Float64[np.ndarray, "resample 6"],
    weights: Float64[np.ndarray, "resample fragment"],
    sums: Float64[np.ndarray, "fragment 6"],
    design: Design,
    counts: Float[np.ndarray, "resample document"],
) -> Float64[np.ndarray, " resample"]:
    """Standard error of z in each bootstrap sample: √(Σ_d count_d · influence_d²).

    A document moves z by the mean influence of each stratum times its number of fragments there, and by
    what its own sampled fragments differ from that mean. z does not change when all sums are scaled, so
    influences sum to zero by themselves.
    """
    strata = design.population.shape[1]
    member = (design.stratum[:, None] == np.arange(strata)).astype(np.float64)
    influence = _gradient(totals) @ sums.T
    sizes = weights @ member
    means = (weights * influence) @ member / np.where(sizes > 0, sizes, 1)
    # `weights` hold each document's count already; what one copy of it contributes is wanted here.
    drawn = np.take(counts, design.document, 1).astype(np.float64)
    own = (influence - np.take(means, design.stratum, 1)) * (weights / np.where(drawn > 0, drawn, 1))
    moved = means @ design.population.T
    order = np.argsort(design.document, kind="stable")
    documents, begins = np.unique(design.document[order], return_index=True)
    moved[:, documents] += np.add.reduceat(np.take(own, order, 1), begins, axis=1)
    n = counts.shape[1]
    return np.sqrt((counts * moved**2).sum(1) * (n / max(n - 1, 1)))
