"""Do automatic scores rank latents as people do, and do people agree with one another?

Agreement is Spearman's rank correlation over latents. What was measured is a sample of latents, so intervals
resample latents, each with all its scores and all its ratings; ranks are taken anew in every resample.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from ..errors import ConfigurationError
from ..features.ratings import Rating
from ..metrics.statistics import LEVEL, RESAMPLES, Estimate, ratio_of_sums, resampled_sums

FEWEST = 3
"""Of fewer latents no rank correlation is given."""

Column = Float64[ndarray, " latent"]
Weights = Float64[ndarray, "resample latent"]


@dataclass(frozen=True)
class Agreement:
    """Rank correlations over latents, each with an interval, and how many latents each rests on.

    `with_people` holds one for every automatic score, against the mean rating of the people who rated a
    latent. `pairs` holds one for every two people, over the latents that both rated, `between_people` the
    mean of those. `with_others` holds each person against the mean of the others on the same latents: a
    score that reaches these numbers agrees with people as well as one more person would.
    """

    with_people: dict[str, Estimate]
    pairs: dict[tuple[str, str], Estimate]
    between_people: Estimate
    with_others: dict[str, Estimate]
    rated: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "with_people": {name: found.to_dict() for name, found in self.with_people.items()},
            "pairs": [{"raters": list(pair), **found.to_dict()} for pair, found in self.pairs.items()],
            "between_people": self.between_people.to_dict(),
            "with_others": {rater: found.to_dict() for rater, found in self.with_others.items()},
            "rated": dict(self.rated),
        }


def agreement(
    scores: Mapping[str, Mapping[Hashable, float]],
    ratings: Mapping[str, Mapping[Hashable, float]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Agreement:
    """How every automatic score, and every person, agrees with people.

    `scores[name][latent]` is an automatic score, `ratings[rater][latent]` what a person gave; a latent is
    anything hashable, such as (dictionary, number), and is absent, or NaN, where there is no number. All
    intervals use the same resamples of latents, so that two scores can be compared.

    >>> found = agreement({"rho": {1: 0.1, 2: 0.3, 3: 0.9}}, {"ann": {1: 1, 2: 4, 3: 5}, "bo": {1: 2, 2: 3, 3: 5}})
    >>> found.with_people["rho"].value, found.pairs["ann", "bo"].value
    (1.0, 1.0)
    """
    latents = list(dict.fromkeys(latent for given in ratings.values() for latent in given))
    people = _table(ratings, latents)
    automatic = _table(scores, latents)
    weights = _weights(len(latents), resamples, seed)
    mean = _mean_over(list(people.values()), len(latents))
    pairs = {
        (a, b): _spearman(people[a], people[b], weights, level)
        for a, b in combinations(people, 2)
        if np.isfinite(people[a] * people[b]).any()
    }
    others = {
        rater: _mean_over([column for name, column in people.items() if name != rater], len(latents))
        for rater in people
    }
    return Agreement(
        with_people={name: _spearman(column, mean, weights, level) for name, column in automatic.items()},
        pairs=pairs,
        between_people=_mean_of_pairs(people, list(pairs), weights, level),
        with_others={rater: _spearman(people[rater], others[rater], weights, level) for rater in people}
        if len(people) > 1
        else {},
        rated={rater: int(np.isfinite(column).sum()) for rater, column in people.items()},
    )


def spearman(
    x: Float[ndarray, " latent"],
    y: Float[ndarray, " latent"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Spearman's rank correlation (midranks for ties), with a percentile interval from resampled latents.

    Places where either is NaN are left out. Undefined (NaN) for fewer than three latents and for a constant.
    A resample in which it is undefined counts as −1 for the lower end and as 1 for the upper one, which
    only widens the interval.

    Source: Efron & Tibshirani 1993, ch. 13; Spearman 1904.

    >>> spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 40.0, 30.0])).value
    0.8
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ConfigurationError(f"numbers of shapes {x.shape} and {y.shape}, expected one of each for every latent.")
    return _spearman(x, y, _weights(len(x), resamples, seed), level)


def grades(ratings: Sequence[Rating]) -> dict[str, dict[Hashable, float]]:
    """The grade of monosemanticity by rater and (dictionary, latent), of those that were given: for `agreement`.

    >>> grades([Rating("sae", 7, "ann", "2030-01-01T12:00:00+00:00", monosemanticity=4)])
    {'ann': {('sae', 7): 4.0}}
    """
    found: dict[str, dict[Hashable, float]] = {}
    for each in ratings:
        if each.monosemanticity is not None:
            found.setdefault(each.rater, {})[each.dictionary, each.latent] = float(each.monosemanticity)
    return found


def intruders(ratings: Sequence[Rating]) -> dict[str, dict[Hashable, float]]:
    """1 where a rater found the intruder, 0 where not, by rater and (dictionary, latent): as `grades`."""
    found: dict[str, dict[Hashable, float]] = {}
    for each in ratings:
        if each.found is not None:
            found.setdefault(each.rater, {})[each.dictionary, each.latent] = float(each.found)
    return found


def intruders_found(
    found: Mapping[str, Mapping[Hashable, float]], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """The share of answers in which the intruder was found, by resampling latents. Guessing finds 1 in 5.

    `found[rater][latent]` is 1 if this rater found it and 0 if not, as `intruders` gives it.

    >>> intruders_found({"ann": {1: 1, 2: 0}, "bo": {1: 1}}).value
    0.6666666666666666
    """
    latents = list(dict.fromkeys(latent for given in found.values() for latent in given))
    table = _table(found, latents)
    answered = np.isfinite(np.array(list(table.values()))).sum(0) if latents else np.zeros(0)
    right = np.nansum(np.array(list(table.values())), 0) if latents else np.zeros(0)
    return ratio_of_sums(right, answered, resamples=resamples, level=level, seed=seed, unit="latent")


def expected_interval(rho: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval to expect for a rank correlation of `rho` over `n` latents: for planning a study.

    tanh(atanh ρ ± z·√((1 + ρ²/2)/(n − 3))), Bonett & Wright 2000 (*Psychometrika* 65), for continuous
    numbers; ratings of five values are tied and do somewhat worse.

    >>> [round(end, 2) for end in expected_interval(0.6, 80)]
    [0.42, 0.73]
    """
    if n <= FEWEST or not -1 < rho < 1:
        raise ConfigurationError(f"rho {rho} over {n} latents, expected one between -1 and 1, and 4 latents or more.")
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)


