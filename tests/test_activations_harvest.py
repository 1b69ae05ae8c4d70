"""Harvesting: bad input, what is counted and left out, disks that fill up, and taking up the work again."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from activation_world import SITES, CharTokenizer, RunningMean, letters

import sparsescope.activations.harvesting as harvest_module
import sparsescope.activations.plan as plan_module
from sparsescope.activations import ActivationStore, harvest, load_store
from sparsescope.errors import (
    ArtifactError,
    ConfigurationError,
    ModelError,
    NumericalError,
    SiteError,
    SparsescopeError,
    StorageError,
)
from sparsescope.models import load_model
from sparsescope.text import SPLITS, Tokens, load_text

SETTINGS: dict[str, Any] = {"tokens": 3000, "context": 16, "batch": 4, "shard_tokens": 256, "seed": 3}
CALLS = 48  # model batches in such a harvest


def run(out: Path, model: RunningMean | None = None, **changes: Any) -> ActivationStore:
    sites = changes.pop("sites", SITES)
    text = changes.pop("text", letters())
    model_like: Any = model or RunningMean()
    return harvest(model_like, text, sites, out=out, **(SETTINGS | changes))


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every byte of an uninterrupted harvest."""
    out = tmp_path_factory.mktemp("acts") / "acts"
    run(out)
    return content(out)


# Bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sites": ["resid_pots.0"]}, SiteError, "unknown site 'resid_pots.0'.*Did you mean 'resid_post'"),
        ({"sites": ["resid_post.7"]}, SiteError, "no site resid_post.7: there are"),
        ({"sites": []}, ConfigurationError, r"sites are \[\]: expected one or more"),
        ({"sites": ["resid_post.0", "resid_post.0"]}, ConfigurationError, "expected one or more, each once"),
        ({"sites": "resid_post.0"}, ConfigurationError, r"expected a list such as \['resid_post.0'\]"),
        ({"dtype": "float"}, ConfigurationError, r"dtype is 'float': expected one of float16, bfloat16, float32"),
        ({"dtype": "f16"}, ConfigurationError, r"dtype is 'f16'"),
        ({"massive": "dorp"}, ConfigurationError, "massive is 'dorp'.*Did you mean 'drop'"),
        ({"tokens": 0}, ConfigurationError, "tokens is 0: expected a whole number"),
        ({"tokens": 1e6}, ConfigurationError, "tokens is 1000000.0: expected a whole number"),
        ({"batch": -1}, ConfigurationError, "batch is -1"),
        ({"seed": -1}, ConfigurationError, "seed is -1"),
        ({"context": 65}, ConfigurationError, "context is 65, but 'running-mean' reads at most 64 tokens"),
        ({"bos": "always"}, ConfigurationError, "unknown BOS policy 'always'"),
        ({"tokens": 10**6}, ConfigurationError, "letters:0 has .* asked for 1,000,000: ask for at most"),
        (
            {"text": letters(10, 30), "tokens": 300, "context": 60},
            ConfigurationError,
            "is too short.*one context of 60",
        ),
        ({"text": letters(0)}, ConfigurationError, "contains no text"),
    ],
)
def test_settings_that_cannot_work_leave_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[SparsescopeError], message: str
) -> None:
    model = RunningMean()
    with pytest.raises(error, match=message):
        run(tmp_path / "acts", model, **changes)
    assert model.calls == 0
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    model = RunningMean()
    model.tokenizer = None
    with pytest.raises(ModelError, match="'running-mean' has no tokenizer, so it cannot read text"):
        run(tmp_path / "acts", model)


def test_nan_at_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"not finite at resid_post.0, document \d+, position 15 of its context"):
        run(tmp_path / "acts", RunningMean(poison={("resid_post.0", 2): float("nan")}))
    assert not list(tmp_path.iterdir())


