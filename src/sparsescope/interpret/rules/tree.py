"""A shallow regression tree of yes-or-no questions, with a line in each leaf.

A leaf expects offset + slope · v, where v is what the simpler rules expect: so a tree can say "inside a
quotation, twice what the token alone suggests; elsewhere nothing", which constants could not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from ..base import LEVELS
from .questions import Question, answer
from .rows import Rows
from .surroundings import Surroundings

MOST_SPLITS = 7
DEEPEST = 4
_FEWEST = 6  # rows on either side of a split
_LEAST_GAIN = 0.002  # of the weighted variance of the activation
_RIDGE = (4.0, 16.0)  # rows of average weight that hold the offset, and the slope, to those of the node above

# Sums are over integers, so that they are exact and no order of summation changes a tie.
_PARTS, _WEIGHTS = 64.0, 256.0

MOST_OWN = 6
"""The most questions that `own_questions` makes."""

_VALUE_BOUNDS = (0.25, 1.0, 3.0, 6.0)
_MOST_LISTED = 64


@dataclass(frozen=True, eq=False)
class Tree:
    """Splits in the order in which they were made: (node, question). The answer yes to split j leads to
    node 2j + 1, no to 2j + 2; node 0 is all tokens. `lines` holds offset and slope of every node, so that
    the first s splits are a tree, too."""

    splits: list[tuple[int, Question]]
    lines: list[tuple[float, float]]

    def first(self, splits: int) -> "Tree":
        return Tree(self.splits[:splits], self.lines[: 2 * splits + 1])

    def nodes(
        self, around: Surroundings, rows: Int64[ndarray, " row"], value: Float64[ndarray, " row"]
    ) -> Int64[ndarray, " row"]:
        """The leaf of each position."""
        node = np.zeros(len(rows), np.int64)
        for number, (parent, question) in enumerate(self.splits):
            here = np.flatnonzero(node == parent)
            if len(here):
                yes = answer(question, around, rows[here], value[here])
                node[here] = np.where(yes, 2 * number + 1, 2 * number + 2)
        return node

    def expect(
        self, around: Surroundings, rows: Int64[ndarray, " row"], value: Float64[ndarray, " row"]
    ) -> Float64[ndarray, " row"]:
        """Expected activation, where simpler rules expect `value`."""
        return self.read(self.nodes(around, rows, value), value)

    def read(self, node: Int64[ndarray, " row"], value: Float64[ndarray, " row"]) -> Float64[ndarray, " row"]:
        """What the lines of `node` make of `value`."""
        lines = np.array(self.lines)
        return np.clip(lines[node, 0] + lines[node, 1] * value, 0, LEVELS)


def own_questions(rows: Rows, around: Surroundings) -> list[Question]:
    """Questions made for one latent: about what is expected so far, and whether the tokens before are among
    those after which there was more than expected."""
    asked: list[Question] = [["value", bound] for bound in _VALUE_BOUNDS]
    for back in (1, 2):
        listed = _raising(rows, around.earlier[back][rows.position])
        if listed:
            asked.append(["token", back, listed])
    return asked


def _raising(rows: Rows, token: Int64[ndarray, " row"]) -> list[int]:
    """The tokens with the largest mean remainder (activation less expectation), cut where that explains most.

    Ordered by the mean, the best division into two sets is a cut (Fisher 1958, "On grouping for maximum
    homogeneity"); means are shrunk, and a token must have been there in two documents.
    """
    ids, inverse = np.unique(token, return_inverse=True)
    rest = rows.weight * (rows.activation - rows.expected)
    weight = np.bincount(inverse, rows.weight)
    total = np.bincount(inverse, rest)
    mean = total / (weight + 2 * rows.weight.mean())
    low, high = np.full(len(ids), len(rows) + 1), np.full(len(ids), -1)
    np.minimum.at(low, inverse, rows.document)
    np.maximum.at(high, inverse, rows.document)
    useful = np.flatnonzero((ids >= 0) & (low < high) & (mean > 0))
    order = useful[np.argsort(-mean[useful], kind="stable")][:_MOST_LISTED]
    if not len(order):
        return []
    above, share = np.cumsum(total[order]), np.cumsum(weight[order])
    below, left = total.sum() - above, np.maximum(weight.sum() - share, 1e-9)
    best = int(np.argmax(np.round(above**2 / share + below**2 / left, 6)))
    return sorted(ids[order[: best + 1]].tolist())


@dataclass(eq=False)
class _Node:
    """A leaf that may still be split: its rows, its exact sums, its line, and its best split."""

    number: int
    depth: int
    rows: Int64[ndarray, " row"]
    sums: Float64[ndarray, "6 question"]  # of the rows that answer yes
    total: Float64[ndarray, " 6"]
    line: tuple[float, float]
    gain: float = 0.0
    question: int = -1


def grow(
    rows: Rows,
    inside: Bool[ndarray, " row"],
    questions: Sequence[Question],
    answers: Float64[ndarray, "row question"],
    splits: int,
) -> Tree:
    """Best-first on the rows `inside`, until `splits` splits are made or none removes enough squared error."""
    statistics = _statistics(rows) * inside
    mean = statistics[0].sum() / inside.sum()
    ridge = (_RIDGE[0] * mean, _RIDGE[1] * mean)
    least = _LEAST_GAIN * rows.take(inside).variance * _WEIGHTS
    total = statistics.sum(1)
    root = _Node(0, 0, np.flatnonzero(inside), statistics @ answers, total, _line(total, (0.0, 1.0), ridge))
    lines, leaves = [root.line], [root]
    made: list[tuple[int, Question]] = []
    _choose(root, ridge)
    for _ in range(splits):
        node = max(leaves, key=lambda leaf: leaf.gain)  # of equal ones, the earlier
        if node.gain <= least:
            break
        leaves.remove(node)
        said = answers[node.rows, node.question] > 0
        # Zeros in place of other rows: to copy the rows of the one side out would take longer.
        part = np.zeros_like(statistics)
        part[:, node.rows[said]] = statistics[:, node.rows[said]]
        sums, whole = part @ answers, part.sum(1)
        for yes, found, all_ in ((True, sums, whole), (False, node.sums - sums, node.total - whole)):
            line = _line(all_, node.line, ridge)
            child = _Node(len(lines), node.depth + 1, node.rows[said == yes], found, all_, line)
            lines.append(child.line)
            if child.depth < DEEPEST:
                _choose(child, ridge)
                leaves.append(child)
        made.append((node.number, list(questions[node.question])))
        if not leaves:
            break
    return Tree(made, [(round(offset, 4), round(slope, 4)) for offset, slope in lines])


def _statistics(rows: Rows) -> Float64[ndarray, "6 row"]:
    """Weight, w·x, w·x², w·y, w·x·y and 1 of each row, as whole numbers; x is what is expected, y what is."""
    w = np.maximum(np.rint(rows.weight * _WEIGHTS), 1)
    x, y = np.rint(rows.expected * _PARTS), np.rint(rows.activation * _PARTS)
    return np.stack([w, w * x, w * x * x, w * y, w * x * y, np.ones_like(w)])


def _gain(
    sums: Float64[ndarray, "6 ..."], line: tuple[float, float], ridge: tuple[float, float]
) -> tuple[Any, Any, Any]:
    """By how much the error falls when offset and slope may leave `line`, and by how much these would change.

    The least squares of w (y − y₀)² + ridge · change²: with A the matrix of the normal equations and b
    their right side, the change is A⁻¹b and the error falls by bᵀA⁻¹b.
    """
    w, wx, wxx = sums[0], sums[1] / _PARTS, sums[2] / _PARTS**2
    rest = sums[3] / _PARTS - line[0] * w - line[1] * wx
    along = sums[4] / _PARTS**2 - line[0] * wx - line[1] * wxx
    a, c = w + ridge[0], wxx + ridge[1]
    determinant = a * c - wx * wx
    offset, slope = (c * rest - wx * along) / determinant, (a * along - wx * rest) / determinant
    return offset * rest + slope * along, offset, slope


def _line(total: Float64[ndarray, " 6"], above: tuple[float, float], ridge: tuple[float, float]) -> tuple[float, float]:
    _, offset, slope = _gain(total, above, ridge)
    return float(above[0] + offset), float(above[1] + slope)


def _choose(node: _Node, ridge: tuple[float, float]) -> None:
    """The question that divides this node best."""
    other = node.total[:, None] - node.sums
    gain = _gain(node.sums, node.line, ridge)[0] + _gain(other, node.line, ridge)[0]
    possible: Bool[ndarray, " question"] = (node.sums[5] >= _FEWEST) & (other[5] >= _FEWEST)
    gain = np.where(possible, gain, 0.0)
    node.question = int(np.argmax(gain))
    node.gain = float(gain[node.question])
