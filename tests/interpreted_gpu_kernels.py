"""Cases for the Triton kernels. `test_kernels_gpu.py` runs this file in processes of its own: whether Triton
interprets or compiles is decided when it is first imported, and must not leak into other tests.

Launches are written to the file in KERNEL_LAUNCHES, if that is set, so that they can be compiled as well.
"""

import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsescope.bench.gpu import TopKStep
from sparsescope.training.kernels import gpu, gpu_launch, gpu_selection
from sparsescope.training.kernels.base import Adam, Codes, Encoder, Matrix, Term
from sparsescope.training.kernels.reference import Reference

DEVICE = torch.device(os.environ.get("KERNEL_DEVICE", "cpu"))
FEW = settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
SHAPES = {"rows": st.integers(1, 7), "d": st.integers(1, 19), "n": st.integers(1, 70), "seed": st.integers(0, 999)}
SHIFTS = st.sampled_from([-2.0, 0.0, 1.0])
"""Added to every pre-activation: few, half or most are above 0."""
SIZES = ("D", "SLOTS", "ENTRIES", "PIECE", "SIZE", "GROUPS", "ROWS", "BLOCK")
"""Constants that change a compiled function in size only."""
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}


def prepare_once() -> None:
    """Triton's interpreter prepares its language anew in every call of every function, which is most of its time.
    Nothing else runs in this process: once is enough. (Versions of Triton that name it otherwise are only slower.)"""
    import triton.language as tl
    from triton.runtime import interpreter

    if hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        interpreter._patch_lang = lambda function: interpreter._LangPatchScope()


if gpu_launch.interpreted():
    prepare_once()


