"""The shuffle is a permutation, every row is as likely everywhere, and reading may start anywhere."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from sparsescope.activations.shuffle import permute, shuffled


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_permute_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    rows = permute(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(rows), np.arange(size))


def test_sizes_around_powers_of_two_are_bijections() -> None:
    for size in (1, 2, 3, 4, 5, 2**10 - 1, 2**10, 2**10 + 1, 2**15 + 1):
        assert np.array_equal(np.sort(permute(np.arange(size), size, seed=1)), np.arange(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 200), first=st.integers(0, 1000), count=st.integers(1, 300), seed=st.integers(0, 99))
def test_any_window_is_a_part_of_the_same_endless_sequence(size: int, first: int, count: int, seed: int) -> None:
    whole = shuffled(0, first + count, size, seed)
    assert np.array_equal(shuffled(first, count, size, seed), whole[first:])


def test_every_epoch_holds_every_row_once_in_its_own_order() -> None:
    epochs = shuffled(0, 5 * 101, 101, seed=3).reshape(5, 101)
    assert (np.sort(epochs, axis=1) == np.arange(101)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_numbers_beyond_32_bits() -> None:
    size = 3 * 10**12
    rows = permute(np.arange(size - 10_000, size), size, seed=0)
    assert rows.min() >= 0
    assert rows.max() < size
    assert len(np.unique(rows)) == 10_000
    assert kstest(rows / size, "uniform").pvalue > 1e-3


def _p_value(counts: np.ndarray) -> float:
    """Of a table of counts that should be equal but for chance; rows and columns have fixed sums."""
    expected = counts.sum() / counts.size
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), freedom))


def test_over_seeds_every_row_is_as_likely_at_every_place() -> None:
    size, seeds = 12, 3000
    counts = np.zeros((size, size))
    for seed in range(seeds):
        counts[np.arange(size), permute(np.arange(size), size, seed)] += 1
    assert _p_value(counts) > 1e-3


def test_over_seeds_neighbouring_places_are_independent() -> None:
    size, seeds = 16, 4000
    differences = np.zeros(size)
    for seed in range(seeds):
        first, second = permute(np.array([4, 5]), size, seed)
        differences[(second - first) % size] += 1
    assert differences[0] == 0
    expected = seeds / (size - 1)
    assert chi2.sf(((differences[1:] - expected) ** 2 / expected).sum(), size - 2) > 1e-3


def test_within_one_shuffle_place_says_nothing_about_row() -> None:
    size, bins = 100_003, 20
    rows = permute(np.arange(size), size, seed=5)
    counts = np.histogram2d(np.arange(size), rows, bins=bins)[0]
    assert _p_value(counts) > 1e-3
    steps = np.histogram2d(rows[:-1], rows[1:], bins=bins)[0]
    assert _p_value(steps) > 1e-3
