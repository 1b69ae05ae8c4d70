"""A dictionary at a glance: how many latents there are of each kind, and where they lie by density and quality."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SCATTERS = ("score", "f1", "effect")
"""What can be drawn against density."""
SINGLE = 1_000
"""So many latents are points of their own; more are gathered in the cells of a grid."""
_COLUMNS, _ROWS = 36, 22

Point = tuple[float, float, int, int]
"""log10 of the density, value, a latent, and how many latents are meant."""


@dataclass(frozen=True)
class Overview:
    """`counts` of latents: "latents", "active", "dead", "dense" and "explained"."""

    counts: Mapping[str, int]
    scatters: Mapping[str, Sequence[Point]]

    def scatter(self, y: str) -> Sequence[Point]:
        """The points for "score", "f1" or "effect"; a cell of several lies at their mean, led by the one nearest it."""
        return self.scatters[y]


Row = tuple[int, float, float | None, float | None, float | None, int]
"""Latent, density, score, F1, effect, whether it is explained."""


def overview_of(rows: Sequence[Row], dense: float) -> tuple[dict[str, int], dict[str, list[Point]]]:
    """Counts and scatters of the latents of a dictionary; `dense` is the density above which a latent is that."""
    active = sum(row[1] > 0 for row in rows)
    counts = {
        "latents": len(rows),
        "active": active,
        "dead": len(rows) - active,
        "dense": sum(row[1] > dense for row in rows),
        "explained": sum(bool(row[5]) for row in rows),
    }
    scatters = {}
    for place, name in enumerate(SCATTERS, start=2):
        values = [(row[0], row[1], row[place]) for row in rows if row[1] > 0]
        found = [(math.log10(density), y, latent, 1) for latent, density, y in values if y is not None]
        # Effects have a long tail: cells of equal size would put nearly all latents in one row of them.
        scatters[name] = _gathered(found, math.sqrt if name == "effect" else float)
    return counts, scatters


def _gathered(points: list[Point], scale: Callable[[float], float]) -> list[Point]:
    """The points themselves while they are few, otherwise the cells of a grid that hold any."""
    if len(points) <= SINGLE:
        return [(round(x, 4), float(f"{y:.4g}"), latent, count) for x, y, latent, count in points]
    x = np.array([point[0] for point in points])
    y = np.array([point[1] for point in points])
    latents = np.array([point[2] for point in points])
    level = np.array([scale(max(value, 0.0)) for value in y]) if scale is math.sqrt else y
    cell = _part(x, _COLUMNS) * _ROWS + _part(level, _ROWS)
    cells = []
    for number in np.unique(cell):
        inside = np.flatnonzero(cell == number)
        mean = x[inside].mean(), y[inside].mean()
        nearest = inside[np.argmin(_distance(x, mean[0], inside) + _distance(y, mean[1], inside))]
        cells.append((round(float(mean[0]), 4), float(f"{mean[1]:.4g}"), int(latents[nearest]), len(inside)))
    return cells


def _part(values: np.ndarray, parts: int) -> np.ndarray:
    """In which of equal parts of their range values lie."""
    width = max(float(np.ptp(values)), 1e-12)
    return np.minimum(((values - values.min()) / width * parts).astype(int), parts - 1)


def _distance(values: np.ndarray, mean: float, inside: np.ndarray) -> np.ndarray:
    return ((values[inside] - mean) / max(float(np.ptp(values)), 1e-12)) ** 2
