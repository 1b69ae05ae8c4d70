"""Estimates with intervals, the bootstrap over documents, and moments of codes.

Tokens of one document resemble each other, so an interval that resamples tokens is far too narrow.
Here the unit is the document: every metric is kept as one sum per document, and the bootstrap draws
documents with replacement, all the tokens of a document coming along (a cluster bootstrap).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, full_like, nan, where

from ..errors import ConfigurationError, NumericalError

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number that was measured on a sample: value, 95% interval, sample size, and what was resampled.

    `low` and `high` are -inf and inf where the data do not bound the number (a single document, or a
    ratio whose denominator could be zero); `value` is nan where the number is undefined.

    >>> print(Estimate(0.25, 0.2, 0.31, 40))
    0.250 [0.200, 0.310]
    >>> Estimate(0.25, 0.2, 0.31, 40).to_dict()
    {'value': 0.25, 'low': 0.2, 'high': 0.31, 'n': 40, 'unit': 'document'}
    """

    value: float
    low: float
    high: float
    n: int
    unit: str = "document"

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        value, low, high = (format(number, spec or ".3f") for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is not finite becomes null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {
            **{key: number if math.isfinite(number) else None for key, number in numbers.items()},
            "n": self.n,
            "unit": self.unit,
        }


def resampled_sums(
    sums: Float[np.ndarray, "document column"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "resample column"]:
    """Column sums of `resamples` bootstrap samples of the rows, each as many rows as there are.

    Row d of a sample is counted as often as a multinomial draw says, so a sample is one weighted sum
    and all samples are matrix products. Columns resampled together are paired: they see the same
    documents. The same seed and number of rows give the same weights.

    >>> resampled_sums(np.ones((5, 1)), resamples=3).ravel().tolist()
    [5.0, 5.0, 5.0]
    """
    if resamples < 2:
        raise ConfigurationError(
            f"resamples is {resamples}; a bootstrap needs at least 2 (the default is {RESAMPLES})."
        )
    n = len(sums)
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, (1 << 22) // max(n, 1)))  # weights of 32 MiB at most
    out = np.empty((resamples, sums.shape[1]))
    for begin in range(0, resamples, chunk):
        size = min(chunk, resamples - begin)
        drawn = generator.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        out[begin : begin + size] = weights @ sums
    return out


def ratio_of_sums(
    numerator: Float[np.ndarray, " document"],
    denominator: Float[np.ndarray, " document"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    unit: str = "document",
) -> Estimate:
    """Σ numerator / Σ denominator over documents, with a percentile interval of the cluster bootstrap.

    Source: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, ch. 13 (percentile interval);
    Davison & Hinkley 1997, §3.8 (clusters). Raises `NumericalError` on sums that are not finite.

    >>> ratio_of_sums(np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.0, 2.0]))
    Estimate(value=0.5, low=0.5, high=0.5, n=3, unit='document')
    """
    sums = np.stack([np.asarray(numerator, float), np.asarray(denominator, float)], 1)
    if not np.isfinite(sums).all():
        raise NumericalError("the sums to be resampled hold a value that is not finite: check the activations for NaN.")
    samples = resampled_sums(sums, resamples=resamples, seed=seed)
    return ratio_estimate(sums.sum(0), samples, len(sums), level=level, unit=unit)


def ratio_estimate(
    totals: Float[np.ndarray, "2"],
    samples: Float[np.ndarray, "resample 2"],
    n: int,
    *,
    level: float = LEVEL,
    unit: str = "document",
) -> Estimate:
    """The estimate of totals[0] / totals[1], given the same two sums of every bootstrap sample.

    A total denominator that is not above zero leaves the ratio undefined (nan); one that reaches zero
    in some bootstrap sample leaves the interval unbounded, as does a single document.
    """
    if n == 0 or not totals[1] > 0:
        return Estimate(math.nan, -math.inf, math.inf, n, unit)
    value = float(totals[0] / totals[1])
    if n == 1 or not (samples[:, 1] > 0).all():
        return Estimate(value, -math.inf, math.inf, n, unit)
    tail = (1 - level) / 2
    low, high = np.quantile(samples[:, 0] / samples[:, 1], [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n, unit)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, variance, skew and kurtosis of each latent's code over all tokens, silent ones included.

    Skew and kurtosis are about zero, not about the mean: a latent that is silent on most tokens is
    judged by how far its code departs from silence.

        variance = E[c²] − E[c]²     skew = E[c³] / variance^1.5     kurtosis = E[c⁴] / variance²

    Source: Cunningham et al. 2023, appendix (code `calc_moments_streaming`), with 1/n in the variance.
    A latent whose code never varies has neither: nan.
    """

    mean: Float[Tensor, " latent"]
    variance: Float[Tensor, " latent"]
    skew: Float[Tensor, " latent"]
    kurtosis: Float[Tensor, " latent"]


def moments(codes: Float[Tensor, "token latent"]) -> Moments:
    """The moments of dense codes, in float64. `reconstruction` computes the same from sparse codes.

    >>> from torch import tensor
    >>> round(moments(tensor([[0.0], [0.0], [0.0], [2.0]])).skew.item(), 4)  # (8/4) / (3/4)^1.5
    3.0792
    """
    codes = codes.double()
    return moments_from_sums([codes.pow(power).sum(0) for power in (1, 2, 3, 4)], len(codes))


def moments_from_sums(powers: list[Float[Tensor, " latent"]], n: int) -> Moments:
    """The moments, given Σc, Σc², Σc³, Σc⁴ per latent over n tokens (float64)."""
    mean, square, cube, fourth = (total / n for total in powers)
    variance = (square - mean.square()).clamp_min(0)
    # What is left of a constant code after rounding is no variance.
    varies = variance > 1e-12 * square
    undefined = full_like(variance, nan)
    return Moments(
        mean,
        variance,
        where(varies, cube / variance**1.5, undefined),
        where(varies, fourth / variance.square(), undefined),
    )
