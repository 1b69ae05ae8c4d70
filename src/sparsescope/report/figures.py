"""Figures as inline SVG: text stays text, colours follow the page's light or dark mode, and the same
numbers give the same bytes. Only styles that the page defines (`page.css`) are used."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .words import escape, percent

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 14, 48


@dataclass(frozen=True)
class Point:
    """A measured point: position, interval ends (None: none), what hovering over it says, and where a click leads."""

    x: float
    y: float
    y_low: float | None = None
    y_high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    note: str = ""
    link: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour and marker, joined by a line in the order of x."""

    label: str
    colour: str
    """Name of a CSS class that sets the colour, e.g. `c-topk`."""
    marker: str
    points: list[Point] = field(default_factory=list)
    dashed: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: its range, ticks, and where values lie between `start` and `end` (pixels)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixels; values outside the range lie on its edge."""
        value = min(max(value, self.low), self.high)
        a, b, v = (math.log10(n) if self.log else n for n in (self.low, self.high, value))
        return self.start + (v - a) / (b - a) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self) -> list[float]:
        """Round values inside the range: 1, 2, 5 of every decade (log), or about five even steps."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if math.log10(self.high / self.low) < 2.6 else (1,)
            values = (step * 10.0**decade for decade in decades for step in steps)
            return [v for v in values if self.low / (1 + 1e-9) <= v <= self.high * (1 + 1e-9)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(s for s in (1, 2, 2.5, 5, 10) if (self.high - self.low) / (step * s) <= 6)
        return [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def l0_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis of L0 with some room; an L0 below 0.1 lies on its left edge."""
    low, high = (max(f(values, default=1.0), 0.1) for f in (min, max))
    return Axis(low / 1.35, high * 1.35, LEFT, WIDTH - RIGHT, log=True)


def plain_axis(values: Sequence[float], low: float, high: float) -> Axis:
    """A vertical axis over `values` with some room, cut at `low` and `high`."""
    bottom, top = (min(max(end, low), high) for end in (min(values, default=low), max(values, default=high)))
    room = 0.06 * (top - bottom) or 0.1
    return Axis(max(bottom - room, low), min(top + room, high), HEIGHT - BOTTOM, TOP)


def scatter(series: Sequence[Series], x: Axis, y: Axis, *, x_label: str, y_label: str, title: str) -> str:
    """A chart of series with intervals; points out of range sit on the edge as arrows."""
    parts = [_frame(x, y, x_label, y_label)]
    parts += [_line(s, x, y) for s in series if len(s.points) > 1]
    parts += [_bars(s, p, x, y) for s in series for p in s.points]
    parts += [_mark(s, p, x, y) for s in series for p in s.points]
    parts += _direct_labels(series, x, y)
    return _svg(WIDTH, HEIGHT, title, parts)


def density_panel(edges: Sequence[float], counts: Sequence[int], colour: str, title: str) -> str:
    """A small histogram of log10 density."""
    width, height, base = 220, 96, 74
    x = Axis(edges[0], edges[-1], 6, width - 6)
    top = max([*counts, 1])
    bars = []
    for (left, right), count in zip(pairwise(edges), counts, strict=True):
        tall = 62 * count / top
        note = f"{count:,} latents active on {percent(10**left)} to {percent(10**right)} of tokens"
        if count:
            bars.append(
                f'<rect class="bar" x="{x(left) + 0.5:.1f}" y="{base - tall:.1f}" width="{x(right) - x(left) - 1:.1f}" '
                f'height="{tall:.1f}"><title>{note}</title></rect>'
            )
    powers = [power for power in range(math.ceil(edges[0]), 1) if power % 2 == 0]
    ticks = [_text("tick", x(power), base + 15, percent(10.0**power), _anchor(power, edges)) for power in powers]
    axis = f'<line class="axis" x1="6" x2="{width - 6}" y1="{base}" y2="{base}"/>'
    return _svg(width, height, title, [f'<g class="{colour}">', *bars, "</g>", axis, *ticks])


def interval_chart(
    rows: Sequence[tuple[str, str, float, float | None, float | None, bool]], *, x_label: str, title: str
) -> str:
    """One row for each (name, colour, value, low, high, hollow): a point on a common axis, with its interval."""
    step, names = 19, 230
    ends = [end for _, _, value, low, high, _ in rows for end in (value, low, high) if end is not None]
    x = Axis(min(*ends, 0.0), max(*ends, 0.0), names, 760 - RIGHT)
    bottom = TOP + step * len(rows)
    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{bottom}"/>'
        + _text("tick", x(tick), bottom + 16, _tick(tick), "middle")
        for tick in x.ticks()
    ]
    parts.append(f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" y2="{bottom}"/>')
    for place, (name, colour, value, low, high, hollow) in enumerate(rows):
        y = TOP + step * (place + 0.5)
        words = name if len(name) <= 34 else f"{name[:33]}…"
        bar = ""
        if low is not None and high is not None:
            bar = f'<line class="interval" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        note = f"<title>{escape(name)}: {value:.3f}</title>"
        parts.append(_text("tick", names - 10, y + 4, words, "end"))
        parts.append(f'<g class="mark {colour}">{note}{bar}{_shape("circle", x(value), y, hollow)}</g>')
    parts.append(_text("name", (names + 760 - RIGHT) / 2, bottom + 36, x_label, "middle"))
    return _svg(760, bottom + 44, title, parts)


def swatch(series: Series) -> str:
    """The line and marker of a series, for the legend."""
    line = f'<line class="line{" dashed" if series.dashed else ""}" x1="1" x2="31" y1="8" y2="8"/>'
    return (
        f'<svg class="swatch {series.colour}" viewBox="0 0 32 16" width="32" height="16" aria-hidden="true">'
        f"{line}{_shape(series.marker, 16, 8, series.hollow)}</svg>"
    )


def _anchor(power: float, edges: Sequence[float]) -> str:
    return "start" if power == edges[0] else "end" if power == edges[-1] else "middle"


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    parts = []
    for value in x.ticks():
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{y.start}" y2="{y.end}"/>')
        parts.append(_text("tick", x(value), y.start + 17, _tick(value), "middle"))
    for value in y.ticks():
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text("tick", x.start - 7, y(value) + 4, _tick(value), "end"))
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    parts.append(_text("name", (x.start + x.end) / 2, HEIGHT - 8, x_label, "middle"))
    turned = _text("name turned", 0, 0, y_label, "middle")
    parts.append(f'<g transform="translate(13 {(y.start + y.end) / 2}) rotate(-90)">{turned}</g>')
    return "".join(parts)


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−") if abs(value) > 1e-9 else "0"


def _line(series: Series, x: Axis, y: Axis) -> str:
    ordered = sorted(series.points, key=lambda p: p.x)
    path = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in ordered)
    return f'<polyline class="line {series.colour}{" dashed" if series.dashed else ""}" points="{path}"/>'


def _bars(series: Series, point: Point, x: Axis, y: Axis) -> str:
    parts = []
    if point.y_low is not None and point.y_high is not None and y.holds(point.y):
        parts.append((x(point.x), x(point.x), y(point.y_low), y(point.y_high)))
    if point.x_low is not None and point.x_high is not None and y.holds(point.y):
        parts.append((x(point.x_low), x(point.x_high), y(point.y), y(point.y)))
    return "".join(
        f'<line class="interval {series.colour}" x1="{a:.1f}" x2="{b:.1f}" y1="{c:.1f}" y2="{d:.1f}"/>'
        for a, b, c, d in parts
    )


def _mark(series: Series, point: Point, x: Axis, y: Axis) -> str:
    shape = series.marker
    if not y.holds(point.y):
        shape = "up" if point.y > y.high else "down"
    drawn = _shape(shape, x(point.x), y(point.y), series.hollow)
    mark = f'<g class="mark {series.colour}"><title>{escape(point.note)}</title>{drawn}</g>'
    return f'<a href="{escape(point.link)}">{mark}</a>' if point.link else mark


_CORNERS = {
    "triangle": ((0, -5.5), (5, 4), (-5, 4)),
    "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    "cross": (
        (-2, -5),
        (2, -5),
        (2, -2),
        (5, -2),
        (5, 2),
        (2, 2),
        (2, 5),
        (-2, 5),
        (-2, 2),
        (-5, 2),
        (-5, -2),
        (-2, -2),
    ),
    "up": ((0, 0), (5, 9), (-5, 9)),
    "down": ((0, 0), (5, -9), (-5, -9)),
}


def _shape(marker: str, x: float, y: float, hollow: bool) -> str:
    style = "hollow" if hollow else "solid"
    if marker == "circle":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4.3"/>'
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in _CORNERS[marker])
    return f'<polygon class="{style}" points="{points}"/>'


def _direct_labels(series: Sequence[Series], x: Axis, y: Axis) -> list[str]:
    """The label of each series beside one of its points, where there is room; the legend has them all."""
    taken = [(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for s in series for p in s.points]
    taken += [(px - 2, py - 2, px + 2, py + 2) for s in series for px, py in _along(s, x, y)]
    parts, written = [], set()
    for s in series:
        wide = _CHARACTER * len(s.label) + 4
        for point in sorted(s.points, key=lambda p: -p.x):
            at = _free_box(x(point.x), y(point.y), wide, taken, (x.start, y.end, x.end, y.start))
            if at is None or s.label in written:
                continue
            taken.append(at)
            written.add(s.label)
            parts.append(
                f'<text class="direct {s.colour}" x="{at[0] + 2:.1f}" y="{at[3] - 3.5:.1f}">{escape(s.label)}</text>'
            )
            break
    return parts


def _along(series: Series, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Places every few pixels along a line."""
    ordered = [(x(p.x), y(p.y)) for p in sorted(series.points, key=lambda p: p.x)]
    return [
        (a[0] + (b[0] - a[0]) * i / 24, a[1] + (b[1] - a[1]) * i / 24) for a, b in pairwise(ordered) for i in range(25)
    ]


Box = tuple[float, float, float, float]
_CHARACTER = 7.4
"""Pixels for a character of a label: which typeface there is differs, and this is a wide one."""


def _free_box(px: float, py: float, wide: float, taken: Sequence[Box], frame: Box) -> Box | None:
    """A place for a text beside a point that touches nothing, or None."""
    for left, top in ((px + 7, py - 8), (px - 7 - wide, py - 8), (px - wide / 2, py - 24), (px - wide / 2, py + 8)):
        box = (left, top, left + wide, top + 16)
        inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if inside and not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
            return box
    return None
