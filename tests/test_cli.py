"""The commands end to end on a very small model: what they print, write, and leave behind."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SITE, Outcome, contents

import sparsescope as ss
from sparsescope import __version__
from sparsescope.errors import StorageError

Cli = Callable[..., Outcome]
TRAIN = ["--method", "tied_l1", "--method", "pca", "--l1", "1e-3", "--k", "4", "--ratio", "2", "--tokens", "4000"]


@pytest.fixture
def saes(small_store: Path) -> Path:
    """A container of two autoencoders and PCA in full and in top-k form, made by the library."""
    from sparsescope.study.making import make_dictionaries

    store, out = ss.load_store(small_store), small_store.parent / "saes"
    methods = [ss.TopK(k=4, ratio=2), ss.TiedL1(l1=1e-3, ratio=1)]
    schedule = {"tokens": 8000, "batch": 256}
    make_dictionaries(store, SITE, methods, [ss.PCA(), ss.PCA(k=4)], out=out, schedule=schedule)
    return out


def test_overview_version_and_unknown_commands(cli: Cli) -> None:
    assert "demo" in cli().out
    assert "sparsescope COMMAND --help" in cli("--help").out
    assert cli("--version").out == f"sparsescope {__version__}\n"
    ended = cli("trian")
    assert (ended.code, ended.out) == (2, "")
    assert "unknown command 'trian'. Did you mean 'train'?" in ended.err


@pytest.mark.parametrize("command", ["demo", "study", "harvest", "train", "evaluate", "report", "inspect"])
def test_help_describes_every_option(cli: Cli, command: str) -> None:
    ended = cli(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    for word in ("--out", "--seed", "--json", "--config", "--debug", "example:", f"sparsescope {command}"):
        assert word in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100


def test_harvest_is_the_library_s_harvest(cli: Cli, tmp_path: Path, tiny_model_dir: Path, text_file: Path) -> None:
    words = ["harvest", "--model", tiny_model_dir, "--text", text_file, "--site", SITE, "--site", "embed"]
    words += ["--tokens", 4000, "--context", 32, "--dtype", "float32", "--out", tmp_path / "acts"]
    ended = cli(*words, "--json")
    assert ended.code == 0
    found = ended.json
    store = ss.load_store(tmp_path / "acts")
    assert found["fingerprint"] == store.fingerprint
    assert sum(found["rows"].values()) == 4000
    assert "expected: about " in ended.err
    assert "harvest: " in ended.err
    model, text = ss.load_model(str(tiny_model_dir)), ss.load_text(text_file)
    same = ss.harvest(model, text, [SITE, "embed"], tokens=4000, context=32, dtype="float32", out=tmp_path / "same")
    for site in (SITE, "embed"):
        ours, theirs = (torch.cat([b.x for b in s.blocks(site, "train")]) for s in (store, same))
        assert torch.equal(ours, theirs)
    again = cli(*words, "--json", "--resume")
    assert (again.code, again.json) == (0, found)


def test_train_makes_what_the_library_makes(cli: Cli, tmp_path: Path, small_store: Path) -> None:
    out = tmp_path / "dictionaries"
    ended = cli("train", "--activations", small_store, *TRAIN, "--batch", 256, "--seed", 3, "--out", out, "--json")
    assert ended.code == 0
    assert [each["name"] for each in ended.json["dictionaries"]] == ["tied_l1-l1_0.001-x2", "pca", "pca-k_4"]
    store = ss.load_store(small_store)
    (alone,) = ss.train(store, SITE, [ss.TiedL1(l1=1e-3, ratio=2)], tokens=4000, batch=256, seed=3)
    made = ss.load_dictionary(out / "0")
    for name, tensor in alone.tensors().items():
        assert torch.equal(tensor, made.tensors()[name])
    # The top-k form is derived from the full one, and is what fitting it would have given.
    fitted = ss.fit(store, SITE, ss.PCA(k=4), seed=3)
    short = ss.load_dictionary(out / "2")
    assert short.settings() == fitted.settings()
    assert all(torch.equal(tensor, short.tensors()[name]) for name, tensor in fitted.tensors().items())
    assert (short.provenance.name, short.provenance.k) == ("pca-k_4", 4)
    before = contents(out)
    assert (
        cli("train", "--activations", small_store, *TRAIN, "--batch", 256, "--seed", 3, "--out", out, "--resume").code
        == 0
    )
    assert contents(out) == before


def test_training_a_mixture_can_be_killed_between_its_parts(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsescope.study import making

    store, out = ss.load_store(small_store), tmp_path / "mix"
    settings: dict[str, Any] = {"out": out, "schedule": {"tokens": 4000, "batch": 256}}
    methods: tuple[Any, Any] = ([ss.TopK(k=4, ratio=2), ss.TopK(k=2, ratio=2)], [ss.Random(), ss.PCA()])
    making.make_dictionaries(store, SITE, *methods, **{**settings, "out": tmp_path / "whole"})
    real = making.bring
    calls: list[Path] = []

    def once(source: Path, target: Path) -> None:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(target)
        real(source, target)

    monkeypatch.setattr(making, "bring", once)
    with pytest.raises(KeyboardInterrupt):
        making.make_dictionaries(store, SITE, *methods, **settings)
    monkeypatch.setattr(making, "bring", real)
    making.make_dictionaries(store, SITE, *methods, **settings, resume=True)
    assert not (tmp_path / "mix.partial").exists()
    whole, resumed = contents(tmp_path / "whole"), contents(out)
    assert whole.keys() == resumed.keys()
    assert all(whole[name] == resumed[name] for name in whole if name.endswith(".safetensors"))


def test_evaluate_expands_containers_and_equals_the_library(cli: Cli, saes: Path, small_store: Path) -> None:
    ended = cli("evaluate", saes, saes / "2", "--activations", small_store, "--splice-tokens", 512, "--json")
    assert ended.code == 0
    entries = ended.json["dictionaries"]
    assert [entry["path"] for entry in entries] == [str(saes / str(i)) for i in (0, 1, 2, 3, 2)]
    store = ss.load_store(small_store)
    model = ss.load_model(store.model_name)
    found = ss.evaluate(ss.load_dictionary(saes / "3"), store, model=model, splice_tokens=512)
    assert entries[3] == found.to_dict()
    assert entries[3]["k"] == 4
    shown = cli("evaluate", saes / "0", "--activations", small_store, "--no-splice")
    assert "not measured: no model was given" in shown.out
    assert "topk-k_4-x2" in cli("evaluate", saes, "--activations", small_store, "--no-splice").out


def test_evaluate_keeps_its_numbers_where_it_is_asked_to(cli: Cli, saes: Path, small_store: Path) -> None:
    out = small_store.parent / "numbers"
    words = ["evaluate", saes, "--activations", small_store, "--no-splice", "--out", out, "--json"]
    first = cli(*words)
    assert first.code == 0
    assert cli(*words).code == 2
    again = cli(*words, "--resume")
    assert again.json == first.json
    assert cli("inspect", out, "--json").json["kind"] == "evaluation"


def test_inspect_tells_kind_origin_and_wholeness(cli: Cli, saes: Path, small_store: Path) -> None:
    found = cli("inspect", small_store, "--json").json
    store = ss.load_store(small_store)
    assert (found["kind"], found["fingerprint"], found["verified"]) == ("activations", store.fingerprint, True)
    assert found["files"] == len([name for name in contents(small_store) if name != "manifest.json"])
    container = cli("inspect", saes, "--json").json
    assert [each["method"] for each in container["dictionaries"]] == ["topk", "tied_l1", "pca", "pca"]
    shown = cli("inspect", saes / "0")
    assert "every file has the checksum it was written with" in shown.out
    assert "topk-k_4-x2" in shown.out
    weights = saes / "0" / "dictionary.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "cut short" in cli("inspect", saes / "0").err
    assert cli("inspect", saes / "0").code == 2
    assert "checksums were not compared" in cli("inspect", saes / "0", "--no-verify").out


def test_errors_are_one_line_and_one_object(cli: Cli, tmp_path: Path) -> None:
    ended = cli("inspect", tmp_path / "nothing", "--json")
    assert ended.code == 2
    assert ended.json == {"error": ended.err.removeprefix("error: ").strip(), "exit_code": 2}
    assert "Traceback" not in ended.err
    assert "Traceback" in cli("inspect", tmp_path / "nothing", "--debug").err


def test_a_failed_run_ends_with_1(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsescope.cli import inspect

    def fail(error: BaseException) -> Callable[..., None]:
        def raising(*_: object) -> None:
            raise error

        return raising

    monkeypatch.setattr(inspect, "run_the_inspection", fail(StorageError("the disk is full.")))
    assert cli("inspect", tmp_path) == Outcome(1, "", "error: the disk is full.\n")
    monkeypatch.setattr(inspect, "run_the_inspection", fail(ZeroDivisionError("oh")))
    ended = cli("inspect", tmp_path)
    assert ended.code == 1
    assert ended.err == (
        "error: unexpected ZeroDivisionError: oh. This is a fault in sparsescope: run again with --debug.\n"
    )
    monkeypatch.setattr(inspect, "run_the_inspection", fail(KeyboardInterrupt()))
    assert cli("inspect", tmp_path) == Outcome(1, "", "interrupted: nothing was changed.\n")


def test_sigterm_leaves_work_that_resumes_to_the_same_bytes(
    program: Callable[..., Any], cli: Cli, tmp_path: Path, small_store: Path
) -> None:
    words = ["train", "--activations", small_store, "--method", "topk", "--k", 4, "--ratio", 8, "--batch", 128]
    words += ["--tokens", 50_000]
    process = program(*words, "--out", tmp_path / "cut")
    for line in process.stderr:
        if "training 1 dictionaries" in line:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert "interrupted: what was finished is kept. Go on with: sparsescope train " in err
    assert err.strip().endswith("--resume")
    assert "Traceback" not in err
    assert (tmp_path / "cut.partial").is_dir()
    assert not (tmp_path / "cut").exists()
    assert "is unfinished" in cli("inspect", tmp_path / "cut").out
    assert cli(*words, "--out", tmp_path / "cut", "--resume").code == 0
    assert cli(*words, "--out", tmp_path / "whole").code == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
