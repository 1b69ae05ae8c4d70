"""Hand-derived gradients against autograd, for every method, in the sparse and in the dense form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsescope.training import (
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Method,
    PAnneal,
    TiedL1,
    TopK,
    Transcoder,
    UntiedL1,
)
from sparsescope.training.kernels import Kernels
from sparsescope.training.kernels.reference import Buffers, Reference
from sparsescope.training.methods import Moment, Weights
from sparsescope.training.source import Batch
from sparsescope.training.step import Job, Pass, dense_pass, sparse_pass

D, OUT, N, ROWS = 12, 9, 40, 60
EPSILON = 0.8
PENALISED: list[Method] = [
    TiedL1(l1=0.05, n_latents=N),
    TiedL1(l1=0.05, n_latents=N, bias=True),
    UntiedL1(l1=0.05, n_latents=N),
    UntiedL1(l1=0.05, n_latents=N, bias=True),
    PAnneal(l1=0.05, n_latents=N, start=0.0, end=1.0),
    Gated(l1=0.05, n_latents=N),
    JumpReLU(l0=0.02, n_latents=N),
]
KEPT: list[Method] = [
    TopK(k=5, n_latents=N, aux=0),
    BatchTopK(k=5, n_latents=N, aux=0),
    Matryoshka(k=5, n_latents=N, aux=0, widths=(0.2, 0.5, 1.0)),
    Transcoder(k=5, n_latents=N, aux=0),
    Transcoder(k=5, n_latents=N, aux=0, skip=True),
]
NOW = Moment(share=0.5, coefficient=0.05, sums={"penalty": 30.0, "power": 20.0})


def problem(method: Method, seed: int = 0) -> tuple[Weights, Batch]:
    """Random weights of a method, away from any symmetry, and a batch."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    width = OUT if isinstance(method, Transcoder) else D
    directions = torch.nn.functional.normalize(normal(N, width), dim=1)
    vectors = {"encoder_bias": normal(N, scale=0.3)}
    centred = not isinstance(method, (Transcoder, TiedL1, UntiedL1)) or bool(getattr(method, "bias", False))
    if centred or isinstance(method, Transcoder):
        vectors["bias"] = normal(width, scale=0.3)
    if isinstance(method, Transcoder):
        vectors["centre"] = normal(D, scale=0.3)
    if isinstance(method, Transcoder) and method.skip:
        vectors["skip"] = normal(OUT, D, scale=0.3)
    if isinstance(method, Gated):
        vectors |= {"magnitude": normal(N, scale=0.3), "magnitude_bias": normal(N, scale=0.3)}
    if isinstance(method, JumpReLU):
        vectors |= {"threshold": normal(N, scale=0.3).abs() + 0.5, "epsilon": torch.tensor([EPSILON])}
    if isinstance(method, PAnneal):
        vectors["floor"] = torch.tensor([method.FLOOR])
    encoder = None if isinstance(method, TiedL1) else normal(N, D, scale=0.5)
    x = normal(ROWS, D)
    y = normal(ROWS, OUT) if isinstance(method, Transcoder) else x
    return Weights(directions, vectors, encoder, centred), Batch(x, y)


