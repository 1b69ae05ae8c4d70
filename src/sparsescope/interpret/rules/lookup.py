"""The simplest rule: every token has its own expected activation, whatever stands around it.

Its squared correlation with the activation can be no more than the correlation ratio
η² = Var E[a | token] / Var a, the ceiling of any explanation that looks at single tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from ...errors import ConfigurationError
from ..base import LEVELS, Evidence

MOST_TOKENS = 8192
KEPT_VARIANCE = 0.999
"""How many tokens are listed. A shorter list would be fair to latents of few tokens only: those that answer to
thousands of tokens, as neurons do, would lose more by it."""

_SHRINKAGE = (0.1, 100.0)
_THOUSANDTHS = 1000


@dataclass(frozen=True, eq=False)
class Lookup:
    """Expected activation, 0 to `LEVELS`, by token id. `prior` and `shrinkage` say how `shrunken` made it."""

    values: Float64[ndarray, " vocabulary"]
    listed: Int64[ndarray, " token"]
    default: float
    prior: float
    shrinkage: float

    def to_json(self) -> dict[str, Any]:
        """The tokens that differ, each as its distance from the one before; their values, and that of all others.

        Values are in thousandths.
        """
        return {
            "others": round(self.default * _THOUSANDTHS),
            "gaps": np.diff(self.listed, prepend=0).tolist(),
            "values": np.rint(self.values[self.listed] * _THOUSANDTHS).astype(int).tolist(),
        }


def table(body: Mapping[str, Any], vocabulary: int) -> Float64[ndarray, " vocabulary"]:
    """The expected activation of every token id, from the JSON form."""
    values = np.full(vocabulary, body["others"] / _THOUSANDTHS)
    values[np.cumsum(np.asarray(body["gaps"], np.int64))] = np.asarray(body["values"]) / _THOUSANDTHS
    return values


def shrunken(evidence: Evidence, vocabulary: int) -> Lookup:
    """E[a | token] on the whole explaining split, shrunk towards the mean of all tokens.

    With n rows and sum S of a token, mean m of all rows: (S + κ·m) / (n + κ). κ = σ² / τ² is the ratio of
    the variance within a token to that between tokens (the empirical Bayes estimate for one-way random
    effects, by analysis of variance; Searle, Casella & McCulloch 1992, "Variance Components", ch. 3). The
    second moment comes from the sample, everything else is exact. The tokens that make up `KEPT_VARIANCE`
    of the variance between tokens are listed, at most `MOST_TOKENS`; the others share their mean.

    Raises `ConfigurationError` for a vocabulary smaller than the token ids of the evidence.
    """
    if len(evidence.token_count) > vocabulary:
        raise ConfigurationError(
            f"sums by token were given for {len(evidence.token_count)} token ids, but the vocabulary has "
            f"{vocabulary} tokens: give the text of every token id of the model's tokenizer."
        )
    count = np.zeros(vocabulary)
    total = np.zeros(vocabulary)
    count[: len(evidence.token_count)] = evidence.token_count
    total[: len(evidence.token_sum)] = evidence.token_sum * (LEVELS / evidence.maximum)
    rows = count.sum()
    prior = float(total.sum() / rows)
    kappa = _shrinkage(total, count, _second_moment(evidence))
    values = (total + kappa * prior) / (count + kappa)
    worth = count * (values - prior) ** 2
    order = np.argsort(-worth, kind="stable")
    share = np.cumsum(worth[order])
    needed = int(np.searchsorted(share, KEPT_VARIANCE * share[-1])) + 1
    listed = np.sort(order[: min(needed, MOST_TOKENS)])
    listed = listed[count[listed] > 0]
    other = np.ones(vocabulary, bool)
    other[listed] = False
    left = count[other].sum()
    default = round(float(total[other].sum() / left) if left else prior, 3)
    kept = np.full(vocabulary, default)
    kept[listed] = np.round(np.minimum(values[listed], LEVELS), 3)
    return Lookup(kept, listed, default, prior, kappa)


def _second_moment(evidence: Evidence) -> float:
    """E[a²] over all rows, estimated from the sample."""
    sample = evidence.sample
    known = evidence.fragments.known[sample.numbers]
    scaled = np.clip(sample.codes * (LEVELS / evidence.maximum), 0, LEVELS).astype(np.float64) ** 2
    return float(sample.weight @ (scaled * known).sum(1) / (sample.weight @ known.sum(1)))


def _shrinkage(total: Float64[ndarray, " vocabulary"], count: Float64[ndarray, " vocabulary"], second: float) -> float:
    """κ = σ² / τ² by the analysis of variance with tokens as groups of unequal size."""
    seen = count > 0
    rows, groups = count.sum(), int(seen.sum())
    if groups < 2 or rows <= groups:
        return 1.0
    squares = float((total[seen] ** 2 / count[seen]).sum())
    within = max(second * rows - squares, 0.0) / (rows - groups)
    spread = rows - (count**2).sum() / rows
    between = (squares - total.sum() ** 2 / rows - (groups - 1) * within) / spread
    if between <= 0:
        return _SHRINKAGE[1]
    return float(np.clip(within / between, *_SHRINKAGE))


def without_own_document(
    lookup: Lookup,
    evidence: Evidence,
    ids: Int64[ndarray, " row"],
    document: Int64[ndarray, " row"],
    scaled: Float64[ndarray, " row"],
) -> Float64[ndarray, " row"]:
    """What the lookup would expect for each row of the sample, had it not seen the row's own document.

    Later rules are fitted on top of this: on top of the lookup itself, they would learn to trust sums
    that hold the very row they are to predict.
    """
    key, inverse = np.unique(document * (int(ids.max(initial=0)) + 1) + ids, return_inverse=True)
    own_sum = np.bincount(inverse, scaled, len(key))[inverse]
    own_count = np.bincount(inverse, minlength=len(key))[inverse]
    total = evidence.token_sum[ids] * (LEVELS / evidence.maximum) - own_sum
    count = evidence.token_count[ids] - own_count
    kappa = lookup.shrinkage
    left = (np.maximum(total, 0) + kappa * lookup.prior) / (np.maximum(count, 0) + kappa)
    # Without its own document, a token that is active nowhere else would not have been listed.
    left = np.where(total > 1e-6 * LEVELS, left, np.minimum(left, lookup.default))
    listed = np.zeros(len(lookup.values), bool)
    listed[lookup.listed] = True
    return np.where(listed[ids], np.minimum(left, LEVELS), lookup.default)
