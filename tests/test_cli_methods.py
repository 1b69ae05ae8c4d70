"""Every method that can be trained, by its name on the command line: what it makes, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SITE, Outcome

import sparsescope as ss
from sparsescope import training
from sparsescope.dictionaries.files import CLASSES

Cli = Callable[..., Outcome]
SIZE = ("--ratio", 2, "--tokens", 4000, "--batch", 256)
PAIR = ("mlp_in.1", "mlp_out.1")


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, text_file: Path) -> Path:
    out = tmp_path_factory.mktemp("pair") / "acts"
    model = ss.load_model(str(tiny_model_dir))
    ss.harvest(model, ss.load_text(text_file), PAIR, tokens=8000, out=out, context=32, batch=16, seed=0)
    return out


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("p_anneal", ("--l1", 1e-3), lambda: training.PAnneal(l1=1e-3, ratio=2)),
        ("gated", ("--target-l0", 6), lambda: training.Gated(target_l0=6, ratio=2)),
        ("jumprelu", ("--l0", 1e-3), lambda: training.JumpReLU(l0=1e-3, ratio=2)),
        ("batchtopk", ("--k", 4), lambda: training.BatchTopK(k=4, ratio=2)),
        ("matryoshka", ("--k", 4), lambda: training.Matryoshka(k=4, ratio=2)),
    ],
)
def test_a_name_on_the_command_line_is_the_method_of_the_library(
    cli: Cli, small_store: Path, tmp_path: Path, name: str, given: tuple[object, ...], made: Callable
) -> None:
    words = ["train", "--activations", small_store, "--method", name, *given, *SIZE, "--seed", 3]
    ended = cli(*words, "--out", tmp_path / "saes", "--json")
    assert ended.code == 0, ended.err
    (entry,) = ended.json["dictionaries"]
    assert entry["method"] == name
    again = ss.load_dictionary(tmp_path / "saes" / "0")
    assert type(again) is CLASSES[name]
    (alone,) = ss.train(ss.load_store(small_store), SITE, [made()], tokens=4000, batch=256, seed=3)
    assert again.settings() == alone.settings()
    assert all(torch.equal(again.tensors()[key], tensor) for key, tensor in alone.tensors().items())
    measured = cli("evaluate", tmp_path / "saes", "--activations", small_store, "--no-splice", "--json")
    assert measured.code == 0, measured.err
    (found,) = measured.json["dictionaries"]
    assert (found["method"], found["output_site"]) == (name, None)
    assert found["k"] == (4 if "--k" in given else None)


@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_from_training_to_its_numbers(cli: Cli, two_sites: Path, tmp_path: Path, skip: bool) -> None:
    more = ("--skip",) if skip else ()
    words = ["train", "--activations", two_sites, "--method", "transcoder", "--k", 4, *SIZE, *more]
    ended = cli(*words, "--output-site", PAIR[1], "--out", tmp_path / "made", "--json")
    assert ended.code == 0, ended.err
    made, store = ss.load_dictionary(tmp_path / "made" / "0"), ss.load_store(two_sites)
    assert (made.provenance.site, made.provenance.output_site) == PAIR
    assert ("skip" in made.tensors()) is skip
    (alone,) = ss.train(store, PAIR, [training.Transcoder(k=4, ratio=2, skip=skip)], tokens=4000, batch=256)
    assert all(torch.equal(made.tensors()[key], tensor) for key, tensor in alone.tensors().items())
    measured = cli("evaluate", tmp_path / "made", "--activations", two_sites, "--json")
    assert measured.code == 0, measured.err
    (found,) = measured.json["dictionaries"]
    assert (found["site"], found["output_site"]) == PAIR
    x, y = (torch.cat([block.x for block in store.blocks(site, "test")]) for site in PAIR)
    assert found["fvu"]["value"] == pytest.approx(ss.metrics.fvu(y, made.reconstruct(x)), rel=1e-4)
    assert found["fvu"]["value"] < 1
    shown = cli("inspect", tmp_path / "made")
    assert "mlp_in.1 → mlp_out.1" in " ".join(shown.out.split())
    single = json.loads((tmp_path / "made" / "0" / "manifest.json").read_text())["dictionary"]["provenance"]
    assert single["output_site"] == PAIR[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcoder", "--k", 4], "method transcoder needs output_site"),
        (["transcoder", "--k", 4, "--method", "topk", "--output-site", PAIR[1]], "train it apart from topk"),
        (["transcoder", "--k", 4, "--method", "pca", "--output-site", PAIR[1]], "train it apart from pca"),
        (
            ["topk", "--k", 4, "--output-site", PAIR[1], "--site", PAIR[0]],
            "output_site is for transcoder, not for topk",
        ),
        (["topk", "--k", 4, "--skip", "--site", PAIR[0]], "skip is for transcoder, not for topk"),
        (["transcoder", "--k", 4, "--output-site", "mlp_out.2", "--site", PAIR[0]], "have no site 'mlp_out.2'"),
        (["transcoder", "--k", 4, "--output-site", "mlp_out.2"], "have several sites: choose one with --site"),
        (["transcoder", "--l1", 1, "--output-site", PAIR[1]], "method transcoder needs a sparsity: give k"),
        (["jumprelu", "--l1", 1e-3, "--site", PAIR[0]], "method jumprelu needs a sparsity: give l0 or target_l0"),
        (["jumprelu", "--l0", 1e-3, "--target-l0", 4, "--k", 4, "--site", PAIR[0]], "k is for topk, batchtopk,"),
        (["jumprlu", "--l0", 1e-3], "'jumprlu' is not one of tied_l1"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    cli: Cli, two_sites: Path, tmp_path: Path, words: list[object], message: str
) -> None:
    ended = cli("train", "--activations", two_sites, "--method", *words, *SIZE, "--out", tmp_path / "made")
    assert ended.code == 2
    assert message in ended.err
    assert not list(tmp_path.iterdir())
