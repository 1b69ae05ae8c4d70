"""How well explanations predict, dictionary by dictionary and beside the controls, as rows of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...report.charts import colour
from ...report.words import BASELINES
from ..figures import interval_bar

Estimate = Mapping[str, Any]
SCORES = ("context_gain", "bills_rho", "detection", "fuzzing")
"""Scores beside the headline that have a column: keys of the report, which are those of `terms.TERMS` too."""


@dataclass(frozen=True)
class ScoreRow:
    """One dictionary or control. `bar` is SVG; `over` names the control that `excess` is measured from."""

    name: str
    href: str
    colour: str
    method: str
    kind: str
    rho: Estimate
    bar: str
    excess: Estimate | None
    over: str
    scores: tuple[Estimate | None, ...]

    @property
    def control(self) -> bool:
        """Whether it is there to be beaten."""
        return self.kind != "dictionary"

    @property
    def baseline(self) -> bool:
        """Whether it is a dictionary of a baseline, such as PCA."""
        return not self.control and self.method in BASELINES


def score_rows(found: Mapping[str, Any], href: Callable[[str], str]) -> list[ScoreRow]:
    """Dictionaries and controls together, the highest corpus ρ first; those without a score at the end.

    `found` is the report's "interpretation"; `href` leads from a dictionary's name to its page ("": it has none).
    Of the shuffled explanations, one for every dictionary, only the highest is shown, as in the report; best token
    lookups are not, since context gain is measured from them.
    """
    entries = [*found["dictionaries"], *_controls(found.get("controls", ()))]
    excess = found.get("excess", {}).get("corpus_rho", {})
    limits = _limits([each["corpus_rho"] for each in entries])
    return [_row(each, excess, limits, href) for each in sorted(entries, key=_place)]


def _controls(controls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    others = [each for each in controls if each["kind"] not in ("shuffled explanations", "best token lookup")]
    shuffled = sorted((each for each in controls if each["kind"] == "shuffled explanations"), key=_place)
    return [*others, *shuffled[:1]]


def _place(entry: Mapping[str, Any]) -> tuple[bool, float, str]:
    value = entry["corpus_rho"]["value"]
    return value is None, -(value or 0.0), str(entry["name"])


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """A common axis of all intervals, with 0 on it."""
    ends = [each[key] for each in estimates for key in ("low", "value", "high") if each[key] is not None]
    return min([0.0, *ends]), max([1.0, *ends])


def _row(
    entry: Mapping[str, Any], excess: Mapping[str, Any], limits: tuple[float, float], href: Callable[[str], str]
) -> ScoreRow:
    name, kind = str(entry["name"]), str(entry["kind"])
    gain = excess.get(name) if kind == "dictionary" else None
    known = gain if gain is not None and gain["value"] is not None else None
    return ScoreRow(
        name,
        href(name),
        colour(entry),
        str(entry["method"]),
        kind,
        entry["corpus_rho"],
        interval_bar(entry["corpus_rho"], limits, colour(entry), hollow=kind != "dictionary"),
        known,
        "" if known is None else str(known["control"]),
        tuple(entry.get(key) for key in SCORES),
    )