class Jump(torch.autograd.Function):
    """z · 1{z > θ} and 1{z > θ}, with the pseudo-derivatives of Rajamanoharan et al. 2024, equations 11 and 12,
    and their opposites for z, through which the step is a function of z − θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z, theta)
        step = (z > theta).float()
        return z * step, step

    @staticmethod
    def backward(ctx: Any, by_code: Tensor, by_step: Tensor) -> tuple[Tensor, Tensor]:
        z, theta = ctx.saved_tensors
        window = ((z - theta).abs() < EPSILON / 2).float() / EPSILON
        by_theta = -(by_code * theta * window) - by_step * window
        return by_code * (z > theta) - by_theta, by_theta.sum(0)


def loss_of(method: Method, w: dict[str, Tensor], batch: Batch) -> Tensor:
    """The objective, written down once more, for autograd."""
    x, y, directions = batch.x, batch.y, w["directions"]
    encoder = w.get("encoder", directions)
    bias = w.get("bias", torch.zeros(()))
    centred = x - w["centre"].detach() if "centre" in w else x - bias
    linear = centred @ encoder.T
    pre = linear + w["encoder_bias"]
    if isinstance(method, JumpReLU):
        codes, open_ = Jump.apply(pre, w["threshold"])
        return (codes @ directions + bias - y).square().mean() + NOW.coefficient * open_.sum(1).mean()
    if isinstance(method, Gated):
        codes = (pre > 0) * (w["magnitude"].exp() * linear + w["magnitude_bias"]).relu()
        gate = (pre.relu() @ directions.detach() + bias.detach() - y).square().mean()
        return (codes @ directions + bias - y).square().mean() + NOW.coefficient * pre.relu().sum(1).mean() + gate
    if isinstance(method, PAnneal):
        p = 1 - (1 - method.p) * NOW.share
        codes = pre.relu()
        weight = NOW.coefficient * NOW.sums["penalty"] / NOW.sums["power"]
        flat = p * codes.detach().clamp(min=method.FLOOR).pow(p - 1)  # the slope of cᵖ
        return (codes @ directions + bias - y).square().mean() + weight * (flat * codes).sum(1).mean()
    if isinstance(method, (TiedL1, UntiedL1)):
        codes = pre.relu()
        return (codes @ directions + bias - y).square().mean() + NOW.coefficient * codes.sum(1).mean()
    if isinstance(method, (TopK, Transcoder)):
        codes = pre.relu() * (pre >= pre.topk(method.k, dim=1).values[:, -1:])
    else:
        codes = pre.relu() * (pre >= pre.flatten().topk(method.k * len(x)).values[-1])
    skip = x @ w["skip"].T if "skip" in w else 0
    bounds = method.bounds(N)
    parts = [(codes[:, :m] @ directions[:m] + bias + skip - y).square().mean() for m in bounds]
    return torch.stack(parts).mean()


def tensors_of(weights: Weights) -> dict[str, Tensor]:
    found = {"directions": weights.directions, **weights.vectors}
    return found if weights.encoder is None else found | {"encoder": weights.encoder}


def expected(method: Method, weights: Weights, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors_of(weights).items()}
    loss = loss_of(method, leaves, batch)
    loss.backward()
    return float(loss.detach()), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def gradients_of(done: Pass, weights: Weights, kernels: Kernels) -> dict[str, Tensor]:
    found = dict(done.vectors)
    names = {"directions"} if weights.encoder is None else {"directions", "encoder"}
    for name in names:
        terms = done.terms[name] + (done.terms["encoder"] if weights.encoder is None else [])
        total = kernels.gradient(terms, N) if terms else 0
        found[name] = total + done.tables.get(name, 0)
    return found


def check(method: Method, done: Pass, weights: Weights, batch: Batch, kernels: Kernels) -> None:
    loss, wanted = expected(method, weights, batch)
    if not isinstance(method, PAnneal):  # whose value is rescaled, as autograd is not told
        assert done.loss == pytest.approx(loss, rel=1e-5)
    found = gradients_of(done, weights, kernels)
    assert wanted.keys() <= found.keys() | {"epsilon", "floor"}
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=f"{method}: {name}")


def job_of(method: Method, weights: Weights, kernels: Kernels) -> Job:
    return Job(method, weights, kernels.encoder(weights.encoding, "float32"), NOW)


@pytest.mark.parametrize("method", PENALISED + KEPT, ids=lambda m: m.label())
@pytest.mark.parametrize("seed", [0, 1])
def test_sparse_gradients_equal_autograd(method: Method, seed: int) -> None:
    weights, batch = problem(method, seed)
    kernels = Reference()
    done = sparse_pass(job_of(method, weights, kernels), batch, kernels, Buffers())
    check(method, done, weights, batch, kernels)


@pytest.mark.parametrize("method", PENALISED, ids=lambda m: m.label())
def test_dense_gradients_equal_autograd_in_one_block_or_many(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Reference()
    for chunk in (1 << 22, 7 * N):
        monkeypatch.setattr("sparsescope.training.step.CHUNK", chunk)
        weights, batch = problem(method)
        done = dense_pass(job_of(method, weights, kernels), batch, Buffers())
        check(method, done, weights, batch, kernels)


@pytest.mark.parametrize("method", PENALISED, ids=lambda m: m.label())
def test_both_forms_count_the_same(method: Method) -> None:
    kernels = Reference()
    weights, batch = problem(method)
    sparse = sparse_pass(job_of(method, weights, kernels), batch, kernels, Buffers())
    weights, batch = problem(method)
    dense = dense_pass(job_of(method, weights, kernels), batch, Buffers())
    assert torch.equal(sparse.fired, dense.fired)
    assert sparse.sums == pytest.approx(dense.sums, rel=1e-5)
    assert sparse.squared_error == pytest.approx(dense.squared_error, rel=1e-5)


@pytest.mark.parametrize("method", [TopK(k=5, n_latents=N, aux=0.1), Matryoshka(k=5, n_latents=N, aux=0.1)])
def test_the_auxiliary_loss_is_what_dead_latents_leave_of_the_residual(method: TopK | Matryoshka) -> None:
    weights, batch = problem(method)
    dead = torch.tensor([1, 4, 8, 15, 16, 23, 39])
    kernels = Reference()
    job = Job(method, weights, kernels.encoder(weights.encoding, "float32"), NOW, dead=dead)
    found = gradients_of(sparse_pass(job, batch, kernels, Buffers()), weights, kernels)

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors_of(weights).items()}
    main = loss_of(method, leaves, batch)
    pre = (batch.x - leaves["bias"]) @ leaves["encoder"].T + leaves["encoder_bias"]
    if isinstance(method, TopK):
        codes = pre.relu() * (pre >= pre.topk(method.k, dim=1).values[:, -1:])
    else:
        codes = pre.relu() * (pre >= pre.flatten().topk(method.k * ROWS).values[-1])
    left = (batch.x - codes @ leaves["directions"] - leaves["bias"]).detach()
    # b takes no part in the auxiliary loss
    among = ((batch.x - weights.vectors["bias"]) @ leaves["encoder"].T + leaves["encoder_bias"])[:, dead]
    kept = among.relu() * (among >= among.topk(min(len(dead), D // 2), dim=1).values[:, -1:])
    aux = (kept @ leaves["directions"][dead] - left).square().sum() / (left - left.mean(0)).square().sum()
    (main + method.aux * aux).backward()
    for name in ("directions", "encoder", "encoder_bias", "bias"):
        torch.testing.assert_close(found[name], leaves[name].grad, rtol=1e-4, atol=1e-6)