def test_nan_later_keeps_what_was_read_before(tmp_path: Path, reference: dict[str, bytes]) -> None:
    with pytest.raises(NumericalError, match=r"not finite at module:net.head:in"):
        run(tmp_path / "acts", RunningMean(poison={("module:net.head:in", 30): float("inf")}))
    assert not (tmp_path / "acts").exists()
    model = RunningMean()
    run(tmp_path / "acts", model, resume=True)
    assert content(tmp_path / "acts") == reference
    assert 0 < model.calls < CALLS - 20


def test_overflow_of_float16_says_which_dtype_fits(tmp_path: Path) -> None:
    def loud() -> RunningMean:
        return RunningMean(poison={("resid_post.0", 0): -7e4})

    with pytest.raises(
        NumericalError, match=r"activation of 7e\+04 at resid_post.0.*float16.*dtype bfloat16 or float32"
    ):
        run(tmp_path / "acts", loud())
    for dtype in ("bfloat16", "float32"):
        block = next(run(tmp_path / dtype, loud(), dtype=dtype).blocks("resid_post.0", "train"))
        assert block.x.min().item() == pytest.approx(-7e4, rel=4e-3)


def test_squares_beyond_float32_are_no_error(tmp_path: Path) -> None:
    store = run(tmp_path / "acts", RunningMean(poison={("resid_post.0", 0): 1e25}), dtype="float32")
    assert store.summary["sites"]["resid_post.0"]["massive"] == 1


# What becomes a row


def test_rows_are_transformers_own_hidden_states(tmp_path: Path, tiny_model_dir: Path, text_file: Path) -> None:
    model = load_model(str(tiny_model_dir))
    sites = ["embed", "resid_post.1"]
    store = harvest(model, load_text(text_file), sites, tokens=8000, out=tmp_path / "acts", context=32, dtype="float32")
    store.check_model(model)
    for split in SPLITS:
        with torch.no_grad():
            states = model.module(store.contexts(split).ids, output_hidden_states=True).hidden_states
        for site, layer in zip(sites, (0, 2), strict=True):
            mine = torch.cat([block.x for block in store.blocks(site, split)])
            torch.testing.assert_close(mine, states[layer].flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_offsets_lead_back_to_the_text(tmp_path: Path) -> None:
    """What labels of characters are joined by: source and offsets give back the characters of each token."""
    documents, store = list(letters()), run(tmp_path / "acts")
    for split in SPLITS:
        table = store.contexts(split)
        columns = [column[~table.bos].tolist() for column in (table.source, table.start, table.end, table.ids)]
        for source, start, end, token in zip(*columns, strict=True):
            assert [token] == CharTokenizer()(documents[source].text[start:end]).input_ids
        assert (table.start[table.bos] == table.end[table.bos]).all()


def test_massive_rows_and_bos_are_counted_but_kept_unless_asked(tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", RunningMean(massive=1000.0))
    counted = kept.summary
    bos = sum(int(kept.contexts(split).bos.sum()) for split in SPLITS)
    assert counted["bos"] == bos
    # BOS is massive, and so may be ordinary rows right after it, where its running mean is still large.
    x = torch.cat([block.x for split in SPLITS for block in kept.blocks("resid_post.0", split)])
    threshold = 10 * counted["sites"]["resid_post.0"]["median_norm"]
    assert counted["sites"]["resid_post.0"]["massive"] == int((x.norm(dim=1) > threshold).sum()) >= bos
    assert counted["sites"]["module:net.head:in"]["massive"] == 0
    assert counted["left_out"] == 0


@pytest.mark.parametrize(("massive", "include_bos"), [("drop", True), ("keep", False), ("drop", False)])
def test_left_out_rows_are_left_out_of_everything(tmp_path: Path, massive: str, include_bos: bool) -> None:
    full = run(tmp_path / "full", RunningMean(massive=1000.0))
    store = run(tmp_path / "acts", RunningMean(massive=1000.0), massive=massive, include_bos=include_bos)
    threshold = 10 * full.summary["sites"]["resid_post.0"]["median_norm"]
    for split in SPLITS:
        table = store.contexts(split)
        every = torch.cat([block.x for block in full.blocks("resid_post.0", split)])
        expected = torch.ones_like(table.bos)
        if massive == "drop":
            expected &= (every.norm(dim=1) <= threshold).reshape(expected.shape)
        if not include_bos:
            expected &= ~table.bos
        assert not expected.all()
        assert torch.equal(store.kept(split), expected)
        assert store.rows(split) == int(expected.sum())
        for site in SITES:  # a row that is left out at one site is left out at all
            blocks = list(store.blocks(site, split, rows=100))
            mine = torch.cat([block.x for block in blocks])
            theirs = torch.cat([block.x for block in full.blocks(site, split)])[expected.flatten()]
            assert torch.equal(mine, theirs)
            places = [(block.context, block.position) for block in blocks]
            context, position = (torch.cat(column) for column in zip(*places, strict=True))
            assert torch.equal(torch.stack([context, position], 1), expected.nonzero())
        drawn = torch.cat(list(store.batches(SITES[0], batch=store.rows(split), steps=1, split=split)))
        kept = every[expected.flatten()]
        assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, kept.tolist()))
    x = torch.cat([block.x for block in store.blocks(SITES[0], "train")]).double()
    torch.testing.assert_close(store.mean(SITES[0]), x.mean(0), rtol=1e-12, atol=1e-12)
    assert store.mean_square(SITES[0]) == pytest.approx(x.square().mean().item(), rel=1e-12)
    assert store.summary["left_out"] == store.summary["tokens"] - sum(map(store.rows, SPLITS)) > 0


