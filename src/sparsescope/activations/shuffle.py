"""A shuffle of any size in constant memory.

A Feistel network is a permutation of the numbers of a given bit length, whatever its round function
(Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions").
Numbers that fall outside `range(n)` are sent through it again until they fall inside ("cycle
walking": Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which leaves a permutation
of `range(n)`. So the row at any place of a shuffled epoch can be computed on its own: nothing is
stored, and reading may start anywhere.
"""

import numpy as np
from jaxtyping import Int64, UInt64

_ROUNDS = 8
_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # of MurmurHash3's finaliser


def permute(places: Int64[np.ndarray, " n"], size: int, seed: int, epoch: int = 0) -> Int64[np.ndarray, " n"]:
    """The rows that stand at `places` when `range(size)` is shuffled with (`seed`, `epoch`).

    `places` must lie in `range(size)`. Over all places the answer is each row exactly once.

    >>> sorted(permute(np.arange(10), 10, seed=3).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    # At least two bits, so that both halves of the network have one; at most twice as many numbers
    # as rows from there on, so a row is walked twice on average at worst.
    bits = max(2, (size - 1).bit_length())
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    found = _network(places.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        walked = _network(found[outside], bits, keys)
        found[outside] = walked
        outside = outside[walked >= size]
    return found.astype(np.int64)


def shuffled(first: int, count: int, size: int, seed: int) -> Int64[np.ndarray, " count"]:
    """Rows `first` to `first + count` of an endless reading of `range(size)`, each epoch shuffled anew.

    >>> len(set(shuffled(0, 7, 7, seed=0).tolist()))
    7
    """
    places = np.arange(first, first + count, dtype=np.int64)
    rows = np.empty(count, dtype=np.int64)
    for epoch in range(first // size, (first + count - 1) // size + 1):
        inside = places // size == epoch
        rows[inside] = permute(places[inside] - epoch * size, size, seed, epoch)
    return rows


def _network(
    numbers: UInt64[np.ndarray, " n"], bits: int, keys: UInt64[np.ndarray, " round"]
) -> UInt64[np.ndarray, " n"]:
    """Alternately mix the low bits into the high ones and the high ones into the low ones."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = numbers >> low_bits, numbers & low_mask
    for key in keys.reshape(-1, 2):
        high ^= _mix(low ^ key[0]) & high_mask
        low ^= _mix(high ^ key[1]) & low_mask
    return (high << low_bits) | low


def _mix(numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """MurmurHash3's finaliser: every input bit changes every output bit about half of the time."""
    numbers ^= numbers >> np.uint64(33)
    numbers *= _FIRST
    numbers ^= numbers >> np.uint64(33)
    numbers *= _SECOND
    numbers ^= numbers >> np.uint64(33)
    return numbers
