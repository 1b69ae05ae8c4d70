"""A store gives back what the model said, in any order asked for, and notices every wrong byte."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activation_world import SITES, WIDTHS, CharTokenizer, RunningMean, letters

from sparsescope.activations import ActivationStore, harvest, load_store
from sparsescope.activations.shuffle import shuffled
from sparsescope.errors import ArtifactError, ConfigurationError, SiteError
from sparsescope.text import SPLITS, Tokens, pack

SETTINGS: dict[str, Any] = {"tokens": 3000, "context": 16, "batch": 4, "shard_tokens": 256, "seed": 3}


def packed() -> Tokens:
    """The whole text, packed as `harvest` does it."""
    return Tokens.join(pack(letters(), CharTokenizer(), context=16, tokens=3000, seed=3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return harvest(RunningMean(), letters(), SITES, out=tmp_path_factory.mktemp("acts") / "acts", **SETTINGS)


def whole(store: ActivationStore, site: str, split: str) -> torch.Tensor:
    return torch.cat([block.x for block in store.blocks(site, split)])


def test_contexts_are_what_pack_made(store: ActivationStore) -> None:
    expected = packed()
    for number, split in enumerate(SPLITS):
        table = store.contexts(split)
        for field in fields(Tokens):
            assert torch.equal(getattr(table, field.name), getattr(expected, field.name)[expected.split == number])


def test_documents_are_in_one_split_only(store: ActivationStore) -> None:
    seen = [set(store.contexts(split).document.unique().tolist()) for split in SPLITS]
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_are_the_models_own_in_the_order_of_the_text(tmp_path: Path, dtype: str) -> None:
    store = harvest(RunningMean(), letters(), SITES, out=tmp_path / "acts", dtype=dtype, **SETTINGS)
    for split in SPLITS:
        read = RunningMean().read(store.contexts(split).ids, SITES)
        for site in SITES:
            expected = read[site].flatten(0, 1).to(getattr(torch, dtype)).float()
            assert torch.equal(whole(store, site, split), expected)


def test_blocks_say_where_every_row_comes_from(store: ActivationStore) -> None:
    for rows in (7, 100, 8192):
        blocks = list(store.blocks(SITES[0], "train", rows=rows))
        assert [len(block.x) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
        position, context, document = (
            torch.cat([getattr(block, name) for block in blocks]) for name in ("position", "context", "document")
        )
        table = store.contexts("train")
        assert torch.equal(table.document[context, position], document)
        assert torch.equal(context * 16 + position, torch.arange(store.rows("train")))
        assert torch.equal(torch.cat([block.x for block in blocks]), whole(store, SITES[0], "train"))


def test_mean_and_mean_square_are_of_the_train_split(store: ActivationStore) -> None:
    for site in SITES:
        x = whole(store, site, "train").double()
        torch.testing.assert_close(store.mean(site), x.mean(0), rtol=1e-12, atol=1e-12)
        assert store.mean_square(site) == pytest.approx(x.square().mean().item(), rel=1e-12)
        assert store.width(site) == WIDTHS[site]


def test_summary_counts_what_is_there(store: ActivationStore) -> None:
    table = packed()
    counted = store.summary
    for number, split in enumerate(SPLITS):
        mine = table.split == number
        assert counted["contexts"][split] == int(mine.sum())
        assert counted["rows"][split] == store.rows(split) == int(mine.sum()) * 16
        assert counted["documents"][split] == len(table.document[mine].unique())
    assert counted["bos"] == int(table.bos.sum()) > 0
    assert (counted["tokens"], counted["padding"], counted["left_out"]) == (table.ids.numel(), 0, 0)
    first = RunningMean().read(store.contexts("train").ids[:16], SITES)
    for site in SITES:
        norms = first[site].flatten(0, 1).norm(dim=1)
        assert counted["sites"][site]["median_norm"] == pytest.approx(norms.quantile(0.5).item(), rel=1e-6)
        assert counted["sites"][site]["massive"] == 0


def test_batches_are_the_shuffle_of_all_rows(store: ActivationStore) -> None:
    for split in SPLITS:
        x, n = whole(store, SITES[1], split), store.rows(split)
        found = torch.cat(list(store.batches(SITES[1], batch=50, seed=9, steps=-(-2 * n // 50), split=split)))
        assert torch.equal(found, x[torch.from_numpy(shuffled(0, len(found), n, 9))])
        for epoch in (found[:n], found[n : 2 * n]):
            assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, x.tolist()))


def test_a_batch_depends_on_seed_and_step_alone(store: ActivationStore) -> None:
    straight = list(store.batches(SITES[0], batch=64, seed=4, steps=90))
    for start in (1, 37, 89):
        later = load_store(store.path).batches(SITES[0], batch=64, seed=4, start=start, steps=90 - start)
        assert all(torch.equal(a, b) for a, b in zip(straight[start:], later, strict=True))
    assert not torch.equal(straight[0], next(store.batches(SITES[0], batch=64, seed=5)))
    assert all(batch.dtype == torch.float32 for batch in straight)


def test_sites_are_shuffled_alike(store: ActivationStore) -> None:
    rows = torch.from_numpy(shuffled(0, 64, store.rows("train"), 4))
    for site in SITES:
        assert torch.equal(next(store.batches(site, batch=64, seed=4)), whole(store, site, "train")[rows])


def test_shard_size_is_invisible_to_a_reader(store: ActivationStore, tmp_path: Path) -> None:
    settings = SETTINGS | {"shard_tokens": 64}
    other = harvest(RunningMean(), letters(), SITES, out=tmp_path / "acts", **settings)
    assert len(list(other.path.rglob("*.safetensors"))) > len(list(store.path.rglob("*.safetensors")))
    for a, b in zip(
        store.batches(SITES[0], batch=99, steps=30), other.batches(SITES[0], batch=99, steps=30), strict=True
    ):
        assert torch.equal(a, b)
    for site in SITES:
        torch.testing.assert_close(other.mean(site), store.mean(site), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told apart through /proc")
def test_reading_does_not_load_the_shards(tmp_path: Path) -> None:
    """30 MB of rows are read as pages of the files: the memory of the process does not grow by them."""
    model = RunningMean(widths={"resid_post.0": 2048})
    text = letters(documents=60, length=300)
    store = harvest(model, text, ["resid_post.0"], tokens=10_000, out=tmp_path / "acts", context=16)
    del model
    rows = store.rows("train")
    list(store.batches("resid_post.0", batch=8, steps=1))
    before = _own_memory()
    for _ in store.batches("resid_post.0", batch=64, steps=rows // 64):
        pass
    assert rows * 2048 * 2 > 30e6
    assert _own_memory() - before < 6e6


def _own_memory() -> int:
    """Bytes of this process's memory that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def test_reading_what_is_not_there(store: ActivationStore) -> None:
    with pytest.raises(SiteError, match=r"no site 'resid_post.1': they have resid_post.0, module:net.head:in. Did you"):
        store.batches("resid_post.1", batch=4)
    with pytest.raises(SiteError, match="no site 'embed'"):
        store.mean("embed")
    with pytest.raises(ConfigurationError, match=r"unknown split 'trian': expected one of train.*'train'"):
        store.rows("trian")
    with pytest.raises(ConfigurationError, match="unknown split"):
        store.blocks(SITES[0], "dev")
    for wrong in ({"batch": 0}, {"batch": 4, "start": -1}, {"batch": 4, "steps": -1}, {"batch": 4, "seed": -1}):
        with pytest.raises(ConfigurationError, match=f"{list(wrong)[-1]} is {list(wrong.values())[-1]}"):
            store.batches(SITES[0], **wrong)
    with pytest.raises(ConfigurationError, match="rows is 0"):
        store.blocks(SITES[0], "train", rows=0)


