"""Bad input ends with a message that says what was given, what was expected and what to do.

Each test asserts the message, the exit code, and that nothing which was there before has changed.
"""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import SITE, Outcome, contents, write_documents
from safetensors.torch import load_file, save_file

import sparsescope as ss

Cli = Callable[..., Outcome]


@pytest.fixture
def harvest(cli: Cli, tiny_model_dir: Path, text_file: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """`sparsescope harvest` into `tmp_path/new`, with some settings replaced."""

    def run(*more: object, model: object = tiny_model_dir, text: object = text_file, site: str = SITE) -> Outcome:
        words = ["harvest", "--model", model, "--text", text, "--site", site, "--context", 32, "--tokens", 12_000]
        return cli(*words, *([] if "--out" in more else ["--out", tmp_path / "new"]), *more)

    return run


@contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    """Assert that the directories hold the same bytes afterwards."""
    before = [contents(folder) for folder in folders]
    yield
    assert [contents(folder) for folder in folders] == before


def refused(ended: Outcome, *parts: str, code: int = 2) -> None:
    """Assert the exit code, an empty stdout, and one line which holds every part and no traceback."""
    assert (ended.code, ended.out) == (code, ""), ended
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.err
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in ended.err
    assert "unexpected" not in lines[0]


def test_a_model_that_is_missing(harvest: Callable[..., Outcome], tmp_path: Path) -> None:
    with unchanged(tmp_path):
        refused(
            harvest(model=tmp_path / "nowhere"), f"there is no model directory {tmp_path / 'nowhere'}", "builtin:tiny"
        )
        refused(harvest(model="builtin:tyni"), "there is no model 'builtin:tyni'", "Did you mean 'builtin:tiny'?")


def test_a_model_that_cannot_be_read(harvest: Callable[..., Outcome], tmp_path: Path, tiny_model_dir: Path) -> None:
    broken = shutil.copytree(tiny_model_dir, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with unchanged(tmp_path):
        refused(harvest(model=broken), "broken", "model.safetensors")
    (broken / "config.json").write_text("{")
    with unchanged(tmp_path):
        refused(harvest(model=broken), "config.json")


def test_an_empty_text(harvest: Callable[..., Outcome], tmp_path: Path) -> None:
    empty, blank = tmp_path / "empty.txt", tmp_path / "blank.txt"
    empty.write_text("")
    blank.write_text("\n \n")
    with unchanged(tmp_path):
        refused(harvest(text=empty), f"{empty} is empty: expected text")
        refused(harvest(text=blank), str(blank))
        refused(harvest(text=tmp_path / "none.txt"), "none.txt does not exist: expected a text file or a directory")


def test_a_site_that_does_not_exist(harvest: Callable[..., Outcome], tmp_path: Path) -> None:
    with unchanged(tmp_path):
        refused(harvest(site="resid_psot.1"), "unknown site 'resid_psot.1'", "Did you mean 'resid_post'?")
        refused(harvest(site="resid_mid.1"), "no site 'resid_mid.1'", "Valid: embed")  # parallel blocks have none


def test_a_layer_out_of_range(harvest: Callable[..., Outcome], tmp_path: Path) -> None:
    with unchanged(tmp_path):
        refused(harvest(site="resid_post.3"), "no site 'resid_post.3': it has 3 layers, 0 to 2", "Valid: embed")


def test_a_text_shorter_than_a_context(harvest: Callable[..., Outcome], tmp_path: Path) -> None:
    short = write_documents(tmp_path / "short.jsonl", 1, words=5)
    with unchanged(tmp_path):
        refused(harvest(text=short), "short.jsonl is too short", "context of 32 tokens", "give more text")
        refused(harvest("--context", 4096), "context is 4096", "at most 128 tokens")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes, as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_half_way(harvest: Callable[..., Outcome], small_store: Path, tmp_path: Path) -> None:
    with unchanged(small_store), largest_file(300_000):  # the tokens fit, the activations do not
        refused(harvest("--dtype", "float32"), "could not write", "What was finished is kept", "--resume", code=1)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "new.partial" / "tokens").is_dir()
    assert harvest("--dtype", "float32", "--resume").code == 0
    assert harvest("--dtype", "float32", "--out", tmp_path / "whole").code == 0
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")


def test_a_disk_that_is_full_while_training(cli: Cli, small_store: Path, tmp_path: Path) -> None:
    words = ["train", "--activations", small_store, "--method", "topk", "--k", 4, "--ratio", 8, "--tokens", 4000]
    words += ["--out", tmp_path / "saes"]
    with unchanged(small_store), largest_file(20_000):
        refused(cli(*words), "could not write", "--resume", code=1)
    assert not (tmp_path / "saes").exists()
    assert cli(*words, "--resume").code == 0


def test_a_store_of_another_model(cli: Cli, small_store: Path, other_model_dir: Path, tmp_path: Path) -> None:
    ss.fit(ss.load_store(small_store), SITE, ss.PCA(), out=tmp_path / "pca")
    with unchanged(tmp_path):
        ended = cli("evaluate", tmp_path / "pca", "--activations", small_store, "--model", other_model_dir)
        refused(ended, "were made with the model of", str(other_model_dir), "harvest again")


def test_dictionaries_for_another_site_or_width(
    cli: Cli, harvest: Callable[..., Outcome], small_store: Path, tmp_path: Path
) -> None:
    assert harvest(site="mlp_act.0").code == 0
    ss.fit(ss.load_store(small_store), SITE, ss.PCA(), out=tmp_path / "pca")
    with unchanged(tmp_path):
        refused(cli("evaluate", tmp_path / "pca", "--activations", tmp_path / "new"), SITE, "mlp_act.0")
        ended = cli(
            "train", "--activations", small_store, "--site", "embed", "--method", "pca", "--out", tmp_path / "x"
        )
        refused(ended, "have no site 'embed'", SITE)


@pytest.mark.parametrize("command", ["train", "evaluate", "inspect", "study"])
def test_a_flipped_byte(cli: Cli, small_store: Path, tmp_path: Path, command: str) -> None:
    ss.fit(ss.load_store(small_store), SITE, ss.PCA(), out=tmp_path / "pca")
    shard = next(file for file in small_store.rglob("train-00000.safetensors") if file.parent.name == SITE)
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    words: dict[str, list[object]] = {
        "train": ["--activations", small_store, "--method", "pca", "--out", tmp_path / "new"],
        "evaluate": [tmp_path / "pca", "--activations", small_store],
        "inspect": [small_store],
        "study": ["--activations", small_store, "--out", tmp_path / "new"],
    }
    with unchanged(tmp_path):
        refused(cli(command, *words[command]), str(shard), "wrong checksum", "Make the artifact again")


@pytest.mark.parametrize("command", ["train", "evaluate", "inspect"])
def test_a_shard_cut_short(cli: Cli, small_store: Path, tmp_path: Path, command: str) -> None:
    ss.fit(ss.load_store(small_store), SITE, ss.PCA(), out=tmp_path / "pca")
    shard = next(file for file in small_store.rglob("test-00000.safetensors") if file.parent.name == SITE)
    shard.write_bytes(shard.read_bytes()[:-1000])
    words: dict[str, list[object]] = {
        "train": ["--activations", small_store, "--method", "pca", "--out", tmp_path / "new"],
        "evaluate": [tmp_path / "pca", "--activations", small_store],
        "inspect": [small_store],
    }
    with unchanged(tmp_path):
        refused(cli(command, *words[command]), str(shard), "cut short", "expected")
    shard.unlink()
    with unchanged(tmp_path):
        refused(cli(command, *words[command]), str(shard), "is missing")


def test_a_manifest_that_was_changed(cli: Cli, small_store: Path) -> None:
    manifest = small_store / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"context": 32', '"context": 64'))
    with unchanged(small_store):
        refused(cli("inspect", small_store), "manifest.json is damaged")


def test_an_unknown_key_in_a_settings_file(
    cli: Cli, harvest: Callable[..., Outcome], small_store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("batsh = 4\n")
    with unchanged(tmp_path):
        refused(harvest("--config", file), f"{file}: unknown key 'batsh'. Did you mean 'batch'?")
        refused(cli("study", "--config", file, "--out", tmp_path / "new"), f"{file}: unknown key 'batsh'")


@pytest.mark.parametrize("key", ["l1", "target_l0"])
def test_a_negative_l1(cli: Cli, small_store: Path, tmp_path: Path, key: str) -> None:
    flag = f"--{key.replace('_', '-')}"
    words = ["train", "--activations", small_store, "--method", "tied_l1", "--ratio", 2, "--tokens", 1000]
    file = tmp_path / "negative.toml"
    file.write_text(
        f'model = "m"\ntext = "t"\nsite = "embed"\n[[train]]\nmethod = "tied_l1"\n{key} = -0.5\nratio = 2\ntokens = 9\n'
    )
    with unchanged(tmp_path):
        refused(cli(*words, flag, "-0.5", "--out", tmp_path / "new"), f"{key} = -0.5, expected a number")
        refused(cli("study", "--config", file, "--out", tmp_path / "new"), f"train[0]: TiedL1: {key} = -0.5, expected")


def test_a_nan_in_the_activations(
    harvest: Callable[..., Outcome], small_store: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_model_dir, tmp_path / "nan")
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if "layers.1" in name and "dense.bias" in name)
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with unchanged(small_store):
        refused(harvest(model=broken), SITE, "NaN", code=1)
    assert not (tmp_path / "new").exists()


def test_a_second_run_into_a_directory_that_holds_another(
    cli: Cli, harvest: Callable[..., Outcome], small_store: Path, tmp_path: Path
) -> None:
    words = ["train", "--activations", small_store, "--method", "pca", "--out"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("dear diary")
    with unchanged(tmp_path):
        refused(harvest("--out", small_store), "already holds a finished artifact of kind 'activations'", "--resume")
        refused(harvest("--out", small_store, "--resume"), "was made with config.batch = 16, now asked for 32")
        refused(cli(*words, small_store), "already holds a finished artifact of kind 'activations'", "--out")
        refused(cli(*words, small_store, "--resume"), "was made with", "choose another --out")
        refused(cli(*words, tmp_path / "notes"), "exists and is no artifact", "choose another --out")
        ended = cli("study", "--activations", small_store, "--out", small_store)
        refused(ended, "already holds a finished artifact of kind 'activations'")


def test_unfinished_work_is_neither_overwritten_nor_mixed(cli: Cli, small_store: Path, tmp_path: Path) -> None:
    partial = tmp_path / "new.partial"
    partial.mkdir()
    plan = {"kind": "dictionaries", "config": {"site": SITE}, "seed": 7, "inputs": {}}
    (partial / "plan.json").write_text(json.dumps(plan))
    words = ["train", "--activations", small_store, "--method", "pca", "--out", tmp_path / "new"]
    with unchanged(tmp_path):
        refused(cli(*words), "holds unfinished work: pass --resume to go on with it, or delete it")
        refused(cli(*words, "--resume"), "was made with", "choose another --out")
        refused(cli("evaluate", tmp_path / "new", "--activations", small_store), "is unfinished", "--resume")


def test_numbers_that_are_too_small(
    cli: Cli, harvest: Callable[..., Outcome], small_store: Path, tmp_path: Path
) -> None:
    ss.fit(ss.load_store(small_store), SITE, ss.PCA(), out=tmp_path / "pca")
    train = ["train", "--activations", small_store, "--method", "topk", "--k", 4, "--ratio", 2, "--tokens", 1000]
    train += ["--out", tmp_path / "new"]
    with unchanged(tmp_path):
        for flag in ("--batch", "--context", "--tokens"):
            for given in (0, -1):
                refused(harvest(flag, given), f"{flag} = {given}, expected a whole number of 1 or more")
        for given in (0, -5):
            refused(cli(*train, "--batch", given), f"--batch = {given}, expected a whole number of 1 or more")
        refused(cli(*train, "--lr", 0), "lr = 0.0, expected a number above 0")
        refused(cli(*train, "--warmup", 0.5, "--decay", 0.6), "warmup = 0.5, decay = 0.6: expected shares")
        refused(cli(*train, "--method", "pca", "--rows", 0), "--rows = 0, expected a whole number of 1 or more")
        for words in (["evaluate", tmp_path / "pca", "--activations", small_store], train, ["inspect", small_store]):
            refused(cli(*words, "--seed", -1), "--seed = -1, expected a whole number of 0 or more")
        with pytest.raises(ss.SparsescopeError, match="seed = -1, expected a whole number of 0 or more"):
            ss.evaluate(ss.load_dictionary(tmp_path / "pca"), ss.load_store(small_store), seed=-1)


def test_options_that_would_have_no_effect(cli: Cli, small_store: Path, tmp_path: Path) -> None:
    train = ["train", "--activations", small_store, "--out", tmp_path / "new", "--method"]
    with unchanged(tmp_path):
        for words in (["--tokens", 9], ["--lr", 0.1], ["--batch", 64], ["--decay", 0], ["--no-scale"]):
            refused(cli(*train, "pca", *words), f"{words[0]} is for autoencoders, not for pca: leave it out")
        ended = cli(*train, "topk", "--k", 4, "--ratio", 2, "--tokens", 1000, "--rows", 100)
        refused(ended, "--rows is for baselines, not for topk: leave it out")


def test_a_text_that_may_not_be_read(
    harvest: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody may read this")

    def deny(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sparsescope.text.files.checksum", deny)  # modes do not bind root
    with unchanged(tmp_path):
        refused(harvest(text=secret), f"{secret} cannot be read: Permission denied", "check its permissions")


def test_an_evaluation_that_failed_can_be_corrected(cli: Cli, small_store: Path, tmp_path: Path) -> None:
    ss.fit(ss.load_store(small_store), SITE, ss.PCA(), out=tmp_path / "pca")
    ss.fit(torch.randn(200, 8), None, ss.PCA(), out=tmp_path / "narrow")
    words = ["--activations", small_store, "--no-splice", "--out", tmp_path / "numbers"]
    with unchanged(tmp_path):
        refused(cli("evaluate", tmp_path / "narrow", *words), "does not say which site it belongs to")
    assert not (tmp_path / "numbers.partial").exists()
    assert cli("evaluate", tmp_path / "pca", *words).code == 0
