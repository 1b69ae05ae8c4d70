"""Hand-derived gradients against autograd, and whole steps against torch's own optimiser."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from sparsescope.training import TiedL1, TopK, UntiedL1
from sparsescope.training.gradients import Weights, Workspace, forward, gradients
from sparsescope.training.member import create
from sparsescope.training.methods import Method
from sparsescope.training.source import open_source

KINDS = ("tied", "untied", "topk")


def draw(kind: str, m: int, d: int, rows: int, seed: int) -> tuple[Weights, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = Weights(normalize(normal(m, d), dim=1), 0.5 * normal(m))
    if kind != "tied":
        weights.encoder = normal(m, d)
    if kind == "topk":
        weights.bias = normal(d)
    return weights, normal(rows, d)


def written_out(tensors: dict[str, Tensor], x: Tensor, k: int | None, l1: float) -> Tensor:
    """The objective as it stands in the documentation, for autograd."""
    directions, bias = tensors["directions"], tensors.get("bias", torch.zeros(x.shape[1], dtype=x.dtype))
    codes = torch.relu((x - bias) @ tensors.get("encoder", directions).T + tensors["encoder_bias"])
    if k is not None:
        codes = torch.where(codes >= codes.topk(k, dim=1).values[:, -1:], codes, 0.0)
    return (codes @ directions + bias - x).square().mean() + l1 * codes.sum(1).mean()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dense=st.booleans(),
    m=st.integers(1, 20),
    d=st.integers(1, 9),
    rows=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    l1=st.sampled_from([0.0, 0.01, 1.0]),
)
def test_loss_and_gradients_are_those_of_autograd(
    kind: str, dense: bool, m: int, d: int, rows: int, seed: int, l1: float
) -> None:
    weights, x = draw(kind, m, d, rows, seed)
    k, l1 = (max(1, m // 3), 0.0) if kind == "topk" else (None, l1)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.tensors().items()}
    objective = written_out(leaves, x, k, l1)
    expected = dict(zip(leaves, torch.autograd.grad(objective, list(leaves.values())), strict=True))

    space = Workspace()
    with torch.no_grad():
        done = forward(weights, x, k=k, dense=dense, space=space)
        loss = done.squared_error / x.numel() + l1 * done.l1 / rows
        found = gradients(weights, done, l1=l1, space=space)

    assert loss == pytest.approx(objective.item(), rel=1e-10)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dense", [True, False])
def test_counts_are_counts(dense: bool) -> None:
    weights, x = draw("tied", 16, 6, 40, 0)
    done = forward(weights, x, k=None, dense=dense, space=Workspace())
    codes = torch.relu(x @ weights.directions.T + weights.encoder_bias)
    assert done.count == int((codes > 0).sum())
    assert done.fired.tolist() == (codes > 0).sum(0).tolist()
    assert done.l1 == pytest.approx(codes.sum().item())


@pytest.mark.parametrize("dense", [True, False])
def test_a_batch_without_any_active_latent_has_gradients_too(dense: bool) -> None:
    weights, x = draw("tied", 16, 6, 40, 0)
    weights.encoder_bias.fill_(-100.0)
    space = Workspace()
    done = forward(weights, x, k=None, dense=dense, space=space)
    found = gradients(weights, done, l1=0.1, space=space)
    assert done.count == 0
    assert done.squared_error == pytest.approx(x.square().sum().item())
    assert all(not tensor.any() for tensor in found.values())


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_reaches_the_loss(kind: str, dense: bool) -> None:
    weights, x = draw(kind, 16, 6, 40, 0)
    x[3, 2] = math.nan
    done = forward(weights, x, k=4 if kind == "topk" else None, dense=dense, space=Workspace())
    assert math.isnan(done.squared_error)


@pytest.mark.parametrize(
    "method",
    [TiedL1(l1=0.02, ratio=3), UntiedL1(l1=0.02, ratio=3), TopK(k=3, ratio=3)],
    ids=lambda method: method.method,
)
@torch.no_grad()
def test_steps_are_those_of_autograd_with_projection_and_torch_adam(method: Method) -> None:
    data = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    member = create(method, "it", open_source(data, None, 0, True), steps=20)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in member.weights.tensors().items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=3e-3)
    directions, space = leaves["directions"], Workspace()
    for x in data.split(100):
        with torch.enable_grad():
            objective = written_out(leaves, x, member.k, member.l1)
            optimiser.zero_grad()
            objective.backward()
        assert directions.grad is not None
        directions.grad -= (directions.grad * directions).sum(1, keepdim=True) * directions
        optimiser.step()
        directions /= directions.norm(dim=1, keepdim=True)

        done = member.measure(x, space)
        loss = member.loss(done)
        assert loss == pytest.approx(objective.item(), rel=1e-5)
        member.update(done, loss, lr=3e-3, space=space)
    for name, tensor in member.weights.tensors().items():
        torch.testing.assert_close(tensor, leaves[name], rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(member.weights.directions.norm(dim=1), torch.ones(24))
