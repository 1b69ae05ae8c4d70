"""Controls inside a run: what is asked for is made, beside the run's own and without touching it, and read back."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SITE, Outcome, contents, write_documents

import sparsescope as ss
from sparsescope.artifact import read_json
from sparsescope.errors import ArtifactError, ConfigurationError
from sparsescope.study import controls as controls_module
from sparsescope.study import (
    load_control_model,
    load_run_model,
    open_run,
    read_recipe,
    read_run,
)
from sparsescope.study import stages as stages_module
from sparsescope.study.directory import parts
from sparsescope.study.tables import Controls, Train, typical
from sparsescope.study.twin import random_twin
from sparsescope.text import SPLITS

Cli = Callable[..., Outcome]
RECIPE = """
model = {model}
text = {text}
site = "resid_post.1"
tokens = 4_000
context = 32

[[train]]
method = "topk"
k = [2, 4, 6]
ratio = 2
tokens = 2_000
batch = 128

[[fit]]
method = "pca"

[evaluate]
splice = false

[report]
latents = 2
contexts = 2
"""
CONTROLS = """
[controls]
model = "random"
tokens = 2_400
frozen_decoder = true
text = {other}
text_tokens = 1_600
"""


@pytest.fixture(scope="session")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("other") / "other.jsonl", 100, words=40, seed=5)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_dir: Path, text_file: Path, other_text: Path) -> Path:
    """A recipe of a few seconds with every control."""
    return written(tmp_path / "small.toml", tiny_model_dir, text_file, other_text)


def written(path: Path, model: Path, text: Path, other: Path) -> Path:
    names = {"model": model, "text": text, "other": other}
    path.write_text((RECIPE + CONTROLS).format(**{key: json.dumps(str(value)) for key, value in names.items()}))
    return path


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, text_file: Path, other_text: Path) -> Path:
    """A finished run with every control, for tests that only read it."""
    folder = tmp_path_factory.mktemp("controls")
    path = written(folder / "small.toml", tiny_model_dir, text_file, other_text)
    return ss.run_study(path, out=folder / "run").path


def changed_recipe(recipe: Path, old: str, new: str) -> Path:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    return recipe


# What is in the run


def test_a_run_holds_its_controls_and_reads_them_back(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert list(run.dictionaries) == [f"topk-k_{k}-x2" for k in (2, 4, 6)] + ["pca"]
    assert [(control.name, control.kind) for control in run.controls] == [
        *(("random-model", "random model"), ("frozen-decoder", "frozen decoder"), ("second-corpus", "second corpus")),
    ]
    assert run.absent == []
    drawn, frozen, second = run.controls
    assert list(drawn.dictionaries) == ["topk-k_4-x2"]
    assert list(frozen.dictionaries) == ["topk-k_4-x2-frozen"]
    assert second.dictionaries is run.dictionaries
    assert frozen.store is run.store
    rows = {each.name: sum(map(each.store.rows, SPLITS)) for each in (drawn, second)}
    assert rows == {"random-model": 2400, "second-corpus": 1600}
    for control in (drawn, frozen):
        for sae in control.dictionaries.values():
            assert sae.provenance.activations == control.store.fingerprint
            alone = ss.evaluate(sae, control.store)  # would be refused on another store
            assert 0 < alone.fvu.value < 1.5


def test_the_random_model_reads_the_same_tokens_through_other_weights(run_dir: Path) -> None:
    run = read_run(run_dir)
    store, drawn = run.store, run.control("random model").store
    ours, theirs = store.contexts("test").ids, drawn.contexts("test").ids
    assert torch.equal(ours[: len(theirs)], theirs)
    assert drawn.inputs["text"] == store.inputs["text"]
    assert drawn.tokenizer_fingerprint == store.tokenizer_fingerprint
    assert drawn.model_fingerprint != store.model_fingerprint
    studied = load_run_model(run.run)
    twin = load_control_model(run.control("random model"), studied)
    assert twin.fingerprint == drawn.model_fingerprint
    site_values = twin.read(theirs[:2], [SITE])[SITE].flatten(0, 1)
    (block,) = list(drawn.blocks(SITE, "test", rows=64))[:1]
    torch.testing.assert_close(block.x, site_values[:64], rtol=1e-2, atol=1e-2)  # stored as float16
    shapes = [{name: p.shape for name, p in model.module.named_parameters()} for model in (studied, twin)]
    assert shapes[0] == shapes[1]


def test_the_second_corpus_is_the_studied_model_on_other_documents(run_dir: Path, other_text: Path) -> None:
    run = read_run(run_dir)
    second = run.control("second corpus")
    assert second.store.model_fingerprint == run.store.model_fingerprint
    assert second.store.inputs["text"] == ss.load_text(other_text).fingerprint != run.store.inputs["text"]
    studied = load_run_model(run_dir)
    assert load_control_model(second, studied) is studied
    dictionary = run.dictionaries["topk-k_4-x2"]
    assert 0 < ss.evaluate(dictionary, second.store, elsewhere=True).fvu.value < 1


def test_frozen_directions_are_those_that_the_run_s_own_began_with(run_dir: Path, tmp_path: Path) -> None:
    frozen = read_run(run_dir).control("frozen decoder").dictionaries["topk-k_4-x2-frozen"]
    generator = torch.Generator().manual_seed(ss.TopK(k=4, ratio=2).init_seed(0))
    drawn = torch.randn(64, 32, generator=generator)
    torch.testing.assert_close(frozen.directions, drawn / drawn.norm(dim=1, keepdim=True))


def test_controls_change_nothing_of_what_the_report_says(run_dir: Path, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().split("[controls]")[0])
    plain = ss.run_study(recipe, out=tmp_path / "plain")
    with_controls, without = (read_json(path / "report.json") for path in (run_dir, plain.path))
    assert with_controls["dictionaries"] == without["dictionaries"]
    assert with_controls["features"] == without["features"]
    assert list(without["stages"]) == ["harvest", "train", "fit", "evaluate", "report"]
    assert list(with_controls["stages"]) == [
        *("harvest", "harvest controls", "train", "fit", "train controls", "evaluate", "report")
    ]
    found = read_run(plain.path)
    assert found.controls == []
    assert found.absent == ["random model", "frozen decoder", "second corpus"]
    with pytest.raises(ConfigurationError, match="no control of the kind 'random model': ask for it in"):
        found.control("random model")


def test_every_file_of_the_controls_is_verified(run_dir: Path, tmp_path: Path, cli: Cli) -> None:
    names = [part.relative_to(run_dir).as_posix() for part in parts(run_dir)]
    assert [name for name in names if name.startswith("controls/")] == [
        "controls/random-model/activations",
        "controls/second-corpus/activations",
        "controls/frozen-decoder/dictionaries/sae",
        "controls/random-model/dictionaries/sae",
    ]
    assert {f"{name}/manifest.json" for name in names} == set(open_run(run_dir).manifest["files"])
    inspected = cli("inspect", run_dir, "--json").json
    assert len(inspected["dictionaries"]) == 4  # the run's own
    for name in ("frozen-decoder/dictionaries/sae/0/dictionary.safetensors", "second-corpus/activations/shards.jsonl"):
        copy = Path(shutil.copytree(run_dir, tmp_path / name.split("/")[0]))
        damaged = copy / "controls" / name
        data = bytearray(damaged.read_bytes())
        data[-3] ^= 1
        damaged.write_bytes(bytes(data))
        with pytest.raises(ArtifactError, match="wrong checksum"):
            read_run(copy)
    shutil.rmtree(copy / "controls" / "frozen-decoder")
    with pytest.raises(ArtifactError, match=r"frozen-decoder.* is missing"):
        read_run(copy)


def test_several_sites_have_controls_of_their_own(recipe: Path, tmp_path: Path) -> None:
    changed_recipe(recipe, 'site = "resid_post.1"', 'site = ["resid_post.1", "mlp_out.0"]')
    text = recipe.read_text().replace("k = [2, 4, 6]", "k = 4")
    recipe.write_text(text.replace('[[fit]]\nmethod = "pca"', ""))
    run = read_run(ss.run_study(recipe, out=tmp_path / "run").path)
    assert list(run.dictionaries) == ["topk-k_4-x2 (sae@resid_post.1/0)", "topk-k_4-x2 (sae@mlp_out.0/0)"]
    drawn = run.control("random model")
    assert drawn.store.sites == ["resid_post.1", "mlp_out.0"]
    assert {name: sae.provenance.site for name, sae in drawn.dictionaries.items()} == {
        "topk-k_4-x2 (sae@mlp_out.0/0)": "mlp_out.0",
        "topk-k_4-x2 (sae@resid_post.1/0)": "resid_post.1",
    }
    assert len(run.control("frozen decoder").dictionaries) == 2


# Interruption


def test_a_study_stopped_after_any_control_resumes_to_the_same_bits(
    recipe: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "run", list[str]()

    def stopping(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **settings: Any) -> Any:
            found = real(*arguments, **settings)
            calls.append(name)
            if calls.count(name) in (1, 3):  # after the first of each kind, and once that is there after the second
                raise KeyboardInterrupt
            return found

        return wrapped

    for name in ("harvest", "train"):
        monkeypatch.setattr(controls_module, name, stopping(name, getattr(controls_module, name)))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            ss.run_study(recipe, out=out, resume=True)
        assert not out.exists()
    ss.run_study(recipe, out=out, resume=True)
    assert (calls.count("harvest"), calls.count("train")) == (1 + 4 * 2, 1 + 2 * 2)
    whole, resumed = contents(run_dir), contents(out)
    assert whole.keys() == resumed.keys()
    weights = [name for name in whole if name.endswith((".safetensors", "metrics.jsonl"))]
    assert sum(name.startswith("controls/") for name in weights) > 10
    assert all(whole[name] == resumed[name] for name in weights)
    before = contents(out)
    ss.run_study(recipe, out=out, resume=True)
    assert contents(out) == before


def test_it_stops_in_the_middle_of_training_a_control_and_goes_on(recipe: Path, run_dir: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "run", list[str]()

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "training 1 dictionaries" and done == 6:
            seen.append(stage)
            if len(seen) == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ss.run_study(recipe, out=out, resume=True, progress=stop)
    left = tmp_path / "run.partial" / "controls" / "random-model" / "dictionaries" / "sae.partial"
    assert list((left / "checkpoints").iterdir())
    ss.run_study(recipe, out=out, resume=True, progress=stop)
    name = "controls/random-model/dictionaries/sae/0/dictionary.safetensors"
    assert (out / name).read_bytes() == (run_dir / name).read_bytes()


def test_other_controls_do_not_continue_a_run(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages_module, "evaluate_all", stop)
    with pytest.raises(KeyboardInterrupt):
        ss.run_study(recipe, out=tmp_path / "run")
    changed_recipe(recipe, "frozen_decoder = true", "frozen_decoder = false")
    with pytest.raises(ArtifactError, match=r"config\.controls\.frozen_decoder = true, now asked for false"):
        ss.run_study(recipe, out=tmp_path / "run", resume=True)


# What is asked for


def test_the_typical_autoencoder_of_a_recipe() -> None:
    demo = read_recipe("builtin:demo")
    assert [method.label() for method in demo.controls.block(demo.train).members()] == ["topk-k_16-x4"]
    assert [method.label() for method in demo.controls.frozen_block(demo.train).members()] == ["topk-k_16-x4-frozen"]
    across = Train(method=("transcoder",), k=(9,), ratio=(2,), output_site="mlp_out.0", tokens=5)
    held = Train(method=("topk",), k=(9,), ratio=(2,), frozen=True, tokens=5)
    plain = Train(method=("untied_l1",), l1=(0.1,), ratio=(2,), tokens=5)
    aimed = Train(method=("gated", "tied_l1"), target_l0=(4.4, 7.0), n_latents=(64, 32), tokens=7, batch=99, lr=0.1)
    found = typical([across, held, plain, aimed])
    assert [method.label() for method in found.members()] == ["topk-k_4-m64"]
    assert (found.tokens, found.batch, found.lr) == (7, 99, 0.1)
    with pytest.raises(ConfigurationError, match=r"add \[controls\.train\] with method, k, ratio and tokens"):
        typical([across, held, plain])


def test_their_own_autoencoders_can_be_asked_for(recipe: Path) -> None:
    more = (
        '\n[controls.train]\nname = "saes"\nmethod = ["topk", "tied_l1"]\nk = 3\nl1 = 0.01\nratio = 2\ntokens = 900\n'
    )
    recipe.write_text(recipe.read_text() + more)
    asked = read_recipe(recipe)
    labels = [method.label() for method in asked.controls.block(asked.train).members()]
    assert labels == ["topk-k_3-x2", "tied_l1-l1_0.01-x2"]
    frozen = asked.controls.frozen_block(asked.train)
    assert [method.label() for method in frozen.members()] == ["topk-k_3-x2-frozen"]
    assert (frozen.tokens, frozen.name) == (900, "saes")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "random"', 'model = "radnom"', r"controls: model: 'radnom' is not one of random\. Did you mean"),
        ('model = "random"', "", r'controls: tokens is given without model = "random"'),
        ("frozen_decoder = true", "frozen_decoder = 1", r"controls: frozen_decoder: expected true or false, got 1"),
        ("frozen_decoder", "frozen_decodr", r"unknown key 'frozen_decodr'\. Did you mean 'frozen_decoder'\?"),
        ("tokens = 2_400", "tokens = 0", r"controls\.tokens = 0, expected a whole number of 1 or more"),
        ("text_tokens = 1_600", "text_tokens = -1", r"controls\.text_tokens = -1, expected"),
        (
            "[[fit]]",
            "[[train]]\nmethod='topk'\nfrozen=3\n[[fit]]",
            r"train\[1\]: frozen: expected true or false, got 3",
        ),
    ],
)
def test_controls_that_cannot_be_meant_are_refused(recipe: Path, old: str, new: str, message: str) -> None:
    if old != "[[fit]]":
        head, tail = recipe.read_text().split("[controls]")
        recipe.write_text(head + "[controls]" + tail.replace(old, new))
    else:
        changed_recipe(recipe, old, new.replace("[[fit]]", "tokens = 9\nname = 'b'\n\n[[fit]]"))
    with pytest.raises(ConfigurationError, match=message):
        read_recipe(recipe)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("k = 3\nratio = 2\ntokens = 9", r"controls: train: method is missing"),
        ('method = "topk"\nratio = 2\ntokens = 9', r"controls: method topk needs a sparsity: give k"),
        ('method = "topk"\nk = 3\nratio = 2\ntokens = 0', r"controls: tokens = 0, expected"),
        (
            'method = "topk"\nk = 3\nratio = 2\ntokens = 9\nfrozen = true',
            r"controls: frozen is not for controls\.train",
        ),
        ('method = "topk"\nk = 3\nratio = 2\ntokens = 9\nsite = "embed"', r"controls: site = 'embed': controls are"),
        ('method = "transcoder"\nk = 3\nratio = 2\ntokens = 9\noutput_site = "embed"', r"output_site = 'embed': contr"),
        ('method = "transcoder"\nk = 3\nratio = 2\ntokens = 9', r"controls: method transcoder needs output_site"),
        (
            'method = "tied_l1"\nl1 = 1\nratio = 2\ntokens = 9',
            r"frozen_decoder is for topk, and the controls are tied_",
        ),
        ('method = "topk"\nk = 3\nratio = 2\ntokens = 9\nname = "../x"', r"train\.name = '\.\./x'"),
    ],
)
def test_autoencoders_that_no_control_can_be_are_refused(recipe: Path, table: str, message: str) -> None:
    recipe.write_text(f"{recipe.read_text()}\n[controls.train]\n{table}\n")
    with pytest.raises(ConfigurationError, match=message):
        read_recipe(recipe)


def test_a_second_corpus_is_another_one(recipe: Path, text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="text_tokens is given without text"):
        Controls(text_tokens=5).check(["a"], [])
    with pytest.raises(ConfigurationError, match=r"train is given without model = \"random\" or frozen_decoder"):
        Controls(train=Train(method=("topk",), k=(3,), ratio=(2,), tokens=5)).check(["a"], [])
    asked = read_recipe(recipe)
    same = dataclasses.replace(asked, controls=dataclasses.replace(asked.controls, text=asked.text))
    with pytest.raises(ConfigurationError, match="is the text that is studied: give another one"):
        ss.run_study(same, out=tmp_path / "run")
    copy = tmp_path / text_file.name
    shutil.copy(text_file, copy)
    twice = dataclasses.replace(asked, controls=dataclasses.replace(asked.controls, text=(str(copy),)))
    with pytest.raises(ConfigurationError, match="has the same content as text"):
        ss.run_study(twice, out=tmp_path / "run")
    copy.unlink()
    with pytest.raises(ConfigurationError):
        ss.run_study(twice, out=tmp_path / "run")
    assert not list(tmp_path.glob("run*"))


def test_a_text_given_by_hand_takes_the_place_of_the_second_corpus() -> None:
    assert read_recipe("builtin:demo", text=["builtin:stories"]).controls.text == ()
    assert read_recipe("builtin:demo", text=["builtin:docs"]).controls.text == ("builtin:stories",)


def test_generated_text_of_the_second_corpus_is_no_part_of_the_first() -> None:
    recipe = read_recipe("builtin:demo")
    tales = ss.load_text("builtin:stories", seed=recipe.seed)  # those that builtin:docs of this seed holds
    other = controls_module.load_other_text(recipe, tales)
    assert other is not None
    drawn = {document.text for document in islice(tales, 2000)}
    assert not drawn & {document.text for document in islice(other, 500)}


def test_pieces_bring_what_needs_no_text(run_dir: Path, recipe: Path, tmp_path: Path) -> None:
    acts = run_dir / "activations"
    run = read_run(ss.run_study(recipe, activations=acts, out=tmp_path / "trained").path)
    assert [control.kind for control in run.controls] == ["frozen decoder"]
    saes = run_dir / "dictionaries" / "pca"
    run = read_run(ss.run_study(recipe, activations=acts, dictionaries=[saes], out=tmp_path / "given").path)
    assert (list(run.dictionaries), run.controls) == (["pca"], [])


# Models


def test_the_studied_model_is_given_back_or_refused(
    run_dir: Path, tiny_model_dir: Path, other_model_dir: Path, tmp_path: Path
) -> None:
    studied = load_run_model(run_dir)
    assert (studied.name, studied.fingerprint) == (str(tiny_model_dir), read_run(run_dir).store.model_fingerprint)
    moved = Path(shutil.copytree(tiny_model_dir, tmp_path / "moved"))
    assert load_run_model(run_dir, name=str(moved)).fingerprint == studied.fingerprint
    with pytest.raises(ArtifactError, match="give the model they were made with"):
        load_run_model(run_dir, name=str(other_model_dir))
    with pytest.raises(ArtifactError, match="give the model they were made with"):
        load_control_model(read_run(run_dir).control("random model"), ss.load_model("builtin:tiny-random"))


def test_the_twin_has_everything_of_the_model_but_its_weights(tiny_model_dir: Path) -> None:
    model = ss.load_model(str(tiny_model_dir), dtype="bfloat16")
    one, again, other = (random_twin(model, seed) for seed in (3, 3, 4))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert (one.dtype, one.vocabulary, one.sites()) == (model.dtype, model.vocabulary, model.sites())
    assert one.tokenizer_fingerprint == model.tokenizer_fingerprint
    assert one.fingerprint != model.fingerprint
    for (name, ours), theirs in zip(model.module.named_parameters(), one.module.parameters(), strict=True):
        assert ours.dim() == 1 or not torch.equal(ours, theirs), name


def test_the_twin_of_the_builtin_model_is_the_builtin_twin() -> None:
    drawn = ss.load_model("builtin:tiny-random", seed=2)
    twin = random_twin(ss.load_model("builtin:tiny"), 2)
    assert (twin.name, twin.fingerprint) == ("builtin:tiny-random", drawn.fingerprint)
    assert random_twin(drawn, 2).fingerprint == ss.load_model("builtin:tiny-random", seed=3).fingerprint
