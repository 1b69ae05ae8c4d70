"""The scores of one dictionary on disk: what comparisons need of them, and the explanations for people to read.

NAME.json           latents: number, explanation or why there is none, statistics, scores with intervals
NAME.safetensors    replicates (float16) of the scores that are compared or averaged
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import numpy as np
import torch

from ..artifact import load_tensors, read_json, write_json, write_tensors
from ..metrics.statistics import Estimate
from .base import Explanation, Reason, Skipped
from .judging import LOOKUP, OWN, SCORES, SHUFFLED, Judged, Scores
from .scores.intervals import Score
from .truth import LatentTruth

KEPT = {OWN: SCORES, LOOKUP: ("corpus_rho", "bills_rho"), SHUFFLED: SCORES[:1] + SCORES[2:-1]}
"""Whose scores are kept. Those of shuffled explanations lack what does not depend on an explanation."""

STATISTICS = ("density", "maximum", "skew", "kurtosis", "token_entropy")


@dataclass(frozen=True, eq=False)
class Record:
    """What was found out about one dictionary. `kind` is "dictionary" or the kind of control it stands for."""

    name: str
    kind: str
    method: str
    site: str
    n_latents: int
    latents: Sequence[int]
    explanations: Sequence[Explanation | Skipped]
    statistics: Mapping[str, Sequence[float | None]]
    own: Scores
    lookup: Scores
    shuffled: Scores
    truth: Sequence[LatentTruth | Skipped] | None


def record_of(
    judged: Judged,
    *,
    kind: str,
    truth: Sequence[LatentTruth | Skipped] | None = None,
) -> Record:
    """The record of a judged subject."""
    subject = judged.subject
    moments = subject.scoring.moments
    known = (subject.scoring.density, subject.scoring.maximum, moments.skew, moments.kurtosis)
    columns = [np.asarray(column) for column in (*known, subject.statistics.entropy)]
    return Record(
        name=subject.name,
        kind=kind,
        method=subject.dictionary.method,
        site=subject.site,
        n_latents=subject.dictionary.n_latents,
        latents=subject.latents.tolist(),
        explanations=judged.explanations,
        statistics={
            name: [_finite(float(value)) for value in column] for name, column in zip(STATISTICS, columns, strict=True)
        },
        own=judged.own,
        lookup=judged.lookup,
        shuffled=judged.shuffled,
        truth=truth,
    )


def file_stem(name: str) -> str:
    """A name as that of a file."""
    return quote(name, safe=" ()@,+=")


def write_record(folder: Path, record: Record) -> None:
    """Write both files; the JSON last, so that where it is, the record is whole."""
    stem = file_stem(record.name)
    tensors = {
        f"{family}.{score}": torch.from_numpy(_replicates(getattr(record, family)[score]))
        for family, names in KEPT.items()
        for score in names
    }
    write_tensors(folder / f"{stem}.safetensors", tensors)
    head = {key: getattr(record, key) for key in ("name", "kind", "method", "site", "n_latents")}
    write_json(
        folder / f"{stem}.json", {**head, "latents": [_row(record, place) for place in range(len(record.latents))]}
    )


def read_record(folder: Path, name: str) -> Record:
    """The record written under a name. Raises `ArtifactError` when a file is missing or damaged."""
    stem = file_stem(name)
    data, tensors = read_json(folder / f"{stem}.json"), load_tensors(folder / f"{stem}.safetensors")
    rows = data.pop("latents")
    families: dict[str, Scores] = {
        family: {
            score: [
                _score(row["scores"][family][score], tensors[f"{family}.{score}"][place].double().numpy())
                for place, row in enumerate(rows)
            ]
            for score in names
        }
        for family, names in KEPT.items()
    }
    return Record(
        **data,
        latents=[row["latent"] for row in rows],
        explanations=[_explanation(row["explanation"]) for row in rows],
        statistics={key: [row["statistics"][key] for row in rows] for key in STATISTICS},
        truth=None if any("truth" not in row for row in rows) or not rows else [_truth(row) for row in rows],
        own=families[OWN],
        lookup=families[LOOKUP],
        shuffled=families[SHUFFLED],
    )


def _replicates(scores: Sequence[Score | Skipped]) -> np.ndarray:
    """One row for each latent, NaN for those without a score."""
    width = max((len(each.replicates) for each in scores if isinstance(each, Score)), default=0)
    found = np.full((len(scores), width), math.nan, np.float16)
    for place, each in enumerate(scores):
        if isinstance(each, Score):
            found[place] = each.replicates
    return found


def _row(record: Record, place: int) -> dict[str, Any]:
    explanation = record.explanations[place]
    row: dict[str, Any] = {
        "latent": record.latents[place],
        "explanation": {"skipped": explanation.reason} if isinstance(explanation, Skipped) else vars(explanation),
        "statistics": {key: record.statistics[key][place] for key in STATISTICS},
        "scores": {
            family: {score: _number(getattr(record, family)[score][place]) for score in names}
            for family, names in KEPT.items()
        },
    }
    if record.truth is not None:
        found = record.truth[place]
        row["truth"] = (
            {"skipped": found.reason} if isinstance(found, Skipped) else {**vars(found), "f1": found.f1.to_dict()}
        )
    return row


def _number(score: Score | Skipped) -> dict[str, Any]:
    return {"skipped": score.reason} if isinstance(score, Skipped) else score.estimate.to_dict()


def _score(found: Mapping[str, Any], replicates: np.ndarray) -> Score | Skipped:
    return Skipped(_reason(found)) if "skipped" in found else Score(_estimate(found), replicates)


def _estimate(found: Mapping[str, Any]) -> Estimate:
    value, low, high = (
        absent if found[key] is None else found[key]
        for key, absent in (("value", math.nan), ("low", -math.inf), ("high", math.inf))
    )
    return Estimate(value, low, high, found["n"], found["unit"])


def _explanation(found: Mapping[str, Any]) -> Explanation | Skipped:
    return Skipped(_reason(found)) if "skipped" in found else Explanation(**found)


def _truth(row: Mapping[str, Any]) -> LatentTruth | Skipped:
    found = row["truth"]
    if "skipped" in found:
        return Skipped(_reason(found))
    return LatentTruth(**{**found, "f1": _estimate(found["f1"])})


def _reason(found: Mapping[str, Any]) -> Reason:
    reason = found["skipped"]
    assert reason in get_args(Reason)
    return reason


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
