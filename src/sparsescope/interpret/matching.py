"""Which of many labels fits a latent best, and how well on text that it was not chosen on.

For each latent, the label and the threshold (a share of the latent's largest code) that fit
best on the explaining split are chosen, and their F1 is measured on the documents of the scoring split:

    F1 = 2 · (tokens where it fires and the label is) / (tokens where it fires + tokens where the label is)

Fit is F1 less the F1 of a latent that fires as often but anywhere, 2 f g / (n (f + g)) for f and g of n
tokens: else whatever fires everywhere would stand for the label that is nearly everywhere. For the same
reason look at F1 less the null's when latents of different density are compared.

The null is the F1 of the same threshold and label after the labels were shifted along the scoring text by
a random number of tokens: they keep how often, how long and how clustered they are, and lose only where
they are. The choice was made on other documents, so it favours neither.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from ..metrics.statistics import Estimate, ratio_estimate, resampled_sums

THRESHOLDS = (0.0, 0.1, 0.25, 0.5)
"""Shares of a latent's largest code on the explaining split above which it counts as firing."""

PERMUTATIONS = 50
RESAMPLES = 1000


@dataclass(frozen=True)
class Best:
    """The best label of a latent, by number, and how well it fits."""

    label: int
    threshold: float
    f1: Estimate
    chosen_at: float
    null: float
    p: float


def best_labels(
    explaining: Any,
    scoring: Any,
    explaining_labels: Any,
    scoring_labels: Any,
    document: Int64[np.ndarray, " row"],
    *,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Best | None]:
    """For each latent the label that fits best on one split, and what it is on the other; None for a silent latent.

    Codes are CSC, row × latent; labels CSR, row × label; `document` those of the scoring rows, for the
    interval (bootstrap over documents).
    """
    largest = explaining.max(axis=0).toarray().ravel()
    fires = [[_above(codes, share * largest) for share in THRESHOLDS] for codes in (explaining, scoring)]
    chosen, chosen_at, f1 = _choose(fires[0], fires[1], explaining_labels, scoring_labels)
    generator = np.random.default_rng([seed, 0x1AB])
    null = np.zeros((permutations, len(f1)))
    for row in null:
        row[:] = _f1_of(fires[1], _shifted(scoring_labels, generator), chosen)
    held_out = _estimates(fires[1], scoring_labels, chosen, document, resamples, seed)
    above = (null >= f1).sum(0)
    return [
        Best(
            label=int(chosen[latent, 1]),
            threshold=THRESHOLDS[chosen[latent, 0]],
            f1=held_out[latent],
            chosen_at=float(chosen_at[latent]),
            null=float(null[:, latent].mean()) if permutations else math.nan,
            p=float((1 + above[latent]) / (1 + permutations)),
        )
        if largest[latent] > 0
        else None
        for latent in range(len(f1))
    ]


def _estimates(
    fires: list[Any],
    labels: Any,
    chosen: Int64[np.ndarray, "latent 2"],
    document: Int64[np.ndarray, " row"],
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """F1 of each latent with its label, with the percentile interval of a bootstrap over documents."""
    places, columns = np.unique(document, return_inverse=True)
    sums = np.zeros((len(places), 2 * len(chosen)))
    for latent, (threshold, label) in enumerate(chosen):
        active = fires[threshold][:, [latent]].toarray().ravel()
        present = labels[:, [label]].toarray().ravel()
        sums[:, 2 * latent] = np.bincount(columns, 2 * active * present, minlength=len(places))
        sums[:, 2 * latent + 1] = np.bincount(columns, active + present, minlength=len(places))
    totals, samples = sums.sum(0), resampled_sums(sums, resamples=resamples, seed=seed)
    pairs = (slice(2 * latent, 2 * latent + 2) for latent in range(len(chosen)))
    return [ratio_estimate(totals[pair], samples[:, pair], len(places)) for pair in pairs]


def _above(codes: Any, threshold: np.ndarray) -> Any:
    """1 where a code is above its latent's threshold (and above zero)."""
    limit = np.repeat(threshold, np.diff(codes.indptr))
    made = codes.copy()
    made.data = ((codes.data > limit) & (codes.data > 0)).astype(np.float32)
    made.eliminate_zeros()
    return made


def _choose(
    explaining: list[Any], scoring: list[Any], explaining_labels: Any, scoring_labels: Any
) -> tuple[Int64[np.ndarray, "latent 2"], Float64[np.ndarray, " latent"], Float64[np.ndarray, " latent"]]:
    """(threshold, label) that fit each latent best on one split; their F1 there; and their F1 on the other split."""
    tables = [f1_table(fires, explaining_labels) for fires in explaining]
    fit = np.stack(
        [table - chance_f1(fires, explaining_labels) for table, fires in zip(tables, explaining, strict=True)], 1
    )
    best = fit.reshape(len(fit), -1).argmax(1)
    chosen = np.stack(np.unravel_index(best, fit.shape[1:]), 1)
    chosen_at = np.stack(tables, 1).reshape(len(fit), -1)[np.arange(len(fit)), best]
    return chosen, chosen_at, _f1_of(scoring, scoring_labels, chosen)


def _f1_of(fires: list[Any], labels: Any, chosen: Int64[np.ndarray, "latent 2"]) -> Float64[np.ndarray, " latent"]:
    """F1 of each latent with its own (threshold, label)."""
    present = labels[:, chosen[:, 1]].tocsc()
    found = np.zeros(len(chosen))
    for threshold, active in enumerate(fires):
        mine = np.flatnonzero(chosen[:, 0] == threshold)
        if len(mine):
            one, other = active[:, mine], present[:, mine]
            both = np.asarray(one.multiply(other).sum(0)).ravel()
            either = np.asarray(one.sum(0) + other.sum(0)).ravel()
            found[mine] = 2 * both.astype(np.float64) / np.maximum(either, 1)
    return found


def f1_table(fires: Any, labels: Any) -> Float64[np.ndarray, "latent label"]:
    """F1 of every latent with every label; 0 where neither is ever there. Sparse 0/1 matrices with equal rows."""
    both = (fires.T @ labels).toarray().astype(np.float64)
    either = np.asarray(fires.sum(0)).reshape(-1, 1) + np.asarray(labels.sum(0)).reshape(1, -1)
    return 2 * both / np.maximum(either, 1)


def chance_f1(fires: Any, labels: Any) -> Float64[np.ndarray, "latent label"]:
    """F1 that each latent would have with each label if it fired as often, but regardless of it."""
    f = np.asarray(fires.sum(0), np.float64).reshape(-1, 1)
    g = np.asarray(labels.sum(0), np.float64).reshape(1, -1)
    return 2 * f * g / np.maximum((f + g) * labels.shape[0], 1)


def _shifted(labels: Any, generator: np.random.Generator) -> Any:
    """The labels moved along the text, those that leave at the end coming back at the beginning."""
    rows = labels.shape[0]
    # Not by so little that a long span still overlaps itself, where the text is long enough.
    least = min(200, rows // 4)
    by = int(generator.integers(least, max(rows - least, least + 1)))
    return labels[(np.arange(rows) + by) % rows]
