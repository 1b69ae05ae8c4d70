"""Are the latents of a dictionary better explained than those of its controls, and by how much?

What counts is not a score but its excess over the best control: the one, of those that the run contains,
whose mean is highest. Choosing the highest after the fact errs against the dictionary.

    excess          mean score − mean score of the best control
    Cliff's δ       P(a > b) − P(a < b), a latent of the dictionary against one of the control
    p               that both score alike (Mann–Whitney, two-sided), corrected over dictionaries
                    by Benjamini & Hochberg 1995
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64

from ..errors import ConfigurationError
from ..metrics.statistics import LEVEL, Estimate
from .base import Skipped
from .scores.intervals import (
    Score,
    draw_latents_within,
    mean_over_latents,
    percentile,
    shifted_replicates,
    skipped,
    values,
)

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Comparison:
    """One dictionary against the best control. `control` is None where no control has a score.

    `p` is uncorrected, `q` corrected over all dictionaries compared together; nan without a control.
    """

    mean: Estimate
    skipped: Mapping[str, int]
    control: str | None
    excess: Estimate
    delta: Estimate
    p: float
    q: float


def compare(
    scores: Mapping[str, Sequence[Score | Skipped]],
    controls: Mapping[str, Sequence[Score | Skipped]],
    *,
    seeds: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Every dictionary in `scores` against the best of `controls`, by name; one kind of score at a time.

    All scores come from the same document draws. `seeds` gives, for dictionaries trained with several
    seeds, the seed of each latent. A dictionary that is itself among the controls is compared with the
    others. Latents without a score are left out, and counted.
    """
    of_seeds = dict(seeds or {})
    means = {
        name: mean_over_latents(items, seeds=of_seeds.get(name), seed=seed)
        for name, items in {**controls, **scores}.items()
    }
    found: dict[str, Comparison] = {}
    for name, items in scores.items():
        control = best_control({key: means[key] for key in controls if key != name})
        nothing = Estimate(math.nan, -math.inf, math.inf, means[name].estimate.n, "latent")
        difference, delta, p = nothing, nothing, math.nan
        if control is not None and means[name].estimate.n:
            difference = excess(means[name], means[control])
            delta = cliffs_delta_estimate(
                items, controls[control], seeds=(of_seeds.get(name), of_seeds.get(control)), seed=seed
            )
            p = p_value(values(items), values(controls[control]))
        found[name] = Comparison(means[name].estimate, skipped(items), control, difference, delta, p, p)
    corrected = benjamini_hochberg(np.array([item.p for item in found.values()]))
    return {name: replace(item, q=float(q)) for (name, item), q in zip(found.items(), corrected, strict=True)}


def best_control(means: Mapping[str, Score]) -> str | None:
    """The name with the highest mean; of equal ones the first; None where none has a mean."""
    known = [name for name, mean in means.items() if math.isfinite(mean.value)]
    return max(known, key=lambda name: means[name].value) if known else None


def excess(mean: Score, control: Score) -> Estimate:
    """`mean` − `control`, replicate by replicate: what both owe to the same documents cancels."""
    n = min(mean.estimate.n, control.estimate.n)
    return percentile(mean.value - control.value, mean.replicates - control.replicates, n, unit="latent").estimate


def cliffs_delta(a: Float[np.ndarray, " latent"], b: Float[np.ndarray, " control"]) -> float:
    """P(a > b) − P(a < b) over all pairs; undefined values are left out, nan where none remains.

    Source: Cliff 1993, "Dominance statistics".

    >>> cliffs_delta(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))
    0.5
    """
    a, b = a[~np.isnan(a)], np.sort(b[~np.isnan(b)])
    if not len(a) or not len(b):
        return math.nan
    above = np.searchsorted(b, a, side="left").sum(dtype=np.int64)
    not_below = np.searchsorted(b, a, side="right").sum(dtype=np.int64)
    return float(above + not_below - len(a) * len(b)) / (len(a) * len(b))


