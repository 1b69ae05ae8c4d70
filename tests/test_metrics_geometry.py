"""Comparing directions: by hand, by brute force, by closed form."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sparsescope.errors import ConfigurationError, NumericalError
from sparsescope.metrics import capacity, geometry, match, max_cosine, mmcs, neurons_per_latent, recovery


def directions(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.cosine_similarity(a[:, None].double(), b[None].double(), dim=-1).numpy()


def test_mmcs_by_hand_and_by_numpy():
    a, b = directions(7, 5), directions(9, 5, seed=1)
    assert mmcs(a, b) == pytest.approx(cosines(a, b).max(1).mean(), rel=1e-6)
    assert mmcs(a, 3 * a[torch.randperm(7)]) == pytest.approx(1)
    assert mmcs(a[:1], -a[:1]) == pytest.approx(-1)
    zero = torch.zeros(1, 5)
    assert max_cosine(zero, a).item() == 0


def test_matching_agrees_with_brute_force():
    a, b = directions(4, 3), directions(6, 3, seed=1)
    table = cosines(a, b)
    best = max(sum(table[i, chosen[i]] for i in range(4)) for chosen in permutations(range(6), 4))
    rows, columns, found = match(a, b)
    assert found.sum() == pytest.approx(best, rel=1e-6)
    np.testing.assert_allclose(found, table[rows, columns], rtol=1e-5)
    assert len(set(columns)) == 4


@pytest.mark.parametrize("floor", [0.1, 0.4, 0.8])
def test_matching_in_groups_equals_matching_the_whole_table(floor, monkeypatch):
    a, b = directions(60, 4), directions(45, 4, seed=1)
    table = np.where(cosines(a, b) >= floor, cosines(a, b), 0)
    places = linear_sum_assignment(table, maximize=True)
    monkeypatch.setattr(geometry, "BLOCK", 7)
    rows, columns, found = match(a, b, floor=floor)
    assert found.sum() == pytest.approx(table[places].sum(), rel=1e-6)
    assert found.min() >= floor
    assert len(set(rows)) == len(rows) == len(set(columns))


def test_recovery_is_one_to_one_and_out_of_all_that_is_true():
    truth = directions(20, 16)
    shuffled = truth[torch.randperm(20, generator=torch.Generator().manual_seed(0))] * 5
    assert recovery(shuffled, truth) == 1
    assert recovery(shuffled[:5], truth) == 0.25
    assert recovery(truth[:1].repeat(20, 1), truth) == 0.05
    assert recovery(-truth, truth) == 0
    noise = 0.3 * directions(20, 16, seed=1)
    near = truth + noise
    expected = (np.diag(cosines(near, truth)) >= 0.95).mean()
    assert 0 < expected < 1
    assert recovery(near, truth, 0.95) == expected


def test_random_directions_recover_nothing():
    assert recovery(directions(256, 64, seed=1), directions(256, 64)) == 0


def test_thousands_of_latents_are_matched_in_groups():
    truth = directions(6000, 32)
    assert recovery(truth.flip(0), truth, 0.9) == 1
    with pytest.raises(ConfigurationError, match="needs a floor"):
        match(directions(20_001, 2), directions(3, 2))


def test_capacity_by_hand():
    f = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
    expected = [1 / (1 + 0.36), 1 / (1 + 0.36), 0]
    assert capacity(f).tolist() == pytest.approx(expected)
    assert capacity(f, torch.tensor([1])).tolist() == pytest.approx(expected[1:2])
    assert capacity(torch.eye(5)).tolist() == [1] * 5
    assert capacity(torch.ones(4, 3)).tolist() == pytest.approx([0.25] * 4)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 99))
def test_capacity_never_exceeds_the_number_of_dimensions(rows, width, seed):
    assert capacity(directions(rows, width, seed)).sum() <= min(rows, width) + 1e-4


def test_neurons_per_latent_counts_coordinates():
    f = torch.tensor([[0.0, -4.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    assert neurons_per_latent(f).tolist() == pytest.approx([1, 4, 2])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ConfigurationError, match=r"\(2, 3\) and \(2, 4\)"):
        mmcs(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ConfigurationError, match=r"floor is 1\.5"):
        recovery(torch.ones(2, 3), torch.ones(2, 3), 1.5)
    with pytest.raises(NumericalError, match="NaN"):
        mmcs(torch.full((2, 3), torch.nan), torch.ones(2, 3))
