"""A frozen decoder: directions stay as they were drawn, whatever computes, and everything else learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_gradients import Batch, N, gradients_of, job_of, loss_of, problem, tensors_of
from training_data import realistic

from sparsescope.artifact import read_json
from sparsescope.dictionaries import Dictionary, Provenance, TopKSAE
from sparsescope.errors import ConfigurationError
from sparsescope.study.members import any_methods, trained_methods
from sparsescope.training import TopK, train
from sparsescope.training.kernels.reference import Buffers, Reference
from sparsescope.training.member import create
from sparsescope.training.schedule import Schedule
from sparsescope.training.source import open_feed
from sparsescope.training.step import sparse_pass

METHOD = TopK(k=4, ratio=3, frozen=True)


def start(method: TopK, x: torch.Tensor) -> Any:
    (source,) = open_feed(x, None, 0, True).sources  # type: ignore[arg-type]
    return create(method, "it", 0, source, Schedule(1000, 10, 1e-3, 0.1, 0.1), Reference(), "float32"), source


def fvu(sae: Dictionary, x: torch.Tensor) -> float:
    return float((sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("precision", ["float32", "screened"])
def test_directions_keep_every_bit_while_the_encoder_learns(kernels: str, precision: Any) -> None:
    x = realistic(3000)
    member, source = start(METHOD, x)
    drawn, encoder = member.weights.directions.clone(), member.weights.encoder.clone()
    untrained = METHOD.fold(member.weights, {}, source, Provenance())
    (sae,) = train(x, None, [METHOD], tokens=20_000, batch=100, kernels=kernels, precision=precision)
    assert isinstance(sae, TopKSAE)
    assert torch.equal(sae.directions, drawn)
    assert not torch.allclose(sae.encoder, encoder, atol=0.1)
    assert float(sae.encoder_bias.abs().max()) > 0
    assert fvu(sae, x) < 0.9 * fvu(untrained, x)
    assert sae.provenance.name == "topk-k_4-x3-frozen"


def test_it_starts_where_the_free_one_does_and_the_free_one_gets_further() -> None:
    x = realistic(3000)
    free = TopK(k=4, ratio=3)
    assert METHOD.init_seed(5) == free.init_seed(5) != free.init_seed(6)
    assert torch.equal(start(METHOD, x)[0].weights.directions, start(free, x)[0].weights.directions)
    learned, frozen = train(x, None, [free, METHOD], tokens=20_000, batch=100)
    assert not torch.allclose(learned.directions, frozen.directions, atol=0.1)
    assert fvu(learned, x) < 0.9 * fvu(frozen, x)


def test_what_was_asked_for_before_is_still_the_same_request() -> None:
    plain = TopK(k=4, ratio=3)
    assert "frozen" not in plain.settings()
    assert METHOD.settings() == {**plain.settings(), "frozen": True}
    assert (plain.label(), METHOD.label()) == ("topk-k_4-x3", "topk-k_4-x3-frozen")


def test_a_step_through_frozen_directions_has_autograd_s_gradients_of_everything_else() -> None:
    method = TopK(k=5, n_latents=N, aux=0, frozen=True)
    weights, batch = problem(method)
    kernels = Reference()
    found = gradients_of(sparse_pass(job_of(method, weights, kernels), batch, kernels, Buffers()), weights, kernels)
    leaves = {name: tensor.clone().requires_grad_(name != "directions") for name, tensor in tensors_of(weights).items()}
    loss_of(method, leaves, batch).backward()
    for name in ("encoder", "encoder_bias", "bias"):
        torch.testing.assert_close(found[name], leaves[name].grad, rtol=1e-4, atol=1e-6)


def test_one_step_is_adam_s_on_everything_but_the_directions() -> None:
    x = realistic(600)
    (frozen, _), (free, _) = start(METHOD, x), start(TopK(k=4, ratio=3), x)
    assert list(frozen.matrices) == ["encoder"]
    batch, kernels, drawn = Batch(x, x), Reference(), frozen.weights.directions.clone()
    for member in (frozen, free):
        member.update(member.measure(batch, 0.5, kernels, Buffers()), len(x), 1e-2, kernels)
    assert torch.equal(frozen.weights.directions, drawn)
    assert not torch.equal(free.weights.directions, drawn)
    assert torch.equal(frozen.weights.encoder, free.weights.encoder)
    for name, vector in frozen.weights.vectors.items():
        assert torch.equal(vector, free.weights.vectors[name])


def test_the_auxiliary_loss_leaves_dead_directions_alone() -> None:
    x = realistic(2000)
    method = TopK(k=2, n_latents=300, dead_after=200, aux=1.0, frozen=True)
    drawn = start(method, x)[0].weights.directions.clone()
    (sae,) = train(x, None, [method], tokens=10_000, batch=100)
    assert torch.equal(sae.directions, drawn)


def test_the_request_goes_through_lists_and_manifests(tmp_path: Path) -> None:
    (method,) = trained_methods(["topk"], k=[4], ratio=[3.0], frozen=True)
    assert method == METHOD
    train(realistic(500), None, [method], tokens=1000, batch=100, out=tmp_path / "saes")
    assert read_json(tmp_path / "saes" / "manifest.json")["config"]["methods"] == [METHOD.settings()]
    trained, fitted = any_methods(["topk", "pca"], k=[4], ratio=[3.0], frozen=True)
    assert (trained, len(fitted)) == ([METHOD], 2)
    for names in (["topk", "batchtopk"], ["tied_l1"]):
        with pytest.raises(ConfigurationError, match=f"frozen is for topk, not for {names[-1]}: train those apart"):
            trained_methods(names, k=[4], l1=[0.1], ratio=[3.0], frozen=True)
    with pytest.raises(ConfigurationError, match="frozen is for methods that are trained, not for pca"):
        any_methods(["pca"], frozen=True)
