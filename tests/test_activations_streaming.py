"""A stream reads like a store of the same text, without a disk and with a bounded buffer."""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from activation_world import SITES, RunningMean, letters

import sparsescope.artifact
from sparsescope.activations import ActivationStore, StreamingActivations, harvest, stream
from sparsescope.errors import ArtifactError, ConfigurationError, NumericalError, SiteError
from sparsescope.text import SPLITS, Tokens

SETTINGS: dict[str, Any] = {"tokens": 3000, "context": 16, "batch": 4, "shard_tokens": 256, "seed": 3}


def streamed(model: Any = None, **changes: Any) -> StreamingActivations:
    settings = {"buffer_rows": 400, "held_out_tokens": 10**6} | SETTINGS | changes
    return stream(model or RunningMean(), letters(), SITES, **settings)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return harvest(RunningMean(), letters(), SITES, out=tmp_path_factory.mktemp("acts") / "acts", **SETTINGS)


def places(store: ActivationStore) -> dict[tuple[float, ...], int]:
    """Where each row of the train split stands, leaving out rows that occur more than once."""
    rows = [tuple(row) for block in store.blocks(SITES[0], "train") for row in block.x.tolist()]
    often = Counter(rows)
    return {row: number for number, row in enumerate(rows) if often[row] == 1}


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise AssertionError(f"wrote {path}")

    monkeypatch.setattr(sparsescope.artifact, "write_bytes", refuse)
    monkeypatch.chdir(tmp_path)
    activations = streamed()
    list(activations.batches(SITES[0], batch=64, steps=50))
    list(activations.blocks(SITES[0], "validation"))
    assert not list(tmp_path.iterdir())


def test_blocks_contexts_and_counts_are_those_of_a_store(store: ActivationStore) -> None:
    activations = streamed()
    for split in SPLITS:
        for field in fields(Tokens):
            assert torch.equal(
                getattr(activations.contexts(split), field.name), getattr(store.contexts(split), field.name)
            )
        assert activations.rows(split) == store.rows(split)
        assert torch.equal(activations.kept(split), store.kept(split))
        for site in SITES:
            pairs = zip(activations.blocks(site, split, rows=90), store.blocks(site, split, rows=90), strict=True)
            for mine, theirs in pairs:
                for name in ("x", "document", "position", "context"):
                    assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert activations.sites == store.sites
    assert [activations.width(site) for site in SITES] == [store.width(site) for site in SITES]
    assert (activations.model_name, activations.inputs) == (store.model_name, store.inputs)


def test_rows_that_a_store_leaves_out_are_left_out(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"massive": "drop", "include_bos": False}
    store = harvest(RunningMean(massive=1000.0), letters(), SITES, out=tmp_path / "acts", **(SETTINGS | settings))
    activations = streamed(RunningMean(massive=1000.0), **settings)
    for split in SPLITS:
        mine = torch.cat([block.x for block in activations.blocks(SITES[1], split)])
        assert torch.equal(mine, torch.cat([block.x for block in store.blocks(SITES[1], split)]))
        assert torch.equal(activations.kept(split), store.kept(split))
    assert activations.rows("test") == store.rows("test")
    assert activations.rows("train") >= store.rows("train")  # massive rows are not known before they are read


