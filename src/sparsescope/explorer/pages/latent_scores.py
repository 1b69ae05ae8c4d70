"""The scores of one latent's explanations, beside what is usual in its dictionary and what guessing reaches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ...features.browsing import FeatureBrowser
from ...features.reading import StoredScore
from ...report.figures import Axis
from ...report.interpretability import SCORES

Estimate = Mapping[str, Any]

_VARIANTS = {
    "bills_rho": (("bills_top", "strongest"), ("bills_random", "random")),
    "detection": (("detection_accuracy", "accuracy"),),
    "fuzzing": (("fuzzing_accuracy", "accuracy"),),
}
"""Scores that are told beside another one."""
HEADLINE = "corpus_rho"
"""What is called the score of an explanation wherever there is room for one alone."""
_SHUFFLED = "shuffled explanations"
_WIDE, _TALL = 132, 18  # pixels of a strip


@dataclass(frozen=True)
class ScoreRow:
    """One score: `value`, or in `skipped` why there is none.

    `typical` is the mean over the dictionary's explained latents with its interval, `floor` that mean with the
    explanations of other latents; both None where the run's report has none. `strip` draws all of them on one axis.
    """

    score: str
    name: str
    value: float | None
    skipped: str | None
    variants: tuple[tuple[str, float | None], ...]
    typical: Estimate | None
    floor: float | None
    strip: Markup


@dataclass(frozen=True)
class Explained:
    """What one explainer said: `text`, or why there is none in `skipped`."""

    explainer: str
    text: str
    skipped: str | None
    rows: tuple[ScoreRow, ...]


def explained(browser: FeatureBrowser, dictionary: int, latent: int, name: str, report: Estimate) -> list[Explained]:
    """Every explanation of a latent with its scores. `name` is that of the dictionary in the run's report."""
    found = browser.scores_of(dictionary, latent)
    return [
        Explained(
            each.explainer,
            each.text,
            each.skipped,
            score_rows(
                [row for row in found if row.explainer == each.explainer], name, _summary(report, each.explainer)
            ),
        )
        for each in browser.explanations_of(dictionary, latent)
    ]


def score_rows(found: Sequence[StoredScore], name: str, summary: Estimate) -> tuple[ScoreRow, ...]:
    """Rows in the order of the report; scores that the latent does not have are left out."""
    known = {row.score: row for row in found}
    usual = _entry(summary.get("dictionaries", ()), name, "dictionary")
    shuffled = _entry(summary.get("controls", ()), f"{name} ({_SHUFFLED})", _SHUFFLED)
    rows = []
    for score, title in SCORES:
        if score not in known:
            continue
        row, typical, control = known[score], usual.get(score), shuffled.get(score)
        variants = tuple((word, known[key].value) for key, word in _VARIANTS.get(score, ()) if key in known)
        floor = None if control is None else control["value"]
        strip = _strip(row.value, typical, floor)
        title = f"Score ({title[0].lower()}{title[1:]})" if score == HEADLINE else title
        rows.append(ScoreRow(score, title, row.value, row.skipped, variants, typical, floor, strip))
    return tuple(rows)


def _summary(report: Estimate, explainer: str) -> Estimate:
    """What the run's report says of an explainer: it has that of one alone."""
    summary = report.get("interpretation") or {}
    return summary if summary.get("explainer") == explainer else {}


def _entry(entries: Sequence[Estimate], name: str, kind: str) -> Estimate:
    return next((each for each in entries if each["name"] == name and each["kind"] == kind), {})


def _strip(value: float | None, typical: Estimate | None, floor: float | None) -> Markup:
    """The latent as a dot on an axis from −0.25 to 1, its dictionary's mean as a band, shuffled ones as a tick."""
    x = Axis(-0.25, 1.0, 5, _WIDE - 5)
    parts = [f'<path d="M{x(0):.0f} 2v14M5 9h{_WIDE - 10}"/>']
    if typical is not None and typical["low"] is not None and typical["high"] is not None:
        begin, end = x(typical["low"]), x(typical["high"])
        parts.append(f'<path class="band" d="M{begin:.0f} 9H{max(end, begin + 2):.0f}"/>')
    if floor is not None:
        parts.append(f'<path class="floor" d="M{x(floor):.0f} 4v10"/>')
    if value is not None:
        parts.append(f'<circle cx="{x(value):.0f}" cy="9" r="4"/>')
    return Markup(f'<svg class="strip" viewBox="0 0 {_WIDE} {_TALL}" aria-hidden="true">{"".join(parts)}</svg>')
