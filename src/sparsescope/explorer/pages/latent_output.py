"""What a latent does to the next token: measured by taking it away, beside what its direction says by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...features.browsing import FeatureBrowser
from ...features.reading import StoredLatent
from ...report.words import number

SHOWN = 6
"""Tokens in each list."""
_WIDTHS = 20


@dataclass(frozen=True)
class TokenChange:
    """A token and how much it is raised or lowered: `told` in the words of the page, `width` (1 to 20) as a bar."""

    text: str
    change: float
    told: str
    width: int


@dataclass(frozen=True)
class Column:
    """One way of telling what a latent raises and lowers, most first."""

    raised: Sequence[TokenChange]
    lowered: Sequence[TokenChange]

    def __bool__(self) -> bool:
        return bool(self.raised or self.lowered)


@dataclass(frozen=True)
class Output:
    """`true` by ablation (probability), `direct` by the direction alone (logits for one unit of activation).

    `effect` is the detail's own record: KL with its interval, the control, the number of contexts; None where the
    effect was not measured.
    """

    effect: Mapping[str, Any] | None
    true: Column
    direct: Column


def output(browser: FeatureBrowser, effect: Mapping[str, Any] | None, found: StoredLatent | None) -> Output:
    """Both columns of a latent; empty ones where nothing was stored."""
    measured = {side: _measured(effect, side) for side in ("raised", "lowered")}
    direct = {side: _direct(browser, found, side) for side in ("raised", "lowered")}
    return Output(effect, _column(measured, 100.0), _column(direct, 1.0))


_Pairs = list[tuple[str, float]]


def _measured(effect: Mapping[str, Any] | None, side: str) -> _Pairs:
    """Only what moves the way the list says: the least raised of few tokens may be lowered ones."""
    rows = [] if effect is None else effect[side]
    return [(str(text), float(change)) for text, change in rows if (change > 0) == (side == "raised") and change]


def _direct(browser: FeatureBrowser, found: StoredLatent | None, side: str) -> _Pairs:
    ids, values = ([], []) if found is None else found.rankings.get(side, ([], []))
    texts = browser.texts(ids)
    return [(text, value) for text, value in zip(texts, values, strict=True) if (value > 0) == (side == "raised")]


def _column(own: Mapping[str, _Pairs], unit: float) -> Column:
    """Changes told as so many times what they are (100 for points). Bars share one scale, raised and lowered alike."""
    largest = max((abs(change) for pairs in own.values() for _, change in pairs[:SHOWN]), default=1.0)
    sides = {
        side: [
            TokenChange(
                text,
                change,
                f"{'+' if change > 0 else ''}{number(unit * change, 2)}",
                max(1, round(_WIDTHS * abs(change) / largest)),
            )
            for text, change in pairs[:SHOWN]
        ]
        for side, pairs in own.items()
    }
    return Column(sides["raised"], sides["lowered"])
