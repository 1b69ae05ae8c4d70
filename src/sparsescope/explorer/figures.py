"""Figures of the explorer that the report has not: latents by density, and intervals inside a table.

Inline SVG without a style attribute, which the content policy forbids: colours are classes of the page's styles,
and what follows from numbers are plain SVG attributes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.figures import Axis
from ..report.words import escape, number, percent

WIDTH, HEIGHT = 1100, 380
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46
DENSE = -1.0
"""log10 of the density beyond which a latent counts as dense."""

ScatterPoint = tuple[float, float, int, int]
"""log10 density, y, the latent (of a cell: one that stands for it), and how many latents lie there."""


def density_scatter(
    points: Sequence[ScatterPoint],
    name: str,
    limits: tuple[float, float],
    link: Callable[[int], str],
    *,
    root: bool = False,
) -> str:
    """Latents by density and `name`, each a link. `limits` are on the y axis whatever the points; others extend it.

    The x axis ends where the points do; what lies beyond DENSE is shaded if anything does. With `root` the y axis
    goes by the square root, for values of at least 0 with a long tail. Points cannot be reached by the tabulator key
    (there may be 1,000) unless a script lets arrow keys go on from one; the table on the page has the same links.

    >>> drawn = density_scatter([(-2.0, 0.5, 7, 1)], "score", (0.0, 1.0), lambda latent: f"/latent/{latent}")
    >>> '<a href="/latent/7"' in drawn and "latent 7: active on 1% of tokens, score 0.500" in drawn
    True
    """
    x, y = _axes(points, limits, root)
    most = max((point[3] for point in points), default=1)
    marks = [_point(each, name, x, y, link(each[2]), most) for each in points]
    title = f"Latents by density and {name}"
    parts = [*(_dense(x) if any(point[0] > DENSE for point in points) else ()), _grid(x, y, name), *marks]
    return (
        f'<svg class="density" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="group" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Height:
    """The y axis, plain or by the square root."""

    axis: Axis
    root: bool

    def __call__(self, value: float) -> float:
        return self.axis(math.sqrt(max(value, 0.0)) if self.root else value)

    def ticks(self) -> list[float]:
        """Round values, so far apart that their numbers can be read."""
        if not self.root:
            return self.axis.ticks()
        shown: list[float] = []
        for value in (step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5)):
            if self.axis.holds(math.sqrt(value)) and abs(self(value) - self(shown[-1] if shown else 0.0)) >= 18:
                shown.append(value)
        return [0.0, *shown]


def _axes(points: Sequence[ScatterPoint], limits: tuple[float, float], root: bool) -> tuple[Axis, _Height]:
    left, right = (end((point[0] for point in points), default=-2.0) for end in (min, max))
    beside = max(0.03 * (right - left), 0.06)
    heights = [*limits, *(point[1] for point in points)]
    if root:
        heights = [math.sqrt(max(value, 0.0)) for value in heights]
    room = 0.03 * (max(heights) - min(heights))
    x = Axis(left - beside, right + beside, LEFT, WIDTH - RIGHT)
    return x, _Height(Axis(min(heights) - room, max(heights) + room, HEIGHT - BOTTOM, TOP), root)


def _dense(x: Axis) -> tuple[str, str]:
    """The region of latents that are active on more than a tenth of all tokens, and its name."""
    start = x(DENSE)
    return (
        f'<rect class="dense" x="{start:.1f}" y="{TOP}" width="{WIDTH - RIGHT - start:.1f}" '
        f'height="{HEIGHT - BOTTOM - TOP}"/>',
        _text("tick halo", WIDTH - RIGHT - 6, TOP + 12, "dense", "end"),
    )


def _densities(x: Axis) -> list[float]:
    """Round densities on the axis: the fewer powers of ten it holds, the more of each."""
    held = x.high - x.low
    steps = (1,) if held >= 2 else (1, 2, 5) if held >= 0.8 else (1, 2, 3, 4, 5, 6, 7, 8, 9)
    values = (step * 10.0**power for power in range(math.floor(x.low), 1) for step in steps)
    return [value for value in values if value <= 1 and x.holds(math.log10(value))]


def _grid(x: Axis, y: _Height, name: str) -> str:
    parts, start, end = [], y.axis.start, y.axis.end
    for density in _densities(x):
        at = x(math.log10(density))
        parts.append(_line("grid", at, at, start, end))
        parts.append(_text("tick", at, start + 17, percent(density), "middle"))
    for value in y.ticks():
        parts.append(_line("grid", x.start, x.end, y(value), y(value)))
        parts.append(_text("tick", x.start - 7, y(value) + 4, f"{value:.10g}".replace("-", "−"), "end"))
    parts.append(_line("axis", x.start, x.end, start, start))
    parts.append(_text("name", (x.start + x.end) / 2, HEIGHT - 8, "density: share of tokens it is active on", "middle"))
    turned = _text("name turned", 0, 0, name, "middle")
    return f'{"".join(parts)}<g transform="translate(13 {(start + end) / 2:.1f}) rotate(-90)">{turned}</g>'


def _point(point: ScatterPoint, name: str, x: Axis, y: _Height, href: str, most: int) -> str:
    density, value, latent, count = point
    words = f"latent {latent}: active on {percent(10**density)} of tokens, {name} {number(value)}"
    if count > 1:
        words = f"{count:,} latents here, among them {words}"
    look = 'class="one" r="3.2"'
    if count > 1:  # by size and by colour, so that neither has to be seen
        share = math.log(count) / math.log(most)
        look = f'class="many" r="{3.2 + 2.4 * share:.1f}" fill-opacity="{0.1 + 0.8 * share:.2f}"'
    return (
        f'<a href="{escape(href)}" tabindex="-1"><circle {look} cx="{x(density):.1f}" cy="{y(value):.1f}">'
        f"<title>{escape(words)}</title></circle></a>"
    )


def interval_bar(
    estimate: Mapping[str, Any] | None, limits: tuple[float, float], colour: str = "", hollow: bool = False
) -> str:
    """A value with its interval on an axis that all rows of a table share, a line at 0; "" for an unknown value.

    >>> interval_bar({"value": 0.5, "low": 0.4, "high": 0.6}, (0.0, 1.0)).count("<line")
    2
    """
    if estimate is None or estimate["value"] is None:
        return ""
    x = Axis(*limits, 6, 184)
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None else _line("interval", x(low), x(high), 9, 9)
    kind = "hollow" if hollow else "solid"
    return (
        f'<svg class="whisker {escape(colour)}" viewBox="0 0 190 18" width="190" height="18" aria-hidden="true">'
        f'{_line("axis", x(0), x(0), 1, 17)}{interval}<circle class="{kind}" cx="{x(estimate["value"]):.1f}" cy="9" '
        f'r="4"/></svg>'
    )


def _line(kind: str, left: float, right: float, top: float, bottom: float) -> str:
    return f'<line class="{kind}" x1="{left:.1f}" x2="{right:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
