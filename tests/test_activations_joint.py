"""Several sites read together: rows aligned by token, the same as one by one, from one run of the model."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activation_world import SITES, RunningMean, letters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sparsescope as ss
from sparsescope.activations import Activations, ActivationStore, StreamingActivations, harvest, stream
from sparsescope.activations.mixing import mixed
from sparsescope.errors import ConfigurationError, SiteError

SETTINGS: dict[str, Any] = {"tokens": 3000, "context": 16, "batch": 4, "shard_tokens": 256, "seed": 3}


def streamed(model: RunningMean, **changes: Any) -> StreamingActivations:
    return stream(model, letters(), SITES, **({"buffer_rows": 400} | SETTINGS | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return harvest(RunningMean(), letters(), SITES, out=tmp_path_factory.mktemp("acts") / "acts", **SETTINGS)


def whole(activations: Activations, site: str, split: str) -> Tensor:
    return torch.cat([block.x for block in activations.blocks(site, split)])


def assert_aligned(activations: Activations, split: str) -> None:
    """Every row of one site comes with the row of the other site that stands at the same place of the text."""
    first, second = (whole(activations, site, split) for site in SITES)
    often = Counter(map(tuple, first.tolist()))
    place = {row: number for number, row in enumerate(map(tuple, first.tolist())) if often[row] == 1}
    compared = 0
    for rows in activations.joint_batches(SITES, batch=40, seed=1, steps=20, split=split):
        for one, other in zip(rows[SITES[0]], rows[SITES[1]], strict=True):
            if tuple(one.tolist()) in place:
                compared += 1
                assert torch.equal(other, second[place[tuple(one.tolist())]])
    assert compared > 500


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_belong_to_the_same_token_at_every_site(store: ActivationStore, split: str) -> None:
    assert_aligned(store, split)
    assert_aligned(streamed(RunningMean()), split)
    assert_aligned(streamed(RunningMean(massive=1000.0), massive="drop", include_bos=False), split)


def test_each_site_is_what_it_is_when_read_alone(store: ActivationStore) -> None:
    for activations in (store, streamed(RunningMean())):
        joint = list(activations.joint_batches(SITES[::-1], batch=64, seed=2, start=3, steps=20))
        assert all(list(rows) == SITES[::-1] for rows in joint)
        for site in SITES:
            alone = activations.batches(site, batch=64, seed=2, start=3, steps=20)
            assert all(torch.equal(rows[site], x) for rows, x in zip(joint, alone, strict=True))


class Watched(RunningMean):
    """Remembers which sites were read in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.read_sites: list[list[str]] = []

    def read(self, ids: Tensor, sites: list[str], attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        self.read_sites.append(list(sites))
        return super().read(ids, sites, attention_mask)


def test_a_stream_runs_the_model_once_for_all_sites_and_for_no_others() -> None:
    calls = []
    for sites in (SITES[:1], SITES[1:], SITES):
        model = Watched()
        activations = streamed(model)
        before = model.calls
        list(activations.joint_batches(sites, batch=64, seed=2, steps=60))
        calls.append(model.calls - before)
        assert all(read == sites for read in model.read_sites[before:])
    assert calls[0] == calls[1] == calls[2] > 60 * 64 / (4 * 16) - 1


def test_the_input_of_an_mlp_comes_with_its_output(tiny_model_dir: Path, text_file: Path) -> None:
    """Of a real network: what stands beside a row is what the network makes of that row."""
    model = ss.load_model(str(tiny_model_dir))
    sites = ["mlp_in.1", "mlp_out.1"]
    activations = stream(
        model, ss.load_text(text_file), sites, tokens=12_000, context=32, batch=16, dtype="float32", buffer_rows=2000
    )
    mlp = model.module.get_submodule("gpt_neox.layers.1.mlp")
    for rows in activations.joint_batches(sites, batch=200, steps=12):
        torch.testing.assert_close(mlp(rows[sites[0]]), rows[sites[1]], rtol=1e-4, atol=1e-5)


def test_bad_choices_of_sites_are_refused_at_once(store: ActivationStore) -> None:
    for activations in (store, streamed(RunningMean())):
        with pytest.raises(ConfigurationError, match="expected a list with one site or more"):
            activations.joint_batches(SITES[0], batch=4)
        with pytest.raises(ConfigurationError, match=r"sites are \[\]"):
            activations.joint_batches([], batch=4)
        with pytest.raises(SiteError, match="no site 'embed'"):
            activations.joint_batches([SITES[0], "embed"], batch=4)
        with pytest.raises(ConfigurationError, match="batch is 0"):
            activations.joint_batches(SITES, batch=0)


def numbered(sizes: list[int]) -> list[dict[str, Tensor]]:
    """Pieces of consecutive numbers, and the same numbers negative beside them."""
    numbers = torch.arange(sum(sizes), dtype=torch.float32)[:, None]
    return [{"a": part, "b": -part} for part in numbers.split(sizes)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    batch=st.integers(1, 9),
    buffer_rows=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_a_buffer_gives_every_row_once_and_keeps_tables_together(
    sizes: list[int], batch: int, buffer_rows: int, seed: int
) -> None:
    found = list(mixed(iter(numbered(sizes)), batch=batch, seed=seed, buffer_rows=buffer_rows))
    assert all(torch.equal(rows["a"], -rows["b"]) and len(rows["a"]) == batch for rows in found)
    drawn = [int(number) for rows in found for number in rows["a"]]
    assert len(drawn) == sum(sizes) // batch * batch
    assert len(set(drawn)) == len(drawn)
    size = max(buffer_rows, 4 * batch)
    # a row cannot be drawn before it was read
    assert all(number < size + place for place, number in enumerate(drawn))


def test_a_buffer_is_drawn_from_as_a_plain_reading_of_its_definition_says() -> None:
    found = mixed(iter(numbered([7, 50, 43])), batch=5, seed=3, buffer_rows=30)
    generator = np.random.default_rng([3, 30])
    rest, held, expected = list(range(100)), [], []
    while rest:
        held, rest = held + rest[: 30 - len(held)], rest[30 - len(held) :]
        order = generator.permutation(len(held))
        drawn = (len(held) if not rest else len(held) // 2) // 5 * 5
        expected += [held[place] for place in order[:drawn]]
        held = [held[place] for place in order[drawn:]]
    assert [int(number) for rows in found for number in rows["a"]] == expected