def test_the_held_out_prefix_is_fixed_and_bounded(store: ActivationStore) -> None:
    activations = streamed(held_out_tokens=100)
    for split in ("validation", "test"):
        assert len(activations.contexts(split)) == 100 // 16
        assert torch.equal(activations.contexts(split).ids, store.contexts(split).ids[: 100 // 16])
    assert activations.rows("train") == store.rows("train")


def test_mean_and_mean_square_are_of_the_first_shard() -> None:
    activations = streamed()
    first = next(activations.blocks(SITES[0], "train", rows=256)).x.double()
    torch.testing.assert_close(activations.mean(SITES[0]), first.mean(0), rtol=1e-12, atol=1e-12)
    assert activations.mean_square(SITES[0]) == pytest.approx(first.square().mean().item(), rel=1e-12)


def test_batches_are_the_rows_of_the_text_each_as_often(store: ActivationStore) -> None:
    place = places(store)
    n, batch = store.rows("train"), 40
    drawn = torch.cat(list(streamed().batches(SITES[0], batch=batch, seed=1, steps=3 * n // batch)))
    counts = Counter(place[row] for row in map(tuple, drawn.tolist()) if row in place)
    # Three epochs were drawn, but for what is in the buffer: of the third, and of the fourth already.
    assert set(counts) == set(place.values())
    assert set(counts.values()) <= {2, 3, 4}
    assert Counter(counts.values())[3] > len(place) - 2 * 400


def test_a_batch_is_drawn_from_the_whole_buffer(store: ActivationStore) -> None:
    place = places(store)
    first = next(streamed().batches(SITES[0], batch=100, seed=1))
    found = sorted(place[row] for row in map(tuple, first.tolist()) if row in place)
    assert len(found) > 80
    assert found[0] < 40
    assert 360 < found[-1] < 400


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    straight = list(streamed().batches(SITES[0], batch=30, seed=4, steps=120))
    later = streamed().batches(SITES[0], batch=30, seed=4, start=75, steps=45)
    assert all(torch.equal(a, b) for a, b in zip(straight[75:], later, strict=True))
    assert not torch.equal(straight[0], next(streamed().batches(SITES[0], batch=30, seed=5)))
    assert {batch.dtype for batch in straight} == {torch.float32}


def test_a_batch_larger_than_the_buffer_makes_the_buffer_larger() -> None:
    batches = list(streamed(buffer_rows=10).batches(SITES[0], batch=300, steps=3))
    assert [tuple(batch.shape) for batch in batches] == [(300, 8)] * 3


def test_validation_batches_come_from_validation(store: ActivationStore) -> None:
    rows = {tuple(row) for block in store.blocks(SITES[0], "validation") for row in block.x.tolist()}
    for batch in streamed().batches(SITES[0], batch=32, steps=20, split="validation"):
        assert {tuple(row) for row in batch.tolist()} <= rows


def test_so_few_tokens_that_a_split_stays_empty_are_refused(tmp_path: Path) -> None:
    settings = SETTINGS | {"tokens": 400}
    with pytest.raises(ConfigurationError, match="the first 400 tokens of"):
        harvest(RunningMean(), letters(), SITES, out=tmp_path / "acts", **settings)
    assert not list(tmp_path.iterdir())


def test_fingerprint_stands_for_settings_and_inputs() -> None:
    same = [streamed().fingerprint for _ in range(2)]
    others = [
        streamed(seed=4).fingerprint,
        streamed(RunningMean(seed=1)).fingerprint,
        streamed(dtype="float32").fingerprint,
    ]
    assert len({*same, *others}) == 4


def test_bad_input() -> None:
    with pytest.raises(ConfigurationError, match="buffer_rows is 0"):
        streamed(buffer_rows=0)
    with pytest.raises(ConfigurationError, match="asked for 1,000,000"):
        streamed(tokens=10**6)
    with pytest.raises(NumericalError, match=r"not finite at resid_post.0"):
        streamed(RunningMean(poison={("resid_post.0", 0): float("nan")}))
    activations = streamed()
    with pytest.raises(
        SiteError, match="the activations streamed from 'running-mean' on letters:0 have no site 'embed'"
    ):
        activations.batches("embed", batch=4)
    with pytest.raises(ConfigurationError, match="unknown split 'dev'"):
        activations.blocks(SITES[0], "dev")
    with pytest.raises(ConfigurationError, match="batch is 0"):
        activations.batches(SITES[0], batch=0)
    with pytest.raises(ConfigurationError, match="rows is 0"):
        activations.blocks(SITES[0], "train", rows=0)
    with pytest.raises(ArtifactError, match=r"streamed from 'running-mean'.*give the model they were made with"):
        activations.check_model(RunningMean(seed=1))
