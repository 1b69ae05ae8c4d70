"""What is particular to the compiled kernels: screening exact to the bit, blocked sums, and how they are built."""

import ctypes
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from sparsescope.training.kernels import Adam, ByLatent, Codes, Matrix, Precision, Term, build
from sparsescope.training.kernels.compiled import HALVES, INTEGERS, Compiled
from sparsescope.training.kernels.screens import Integers

pytestmark = pytest.mark.skipif(not Compiled.available(), reason="no C++ compiler")
FORMATS = [
    pytest.param(INTEGERS, id="integers"),
    pytest.param(HALVES, id="halves"),
    pytest.param(0, id="float32"),
]
CASES = (
    *("gaussian", "outlier dimensions", "offset", "outliers and offset", "sizes of rows", "sizes of latents"),
    *("tiny", "huge", "tiny times huge", "twins", "nearly equal", "zero rows", "sparse", "zero weights"),
)


def kernels_with(number_format: int) -> Compiled:
    """Compiled kernels that screen in the given format, where the processor can."""
    kernels = Compiled()
    if number_format == INTEGERS and kernels._format != INTEGERS:
        pytest.skip("this processor multiplies no 8-bit integers")
    kernels._format = number_format
    return kernels


def problem(case: str, rows: int, n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, weights and biases that are hard on a screening in its way."""
    g = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, d, generator=g), torch.randn(n, d, generator=g)
    bias = 0.5 * torch.randn(n, generator=g)
    outliers = torch.where(torch.rand(d, generator=g) < 0.05, 100.0, 1.0)
    if "outlier" in case:
        x = x * outliers
    if "offset" in case:
        x = x + 20 * torch.randn(d, generator=g)
    if case == "sizes of rows":
        x = x * torch.exp(6 * torch.randn(rows, 1, generator=g))
    if case == "sizes of latents":
        weight = weight * torch.exp(3 * torch.randn(n, 1, generator=g))
    if case == "tiny":
        x, bias = x * 1e-22, bias * 1e-21
    if case == "huge":
        x = x * 1e16
    if case == "tiny times huge":
        x, weight = x * 1e-25, weight * 1e17
    if case == "twins":
        weight[1::2], bias[:] = weight[: n - n % 2 : 2][: n // 2], 0.25
    if case == "nearly equal":
        weight, bias = weight[:1] + 1e-6 * weight, bias * 0
    if case == "zero rows":
        x[::2], bias = 0, bias * (torch.arange(n) % 3 == 0)
    if case == "sparse":
        x, weight = x * (torch.rand(x.shape, generator=g) < 0.1), weight * (torch.rand(n, d, generator=g) < 0.1)
    if case == "zero weights":
        weight[::3] = 0
    return x, weight, bias


def exact_scores(kernels: Compiled, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · w + b as the kernels sum it in float32, of all latents: from single ones, which leave nothing to choose."""
    scores = torch.empty(len(x), len(weight))
    for sign in (1.0, -1.0):
        for j in range(len(weight)):
            codes = kernels.positive(x, kernels.encoder(sign * weight[j : j + 1], "screened"), torch.zeros(1), "exact")
            one = sign * codes.value[:, 0]
            scores[:, j] = one if sign == 1 else torch.where(scores[:, j] == 0, one, scores[:, j])
    return scores + bias


def table_of(codes: Codes, n: int) -> Tensor:
    """Codes as a dense table, 0 elsewhere. Latents ascend, and unused slots are clear."""
    used = torch.arange(codes.latent.shape[1]) < codes.count.unsqueeze(1)
    assert not codes.value[~used].any()
    assert not codes.latent[~used].any()
    both = used[:, 1:] & used[:, :-1]
    assert bool((codes.latent.diff(dim=1) > 0)[both].all())
    return torch.zeros(len(codes.latent), n).scatter_add_(1, codes.latent.long(), codes.value)


@pytest.mark.parametrize("number_format", FORMATS[:2])
@pytest.mark.parametrize("case", CASES)
def test_screening_selects_to_the_bit_what_exact_scores_select(case: str, number_format: int) -> None:
    kernels = kernels_with(number_format)
    n, k = 150, 7
    x, weight, bias = problem(case, 41, n, 70)
    scores = exact_scores(kernels, x, weight, bias)
    torch.testing.assert_close(
        scores.double(),
        x.double() @ weight.double().T + bias,
        rtol=1e-4,
        atol=1e-6 * float(x.norm(dim=1).max() * weight.norm(dim=1).max()) + 1e-30,
    )
    encoder = kernels.encoder(weight, "screened")
    assert torch.equal(table_of(kernels.positive(x, encoder, bias, "a"), n), scores.relu())
    top = kernels.largest(x, encoder, bias, k, "a")
    assert torch.equal(top.value.sort(descending=True).values, scores.relu().topk(k).values)
    assert torch.equal(table_of(top, n), torch.where(table_of(top, n) > 0, scores, 0))
    total = k * len(x)
    for expected in (None, float(scores.flatten().topk(total).values[-1])):
        batch, smallest = kernels.largest_of_batch(x, encoder, bias, total, expected, "a")
        kept, wanted = table_of(batch, n), scores.relu().flatten().topk(total).values
        assert torch.equal(kept.flatten().topk(total).values, wanted)
        assert torch.equal(kept, torch.where(kept > 0, scores, 0))
        assert smallest == float(wanted[-1])


@pytest.mark.parametrize("number_format", FORMATS[:2])
def test_the_margin_holds_where_it_is_needed_most(number_format: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents that point along what rounding took from a row: its score is then off by as much as can be."""
    monkeypatch.setattr(Integers, "_rebalance", lambda *_: None)
    kernels = kernels_with(number_format)
    x, _, _ = problem("gaussian", 50, 1, 300)
    step = x.abs().amax(1, keepdim=True) / 127
    lost = x - (step * (x / step).round() if number_format == INTEGERS else x.bfloat16().float())
    weight = normalize(lost, dim=1)
    bias = -(x.double() * weight.double()).sum(1).float() + 1e-3
    table = table_of(kernels.positive(x, kernels.encoder(weight, "screened"), bias, "a"), 50)
    torch.testing.assert_close(table.diagonal(), torch.full((50,), 1e-3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "screened"])
@settings(max_examples=50, deadline=None)
@given(
    case=st.sampled_from(CASES),
    rows=st.integers(1, 300),
    n=st.integers(1, 3000),
    d=st.integers(1, 130),
    k=st.integers(1, 80),
    seed=st.integers(0, 1000),
)
def test_the_largest_of_any_shape(
    precision: Precision, case: str, rows: int, n: int, d: int, k: int, seed: int
) -> None:
    x, weight, bias = problem(case, rows, n, d, seed)
    kernels, k = Compiled(), min(k, n)
    codes = kernels.largest(x, kernels.encoder(weight, precision), bias, k, "a")
    scores = x.double() @ weight.double().T + bias
    slack = 3e-6 * (x.norm(dim=1, keepdim=True).double() * weight.norm(dim=1)).clamp(max=1e300) + 1e-6 * bias.abs()
    found = codes.value.double().sort(descending=True).values
    wanted = scores.relu().topk(k, dim=1).values
    assert bool(((found - wanted).abs() <= slack.max(dim=1, keepdim=True).values + 1e-37).all())
    table = table_of(codes, n)
    assert bool(((table - scores).abs() <= slack + 1e-37)[table > 0].all())
    assert torch.equal((table > 0).sum(1), codes.count.long())


@pytest.mark.parametrize("number_format", FORMATS)
def test_what_is_not_finite_is_selected(number_format: int) -> None:
    kernels = kernels_with(number_format)
    x, weight, bias = problem("gaussian", 9, 1500, 40)
    x[1, 3], x[2, 0], x[3, 5], weight[7, 2], bias[11] = torch.nan, torch.inf, -torch.inf, torch.nan, torch.nan
    scores = torch.addmm(bias, x, weight.T)
    encoder = kernels.encoder(weight, "screened")
    for codes in (
        kernels.largest(x, encoder, bias, 5, "a"),
        kernels.positive(x, encoder, bias, "a"),
        kernels.largest_of_batch(x, encoder, bias, 45, None, "a")[0],
    ):
        chosen = scores.gather(1, codes.latent.long())
        used = torch.arange(codes.latent.shape[1]) < codes.count.unsqueeze(1)
        torch.testing.assert_close(codes.value[used], chosen[used], equal_nan=True, rtol=1e-4, atol=1e-4)
    top = kernels.largest(x, encoder, bias, 5, "a")
    assert top.value.isnan().sum(1).tolist() == [min(5, int(s.isnan().sum())) for s in scores]
    assert top.value[2].isinf().sum() == 3  # beside the two latents that are NaN everywhere
    assert kernels.positive(x, encoder, bias, "a").value.isnan().any(1).all()


@pytest.mark.parametrize("number_format", FORMATS)
def test_screens_follow_updates(number_format: int) -> None:
    kernels = kernels_with(number_format)
    x, weight, bias = problem("outlier dimensions", 100, 300, 50)
    matrix = Matrix(weight, torch.zeros(300, 50), torch.zeros(300, 50), False)
    encoder = kernels.encoder(matrix.weight, "screened")
    for count in (1, 2, 3):
        kernels.largest(x, encoder, bias, 9, "a")
        kernels.update(matrix, Adam(0.3, count), gradient=torch.randn(300, 50), encoder=encoder)
    fresh = kernels_with(number_format)
    for one, two in (
        (kernels.largest(x, encoder, bias, 9, "a"), fresh.largest(x, fresh.encoder(weight, "screened"), bias, 9, "a")),
        (kernels.positive(x, encoder, bias, "a"), fresh.positive(x, fresh.encoder(weight, "screened"), bias, "a")),
    ):
        assert torch.equal(table_of(one, 300), table_of(two, 300))
    weight.mul_(-1)
    kernels.refresh(encoder)
    again = kernels.largest(x, encoder, bias, 9, "a")
    assert torch.equal(
        table_of(again, 300), table_of(fresh.largest(x, fresh.encoder(weight, "screened"), bias, 9, "a"), 300)
    )


def test_bf16_is_the_product_of_rounded_numbers() -> None:
    x, weight, bias = problem("gaussian", 200, 2500, 64)
    kernels = Compiled()
    encoder = kernels.encoder(weight, "bf16")
    rounded = (x.bfloat16() @ weight.bfloat16().T).float() + bias
    top = kernels.largest(x, encoder, bias, 12, "a")
    torch.testing.assert_close(top.value.sort(descending=True).values, rounded.topk(12).values)
    torch.testing.assert_close(table_of(kernels.positive(x, encoder, bias, "a"), 2500), rounded.relu())


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def steps(kernels: Compiled, precision: Precision, count: int) -> list[Tensor]:
    """A few training steps in which every kernel takes part; all that they yield."""
    torch.set_num_threads(count)
    x, weight, bias = problem("outlier dimensions", 700, 1200, 96)
    weight, found = normalize(weight, dim=1), []
    matrix = Matrix(weight, torch.zeros_like(weight), torch.zeros_like(weight), True)
    encoder = kernels.encoder(weight, precision)
    for step in range(1, 4):
        top = kernels.largest(x, encoder, bias, 20, "top")
        batch, smallest = kernels.largest_of_batch(x, encoder, bias, 9000, None, "batch")
        codes = kernels.positive(x, encoder, bias - 1, "all")
        decoded = kernels.decode(codes, codes.value, weight, x.mean(0), x, 0.01, [400, 1200], "all")
        entries = kernels.by_latent(codes, 1200, "all")
        sums = kernels.sums(entries, decoded.slope)
        term = Term(entries, codes.value, decoded.residual, [400, 1200])
        gradient = kernels.gradient([term], 1200)
        kernels.update(matrix, Adam(0.01, step), [term], gradient=0.1 * gradient, encoder=encoder)
        kept = (*vars(top).values(), *vars(batch).values(), *vars(codes).values(), decoded.residual, decoded.slope)
        found += [torch.tensor([smallest, *decoded.squared_error], dtype=torch.float64)]
        found += [tensor.clone() for tensor in (*kept, entries.start, entries.entry, sums, gradient, weight)]
    return found


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number_format", FORMATS[:2])
def test_threads_change_no_bit(number_format: int) -> None:
    one, two, three = (steps(kernels_with(number_format), "screened", count) for count in (1, 2, 3))
    for first, second, third in zip(one, two, three, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


@pytest.mark.parametrize(("rows", "n", "d"), [(700, 800, 1100), (300, 70, 333), (40, 3000, 17)])
def test_blocked_sums_are_those_of_dense_products(rows: int, n: int, d: int) -> None:
    """The first shape is dense and wide enough for rows and latents to be taken block by block."""
    x, weight, _ = problem("gaussian", rows, n, d)
    kernels, bounds = Compiled(), [n // 5, n // 2, n]
    codes = kernels.positive(x, kernels.encoder(weight, "float32"), torch.full((n,), -1.2 * d**0.5), "a")
    other = Codes(codes.latent.flip(1).contiguous(), codes.value.flip(1).contiguous(), codes.count)
    full = codes.count == codes.latent.shape[1]
    for given_codes in (codes, other) if bool(full.all()) else (codes,):
        table = table_of(codes, n).double().requires_grad_()
        directions = weight.double().requires_grad_()
        parts = [table[:, :b] @ directions[:b] + 0.3 - x.double() for b in bounds]
        errors = [part.square().sum() for part in parts]
        (0.5 * 0.01 * sum(errors)).backward()
        decoded = kernels.decode(given_codes, given_codes.value, weight, torch.full((d,), 0.3), x, 0.01, bounds, "a")
        assert decoded.squared_error == pytest.approx([float(e.detach()) for e in errors], rel=1e-5)
        close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5 * float(table.grad.abs().max())}
        slopes = table_of(Codes(given_codes.latent, decoded.slope, given_codes.count), n)
        torch.testing.assert_close(slopes.double(), table.grad * (table > 0), **close)
        entries = kernels.by_latent(given_codes, n, "a")
        assert torch.equal(entries.fired, (table > 0).sum(0))
        close["atol"] = 1e-5 * float(directions.grad.abs().max())
        term = Term(entries, given_codes.value, decoded.residual, bounds)
        torch.testing.assert_close(kernels.gradient([term], n).double(), directions.grad, **close)
        raw = Term(entries, decoded.slope, x.unsqueeze(0), [n])
        both = kernels.gradient([term, raw], n).double()
        torch.testing.assert_close(both, directions.grad + (table.grad * (table > 0)).T @ x.double(), **close)


def test_entries_in_any_order_decode_alike() -> None:
    x, weight, bias = problem("gaussian", 60, 200, 40)
    kernels = Compiled()
    codes = kernels.largest(x, kernels.encoder(weight, "float32"), bias, 10, "a")
    order = torch.rand(60, 10).argsort(1)
    mixed = Codes(*(t.gather(1, order).contiguous() for t in (codes.latent, codes.value)), codes.count)
    assert int(codes.count.min()) == 10
    bounds = [50, 200]
    one = kernels.decode(codes, codes.value, weight, None, x, 1.0, bounds, "one")
    two = kernels.decode(mixed, mixed.value, weight, None, x, 1.0, bounds, "two")
    assert torch.equal(one.residual, two.residual)
    assert torch.equal(one.slope.gather(1, order), two.slope)
    assert one.squared_error == two.squared_error
    sums = [kernels.sums(kernels.by_latent(c, 200, "a"), d.slope) for c, d in ((codes, one), (mixed, two))]
    assert torch.equal(*sums)


def test_tables_widen_and_narrow_and_memory_stays() -> None:
    x, weight, _ = problem("gaussian", 500, 1000, 30)
    kernels = Compiled()
    encoder = kernels.encoder(weight, "screened")
    wide = kernels.positive(x, encoder, torch.full((1000,), 2.0), "a")
    assert int(wide.count.max()) > 500
    bias = torch.full((1000,), -12.0)
    kernels.positive(x, encoder, bias, "a")
    places = set()
    for _ in range(5):
        codes = kernels.positive(x, encoder, bias, "a")
        places.add((codes.value.data_ptr(), codes.latent.data_ptr(), codes.latent.shape[1]))
    assert len(places) == 1
    assert codes.latent.shape[1] < 200
    torch.testing.assert_close(table_of(codes, 1000), torch.addmm(bias, x, weight.T).relu())


def test_what_does_not_fit_is_refused() -> None:
    x, weight, bias = problem("gaussian", 8, 60, 12)
    kernels = Compiled()
    encoder = kernels.encoder(weight, "screened")
    codes = kernels.largest(x, encoder, bias, 4, "a")
    entries = kernels.by_latent(codes, 60, "a")
    with pytest.raises(ValueError, match="Rows of 11 numbers"):
        kernels.largest(x[:, :11].contiguous(), encoder, bias, 4, "a")
    with pytest.raises(ValueError, match="strided tensor"):
        kernels.largest(torch.randn(12, 8).T, encoder, bias, 4, "a")
    with pytest.raises(ValueError, match=r"float64 on cpu.*expected a contiguous one of torch.float32"):
        kernels.largest(x.double(), encoder, bias, 4, "a")
    with pytest.raises(ValueError, match="not among the 30"):
        kernels.by_latent(codes, 30, "a")
    with pytest.raises(ValueError, match="Cannot decode"):
        kernels.decode(codes, codes.value, weight[:30], None, x, 1.0, [60], "a")
    with pytest.raises(ValueError, match="does not fit a gradient of 60 × 12"):
        kernels.gradient([Term(entries, codes.value[:4].contiguous(), x.unsqueeze(0), [60])], 60)
    beyond = ByLatent(entries.start, entries.entry + 8 * 4, 4)
    with pytest.raises(ValueError, match="outside of its tables"):
        kernels.gradient([Term(beyond, codes.value, x.unsqueeze(0), [60])], 60)
    with pytest.raises(ValueError, match="outside of its tables"):
        kernels.gradient([Term(entries, codes.value, x.unsqueeze(0), [10])], 60)


def fake_compiler(folder: Path, body: str) -> Path:
    """A program that takes a compiler's arguments; `$out` is where the library is wanted."""
    path = folder / "compiler"
    find = 'while [ $# -gt 0 ]; do [ "$1" = "-o" ] && out="$2"; shift; done\n'
    path.write_text(f'#!/bin/sh\n[ "$1" = "--version" ] && echo fake 1.0 && exit 0\n{find}{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache of the test's own, and nothing remembered of what was loaded before or will be."""
    monkeypatch.setenv("SPARSESCOPE_KERNELS_CACHE", str(tmp_path / "cache"))
    build._outcome.cache_clear()
    yield tmp_path
    build._outcome.cache_clear()


def built() -> Path:
    """The library that this process uses."""
    library = build.load_library()
    assert library is not None
    return Path(library._name)


def test_without_a_compiler_there_is_a_reason(building: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert build.load_library() is None
    assert build.why_not() == "the compiler that CXX names, 'no-such-compiler -O2', is not there."
    build._outcome.cache_clear()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(building))
    assert not Compiled.available()
    assert "no C++ compiler" in build.why_not()


def test_a_compiler_that_fails_is_quoted(building: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(fake_compiler(building, "echo 'no such flag' >&2; exit 1")))
    assert build.load_library() is None
    assert "does not build them: no such flag" in build.why_not()
    assert not list((building / "cache").iterdir())


def test_what_it_leaves_must_load(building: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(fake_compiler(building, 'echo rubbish > "$out"')))
    assert build.load_library() is None
    assert "do not load" in build.why_not()


def test_one_of_several_builders_wins_and_damage_is_repaired(tmp_path: Path) -> None:
    real = built()
    compiler = [str(fake_compiler(tmp_path, f'head -c 5000 "{real}" > "$out"; sleep 0.2; cat "{real}" > "$out"'))]
    loaded: list[ctypes.CDLL] = []
    for directory in (tmp_path / "empty", tmp_path / "damaged"):
        directory.mkdir()
        path = directory / f"kernels-{build._fingerprint(compiler)}.so"
        if directory.name == "damaged":
            path.write_bytes(b"cut short")
        workers = [
            threading.Thread(target=lambda at=directory: loaded.append(build._load(compiler, at))) for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert list(directory.iterdir()) == [path]
        assert path.read_bytes() == real.read_bytes()
    assert len(loaded) == 8
    assert all(library.screening() in (0, HALVES, INTEGERS) for library in loaded)


def test_where_a_cache_cannot_be_written_another_place_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SPARSESCOPE_KERNELS_CACHE", str(blocked / "cache"))
    assert os.access(build.cache_directory(), os.W_OK)
    monkeypatch.delenv("SPARSESCOPE_KERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_directory() == tmp_path / "sparsescope" / "kernels"
