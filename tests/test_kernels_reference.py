"""The kernels in plain PyTorch against brute force, autograd and torch's own Adam."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from sparsescope.errors import ConfigurationError
from sparsescope.training.kernels import Adam, Codes, Matrix, Term, choose
from sparsescope.training.kernels.reference import Reference

SHAPES = {"rows": st.integers(1, 30), "d": st.integers(1, 9), "n": st.integers(1, 70), "seed": st.integers(0, 999)}


def drawn(rows: int, d: int, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, d, generator=g), torch.randn(n, d, generator=g), torch.randn(n, generator=g)


def dense(codes: Codes, n: int) -> Tensor:
    """Codes as a table; the entries of a row are checked to come first and to be distinct."""
    rows, slots = codes.latent.shape
    used = torch.arange(slots) < codes.count.unsqueeze(1)
    assert not codes.value[~used].any()
    assert not codes.latent[~used].any()
    table = torch.zeros(rows, n)
    hits = torch.zeros(rows, n)
    row = torch.arange(rows).unsqueeze(1).expand_as(codes.latent)
    table.index_put_((row[used], codes.latent[used].long()), codes.value[used], accumulate=True)
    hits.index_put_((row[used], codes.latent[used].long()), torch.ones(int(used.sum())), accumulate=True)
    assert int(hits.max()) <= 1
    return table


@settings(max_examples=60, deadline=None)
@given(**SHAPES, k=st.integers(1, 12))
def test_selections_are_those_of_brute_force(rows: int, d: int, n: int, seed: int, k: int) -> None:
    x, weight, bias = drawn(rows, d, n, seed)
    kernels, k = Reference(), min(k, n)
    encoder = kernels.encoder(weight, "float32")
    scores = torch.addmm(bias, x, weight.t())
    torch.testing.assert_close(dense(kernels.positive(x, encoder, bias, "a"), n), scores.relu())
    top = scores.relu() * (scores >= scores.topk(k, dim=1).values[:, -1:])
    torch.testing.assert_close(dense(kernels.largest(x, encoder, bias, k, "a"), n), top)
    total = k * rows
    floor = scores.flatten().topk(total).values[-1]
    for expected in (None, float(floor), 0.1, 50.0):
        codes, smallest = kernels.largest_of_batch(x, encoder, bias, total, expected, "a")
        torch.testing.assert_close(dense(codes, n), scores.relu() * (scores >= floor))
        assert smallest == pytest.approx(max(float(floor), 0.0), abs=1e-5)


def test_the_k_largest_are_found_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = drawn(50, 16, 1024, seed=1)
    monkeypatch.setattr("sparsescope.training.kernels.reference.CHUNK", 7 * 1024)
    kernels = Reference()
    scores = torch.addmm(bias, x, weight.t())
    codes = kernels.largest(x, kernels.encoder(weight, "float32"), bias, 20, "a")
    wanted = scores.relu() * (scores >= scores.topk(20, dim=1).values[:, -1:])
    torch.testing.assert_close(dense(codes, 1024), wanted)


def test_a_nan_reaches_the_codes() -> None:
    x, weight, bias = drawn(4, 8, 1024, seed=2)
    x[2, 3] = torch.nan
    kernels = Reference()
    encoder = kernels.encoder(weight, "float32")
    for codes in (kernels.positive(x, encoder, bias, "a"), kernels.largest(x, encoder, bias, 5, "a")):
        assert codes.value.isnan().any(1).tolist() == [False, False, True, False]


@settings(max_examples=40, deadline=None)
@given(**SHAPES, levels=st.integers(1, 3), with_bias=st.booleans())
def test_decoding_and_gradients_equal_autograd(
    rows: int, d: int, n: int, seed: int, levels: int, with_bias: bool
) -> None:
    x, weight, bias = drawn(rows, d, n, seed)
    directions = normalize(weight, dim=1).requires_grad_()
    offset = x.mean(0) if with_bias else None
    kernels = Reference()
    codes = kernels.positive(x, kernels.encoder(weight, "float32"), bias, "a")
    bounds = sorted({max(1, n * (level + 1) // levels) for level in range(levels)})
    table = dense(codes, n).requires_grad_()
    errors = [(table[:, :m] @ directions[:m] + (0 if offset is None else offset) - x).square().sum() for m in bounds]
    (0.35 * sum(errors)).backward()

    with torch.no_grad():
        decoded = kernels.decode(codes, codes.value, directions.detach(), offset, x, 0.7, bounds, "a")
        assert decoded.squared_error == pytest.approx([float(e.detach()) for e in errors], rel=1e-4, abs=1e-4)
        ordered = kernels.by_latent(codes, n, "a")
        assert ordered.fired.tolist() == (table > 0).sum(0).tolist()
        found = kernels.gradient([Term(ordered, codes.value, decoded.residual, bounds)], n)
        torch.testing.assert_close(found, directions.grad, rtol=1e-4, atol=1e-5)
        slopes = dense(Codes(codes.latent, decoded.slope, codes.count), n)
        torch.testing.assert_close(slopes, table.grad * (table > 0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(kernels.sums(ordered, codes.value), table.detach().sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_updates_are_those_of_torchs_adam_between_projection_and_renormalisation(unit: bool) -> None:
    g = torch.Generator().manual_seed(3)
    start = normalize(torch.randn(20, 7, generator=g), dim=1)
    matrix = Matrix(start.clone(), torch.zeros(20, 7), torch.zeros(20, 7), unit)
    leaf = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=0.05)
    kernels = Reference()
    for step in range(1, 6):
        gradient = torch.randn(20, 7, generator=g)
        kernels.update(matrix, Adam(0.05, step), gradient=gradient)
        with torch.no_grad():
            along = (gradient * leaf).sum(1, keepdim=True)
            leaf.grad = gradient - along * leaf if unit else gradient.clone()
            optimiser.step()
            if unit:
                leaf /= leaf.norm(dim=1, keepdim=True)
        torch.testing.assert_close(matrix.weight, leaf.detach(), rtol=1e-5, atol=1e-6)


def test_kernels_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"kernels = 'compield', expected one of.*Did you mean 'compiled'"):
        choose(torch.device("cpu"), "compield")
    with pytest.raises(ConfigurationError, match="CUDA"):
        choose(torch.device("cpu"), "gpu")
