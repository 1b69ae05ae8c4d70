"""The kernels for processors, in plain PyTorch and compiled, against brute force, autograd and torch's own Adam."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from sparsescope.errors import ConfigurationError
from sparsescope.training.kernels import Adam, Codes, Kernels, Matrix, Precision, Term, choose
from sparsescope.training.kernels.compiled import Compiled
from sparsescope.training.kernels.reference import Reference

compiled = pytest.mark.skipif(not Compiled.available(), reason="no C++ compiler")
KINDS = [
    pytest.param(Reference, "float32", id="reference"),
    pytest.param(Compiled, "float32", id="compiled", marks=compiled),
    pytest.param(Compiled, "screened", id="screened", marks=compiled),
]
MAKERS = [pytest.param(Reference, id="reference"), pytest.param(Compiled, id="compiled", marks=compiled)]
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


@pytest.mark.parametrize(("make", "precision"), KINDS)
@settings(max_examples=60, deadline=None)
@given(**SHAPES, k=st.integers(1, 12))
def test_selections_are_those_of_brute_force(
    make: type[Kernels], precision: Precision, rows: int, d: int, n: int, seed: int, k: int
) -> None:
    x, weight, bias = drawn(rows, d, n, seed)
    kernels, k = make(), min(k, n)
    encoder = kernels.encoder(weight, precision)
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


@pytest.mark.parametrize(("make", "precision"), KINDS)
def test_the_k_largest_are_found_among_many(
    make: type[Kernels], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = drawn(50, 16, 1024, seed=1)
    monkeypatch.setattr("sparsescope.training.kernels.reference.CHUNK", 7 * 1024)
    kernels = make()
    scores = torch.addmm(bias, x, weight.t())
    codes = kernels.largest(x, kernels.encoder(weight, precision), bias, 20, "a")
    wanted = scores.relu() * (scores >= scores.topk(20, dim=1).values[:, -1:])
    torch.testing.assert_close(dense(codes, 1024), wanted)


def adversarial() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Inputs that strain a screening by short numbers: x, weights, bias."""
    x, weight, bias = drawn(64, 96, 2048, seed=7)
    wide = x * torch.where(torch.arange(96) % 31 == 0, 100.0, 1.0)
    g = torch.Generator().manual_seed(8)
    uneven = weight * torch.exp(2 * torch.randn(2048, 1, generator=g))
    twins = weight.clone()
    twins[1::2] = twins[::2]
    close = weight[:1] + 1e-4 * weight
    mixed = x * torch.exp(8 * torch.randn(64, 1, generator=g))
    mixed[5] = 0
    return {
        "outlier dimensions": (wide, weight, bias),
        "an offset": (x + 30, weight, bias),
        "uneven weights": (x, uneven, bias),
        "twins": (x, twins, 0 * bias),
        "nearly equal": (x, close, 0 * bias),
        "rows of all sizes": (mixed, weight, bias),
        "tiny": (1e-20 * x, weight, 1e-22 * bias),
        "huge": (1e15 * x, weight, bias),
    }


@compiled
@pytest.mark.parametrize("case", adversarial())
def test_screening_selects_what_float32_selects(case: str) -> None:
    x, weight, bias = adversarial()[case]
    kernels = Compiled()
    encoder = kernels.encoder(weight, "screened")
    exact = x.double() @ weight.double().T + bias.double()
    slack = 1e-5 * (x.double().norm(dim=1, keepdim=True) * weight.double().norm(dim=1)) + 1e-6 * bias.double().abs()

    def check(codes: Codes, floor: Tensor) -> None:
        used = torch.arange(codes.latent.shape[1]) < codes.count.unsqueeze(1)
        table = torch.zeros(exact.shape, dtype=torch.bool)
        row = torch.arange(len(x)).unsqueeze(1).expand_as(codes.latent)
        table[row[used], codes.latent[used].long()] = True
        assert not bool((table & (exact < floor - slack)).any()), "selected what is below"
        assert not bool((~table & (exact > floor + slack)).any()), "missed what is above"
        wrong = (codes.value.double() - exact.gather(1, codes.latent.long())).abs()
        assert bool((wrong <= slack.gather(1, codes.latent.long()))[used].all())

    kth = exact.topk(20, dim=1).values[:, -1:].clamp(min=0)
    check(kernels.largest(x, encoder, bias, 20, "a"), kth)
    check(kernels.positive(x, encoder, bias, "a"), torch.zeros(()))
    total = 20 * len(x)
    check(kernels.largest_of_batch(x, encoder, bias, total, None, "a")[0], exact.flatten().topk(total).values[-1])


@compiled
def test_screens_follow_the_weights_and_threads_change_no_bit() -> None:
    x, weight, bias = drawn(300, 96, 1024, seed=3)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            kernels = Compiled()
            matrix = Matrix(normalize(weight, dim=1), torch.zeros_like(weight), torch.zeros_like(weight), True)
            encoder = kernels.encoder(matrix.weight, "screened")
            for step in range(1, 4):
                codes = kernels.largest(x, encoder, bias, 12, "a")
                decoded = kernels.decode(codes, codes.value, matrix.weight, None, x, 0.01, [1024], "a")
                ordered = kernels.by_latent(codes, 1024, "a")
                terms = [Term(ordered, codes.value, decoded.residual, [1024])]
                kernels.update(matrix, Adam(0.05, step), terms, encoder=encoder)
            scores = torch.addmm(bias, x, matrix.weight.t())
            wanted = scores.relu() * (scores >= scores.topk(12, dim=1).values[:, -1:])
            last = kernels.largest(x, encoder, bias, 12, "a")
            torch.testing.assert_close(dense(last, 1024), wanted, rtol=1e-4, atol=1e-4)
            found.append((matrix.weight.clone(), last.value.clone(), last.latent.clone()))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("make", "precision"), KINDS)
def test_a_nan_reaches_the_codes(make: type[Kernels], precision: Precision) -> None:
    x, weight, bias = drawn(4, 8, 1024, seed=2)
    x[2, 3] = torch.nan
    kernels = make()
    encoder = kernels.encoder(weight, precision)
    for codes in (kernels.positive(x, encoder, bias, "a"), kernels.largest(x, encoder, bias, 5, "a")):
        assert codes.value.isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("make", MAKERS)
@settings(max_examples=40, deadline=None)
@given(**SHAPES, levels=st.integers(1, 3), with_bias=st.booleans())
def test_decoding_and_gradients_equal_autograd(
    make: type[Kernels], rows: int, d: int, n: int, seed: int, levels: int, with_bias: bool
) -> None:
    x, weight, bias = drawn(rows, d, n, seed)
    directions = normalize(weight, dim=1).requires_grad_()
    offset = x.mean(0) if with_bias else None
    kernels = make()
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
        torch.testing.assert_close(found, directions.grad, rtol=1e-3, atol=1e-4)
        slopes = dense(Codes(codes.latent, decoded.slope, codes.count), n)
        torch.testing.assert_close(slopes, table.grad * (table > 0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(kernels.sums(ordered, codes.value), table.detach().sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("unit", [False, True])
def test_updates_are_those_of_torchs_adam_between_projection_and_renormalisation(
    unit: bool, make: type[Kernels]
) -> None:
    g = torch.Generator().manual_seed(3)
    start = normalize(torch.randn(20, 7, generator=g), dim=1)
    matrix = Matrix(start.clone(), torch.zeros(20, 7), torch.zeros(20, 7), unit)
    leaf = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=0.05)
    kernels = make()
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