def test_padding_is_masked_and_never_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack: Callable[..., Iterator[Tokens]] = plan_module.pack

    def padded(*args: Any, **settings: Any) -> Iterator[Tokens]:
        for number, tokens in enumerate(pack(*args, **settings)):
            if number % 5 == 0:
                tokens.document[:, 12:] = -1
            yield tokens

    monkeypatch.setattr(plan_module, "pack", padded)
    model = RunningMean()
    store = run(tmp_path / "acts", model)
    masks = [mask for mask in model.masks if mask is not None]
    assert 0 < len(masks) < len(model.masks)
    assert all(not mask.all() for mask in masks)
    counted = store.summary
    assert counted["padding"] > 0
    assert (
        counted["tokens"] == sum(map(store.rows, SPLITS)) == 16 * sum(counted["contexts"].values()) - counted["padding"]
    )
    for split in SPLITS:
        table = store.contexts(split)
        assert torch.equal(store.kept(split), table.document >= 0)
        expected = RunningMean().read(table.ids, SITES)[SITES[0]][table.document >= 0]
        assert torch.equal(torch.cat([b.x for b in store.blocks(SITES[0], split)]), expected.half().float())
        assert all((block.document >= 0).all() for block in store.blocks(SITES[0], split))


def test_nothing_left_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack: Callable[..., Iterator[Tokens]] = plan_module.pack

    def only_bos(*args: Any, **settings: Any) -> Iterator[Tokens]:
        for tokens in pack(*args, **settings):
            tokens.bos[:] = True
            yield tokens

    monkeypatch.setattr(plan_module, "pack", only_bos)
    with pytest.raises(ConfigurationError, match="every row of the train split is left out"):
        run(tmp_path / "acts", include_bos=False)


# Disks


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    model = RunningMean()
    with pytest.raises(StorageError, match=r"3,000 tokens at .* in float16 need 0.14 MB more in .* has 0.10 MB free"):
        run(tmp_path / "acts", model)
    assert model.calls == 0
    assert not list(tmp_path.iterdir())


def test_estimate_counts_what_is_already_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NumericalError):
        run(tmp_path / "acts", RunningMean(poison={(SITES[0], 40): float("nan")}))
    there = sum(map(len, content(tmp_path / "acts.partial").values()))
    monkeypatch.setattr(harvest_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=150_000 - there))
    run(tmp_path / "acts", resume=True)


