"""Dictionaries on disk: what is damaged or does not fit is refused by name."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsescope.artifact import SEAL, digest, start
from sparsescope.dictionaries import Provenance, TiedSAE, TopKSAE, load_dictionary, save_dictionary, unit_rows
from sparsescope.dictionaries.files import WEIGHTS, members
from sparsescope.errors import ArtifactError, StorageError

WEIGHT_TENSORS = {
    "encoder": torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
    "encoder_bias": torch.zeros(6),
    "directions": unit_rows(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))[0],
    "bias": torch.ones(4),
}


def sae(name: str = "a") -> TopKSAE:
    return TopKSAE(**WEIGHT_TENSORS, k=2, provenance=Provenance(site="resid_post.0", name=name, seed=0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_dictionary(sae(), tmp_path / "sae", inputs={"activations": "f00"})


def edit_manifest(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["dictionary"] = {**manifest["dictionary"], **changes}
    reseal(file, manifest)


def reseal(file: Path, manifest: dict) -> None:
    """Write a manifest that says other things, as if it had been made so."""
    content = {key: value for key, value in manifest.items() if key != SEAL}
    file.write_text(json.dumps({**content, SEAL: digest(content)}))


def edit_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = {**load_file(path / WEIGHTS), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path / WEIGHTS)


def test_the_manifest_says_what_it_is(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["kind"] == "dictionary"
    assert manifest["seed"] == 0
    assert manifest["inputs"] == {"activations": "f00"}
    assert manifest["config"] == manifest["dictionary"]
    assert manifest["config"]["method"] == "topk"
    assert manifest["config"]["settings"] == {"k": 2}
    assert manifest["config"]["provenance"]["site"] == "resid_post.0"
    assert set(manifest["files"]) == {WEIGHTS}
    assert sorted(file.name for file in saved.iterdir()) == [WEIGHTS, "manifest.json"]


def test_a_loaded_dictionary_saves_to_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save_dictionary(load_dictionary(saved), tmp_path / "copy", inputs={"activations": "f00"})
    assert (again / "manifest.json").read_bytes() == (saved / "manifest.json").read_bytes()
    assert (again / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_flipped_byte_is_found(saved: Path, place: int) -> None:
    data = bytearray((saved / WEIGHTS).read_bytes())
    data[place] ^= 1
    (saved / WEIGHTS).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{WEIGHTS} has a wrong checksum"):
        load_dictionary(saved)


def test_a_file_cut_short_is_found(saved: Path) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[:-3])
    with pytest.raises(ArtifactError, match="cut short"):
        load_dictionary(saved)
    with pytest.raises(ArtifactError, match="cannot read"):
        load_dictionary(saved, verify=False)
    (saved / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        load_dictionary(saved)


def test_an_unknown_method_is_refused(saved: Path) -> None:
    edit_manifest(saved, method="top_k")
    with pytest.raises(ArtifactError, match=r"unknown method 'top_k'; .*tied_l1, .*Did you mean 'topk'"):
        load_dictionary(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": None}, "encoder is missing"),
        ({"gate": torch.zeros(6)}, "gate is not known"),
        ({"k": torch.tensor(2)}, "k is given twice"),
        ({"bias": torch.zeros(5)}, r"bias has shape \(5,\), expected \(4,\)"),
        ({"encoder": torch.zeros(4, 6)}, r"encoder has shape \(4, 6\), expected \(6, 4\)"),
        ({"directions": torch.zeros(4)}, r"directions must be a matrix"),
        ({"directions": 2 * WEIGHT_TENSORS["directions"]}, "row 0 of directions has norm 2, expected 1"),
        ({"bias": torch.zeros(4, dtype=torch.int64)}, "bias must be a floating-point tensor"),
        ({"bias": torch.zeros(4, dtype=torch.float16)}, "give all the same"),
    ],
)
def test_other_tensors_than_declared_are_refused(saved: Path, changes: dict, message: str) -> None:
    edit_tensors(saved, **changes)
    with pytest.raises(ArtifactError, match=rf"sae is not a .*{message}.*Make the artifact again"):
        load_dictionary(saved, verify=False)


def test_a_tied_autoencoder_of_an_earlier_version_has_no_bias(tmp_path: Path) -> None:
    tied = TiedSAE(directions=WEIGHT_TENSORS["directions"], encoder_bias=torch.ones(6), bias=torch.zeros(4))
    path = save_dictionary(tied, tmp_path / "tied")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["dictionary"]["provenance"]["output_site"]
    reseal(path / "manifest.json", manifest)
    edit_tensors(path, bias=None)
    old = load_dictionary(path, verify=False)
    assert torch.equal(old.bias, torch.zeros(4))
    assert old.provenance.output_site is None
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(old.reconstruct(x), tied.reconstruct(x))
    edit_tensors(path, encoder_bias=None)
    with pytest.raises(ArtifactError, match="encoder_bias is missing"):
        load_dictionary(path, verify=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {}}, "k is missing"),
        ({"settings": {"k": 2, "gain": 1}}, "gain is not known"),
        ({"settings": {"k": 7}}, "k = 7, expected a whole number from 1 to 6"),
        ({"provenance": {"sight": "resid_post.0"}}, "provenance.sight is not known"),
    ],
)
def test_other_settings_than_declared_are_refused(saved: Path, changes: dict, message: str) -> None:
    edit_manifest(saved, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_dictionary(saved)


def test_a_manifest_that_describes_no_dictionary(saved: Path) -> None:
    for entry in (None, [], {"method": "topk"}, {"method": "topk", "settings": 3, "provenance": {}}):
        manifest = json.loads((saved / "manifest.json").read_text())
        reseal(saved / "manifest.json", {**manifest, "dictionary": entry})
        with pytest.raises(ArtifactError, match="does not describe a dictionary"):
            load_dictionary(saved)


def test_what_is_no_dictionary(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        load_dictionary(tmp_path / "nowhere")
    other = start(tmp_path / "other", "activations", {}).finish()
    with pytest.raises(ArtifactError, match="is of kind 'activations', expected 'dictionary'"):
        load_dictionary(other.path)


def test_a_container_lists_its_members(tmp_path: Path) -> None:
    draft = start(tmp_path / "saes", "dictionaries", {})
    for number in (0, 2, 10):
        save_dictionary(sae(str(number)), draft.path / str(number))
    container = draft.finish()
    with pytest.raises(ArtifactError, match=r"holds several dictionaries: load one of .*saes/0, .*saes/2, .*saes/10"):
        load_dictionary(container.path)
    assert [load_dictionary(path).provenance.name for path in members(container)] == ["0", "2", "10"]


def test_saving_never_overwrites(saved: Path) -> None:
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    other = TiedSAE(directions=WEIGHT_TENSORS["directions"], encoder_bias=torch.zeros(6))
    with pytest.raises(ArtifactError, match="already holds a finished artifact"):
        save_dictionary(other, saved)
    with pytest.raises(ArtifactError, match="was made with"):
        save_dictionary(other, saved, resume=True)
    assert save_dictionary(sae(), saved, inputs={"activations": "f00"}, resume=True) == saved
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    same = WEIGHT_TENSORS["directions"]
    shared = TopKSAE(**{**WEIGHT_TENSORS, "encoder": same, "directions": same}, k=2)
    apart = TopKSAE(**{**WEIGHT_TENSORS, "encoder": same.clone(), "directions": same}, k=2)
    one, two = save_dictionary(shared, tmp_path / "one"), save_dictionary(apart, tmp_path / "two")
    assert (one / WEIGHTS).read_bytes() == (two / WEIGHTS).read_bytes()


def test_a_full_disk_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = saved.with_name("second")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            save_dictionary(sae(), out)
    assert not out.exists()
    assert load_dictionary(saved).n_latents == 6
    shutil.rmtree(out.with_name("second.partial"), ignore_errors=True)
    assert load_dictionary(save_dictionary(sae(), out)).n_latents == 6