def described(function: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> dict[str, Any]:
    """A launch as Triton compiles it: the type of each argument; whole numbers that are 1 become constants."""
    signature: dict[str, str] = {}
    for name, value in zip(function.arg_names, arguments, strict=False):
        if isinstance(value, Tensor):
            signature[name] = TYPES[value.dtype]
        elif value == 1 and isinstance(value, int) and name not in (function.kwargs.get("do_not_specialize") or ()):
            constants = {**constants, name: 1}
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
    return {"function": function.__name__, "signature": signature, "constants": constants}


@pytest.fixture(autouse=True, scope="session")
def launches() -> Iterator[None]:
    """Note one launch of each kind: sizes of blocks aside, launches of one kind compile alike."""
    kinds: dict[str, Any] = {}

    def noting(function: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, **constants: Any) -> None:
        gpu_launch.launch(function, grid, *arguments, num_warps=num_warps, **constants)
        if 0 not in grid and DEVICE.type == "cpu":
            found = described(function, arguments, constants)
            pointers = [kind for kind in found["signature"].values() if kind.startswith("*")]
            choices = {name: value for name, value in constants.items() if name not in SIZES}
            ones = len(found["constants"]) > len(constants)
            kinds[f"{function.__name__} {pointers} {choices} {ones}"] = found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", noting)
        patch.setattr(gpu_selection, "launch", noting)
        patch.setattr(gpu_selection, "WORTH_SCREENING", 1.0)  # else these small problems are not screened
        yield
    if "KERNEL_LAUNCHES" in os.environ:
        with open(os.environ["KERNEL_LAUNCHES"], "w", encoding="utf-8") as file:
            json.dump(list(kinds.values()), file)


def drawn(rows: int, d: int, n: int, seed: int, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, unit latents and biases."""
    g = torch.Generator().manual_seed(seed)
    x, weight, bias = torch.randn(rows, d, generator=g), torch.randn(n, d, generator=g), torch.randn(n, generator=g)
    weight /= weight.norm(dim=1, keepdim=True)
    return x.to(DEVICE), weight.to(DEVICE), (0.3 * bias + shift).to(DEVICE)


def scores_of(x: Tensor, weight: Tensor, bias: Tensor, precision: str) -> Tensor:
    if precision == "bf16":
        return (x.bfloat16() @ weight.bfloat16().t()).float() + bias
    return x @ weight.t() + bias


def dense(codes: Codes, value: Tensor, n: int) -> Tensor:
    """Codes as a table; unused slots are checked to be 0, and latents of a row to be distinct."""
    rows, slots = codes.latent.shape
    used = torch.arange(slots, device=DEVICE) < codes.count[:, None]
    assert not codes.latent[~used].any()
    assert not codes.value[~used].any()
    table, hits = torch.zeros(rows, n, device=DEVICE), torch.zeros(rows, n, device=DEVICE)
    row = torch.arange(rows, device=DEVICE)[:, None].expand_as(codes.latent)
    place = (row[used], codes.latent[used].long())
    assert int(hits.index_put_(place, hits.new_ones(()), accumulate=True).max()) <= 1
    return table.index_put_(place, value[used])


def same(found: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of float32 sums, and non-zero in the same places."""
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


PRECISIONS = pytest.mark.parametrize("precision", ["float32", "screened", "bf16"])


def several(rows: int, n: int) -> "gpu.Gpu":
    """Kernels that look at two or three rows at a time, if there are so many."""
    return gpu.Gpu(DEVICE, product_bytes=10 * n + rows)


@PRECISIONS
@FEW
@given(**SHAPES, shift=SHIFTS)
def test_positive_finds_what_brute_force_does(
    precision: str, rows: int, d: int, n: int, seed: int, shift: float
) -> None:
    x, weight, bias = drawn(rows, d, n, seed, shift)
    kernels = several(rows, n)
    codes = kernels.positive(x, kernels.encoder(weight, precision), bias, "a")
    same(dense(codes, codes.value, n), scores_of(x, weight, bias, precision).relu())


@PRECISIONS
@FEW
@given(**SHAPES, shift=SHIFTS, k=st.integers(1, 9))
def test_largest_finds_what_brute_force_does(
    precision: str, rows: int, d: int, n: int, seed: int, shift: float, k: int
) -> None:
    x, weight, bias = drawn(rows, d, n, seed, shift)
    k, kernels, scores = min(k, n), several(rows, n), scores_of(x, weight, bias, precision)
    codes = kernels.largest(x, kernels.encoder(weight, precision), bias, k, "a")
    assert codes.latent.shape == (rows, k)
    top = scores.topk(k, dim=1)
    if precision == "bf16":  # few bits: among equal values any may be kept
        torch.testing.assert_close(codes.value.sort(1, descending=True).values, top.values.relu())
        table = dense(codes, codes.value, n)
        same(table, scores.relu() * (table != 0))
    else:
        same(dense(codes, codes.value, n), torch.zeros_like(scores).scatter_(1, top.indices, top.values.relu()))


@PRECISIONS
@FEW
@given(**SHAPES, shift=SHIFTS, k=st.integers(1, 5), guess=st.sampled_from([None, 0.1, 1.0, 5.0]))
def test_largest_of_batch_finds_what_brute_force_does(
    precision: str, rows: int, d: int, n: int, seed: int, shift: float, k: int, guess: float | None
) -> None:
    x, weight, bias = drawn(rows, d, n, seed, shift)
    total, kernels, scores = min(k, n) * rows, several(rows, n), scores_of(x, weight, bias, precision)
    top = scores.flatten().topk(total).values
    smallest = max(float(top[-1]), 0.0)
    expected = None if guess is None else guess * smallest
    codes, found = kernels.largest_of_batch(x, kernels.encoder(weight, precision), bias, total, expected, "a")
    assert found == pytest.approx(smallest, abs=1e-5)
    table = dense(codes, codes.value, n)
    if precision != "bf16":
        same(table, scores.relu() * (scores >= top[-1]))
    values = table.flatten().sort(descending=True).values[: len(top)]
    torch.testing.assert_close(values, top.relu(), rtol=1e-4, atol=1e-5)
    assert int(codes.count.sum()) == int((top > 0).sum())


def test_screening_selects_exactly_although_bfloat16_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents that are almost copies of each other, inputs with two dimensions 30 times the others."""
    x, weight, bias = drawn(6, 48, 200, seed=1)
    x[:, 5:7] = 30 * x[:, 5:7] + 30
    weight[100:] = weight[:100] + 0.001 * weight[100:]
    left: list[float] = []
    again = gpu_selection._computed_again
    monkeypatch.setattr(
        gpu_selection, "_computed_again", lambda e, *a: left.append(len(e.latent) / x.numel()) or again(e, *a)
    )
    kernels = gpu.Gpu(DEVICE)
    encoder = kernels.encoder(weight, "screened")
    exact = scores_of(x.double(), weight.double(), bias.double(), "float32")
    coarse = scores_of(x, weight, bias, "bf16")
    wanted = exact.topk(7, dim=1).indices.sort().values
    assert not torch.equal(coarse.topk(7, dim=1).indices.sort().values, wanted)
    found = kernels.largest(x, encoder, bias, 7, "a")
    assert torch.equal(found.latent.long().sort().values, wanted)
    assert left
    assert left[0] < 0.9
    total, _ = kernels.largest_of_batch(x, encoder, bias, 40, None, "a")
    expected = exact * (exact >= exact.flatten().topk(40).values[-1])
    same(dense(total, total.value, 200), expected.float())


@FEW
@given(**SHAPES, size=st.sampled_from([1e-3, 1.0, 1e4]), spread=st.sampled_from([0.1, 3.0]))
def test_the_interval_of_a_screened_product_holds_the_exact_one(
    rows: int, d: int, n: int, seed: int, size: float, spread: float
) -> None:
    from sparsescope.training.kernels.triton_selection import group_maxima

    x, weight, bias = drawn(rows, d, n, seed)
    x = size * x * torch.exp(spread * x.roll(1, 1))
    screens = gpu_selection.Screen.like(x).fill(x), gpu_selection.Screen.like(weight).fill(weight)
    assert torch.equal(screens[0].rounded, x.bfloat16())
    torch.testing.assert_close(screens[0].lost, (x.double() - x.bfloat16().double()).norm(dim=1).float())
    product = screens[0].rounded @ screens[1].rounded.t()
    bounds = (product, bias, screens[0].norm, screens[0].lost, screens[1].norm, screens[1].lost)
    low, high = torch.empty(2, rows, n, device=DEVICE)
    numbers = (rows, n, n, gpu_selection._slack(d))
    grid = (-(-n // 16), -(-rows // 16))
    gpu.launch(group_maxima, grid, *bounds, low, high, *numbers, SCREENED=True, SIZE=1, GROUPS=16, ROWS=16)
    for exact in (scores_of(x.double(), weight.double(), bias.double(), "float32"), x @ weight.t() + bias):
        assert (low <= exact).all()
        assert (exact <= high).all()
    width = 2.2 * (2**-8 * 3 * x.norm(dim=1)[:, None] + 1e-6 * (bias.abs() + 1))
    assert (high - low <= width).all()


def test_blocks_that_screening_hardly_thins_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = drawn(5, 12, 40, seed=2, shift=3.0)
    monkeypatch.setattr(gpu_selection, "WORTH_SCREENING", 0.5)
    monkeypatch.setattr(gpu_selection, "_computed_again", None)
    kernels = several(5, 40)
    codes = kernels.positive(x, kernels.encoder(weight, "screened"), bias, "a")
    same(dense(codes, codes.value, 40), scores_of(x, weight, bias, "float32").relu())


@PRECISIONS
def test_a_nan_reaches_the_codes_and_the_loss(precision: str) -> None:
    x, weight, bias = drawn(4, 8, 60, seed=3, shift=-1.0)
    x[2, 3] = torch.nan
    kernels = gpu.Gpu(DEVICE)
    encoder = kernels.encoder(weight, precision)
    batch, _ = kernels.largest_of_batch(x, encoder, bias, 20, None, "a")
    for codes in (kernels.positive(x, encoder, bias, "a"), kernels.largest(x, encoder, bias, 5, "a"), batch):
        assert codes.value.isnan().any(1).tolist() == [False, False, True, False]
        decoded = kernels.decode(codes, codes.value, weight, None, x.nan_to_num(), 1.0, [60], "a")
        assert decoded.squared_error[0] != decoded.squared_error[0]
        assert decoded.residual[0].isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("precision", ["float32", "screened"])
def test_latents_switched_off_by_an_infinite_bias_are_never_chosen(precision: str) -> None:
    x, weight, bias = drawn(4, 8, 60, seed=4)
    bias[:55] = -torch.inf
    kernels = gpu.Gpu(DEVICE)
    codes = kernels.largest(x, kernels.encoder(weight, precision), bias, 5, "a")
    same(dense(codes, codes.value, 60), scores_of(x, weight, bias, "float32").relu())


@FEW
@given(**{**SHAPES, "n": st.integers(1, 30)}, levels=st.integers(1, 3), with_bias=st.booleans(), shift=SHIFTS)
def test_decoding_and_gradients_equal_autograd(
    rows: int, d: int, n: int, seed: int, levels: int, with_bias: bool, shift: float
) -> None:
    x, weight, bias = drawn(rows, d, n, seed, shift)
    directions = weight.clone().requires_grad_()
    offset = x.mean(0) if with_bias else None
    kernels = gpu.Gpu(DEVICE)
    codes = kernels.positive(x, kernels.encoder(weight, "float32"), bias, "a")
    value = codes.value * 1.3  # not what was selected by
    bounds = sorted({max(1, n * (level + 1) // levels) for level in range(levels)})
    table = dense(codes, value, n).requires_grad_()
    errors = [(table[:, :m] @ directions[:m] + (0 if offset is None else offset) - x).square().sum() for m in bounds]
    (0.35 * sum(errors)).backward()
    decoded = kernels.decode(codes, value, weight, offset, x, 0.7, bounds, "a")
    assert decoded.squared_error == pytest.approx([float(e.detach()) for e in errors], rel=1e-4, abs=1e-4)
    ordered = kernels.by_latent(codes, n, "a")
    assert ordered.fired.tolist() == (table > 0).sum(0).tolist()
    found = kernels.gradient([Term(ordered, value, decoded.residual, bounds)], n)
    torch.testing.assert_close(found, directions.grad, rtol=1e-4, atol=1e-5)
    slopes = dense(codes, decoded.slope, n)
    torch.testing.assert_close(slopes, table.grad * (table > 0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kernels.sums(ordered, value), table.detach().sum(0), rtol=1e-4, atol=1e-5)


@FEW
@given(
    rows=st.integers(1, 40), d=st.integers(1, 9), n=st.integers(1, 6), seed=st.integers(0, 99), piece=st.integers(1, 7)
)
def test_segments_of_any_length_sum_to_the_dense_product(rows: int, d: int, n: int, seed: int, piece: int) -> None:
    """Latent 0 is active in every row, the others in some; pieces of any length give the same sums."""
    x, weight, bias = drawn(rows, d, n, seed)
    bias[0] = 50.0
    kernels = gpu.Gpu(DEVICE)
    codes = kernels.positive(x, kernels.encoder(weight, "float32"), bias, "a")
    ordered = kernels.by_latent(codes, n, "a")
    latents = torch.repeat_interleave(ordered.fired)
    assert torch.equal(codes.latent.view(-1)[ordered.entry].long(), latents)
    assert (ordered.entry.diff()[latents.diff() == 0] > 0).all()
    assert int(ordered.fired[0]) == rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "PIECE", piece)
        found = kernels.gradient([Term(ordered, codes.value, x[None], [n])], n)
    torch.testing.assert_close(found, dense(codes, codes.value, n).t() @ x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("n_terms", [0, 1, 2, 3])
def test_updates_are_those_of_torchs_adam_between_projection_and_renormalisation(unit: bool, n_terms: int) -> None:
    x, start, bias = drawn(4, 7, 6, seed=5)
    kernels = gpu.Gpu(DEVICE)
    codes = kernels.positive(x, kernels.encoder(start, "float32"), bias, "a")
    ordered = kernels.by_latent(codes, 6, "a")
    tables = torch.stack([x, 0.5 - x])
    terms = [
        Term(ordered, codes.value, x[None], [6]),
        Term(ordered, codes.value * 2, tables, [4, 6]),
        Term(ordered, codes.value - 1, tables[1:], [6]),
    ][:n_terms]
    matrix = Matrix(start.clone(), torch.zeros_like(start), torch.zeros_like(start), unit)
    encoder = kernels.encoder(matrix.weight, "screened")
    leaf = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=0.05)
    for step in range(1, 3):
        extra = None if n_terms == 1 else torch.cos(step * start)
        gradient = torch.zeros_like(start) if extra is None else extra.clone()
        for term in terms:
            table = dense(codes, term.factor, 6)
            gradient += (
                table.t() @ term.table[0]
                if len(term.bounds) == 1
                else torch.cat([table[:, :4].t() @ tables[0], table[:, 4:].t() @ tables[1]])
            )
        kernels.update(matrix, Adam(0.05, step), terms, extra, encoder)
        with torch.no_grad():
            along = (gradient * leaf).sum(1, keepdim=True)
            leaf.grad = gradient - along * leaf if unit else gradient
            optimiser.step()
            if unit:
                leaf /= leaf.norm(dim=1, keepdim=True)
    torch.testing.assert_close(matrix.weight, leaf.detach(), rtol=1e-5, atol=1e-5)
    state = optimiser.state[leaf]
    torch.testing.assert_close(matrix.mean, state["exp_avg"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matrix.square, state["exp_avg_sq"], rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder.screen.rounded, matrix.weight.bfloat16())
    kept = encoder.screen.norm.clone(), encoder.screen.lost.clone()
    kernels.refresh(encoder)
    torch.testing.assert_close((encoder.screen.norm, encoder.screen.lost), kept)


@PRECISIONS
def test_a_step_equals_that_of_the_reference(precision: str) -> None:
    """Selection, decoding, both gradients and two updates of one TopK step, on either kernels."""
    x, weight, bias = drawn(5, 24, 40, seed=6)
    results = []
    for kernels in (gpu.Gpu(DEVICE, product_bytes=40 * 4 * 4), Reference()):
        parts = [
            Matrix(m.clone(), torch.zeros_like(m), torch.zeros_like(m), u) for m, u in ((weight, True), (weight, False))
        ]
        encoder: Encoder = kernels.encoder(parts[1].weight, precision)
        for step in (1, 2):
            codes = kernels.largest(x, encoder, bias, 6, "a")
            decoded = kernels.decode(codes, codes.value, parts[0].weight, x[0], x, 0.1, [25, 40], "a")
            ordered = kernels.by_latent(codes, 40, "a")
            kernels.update(parts[0], Adam(0.01, step), [Term(ordered, codes.value, decoded.residual, [25, 40])])
            kernels.update(parts[1], Adam(0.01, step), [Term(ordered, decoded.slope, x[None], [40])], None, encoder)
        results.append((*vars(parts[0]).values(), *vars(parts[1]).values(), *decoded.squared_error))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_the_same_step_gives_the_same_bits() -> None:
    x, weight, bias = drawn(20, 12, 10, seed=4, shift=0.5)
    found = []
    for _ in range(2):
        kernels = gpu.Gpu(DEVICE)
        codes = kernels.largest(x, kernels.encoder(weight, "screened"), bias, 4, "a")
        decoded = kernels.decode(codes, codes.value, weight, None, x, 1.0, [10], "a")
        ordered = kernels.by_latent(codes, 10, "a")
        matrix = Matrix(weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight), True)
        kernels.update(matrix, Adam(0.01, 1), [Term(ordered, codes.value, decoded.residual.clone(), [10])])
        found.append((matrix.weight, decoded.slope, kernels.sums(ordered, decoded.slope)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_benchmarks_step_is_that_of_the_engine_on_any_kernels() -> None:
    x, _, _ = drawn(6, 16, 1, seed=8)
    losses = []
    for kernels in (gpu.Gpu(DEVICE), Reference()):
        step = TopKStep(x, 24, 3, "screened", kernels)
        losses.append([step() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][2] < losses[0][0]
