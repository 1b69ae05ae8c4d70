"""A planted dictionary is what it says it is, and tied L1 finds it."""

import re

import pytest
import torch

from sparsescope.errors import ConfigurationError, SiteError
from sparsescope.metrics import recovery
from sparsescope.training import TiedL1, train
from sparsescope.worlds import PlantedWorld


def test_rows_depend_on_seeds_and_step_alone() -> None:
    world, again = PlantedWorld(seed=3), PlantedWorld(seed=3)
    assert torch.equal(world.directions, again.directions)
    read = list(world.batches("planted", batch=16, seed=1, steps=6))
    later = list(again.batches("planted", batch=16, seed=1, start=4, steps=2))
    assert all(torch.equal(a, b) for a, b in zip(read[4:], later, strict=True))
    first = world.sample(16, seed=1, step=0)[0]
    assert torch.equal(first, read[0])
    for other in (
        world.sample(16, seed=1, step=1)[0],
        world.sample(16, seed=2, step=0)[0],
        world.sample(16, seed=1, step=0, split="validation")[0],
        PlantedWorld(seed=4).sample(16, seed=1, step=0)[0],
    ):
        assert not torch.equal(first, other)
    assert world.fingerprint == again.fingerprint != PlantedWorld(seed=4).fingerprint


def test_moments_are_those_of_the_rows() -> None:
    world = PlantedWorld(d=8, n_features=20, active=3, low=0.5, high=2.0)
    x, codes = world.sample(200_000)
    assert (codes > 0).double().mean().item() == pytest.approx(3 / 20, rel=0.01)
    strengths = codes[codes > 0].double()
    assert (strengths.min().item(), strengths.max().item()) == pytest.approx((0.5, 2.0), abs=1e-3)
    assert strengths.mean().item() == pytest.approx(1.25, rel=0.01)
    assert strengths.var().item() == pytest.approx(1.5**2 / 12, rel=0.02)
    torch.testing.assert_close(world.mean("planted"), x.double().mean(0), rtol=0, atol=0.01)
    assert world.mean_square("planted") == pytest.approx(x.double().square().mean().item(), rel=0.01)
    torch.testing.assert_close(world.directions.norm(dim=1), torch.ones(20))


def test_an_offset_is_added_to_every_component_and_to_nothing_else() -> None:
    plain, shifted = (PlantedWorld(d=8, n_features=20, active=3, seed=2, offset=offset) for offset in (0.0, 0.3))
    x, codes = shifted.sample(100_000)
    assert torch.equal(x, plain.sample(100_000)[0] + 0.3)
    assert torch.equal(codes, plain.sample(100_000)[1])
    torch.testing.assert_close(shifted.mean("planted"), x.double().mean(0), rtol=0, atol=0.01)
    assert shifted.mean_square("planted") == pytest.approx(x.double().square().mean().item(), rel=0.01)
    assert shifted.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": 0}, "d = 0, expected 1 or more"),
        ({"n_features": 0}, "n_features = 0, expected"),
        ({"active": 300}, "active = 300, expected a number above 0 and at most n_features = 256"),
        ({"low": 2.0}, "strengths from 2.0 to 1.5, expected 0 < low"),
        ({"offset": float("nan")}, "offset = nan, expected a finite number"),
    ],
)
def test_a_world_that_cannot_be_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        PlantedWorld(**change)


def test_it_has_one_site_and_three_splits() -> None:
    world = PlantedWorld()
    with pytest.raises(SiteError, match="no site 'embed', only 'planted'"):
        next(world.batches("embed", batch=4))
    with pytest.raises(ConfigurationError, match="unknown split 'dev'"):
        world.sample(4, split="dev")


def test_tied_l1_recovers_a_planted_dictionary() -> None:
    """A quarter of the size of the benchmark's world; one l1, found on other seeds."""
    world = PlantedWorld(d=32, n_features=96, active=2.5, seed=11)
    (sae,) = train(world, "planted", [TiedL1(l1=0.03, n_latents=192)], tokens=400_000, batch=128, lr=3e-2)
    random = torch.nn.functional.normalize(torch.randn(192, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    assert recovery(sae.directions, world.directions, 0.9) >= 0.9
    assert recovery(random, world.directions, 0.9) == 0.0