@pytest.mark.parametrize("call", [0, 1, 7, 15, 30, 49])
def test_a_disk_that_fills_up_keeps_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict[str, bytes], call: int
) -> None:
    run(tmp_path / "earlier", sites=[SITES[0]])
    earlier = content(tmp_path / "earlier")
    fsync, calls = os.fsync, iter(range(10**6))

    def full(descriptor: int) -> None:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"could not write .*No space left on device.*--resume"):
            run(tmp_path / "acts")
    assert not (tmp_path / "acts").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    model = RunningMean()
    run(tmp_path / "acts", model, resume=True)
    assert content(tmp_path / "acts") == reference
    assert content(tmp_path / "earlier") == earlier
    if call >= 30:
        assert model.calls < CALLS


# Taking up the work


def test_the_same_settings_give_the_same_bytes(tmp_path: Path, reference: dict[str, bytes]) -> None:
    run(tmp_path / "acts")
    assert content(tmp_path / "acts") == reference


def test_resume_with_nothing_there_starts_and_with_all_there_does_nothing(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    run(tmp_path / "acts", resume=True)
    model = RunningMean()
    again = run(tmp_path / "acts", model, resume=True)
    assert model.calls == 0
    assert content(tmp_path / "acts") == reference
    assert again.fingerprint == load_store(tmp_path / "acts").fingerprint


class Interrupting(RunningMean):
    """Presses Ctrl-C at a call of the model."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def read(self, ids: torch.Tensor, sites: list[str], attention_mask: torch.Tensor | None = None) -> Any:
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().read(ids, sites, attention_mask)


def interrupted(out: Path, at: int = 30) -> Path:
    """A harvest stopped by Ctrl-C; returns the partial directory."""
    with pytest.raises(KeyboardInterrupt):
        run(out, Interrupting(at))
    return out.with_name(out.name + ".partial")


@pytest.mark.parametrize("at", [0, 3, 4, 30, 46])
def test_ctrl_c_leaves_work_that_resumes_to_the_same_bytes(
    tmp_path: Path, reference: dict[str, bytes], at: int
) -> None:
    interrupted(tmp_path / "acts", at)
    with pytest.raises(ArtifactError, match=r"is unfinished .*--resume"):
        load_store(tmp_path / "acts")
    with pytest.raises(ArtifactError, match="holds unfinished work: pass --resume"):
        run(tmp_path / "acts")
    model = RunningMean()
    run(tmp_path / "acts", model, resume=True)
    assert content(tmp_path / "acts") == reference
    assert model.calls == CALLS - at // 4 * 4  # shards of four batches that were whole are not read again


def test_damage_to_unfinished_work_is_repaired(tmp_path: Path, reference: dict[str, bytes]) -> None:
    partial = interrupted(tmp_path / "acts")
    shard = partial / "resid_post.0" / "train-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (partial / "rows" / "train-00004.safetensors").unlink()
    ledger = partial / "shards.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]) + lines[-1][:40])
    (partial / "resid_post.0" / "train-00099.safetensors.tmp").write_bytes(b"of a killed process")
    run(tmp_path / "acts", resume=True)
    assert content(tmp_path / "acts") == reference


def test_damage_to_the_token_table_is_repaired(tmp_path: Path, reference: dict[str, bytes]) -> None:
    partial = interrupted(tmp_path / "acts")
    table = partial / "tokens" / "train-00000.safetensors"
    table.write_bytes(b"?" + table.read_bytes()[1:])
    run(tmp_path / "acts", resume=True)
    assert content(tmp_path / "acts") == reference


@pytest.mark.parametrize("name", ["shards.jsonl", "tokens.json"])
def test_damage_to_the_lists_of_unfinished_work_is_repaired(
    tmp_path: Path, reference: dict[str, bytes], name: str
) -> None:
    partial = interrupted(tmp_path / "acts")
    good = (partial / name).read_bytes()
    for number, (old, new) in enumerate([(b'"contexts": 16', b'"contexts": 17'), (b'"', b"\xff"), (b"}", b"]")]):
        bad = shutil.copytree(partial, tmp_path / f"bad{number}.partial")
        (bad / name).write_bytes(good.replace(old, new, 1))
        assert (bad / name).read_bytes() != good
        run(tmp_path / f"bad{number}", resume=True)
        assert content(tmp_path / f"bad{number}") == reference


def test_the_first_shard_lost_does_not_change_what_is_massive(tmp_path: Path) -> None:
    model = RunningMean(massive=1000.0)
    run(tmp_path / "straight", model, massive="drop")
    poisoned = RunningMean(massive=1000.0, poison={(SITES[0], 30): float("nan")})
    with pytest.raises(NumericalError):
        run(tmp_path / "acts", poisoned, massive="drop")
    (tmp_path / "acts.partial" / "resid_post.0" / "train-00000.safetensors").unlink()
    run(tmp_path / "acts", RunningMean(massive=1000.0), massive="drop", resume=True)
    assert content(tmp_path / "acts") == content(tmp_path / "straight")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"dtype": "float32"}, "config.dtype"),
        ({"seed": 4}, "seed"),
        ({"context": 32}, "config.context"),
        ({"text": letters(seed=1)}, "config.text"),
        ({"model": RunningMean(seed=1)}, "inputs.model"),
        ({"sites": [SITES[0]]}, "config.sites"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_directory_that_holds_another_harvest(
    tmp_path: Path, changes: dict[str, Any], key: str, finished: bool
) -> None:
    out = tmp_path / "acts"
    there = out if finished else out.with_name("acts.partial")
    if finished:
        run(out)
    else:
        interrupted(out)
    before = content(there)
    for resume in (False, True):
        expected = (
            rf"made with {key} = .*, now asked for .*another --out" if resume else "already holds|unfinished work"
        )
        with pytest.raises(ArtifactError, match=expected):
            run(out, resume=resume, **changes)
        assert content(there) == before


def test_a_directory_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "acts").mkdir()
    (tmp_path / "acts" / "thesis.txt").write_text("all my work")
    for resume in (False, True):
        with pytest.raises(ArtifactError, match="exists and is no artifact of sparsescope: choose another --out"):
            run(tmp_path / "acts", resume=resume)
    assert (tmp_path / "acts" / "thesis.txt").read_text() == "all my work"
    assert not (tmp_path / "acts.partial").exists()


# Speed


def test_the_model_runs_on_while_a_shard_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ahead = RunningMean(), threading.Event()
    write = harvest_module._write_shard

    def slow(*args: Any) -> None:
        assert ahead.wait(60), "the model waited for the disk"
        write(*args)

    read = model.read

    def watched(*args: Any) -> Any:
        if model.calls == 5:  # in the second shard, while the first is not yet written
            ahead.set()
        return read(*args)

    monkeypatch.setattr(harvest_module, "_write_shard", slow)
    monkeypatch.setattr(model, "read", watched)
    run(tmp_path / "acts", model)


def test_progress_is_told_in_stages(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    run(tmp_path / "acts", progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["tokenise", "harvest"]
    for stage in stages:
        done = [(count, total) for name, count, total in told if name == stage]
        assert [count for count, _ in done] == sorted({count for count, _ in done})
        assert done[-1][0] == done[-1][1] == 3008


def test_manifest_says_what_it_was_made_from(tmp_path: Path) -> None:
    manifest = json.loads((run(tmp_path / "acts").path / "manifest.json").read_text())
    model = RunningMean()
    assert manifest["kind"] == "activations"
    assert manifest["inputs"] == {
        "model": model.fingerprint,
        "tokenizer": model.tokenizer_fingerprint,
        "text": letters().fingerprint,
    }
    expected = {
        "model": "running-mean",
        "revision": None,
        "model_dtype": "float32",
        "text": "letters:0",
        "sites": SITES,
        "tokens": 3000,
        "context": 16,
        "bos": "document",
        "dtype": "float16",
        "massive": "keep",
        "include_bos": True,
    }
    assert manifest["config"].items() >= expected.items()
    assert manifest["seed"] == 3


def test_a_harvest_of_the_whole_text(tmp_path: Path) -> None:
    store = run(tmp_path / "acts", tokens=None)
    assert sum(map(store.rows, SPLITS)) > 3008
    shutil.rmtree(store.path)