def cliffs_delta_estimate(
    scores: Sequence[Score | Skipped],
    controls: Sequence[Score | Skipped],
    *,
    seeds: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None),
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Cliff's δ with the interval of the two-level bootstrap of `mean_over_latents`."""
    sides = []
    for items, of_seed in zip((scores, controls), seeds, strict=True):
        scored = [place for place, item in enumerate(items) if isinstance(item, Score)]
        if not scored:
            return Estimate(math.nan, -math.inf, math.inf, 0, "latent")
        table = shifted_replicates([item for item in items if isinstance(item, Score)])
        kept = None if of_seed is None else np.array([of_seed[place] for place in scored])
        sides.append(np.take_along_axis(table, draw_latents_within(len(scored), len(table), kept, seed), axis=1))
    replicates = np.array([cliffs_delta(a, b) for a, b in zip(*sides, strict=True)])
    n = min(side.shape[1] for side in sides)
    value = cliffs_delta(values(scores), values(controls))
    return percentile(value, replicates, n, unit="latent", level=level).estimate


def p_value(a: Float[np.ndarray, " latent"], b: Float[np.ndarray, " control"]) -> float:
    """Two-sided p value of Mann & Whitney's test with tie correction; nan with nothing to compare."""
    from scipy.stats import mannwhitneyu

    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not len(a) or not len(b):
        return math.nan
    if np.ptp(np.concatenate([a, b])) == 0:
        return 1.0
    return float(mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue)


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float64[np.ndarray, " test"]:
    """p values corrected for the false discovery rate; nan, a test that was not made, stays nan and counts for nothing.

        q_(i) = min over j ≥ i of min(1, p_(j) · m / j), p_(1) ≤ … ≤ p_(m)

    >>> benjamini_hochberg(np.array([0.04, 0.01, np.nan, 0.03])).round(3).tolist()
    [0.04, 0.03, nan, 0.04]
    """
    p = np.asarray(p, np.float64)
    made = np.flatnonzero(~np.isnan(p))
    if ((p[made] < 0) | (p[made] > 1)).any():
        raise ConfigurationError("a p value lies outside 0 to 1.")
    order = made[np.argsort(p[made], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    corrected = np.full(len(p), math.nan)
    corrected[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return corrected


def correlations(
    scores: Sequence[Score | Skipped],
    statistic: Float[np.ndarray, " latent"],
    *,
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Correlation over latents of a score with kurtosis, skew or density: "pearson", as in the paper, and "spearman".

    The interval is by bootstrap over latents, with `groups` (the dictionary of each) over those first. Kurtosis has
    a few enormous values, on which Pearson's correlation may rest alone: read Spearman's.
    """
    found = values(scores)
    return {
        "pearson": correlation_over_latents(found, statistic, ranked=False, groups=groups, seed=seed),
        "spearman": correlation_over_latents(found, statistic, groups=groups, seed=seed),
    }


def correlation_over_latents(
    a: Float[np.ndarray, " latent"],
    b: Float[np.ndarray, " latent"],
    *,
    ranked: bool = True,
    groups: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Correlation (of ranks, unless told not to) with the percentile interval of a bootstrap over latents.

    Latents with an undefined value are left out. With `groups` (the dictionary of each latent), groups
    are drawn with replacement first, and latents within them. nan with fewer than 3 latents, or where
    one side does not vary.

    >>> correlation_over_latents(np.arange(9.0), np.arange(9.0) ** 3).value
    1.0
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    kept = np.isfinite(a) & np.isfinite(b)
    a, b = a[kept], b[kept]
    if len(a) < 3:
        return Estimate(math.nan, -math.inf, math.inf, len(a), "latent")
    of_group = None if groups is None else np.asarray(groups)[kept]
    drawn = draw_latents_within(len(a), resamples, of_group, seed)
    value = _pearson(_ranks(a[None]) if ranked else a[None], _ranks(b[None]) if ranked else b[None])[0]
    x, y = a[drawn], b[drawn]
    replicates = _pearson(_ranks(x), _ranks(y)) if ranked else _pearson(x, y)
    return percentile(float(value), replicates, len(a), unit="latent").estimate


def _ranks(rows: Float64[np.ndarray, "row item"]) -> Float64[np.ndarray, "row item"]:
    """Ranks within each row, equal values sharing the mean of theirs."""
    from scipy.stats import rankdata

    return rankdata(rows, axis=1)


def _pearson(a: Float64[np.ndarray, "row item"], b: Float64[np.ndarray, "row item"]) -> Float64[np.ndarray, " row"]:
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    # What is left of a constant after rounding is no variance.
    return np.where(scale > 1e-12, np.clip((a * b).sum(1) / np.where(scale > 1e-12, scale, 1), -1, 1), math.nan)