def _table(given: Mapping[str, Mapping[Hashable, float]], latents: Sequence[Hashable]) -> dict[str, Column]:
    return {
        name: np.array([values.get(latent, math.nan) for latent in latents], float) for name, values in given.items()
    }


def _weights(n: int, resamples: int, seed: int) -> Weights:
    """How often each latent occurs in each resample."""
    return resampled_sums(np.eye(n), resamples=resamples, seed=seed) if n else np.zeros((resamples, 0))


def _mean_over(columns: Sequence[Column], size: int) -> Column:
    """The mean of those who rated a latent; NaN where nobody did."""
    stacked = np.array(columns, float).reshape(len(columns), size)
    there = np.isfinite(stacked)
    count = there.sum(0)
    return np.where(count > 0, np.where(there, stacked, 0).sum(0) / np.maximum(count, 1), math.nan)


def _spearman(x: Column, y: Column, weights: Weights, level: float) -> Estimate:
    both = np.isfinite(x) & np.isfinite(y)
    return _estimate(*_correlations(x, y, weights), int(both.sum()), level)


def _correlations(x: Column, y: Column, weights: Weights) -> tuple[float, Float64[ndarray, " resample"]]:
    """The rank correlation of the sample and of every resample; NaN where it is undefined."""
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < FEWEST:
        return math.nan, np.full(len(weights), math.nan)
    x, y, counts = x[both], y[both], weights[:, both]
    counts = np.concatenate([np.ones((1, len(x))), counts])  # the sample itself comes first
    found = _weighted_correlation(_midranks(x, counts), _midranks(y, counts), counts)
    return float(found[0]), found[1:]


def _midranks(x: Column, counts: Weights) -> Weights:
    """The mean rank of every latent's value where latent i occurs counts[·, i] times: (below + (same + 1)/2)."""
    _, place = np.unique(x, return_inverse=True)
    same = counts @ np.eye(place.max() + 1)[place]
    return (np.cumsum(same, 1) - (same - 1) / 2)[:, place]


def _weighted_correlation(a: Weights, b: Weights, counts: Weights) -> Float64[ndarray, " resample"]:
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    a = a - (counts * a).sum(1, keepdims=True) / total
    b = b - (counts * b).sum(1, keepdims=True) / total
    scale = (counts * a * a).sum(1) * (counts * b * b).sum(1)
    product = (counts * a * b).sum(1)
    # Ranks are multiples of 1/2 and their sums exact enough: what varies at all is far above rounding.
    varies = scale > 1e-6
    return np.where(varies, np.clip(product / np.sqrt(np.where(varies, scale, 1)), -1, 1), math.nan)


def _mean_of_pairs(
    people: Mapping[str, Column], pairs: Sequence[tuple[str, str]], weights: Weights, level: float
) -> Estimate:
    """The mean correlation of the pairs for which one is defined; n counts latents that two or more rated."""
    found = [_correlations(people[a], people[b], weights) for a, b in pairs]
    kept = [(value, samples) for value, samples in found if math.isfinite(value)]
    shared = sum(np.isfinite(column).astype(int) for column in people.values())
    n = int((np.asarray(shared) > 1).sum())
    if not kept:
        return Estimate(math.nan, -math.inf, math.inf, n, "latent")
    # A pair whose resample is undefined makes that resample's mean undefined.
    return _estimate(float(np.mean([v for v, _ in kept])), np.mean([s for _, s in kept], 0), n, level)


def _estimate(value: float, samples: Float64[ndarray, " resample"], n: int, level: float) -> Estimate:
    if not math.isfinite(value):
        return Estimate(math.nan, -math.inf, math.inf, n, "latent")
    tail = (1 - level) / 2
    low = np.quantile(np.where(np.isnan(samples), -1.0, samples), tail)
    high = np.quantile(np.where(np.isnan(samples), 1.0, samples), 1 - tail)
    return Estimate(value, float(low), float(high), n, "latent")