def test_another_model_or_tokenizer_is_named(store: ActivationStore) -> None:
    store.check_model(RunningMean())
    other = RunningMean(seed=1)
    other.name = "somebody"
    with pytest.raises(ArtifactError, match=r"model of 'running-mean' \(fingerprint 0000.*'somebody'.*000: give the"):
        store.check_model(other)
    other = RunningMean()
    other.tokenizer_fingerprint = "d" * 64
    with pytest.raises(ArtifactError, match=r"tokenizer of 'running-mean' \(fingerprint cccc.*has fingerprint dddd"):
        store.check_model(other)


def _copy(store: ActivationStore, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(store.path, to))


def test_every_flipped_byte_is_found(store: ActivationStore, tmp_path: Path) -> None:
    out = _copy(store, tmp_path / "acts")
    source = np.random.default_rng(0)
    for file in sorted(file for file in out.rglob("*") if file.is_file()):
        good = file.read_bytes()
        bad = bytearray(good)
        bad[source.integers(len(bad))] ^= 0x20 if file.suffix == ".json" else 1 << int(source.integers(8))
        file.write_bytes(bad)
        try:
            with pytest.raises(ArtifactError, match=r"(wrong checksum|damaged|cannot read)"):
                load_store(out)
        except pytest.fail.Exception:
            assert file.name == "manifest.json"
            assert load_store(out).fingerprint == store.fingerprint  # white space: the content is the same
        file.write_bytes(good)
    assert load_store(out).fingerprint == store.fingerprint


def test_a_shard_cut_short_or_gone(store: ActivationStore, tmp_path: Path) -> None:
    out = _copy(store, tmp_path / "acts")
    shard = out / "resid_post.0" / "train-00001.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-10])
    with pytest.raises(
        ArtifactError, match=rf"train-00001.safetensors has {len(good) - 10:,} bytes, expected {len(good):,}"
    ):
        load_store(out)
    with pytest.raises(ArtifactError, match=r"cannot read .*train-00001.safetensors"):
        list(load_store(out, verify=False).blocks("resid_post.0", "train"))
    shard.unlink()
    with pytest.raises(ArtifactError, match=r"train-00001.safetensors is missing"):
        load_store(out)


def test_a_shard_of_other_rows_is_refused_without_verifying(store: ActivationStore, tmp_path: Path) -> None:
    out = _copy(store, tmp_path / "acts")
    shards = out / "resid_post.0"
    (shards / "train-00000.safetensors").write_bytes((shards / "test-00000.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="rows, expected 256"):
        next(load_store(out, verify=False).batches("resid_post.0", batch=512))


def test_loading_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"is not an artifact: expected a directory with manifest.json of kind 'activ"
    ):
        load_store(tmp_path / "nothing")
