"""How alike matched latents are: a histogram of their cosines as SVG, in the styles of the report's charts."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..report.figures import Axis
from ..report.words import escape

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 18, 44
_STEP = 0.05
THRESHOLDS = (0.5, 0.7, 0.9)
"""Below the first a latent is only in its own dictionary, from the others on it counts as shared."""


def cosine_counts(cosines: Sequence[float]) -> tuple[list[float], list[int]]:
    """Edges in steps of 0.05, from the lowest cosine rounded down (at most 0) to 1, and the counts between them.

    >>> edges, counts = cosine_counts([0.98, 0.5, 0.52])
    >>> edges[0], edges[-1], counts[10], counts[-1], sum(counts)
    (0.0, 1.0, 2, 1, 3)
    """
    lowest = min([0.0, *cosines])
    bins = round((1.0 - np.floor(lowest / _STEP) * _STEP) / _STEP)
    edges = np.round(1.0 - _STEP * np.arange(bins, -1, -1), 10)
    counts, _ = np.histogram(np.clip(cosines, edges[0], 1.0), edges)
    return edges.tolist(), counts.tolist()


def cosine_histogram(cosines: Sequence[float], title: str) -> str:
    """The histogram, with dashed lines at the thresholds."""
    edges, counts = cosine_counts(cosines)
    x = Axis(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    y = Axis(0.0, max([*counts, 1]) * 1.08, HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,.0f}</text>'
        for tick in y.ticks()
        if tick == round(tick)
    ]
    for (left, right), count in zip(pairwise(edges), counts, strict=True):
        if count:
            note = f"{count:,} pairs with a cosine from {left:.2f} to {right:.2f}".replace("-", "−")
            parts.append(
                f'<rect class="column" x="{x(left) + 0.5:.1f}" y="{y(count):.1f}" width="{x(right) - x(left) - 1:.1f}" '
                f'height="{y.start - y(count):.1f}"><title>{note}</title></rect>'
            )
    parts += [
        f'<line class="axis dashed" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP - 6}" y2="{y.start}"/>'
        for mark in THRESHOLDS
    ]
    parts += [
        f'<text class="tick" x="{x(tick):.1f}" y="{y.start + 17:.1f}" text-anchor="middle">{_short(tick)}</text>'
        for tick in x.ticks()
    ]
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y.start}" y2="{y.start}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">cosine of a pair</text>')
    return (
        f'<svg class="cosines c-tied_l1" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _short(value: float) -> str:
    return f"{value:.10g}".replace("-", "−") if abs(value) > 1e-9 else "0"
