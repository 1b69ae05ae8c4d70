"""From bootstrap replicates to intervals: of one latent, and of the mean over the latents of a dictionary."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from ...errors import ConfigurationError
from ...metrics.statistics import LEVEL, Estimate
from ..base import Skipped


@dataclass(frozen=True, eq=False)
class Score:
    """An estimate, and its value in every bootstrap sample of the documents (nan where undefined there)."""

    estimate: Estimate
    replicates: Float64[np.ndarray, " resample"]

    @property
    def value(self) -> float:
        return self.estimate.value


def percentile(
    value: float, replicates: Float[np.ndarray, " resample"], n: int, *, unit: str = "document", level: float = LEVEL
) -> Score:
    """A score whose interval is the middle `level` of its replicates.

    Unbounded with a single unit, or where more than half of the replicates are undefined. The interval
    is widened to hold `value` where the bootstrap is so biased that it would not.

    >>> print(percentile(0.5, np.linspace(0, 1, 101), 9).estimate)
    0.500 [0.025, 0.975]
    """
    replicates = np.asarray(replicates, np.float64)
    finite = replicates[np.isfinite(replicates)]
    if n < 2 or 2 * len(finite) < len(replicates):
        return Score(Estimate(value, -math.inf, math.inf, n, unit), replicates)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Score(Estimate(value, min(float(low), value), max(float(high), value), n, unit), replicates)


def studentised(
    value: float,
    error: float,
    replicates: Float[np.ndarray, " resample"],
    errors: Float[np.ndarray, " resample"],
    n: int,
    *,
    level: float = LEVEL,
    back: Callable[[np.ndarray], np.ndarray] = np.tanh,
) -> Score:
    """A symmetric studentised bootstrap interval, on a scale from which `back` leads to the score's own.

    value ± error · q, with q the `level` quantile of |replicate − value| / its own standard error. It
    covers better than percentiles where the estimate is skewed and few fragments carry it.
    Source: Hall 1988; Davison & Hinkley 1997, §5.2. With the Fisher transformation, `back` is tanh.
    """
    own = back(np.asarray(replicates, np.float64))
    usable = np.isfinite(replicates) & np.isfinite(errors) & (errors > 0)
    point = float(back(np.float64(value)))
    if n < 2 or not math.isfinite(error) or 2 * usable.sum() < len(own):
        return Score(Estimate(point, -math.inf, math.inf, n), own)
    reach = error * float(np.quantile(np.abs(replicates[usable] - value) / errors[usable], level))
    low, high = back(np.array([value - reach, value + reach]))
    return Score(Estimate(point, min(float(low), point), max(float(high), point), n), own)


def skipped(scores: Sequence[Score | Skipped]) -> dict[str, int]:
    """How many latents have no score, by reason, the most frequent first.

    >>> skipped([Skipped("never fires"), Skipped("never fires"), Skipped("constant prediction")])
    {'never fires': 2, 'constant prediction': 1}
    """
    return dict(Counter(score.reason for score in scores if isinstance(score, Skipped)).most_common())


def values(scores: Sequence[Score | Skipped]) -> Float64[np.ndarray, " latent"]:
    """The value of every latent; nan for those without a score."""
    return np.array([math.nan if isinstance(score, Skipped) else score.value for score in scores], np.float64)


def mean_over_latents(
    scores: Sequence[Score | Skipped],
    *,
    seeds: Sequence[int] | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> Score:
    """The mean over the latents that have a score, with the interval of a two-level bootstrap.

    In replicate r, latents are drawn with replacement, and each brings what it was in the r-th bootstrap
    sample of the documents, which is the same for all of them. With `seeds`, the training seed that each
    latent comes from, seeds are drawn first and latents within them. What is added to a latent's value is
    how far its replicate lies from the mean of its replicates: a bootstrap mean is itself biased.

    The latents' spread already holds part of the noise of the documents, so the interval errs to the wide
    side. `estimate.n` is the number of latents scored, `unit` "latent". Source: Davison & Hinkley 1997, §3.8.
    """
    scored = [score for score in scores if isinstance(score, Score)]
    of_seed = None
    if seeds is not None:
        of_seed = np.array([one for one, score in zip(seeds, scores, strict=True) if isinstance(score, Score)])
    if not scored:
        return Score(Estimate(math.nan, -math.inf, math.inf, 0, "latent"), np.empty(0))
    table = shifted_replicates(scored)
    drawn = draw_latents_within(len(scored), len(table), of_seed, seed)
    means = np.take_along_axis(table, drawn, axis=1).mean(1)
    return percentile(float(values(scored).mean()), means, len(scored), unit="latent", level=level)


def shifted_replicates(scores: Sequence[Score]) -> Float64[np.ndarray, "resample latent"]:
    """Each latent's value plus how far each of its replicates lies from their mean.

    Where a replicate is undefined another one of the same latent stands in; a latent without any keeps
    its value.
    """
    lengths = {len(score.replicates) for score in scores}
    if len(lengths) != 1:
        raise ConfigurationError(f"scores have {sorted(lengths)} replicates: draw documents once, for all of them.")
    columns = []
    for score in scores:
        finite = score.replicates[np.isfinite(score.replicates)]
        filled = np.resize(finite, len(score.replicates)) if len(finite) else np.zeros(len(score.replicates))
        if len(finite) == len(filled):
            filled = score.replicates
        columns.append(score.value + filled - filled.mean())
    return np.stack(columns, 1)


def draw_latents_within(
    latents: int, resamples: int, seeds: np.ndarray | None, seed: int
) -> Int[np.ndarray, "resample latent"]:
    """For each replicate, which latents are in it: drawn with replacement, within training seeds if given.

    Two dictionaries with as many latents get the same draws, so that one set of latents, scored twice,
    is compared latent by latent.
    """
    generator = np.random.default_rng([seed, latents, 0x1A7])
    if seeds is None or len(np.unique(seeds)) < 2:
        return generator.integers(0, latents, (resamples, latents))
    members = [np.flatnonzero(seeds == one) for one in np.unique(seeds)]
    drawn = np.empty((resamples, latents), np.int64)
    for row in drawn:
        chosen = generator.integers(0, len(members), len(members))
        pool = np.concatenate([generator.choice(members[one], len(members[one])) for one in chosen])
        # Seeds may have unequal numbers of latents: a row is filled by going round its pool.
        row[:] = np.resize(generator.permutation(pool), latents)
    return drawn
