"""What the records of all dictionaries of a run say together: means, controls, excess, truth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..interpret.base import Skipped
from ..interpret.comparison import RESAMPLES, Comparison, benjamini_hochberg, compare, correlations
from ..interpret.judging import LOOKUP, OWN, SHUFFLED, Scores
from ..interpret.records import KEPT, Record
from ..interpret.scores.intervals import Score, mean_over_latents, skipped, values
from ..interpret.truth import LatentTruth, rank_scores
from ..metrics.statistics import Estimate

HEADLINE = "corpus_rho"
MODELS = ("random model", "frozen decoder")
"""Kinds of control that are dictionaries of their own."""
SHAPES = ("kurtosis", "skew", "density")
GROUND = ("corpus_rho", "bills_rho", "detection", "fuzzing", "neighbours", "intruder")
"""Scores that are held against the truth labels."""


def summarise(records: Sequence[Record], *, absent: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """JSON: `dictionaries`, `controls`, `excess` (by score and dictionary) over the best control, and the rest.

    `seeds` has one entry for each set of dictionaries that differ in their training seed alone.

    The controls of a dictionary are its own shuffled explanations, and those that the run contains:
    autoencoders of a model with random weights, autoencoders with a frozen random decoder, random directions.
    """
    own = [record for record in records if record.kind == "dictionary"]
    models = [record for record in records if record.kind in MODELS]
    found: dict[str, Any] = {
        "headline": HEADLINE,
        "dictionaries": [_entry(record, seed) for record in own],
        "controls": _controls(records, seed),
        "excess": {score: _excess(own, models, score, seed) for score in (HEADLINE, "context_gain")},
        "seeds": _seeds(own, seed),
        "correlations": {name: _to_json(each) for name, each in _correlations(own, seed).items()},
        "absent": list(absent),
    }
    return {**found, "truth": _truth(records, seed)}


def _entry(
    record: Record, seed: int, family: str = OWN, name: str | None = None, kind: str | None = None
) -> dict[str, Any]:
    scores: Scores = getattr(record, family)
    means = {key: mean_over_latents(scores[key], seed=seed).estimate.to_dict() for key in KEPT[family]}
    if record.kind == "second corpus":
        del means["context_gain"]  # a lookup made on the same text as the explanation is not at hand there
    return {
        "name": name or record.name,
        "kind": kind or record.kind,
        "method": record.method,
        "site": record.site,
        "n_latents": record.n_latents,
        "asked": len(record.latents),
        **means,
        "skipped": skipped(scores[HEADLINE]),
    }


def _controls(records: Sequence[Record], seed: int) -> list[dict[str, Any]]:
    """Rows of the control panel: shuffled and lookup for every dictionary, then control models and second corpora."""
    rows = []
    for record in records:
        if record.kind == "dictionary":
            for family, kind in ((SHUFFLED, "shuffled explanations"), (LOOKUP, "best token lookup")):
                rows.append(_entry(record, seed, family, f"{record.name} ({kind})", kind))
        else:
            rows.append(_entry(record, seed))
    return rows


def _excess(own: Sequence[Record], models: Sequence[Record], score: str, seed: int) -> dict[str, Any]:
    """Of each dictionary over the best of its controls, p values corrected over all dictionaries.

    Sites differ in how far tokens alone explain them, so controls are those of the same site where there are any.
    """
    held = [*models, *(record for record in own if record.method == "random")]
    found: dict[str, Comparison] = {}
    for record in own:
        near = [each for each in held if each.site == record.site and each is not record]
        shared = {each.name: each.own[score] for each in near or held}
        dealt = {f"{record.name} (shuffled explanations)": record.shuffled[score]} if score in KEPT[SHUFFLED] else {}
        found |= compare({record.name: record.own[score]}, {**shared, **dealt}, seed=seed)
    corrected = benjamini_hochberg(np.array([each.p for each in found.values()]))
    return {
        name: {
            "control": each.control,
            **each.excess.to_dict(),
            "delta": each.delta.to_dict(),
            "p": _finite(each.p),
            "q": _finite(float(q)),
        }
        for (name, each), q in zip(found.items(), corrected, strict=True)
    }


def _seeds(own: Sequence[Record], seed: int) -> list[dict[str, Any]]:
    """Means over dictionaries that differ in their training seed alone: seeds are resampled, then their latents."""
    groups: dict[str, list[Record]] = {}
    for record in own:
        name, marked, number = record.name.rpartition("-s")
        if marked and number.isdigit():
            groups.setdefault(f"{name} ({record.site})", []).append(record)
    found = []
    for name, records in groups.items():
        if len(records) < 2:
            continue
        of = [number for number, record in enumerate(records) for _ in record.latents]
        means = {
            key: mean_over_latents([score for record in records for score in record.own[key]], seeds=of, seed=seed)
            for key in KEPT[OWN]
        }
        found.append(
            {"name": name, "seeds": len(records), **{key: mean.estimate.to_dict() for key, mean in means.items()}}
        )
    return found


def _correlations(own: Sequence[Record], seed: int) -> dict[str, Mapping[str, Estimate]]:
    """Of the headline score with the shape of activations, over the latents of all dictionaries."""
    scores = [score for record in own for score in record.own[HEADLINE]]
    groups = [number for number, record in enumerate(own) for _ in record.latents]
    found: dict[str, Mapping[str, Estimate]] = {}
    for shape in SHAPES:
        column = [value for record in own for value in record.statistics[shape]]
        known = np.array([math.nan if v is None else v for v in column])
        found[shape] = correlations(scores, known, groups=groups, seed=seed)
    return found


def _truth(records: Sequence[Record], seed: int) -> dict[str, Any] | None:
    """How well each score predicts which latents stand for a label; None where no text had labels."""
    known = [record for record in records if record.truth is not None and record.latents]
    if not known:
        return None
    f1 = np.array([_f1(each) for record in known for each in record.truth or ()])
    groups = [number for number, record in enumerate(known) for _ in record.latents]
    scores = {key: np.concatenate([values(record.own[key]) for record in known]) for key in GROUND}
    rankings = rank_scores(scores, f1, dictionaries=groups, seed=seed)
    return {
        "scores": [{"score": each.score, **each.agreement.to_dict(), "demoted": each.demoted} for each in rankings],
        "dictionaries": [{"name": record.name, "kind": record.kind, **_mean_f1(record, seed)} for record in known],
    }


def _f1(found: LatentTruth | Skipped) -> float:
    return math.nan if isinstance(found, Skipped) else found.above_null


def _mean_f1(record: Record, seed: int) -> dict[str, Any]:
    """Mean F1 over latents, that of the permuted labels, and how many latents are above these at p ≤ 0.05."""
    found = [each for each in record.truth or () if isinstance(each, LatentTruth)]
    scores = [Score(each.f1, np.full(RESAMPLES, each.f1.value)) for each in found]
    mean = mean_over_latents(scores, seed=seed).estimate
    return {
        "f1": mean.to_dict(),
        "null": float(np.mean([each.null for each in found])) if found else None,
        "found": sum(each.p <= 0.05 for each in found),
        "latents": len(found),
    }


def _to_json(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {key: each.to_dict() for key, each in found.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
