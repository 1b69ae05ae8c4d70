"""Patterns of tokens, the longest of which decides: a backoff suffix trie with wildcards.

Patterns are taken up one by one, the one that removes most squared error first. What a pattern removes
is measured on documents that its value was not computed from (each left out in turn), so that a chance
coincidence in one document is worth nothing.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from ..base import LEVELS
from .patterns import PLACES, Patterns, matches
from .rows import Rows
from .surroundings import Surroundings

MOST_PATTERNS = 32
_TRIED = 150
_LEAST_GAIN = 0.002  # of the weighted variance of the activation
_SURE = 1.64  # standard errors, over documents, by which the gain must differ from nothing: three documents at least
_SHRINKAGE = 1.0  # rows of average weight at the value expected without the pattern


@dataclass(eq=False)
class Trie:
    """Patterns and their expected activations, longest first: the first that fits decides."""

    patterns: list[list[int]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def decide(self, around: Surroundings, rows: Int64[ndarray, " row"]) -> Int64[ndarray, " row"]:
        """The number of the pattern that decides at each position, -1 where none fits."""
        deciding = np.full(len(rows), -1)
        for number in reversed(range(len(self.patterns))):
            deciding[matches(self.patterns[number], around, rows)] = number
        return deciding

    def expect(
        self, around: Surroundings, rows: Int64[ndarray, " row"], otherwise: Float64[ndarray, " row"]
    ) -> Float64[ndarray, " row"]:
        """The values of the deciding patterns; `otherwise` where none fits."""
        deciding = self.decide(around, rows)
        return np.where(deciding >= 0, np.array([*self.values, 0.0])[deciding], otherwise)


def grow(rows: Rows, patterns: Patterns) -> tuple[Trie, Float64[ndarray, " row"]]:
    """The trie for these rows, and what it expects of each row without the row's own document."""
    least = _LEAST_GAIN * rows.variance
    members, queue = _candidates(rows, patterns, least)
    expected = rows.expected.copy()
    length = np.zeros(len(rows), np.int64)
    accepted: list[tuple[int, list[int], float]] = []
    for _ in range(_TRIED):
        if not queue or len(accepted) == MOST_PATTERNS:
            break
        _, key = heapq.heappop(queue)
        size = len(PLACES[int(np.searchsorted(patterns.begins, key, side="right")) - 1])
        free = members[key][length[members[key]] < size]
        gain, value, honest = _worth(rows, expected, free)
        if gain < max(least, 1e-9):
            continue
        if queue and gain < -queue[0][0]:
            heapq.heappush(queue, (-gain, key))
            continue
        expected[free], length[free] = honest, size
        accepted.append((size, patterns.spelled(key), round(value, 3)))
    accepted.sort(key=lambda node: -node[0])  # stable: of equal length, the earlier one decides
    return Trie([pattern for _, pattern, _ in accepted], [value for _, _, value in accepted]), expected


def _worth(
    rows: Rows, expected: Float64[ndarray, " row"], members: Int64[ndarray, " member"]
) -> tuple[float, float, Float64[ndarray, " member"]]:
    """Squared error that a pattern removes on left-out documents, its value, and the values without each row's own."""
    part = rows.take(members)
    now = expected[members]
    weights = np.bincount(part.document, part.weight)
    sums = np.bincount(part.document, part.weight * part.activation)
    weight, total = weights.sum(), sums.sum()
    if (weights > 0).sum() < 2:
        return -np.inf, 0.0, now
    prior = _SHRINKAGE * weight / len(members)
    mean = part.weight @ now / weight
    honest = ((total - sums + prior * mean) / (weight - weights + prior))[part.document]
    removed = np.bincount(part.document, part.weight * ((part.activation - now) ** 2 - (part.activation - honest) ** 2))
    gain = float(removed.sum())
    if gain < _SURE * np.sqrt((removed**2).sum()):
        return -np.inf, 0.0, now
    return gain, float(np.clip((total + prior * mean) / (weight + prior), 0, LEVELS)), honest


def _candidates(
    rows: Rows, patterns: Patterns, least: float
) -> tuple[dict[int, Int64[ndarray, " member"]], list[tuple[float, int]]]:
    """The rows of each pattern that seems to remove enough error by itself, and a heap of these, the best first.

    The same numbers as `_worth`, for all patterns of all rows at once.
    """
    keys = patterns.keys[:, rows.position]
    row = np.broadcast_to(np.arange(len(rows)), keys.shape)[keys >= 0]
    documents = int(rows.document.max(initial=0)) + 1
    pair = keys[keys >= 0].astype(np.int64) * documents + rows.document[row]
    if not len(row):
        return {}, []
    pair, row = np.divmod(np.sort(pair * len(rows) + row), len(rows))
    begin = np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))  # of each pattern in each document
    key = pair[begin] // documents
    node = np.flatnonzero(np.append(True, key[1:] != key[:-1]))  # of each pattern, among those
    size = np.diff(np.append(node, len(begin)))
    weight, activation, expected = rows.weight[row], rows.activation[row], rows.expected[row]
    weights, sums, squares, expectations, before = (
        np.add.reduceat(column, begin)
        for column in (
            *(weight, weight * activation, weight * activation**2, weight * expected),
            weight * (activation - expected) ** 2,
        )
    )
    count = np.diff(np.append(begin, len(row)))

    def whole(column: Float64[ndarray, " pair"]) -> Float64[ndarray, " pair"]:
        return np.repeat(np.add.reduceat(column, node), size)

    prior = _SHRINKAGE * whole(weights) / whole(count)
    mean = whole(expectations) / whole(weights)
    honest = (whole(sums) - sums + prior * mean) / (whole(weights) - weights + prior)
    after = squares - 2 * honest * sums + honest**2 * weights
    gain = np.add.reduceat(before - after, node)
    noise = np.sqrt(np.add.reduceat((before - after) ** 2, node))
    members, queue = {}, []
    ends = np.append(begin, len(row))
    for chosen in np.flatnonzero((gain > 0) & (gain >= least) & (gain >= _SURE * noise) & (size >= 3)):
        number = int(key[node[chosen]])
        members[number] = np.sort(row[ends[node[chosen]] : ends[node[chosen] + size[chosen]]])
        queue.append((-float(gain[chosen]), number))
    heapq.heapify(queue)
    return members, queue
