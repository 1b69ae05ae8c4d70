"""Finding active codes quickly finds what torch finds slowly."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsescope.training.select import Active, by_latent, largest, positive


def dense(active: Active, shape: torch.Size) -> Tensor:
    found = torch.zeros(shape, dtype=active.value.dtype)
    found[active.row, active.latent] = active.value
    return found


def draw(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


shapes = {"rows": st.integers(1, 9), "seed": st.integers(0, 10_000)}


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 40), **shapes)
def test_positive_codes_are_all_positive_codes(rows: int, width: int, seed: int) -> None:
    codes = draw(rows, width, seed) - 1
    active = positive(codes)
    assert torch.equal(dense(active, codes.shape), codes.relu())
    assert active.start.tolist() == [int((active.row < row).sum()) for row in range(rows)]


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 12), spare=st.sampled_from([0, 0, 3]), k=st.integers(1, 6), shift=st.floats(-3, 1), **shapes
)
def test_the_largest_codes_are_those_of_topk(
    rows: int, groups: int, spare: int, k: int, shift: float, seed: int
) -> None:
    codes = draw(rows, 16 * groups + spare, seed) + shift
    value, latent = codes.topk(k, dim=1)
    expected = torch.zeros_like(codes).scatter(1, latent, value.relu())
    active = largest(codes, k)
    assert torch.equal(dense(active, codes.shape), expected)
    assert len(active.value) == int((expected > 0).sum())
    assert active.start.tolist() == [int((active.row < row).sum()) for row in range(rows)]


@settings(max_examples=30, deadline=None)
@given(groups=st.integers(4, 12), k=st.integers(1, 2), **shapes)
def test_among_equal_codes_just_k_are_chosen(rows: int, groups: int, k: int, seed: int) -> None:
    codes = draw(rows, 16 * groups, seed).round() + 3
    active = largest(codes, k)
    assert torch.bincount(active.row, minlength=rows).tolist() == [k] * rows
    chosen = active.value.view(rows, k).sort(descending=True).values
    assert torch.equal(chosen, codes.topk(k, dim=1).values)


def test_a_nan_is_among_what_is_found() -> None:
    codes = draw(4, 64, 0)
    codes[2, 5] = math.nan
    for active in (positive(codes), largest(codes, 2)):
        assert active.value.isnan().sum() == 1


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 40), **shapes)
def test_entries_are_brought_together_by_latent(rows: int, width: int, seed: int) -> None:
    active = positive(draw(rows, width, seed))
    for count in (width, 1 << 17):
        assert torch.equal(by_latent(active, count), active.latent.argsort(stable=True))
