"""Interpolated Kneser-Ney n-grams (Ney, Essen, Kneser 1994) over token ids, counted with sorted arrays."""

import numpy as np


class KneserNey:
    """An n-gram model of a sequence of token ids below 4,096.

    One absolute discount per order, D = n1 / (n1 + 2 n2) from the counts of counts; lower orders use
    continuation counts (in how many different contexts an n-gram was seen after one more word).
    """

    def __init__(self, ids: np.ndarray, order: int = 5, vocabulary: int = 4096) -> None:
        if vocabulary**order > 2**62:
            raise ValueError(f"{order}-grams of {vocabulary} tokens do not fit 64 bits")
        self.order, self.vocabulary = order, vocabulary
        self.levels = [_Level(*self._counts(ids, n), vocabulary) for n in range(1, order + 1)]

    def _counts(self, ids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n-grams with their counts (highest order) or continuation counts (below)."""
        if n == self.order:
            return np.unique(self._codes(ids, n), return_counts=True)
        longer = np.unique(self._codes(ids, n + 1))
        return np.unique(longer % self.vocabulary**n, return_counts=True)

    def _codes(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Every n-gram as one number, the oldest token in the highest place."""
        codes = np.zeros(len(ids) - n + 1, dtype=np.int64)
        for offset in range(n):
            codes = codes * self.vocabulary + ids[offset : len(ids) - n + 1 + offset].astype(np.int64)
        return codes

    def probabilities(self, ids: np.ndarray) -> np.ndarray:
        """P(ids[i] | the up to order-1 tokens before it), for i = 1, 2, ..."""
        result = np.full(len(ids) - 1, 1 / self.vocabulary)
        for n, level in enumerate(self.levels, 1):
            if len(ids) < max(n, 2):
                break
            skip = max(n - 2, 0)  # positions with too short a history keep the lower order's value
            codes = self._codes(ids, n)[1 if n == 1 else 0 :]
            result[skip:] = level.interpolate(codes, result[skip:])
        return result

    def bits(self, ids: np.ndarray) -> float:
        """Total bits of every token after the first."""
        return float(-np.log2(self.probabilities(ids)).sum())


class _Level:
    """The n-grams of one order, sorted, with the totals of their contexts."""

    def __init__(self, codes: np.ndarray, counts: np.ndarray, vocabulary: int) -> None:
        self.codes, self.counts, self.vocabulary = codes, counts, vocabulary
        ones, twos = (counts == 1).sum(), (counts == 2).sum()
        self.discount = ones / max(ones + 2 * twos, 1) if ones else 0.0
        self.contexts, first = np.unique(codes // vocabulary, return_index=True)
        self.totals = np.add.reduceat(counts, first)
        self.distinct = np.diff(np.append(first, len(codes)))

    def interpolate(self, codes: np.ndarray, lower: np.ndarray) -> np.ndarray:
        count = _look_up(self.codes, self.counts, codes)
        context = codes // self.vocabulary
        total = _look_up(self.contexts, self.totals, context)
        distinct = _look_up(self.contexts, self.distinct, context)
        known = total > 0
        total = np.where(known, total, 1)
        mixed = np.maximum(count - self.discount, 0) / total + self.discount * distinct / total * lower
        return np.where(known, mixed, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[keys == wanted], 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
