"""Every pattern of up to four tokens, wildcards included, that two documents of a text have in common.

A pattern is four token ids, the token itself first and then those before it, with -1 where any token
may stand: (stop, don't, -1, -1) is "stop" right after "don't".
"""

from itertools import combinations

import numpy as np
from jaxtyping import Int32, Int64
from numpy import ndarray

from .surroundings import ORDER, Surroundings

ANY = -1

PLACES = [places for size in range(1, ORDER + 1) for places in combinations(range(ORDER), size) if places != (0,)]
"""Which places a pattern may fix. The token alone is left to the lookup."""


class Patterns:
    """The patterns of a text. `keys[i, p]` is the number of the pattern that fixes `PLACES[i]` and matches at
    position p, -1 where fewer than two documents have it."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.keys: Int32[ndarray, "places position"] = np.full((len(PLACES), len(around.ids)), -1, np.int32)
        found: dict[tuple[int, ...], Int32[ndarray, " position"]] = {}
        self.begins: list[int] = []
        examples: list[Int64[ndarray, " pattern"]] = []
        count = 0
        for number, places in enumerate(PLACES):
            # What two documents share, they share in every part: only such positions need be looked at.
            shorter = found.get(places[:-1])
            last = around.earlier[places[-1]]
            inside = np.flatnonzero(last >= 0 if shorter is None else (last >= 0) & (shorter >= 0))
            if places[0] == 0 and len(places) == 2:
                inside = inside[around.earlier[0, inside] >= 0]
                left = around.earlier[0, inside].astype(np.int64)
            else:
                left = np.zeros(len(inside), np.int64) if shorter is None else shorter[inside].astype(np.int64)
            key = left * (int(last.max(initial=0)) + 1) + last[inside]
            keys, example = self._shared(key, inside)
            found[places] = keys
            self.keys[number] = np.where(keys >= 0, keys + count, -1)
            self.begins.append(count)
            examples.append(example)
            count += len(example)
        self.examples = np.concatenate(examples)

    def _shared(
        self, key: Int64[ndarray, " inside"], inside: Int64[ndarray, " inside"]
    ) -> tuple[Int32[ndarray, " position"], Int64[ndarray, " pattern"]]:
        """Numbers from 0 for the keys of two documents or more, by position, and a position of each."""
        keys = np.full(len(self.around.ids), -1, np.int32)
        if not len(inside):
            return keys, inside
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        document = self.around.document[inside]
        other = np.zeros(len(first), bool)
        other[inverse[document != document[first[inverse]]]] = True
        number = np.cumsum(other) - 1
        shared = other[inverse]
        keys[inside[shared]] = number[inverse[shared]]
        return keys, inside[first[other]]

    def spelled(self, key: int) -> list[int]:
        """The four ids of a pattern."""
        places = PLACES[int(np.searchsorted(self.begins, key, side="right")) - 1]
        return [int(self.around.earlier[back, self.examples[key]]) if back in places else ANY for back in range(ORDER)]


def matches(pattern: list[int], around: Surroundings, rows: Int64[ndarray, " row"]) -> Int64[ndarray, " match"]:
    """Which of `rows` (as indices into it) stand where the pattern fits."""
    fixed = [(back, token) for back, token in enumerate(pattern) if token != ANY]
    back, token = fixed[0]
    found = np.flatnonzero(around.earlier[back][rows] == token)
    for back, token in fixed[1:]:
        found = found[around.earlier[back][rows[found]] == token]
    return found
