"""Loading: local directories, the untrained twin, the hub's cache, and every way a checkpoint can be broken."""

import json
import logging
import pickle
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make, token_ids

import sparsescope.models.load as load
from sparsescope.errors import ConfigurationError, ModelError
from sparsescope.models import LanguageModel, load_model


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A whole model directory of one's own, free to be damaged."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.fixture
def builtin(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> Path:
    """Another directory in the place of the builtin model's."""
    monkeypatch.setattr(load, "_BUILTIN_DIRECTORY", tiny_model_dir)
    return tiny_model_dir


def failure(error: type[Exception], *arguments: Any, **settings: Any) -> str:
    with pytest.raises(error) as caught:
        load_model(*arguments, **settings)
    return str(caught.value)


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_directory_gives_the_model_that_was_saved(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = load_model(tiny_model_dir)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_dir, local_files_only=True).eval()
    ids = torch.arange(10).view(1, 10)
    assert torch.equal(lm.logits(ids), theirs(ids).logits)
    assert (lm.name, lm.revision, lm.n_layers, lm.context_limit) == (str(tiny_model_dir), None, 3, 128)
    assert lm.vocabulary == theirs.config.vocab_size
    assert (lm.device, lm.dtype) == (torch.device("cpu"), torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir, local_files_only=True)
    assert lm.tokenizer("the old house")["input_ids"] == tokenizer("the old house")["input_ids"]
    assert lm.module.config._attn_implementation == "sdpa"
    assert not any(parameter.requires_grad for parameter in lm.module.parameters())
    assert not lm.module.training


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(tiny_model_dir: Path, dtype: str) -> None:
    full, half = load_model(tiny_model_dir), load_model(tiny_model_dir, dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    assert half.fingerprint == full.fingerprint
    # Rotary frequencies stay float32 whatever the weights are.
    assert half.module.gpt_neox.rotary_emb.inv_freq.dtype == torch.float32
    ids = torch.arange(20).view(1, 20)
    wide, narrow = full.read(ids, ["resid_post.2"])["resid_post.2"], half.read(ids, ["resid_post.2"])["resid_post.2"]
    assert narrow.dtype == getattr(torch, dtype)
    assert (wide - narrow.float()).norm() / wide.norm() < 0.02


def test_shards_and_float16_on_disk(tmp_path: Path) -> None:
    model = make("llama")
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    lm = load_model(tmp_path / "shards")
    assert lm.dtype == torch.float32
    assert torch.equal(lm.logits(token_ids()), LanguageModel(model).logits(token_ids()))
    assert lm.tokenizer is None
    assert lm.tokenizer_fingerprint is None
    victim = sorted((tmp_path / "shards").glob("*.safetensors"))[1]
    victim.unlink()
    message = failure(ModelError, tmp_path / "shards")
    assert (
        message == f"{victim} is missing, but model.safetensors.index.json lists it. Copy or download the model again."
    )


def test_fingerprints(folder: Path, tiny_model_dir: Path, other_model_dir: Path) -> None:
    lm = load_model(folder)
    assert lm.fingerprint == load_model(tiny_model_dir).fingerprint
    other = load_model(other_model_dir)
    assert other.fingerprint != lm.fingerprint
    assert other.tokenizer_fingerprint == lm.tokenizer_fingerprint
    lm.tokenizer.pad_token = lm.tokenizer.eos_token
    mark = load.LanguageModel(lm.module, tokenizer=lm.tokenizer).tokenizer_fingerprint
    lm.tokenizer(["the cat", "the cat sat on the"], padding=True, truncation=True, max_length=4)
    assert load.LanguageModel(lm.module, tokenizer=lm.tokenizer).tokenizer_fingerprint == mark
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.final_layer_norm.bias"][3] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).fingerprint != lm.fingerprint
    shutil.copy(tiny_model_dir / "model.safetensors", folder)
    edit_config(folder, transformers_version="4.0.0")
    assert load_model(folder).fingerprint == lm.fingerprint
    edit_config(folder, rotary_pct=0.5)
    assert load_model(folder).fingerprint != lm.fingerprint


def test_fingerprint_of_large_files_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsescope.models import checkpoint

    monkeypatch.setattr(checkpoint, "_BLOCK", 64)
    monkeypatch.setattr(checkpoint, "_BLOCKS", 8)
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 16)
    blocks = list(checkpoint._sample(file))
    assert len(blocks) == 8
    assert blocks[0] == bytes(range(64))
    assert blocks[-1] == bytes(range(192, 256))
    file.write_bytes(bytes(range(200)))
    assert b"".join(checkpoint._sample(file)) == bytes(range(200))


def test_a_model_in_memory_has_a_fingerprint_of_config_and_weights() -> None:
    marks = [LanguageModel(make("gpt2", **changes)).fingerprint for changes in ({}, {"seed": 1}, {"n_head": 2})]
    assert len(set(marks)) == 3
    assert LanguageModel(make("gpt2")).fingerprint == marks[0]


def test_the_untrained_twin(builtin: Path) -> None:
    trained = load_model("builtin:tiny")
    state = torch.get_rng_state()
    one, again, two = (load_model("builtin:tiny-random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.arange(10).view(1, 10)
    assert torch.equal(one.logits(ids), again.logits(ids))
    assert not torch.equal(one.logits(ids), two.logits(ids))
    assert one.fingerprint == again.fingerprint
    assert len({one.fingerprint, two.fingerprint, trained.fingerprint}) == 3
    assert one.tokenizer_fingerprint == trained.tokenizer_fingerprint
    assert one.module.config.to_dict() == trained.module.config.to_dict()
    half = load_model("builtin:tiny-random", dtype="bfloat16")
    assert half.module.gpt_neox.rotary_emb.inv_freq.dtype == torch.float32
    weight = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    assert torch.equal(half.module.get_parameter(weight), one.module.get_parameter(weight).bfloat16())


def test_a_base_model_can_be_read_but_has_no_logits(tmp_path: Path) -> None:
    model = make("bert")
    model.base_model.save_pretrained(tmp_path / "base")
    whole = LanguageModel(model)
    with pytest.raises(ModelError, match=r"lack pooler.dense.bias, pooler.dense.weight: the checkpoint is incomplete"):
        load_model(tmp_path / "base")
    from transformers import BertModel

    bert = BertModel(model.config)
    bert.load_state_dict(model.base_model.state_dict(), strict=False)
    bert.save_pretrained(tmp_path / "base")
    lm = load_model(tmp_path / "base")
    for site in whole.sites():
        assert torch.equal(lm.read(token_ids(), [site])[site], whole.read(token_ids(), [site])[site])
    with pytest.raises(ModelError, match=r"base has no output head, so it has no logits"):
        lm.logits(token_ids())


def test_an_architecture_outside_the_table_has_module_sites(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2))
    model.save_pretrained(tmp_path / "bloom")
    lm = load_model(tmp_path / "bloom")
    assert lm.context_limit is None
    assert "module:transformer.h.1" in lm.sites()
    states = lm.module(token_ids(), output_hidden_states=True).hidden_states
    read = lm.read(token_ids(), ["module:transformer.h.0"])["module:transformer.h.0"]
    assert torch.equal(read, states[1])
    with pytest.raises(Exception, match=r"bloom has no site 'resid_post.0': its architecture is not one whose layers"):
        lm.check("resid_post.0")


def test_loading_is_silent_and_leaves_settings_alone(tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity(), theirs.is_progress_bar_enabled(), logging.getLogger("transformers").level
    capfd.readouterr()
    lm = load_model(tiny_model_dir)
    lm.logits(torch.zeros(1, 4, dtype=torch.long))
    assert capfd.readouterr() == ("", "")
    assert before == (theirs.get_verbosity(), theirs.is_progress_bar_enabled(), logging.getLogger("transformers").level)


def test_importing_models_does_not_import_transformers() -> None:
    script = "import sys, sparsescope.models; sys.exit(any(m in sys.modules for m in ('transformers', 'tokenizers')))"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# What is refused


def test_a_name_that_is_nothing(tmp_path: Path) -> None:
    assert failure(ModelError, tmp_path / "absent") == (
        f"there is no model directory {tmp_path / 'absent'}: expected builtin:tiny or builtin:tiny-random, a directory "
        "with config.json and model.safetensors, or a hub id such as 'EleutherAI/pythia-70m'."
    )
    (tmp_path / "file").write_text("")
    assert f"there is no model directory {tmp_path / 'file'}" in failure(ModelError, tmp_path / "file")
    assert failure(ModelError, "builtin:tinny") == (
        "there is no model 'builtin:tinny', expected one of builtin:tiny, builtin:tiny-random. Did you mean "
        "'builtin:tiny'?"
    )


def test_arguments_that_cannot_be(folder: Path) -> None:
    message = failure(ConfigurationError, folder, dtype="bfloat")
    assert message == "dtype is 'bfloat', expected one of float32, float16, bfloat16. Did you mean 'bfloat16'?"
    assert "device is 'gpu', expected 'cpu', 'cuda'" in failure(ConfigurationError, folder, device="gpu")
    message = failure(ConfigurationError, folder, revision="main")
    assert message == f"revision is 'main', but {folder} is not on the hub: leave revision out."


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(folder: Path) -> None:
    message = failure(ConfigurationError, folder, device="cuda")
    assert message == "device is 'cuda', but PyTorch finds no GPU here: use 'cpu'."


def test_broken_configs(folder: Path) -> None:
    edit_config(folder, hidden_size="wide")
    assert f"cannot load {folder}: " in failure(ModelError, folder)
    edit_config(folder, hidden_size=32, model_type="gpt_nexo")
    message = failure(ModelError, folder)
    assert f"cannot load {folder}: " in message
    assert "gpt_nexo" in message
    edit_config(folder, model_type="t5")
    message = failure(ModelError, folder)
    assert f"{folder} is an encoder-decoder model (t5), expected a decoder or an encoder" in message
    (folder / "config.json").write_text("{}")
    assert f"{folder / 'config.json'} names no model_type, expected the config of" in failure(ModelError, folder)
    (folder / "config.json").write_text('{"model_type": ')
    assert f"cannot read {folder / 'config.json'}: " in failure(ModelError, folder)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert f"cannot read {folder / 'config.json'}: " in failure(ModelError, folder)
    (folder / "config.json").unlink()
    message = failure(ModelError, folder)
    assert message == f"{folder} has no config.json, expected a model saved by transformers' save_pretrained."


def test_broken_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", b"nonsense" * 100, whole + b"more"):
        file.write_bytes(content)
        message = failure(ModelError, folder)
        assert message.startswith(f"cannot read the weights in {file}: ")
        assert message.endswith("Copy or download the model again.")
    file.unlink()
    message = failure(ModelError, folder)
    assert message == (
        f"{folder} holds no weights, expected model.safetensors or model.safetensors.index.json beside config.json."
    )


def test_a_tensor_that_is_missing_is_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert failure(ModelError, folder) == (
        f"the weights of {folder} lack gpt_neox.layers.1.mlp.dense_h_to_4h.weight: the checkpoint is incomplete. Copy "
        "or download it again."
    )


def test_a_tensor_of_another_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_h_to_4h.bias"] = torch.zeros(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"cannot load {folder}: " in failure(ModelError, folder)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')
    assert f"cannot load {folder}: " in failure(ModelError, folder)


def test_pickled_weights_load_without_running_code(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load_model(folder).n_layers == 3
    trace = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    assert f"cannot load {folder}: " in failure(ModelError, folder)
    assert not trace.exists()


def test_ids_that_do_not_fit(tiny_model_dir: Path) -> None:
    lm = load_model(tiny_model_dir)

    def refused(ids: Any, mask: Any = None) -> str:
        with pytest.raises(ModelError) as caught:
            lm.read(ids, ["embed"], mask)
        with pytest.raises(ModelError):
            lm.logits(ids, attention_mask=mask)
        return str(caught.value)

    last = lm.vocabulary - 1
    outside = f"is outside the vocabulary of {tiny_model_dir} (0 to {last}): the text was tokenized for another model."
    assert refused(torch.tensor([[1, lm.vocabulary]])) == f"token id {lm.vocabulary} {outside}"
    assert refused(torch.tensor([[-1, 2]])) == f"token id -1 {outside}"
    assert "the sequence has 129 tokens" in refused(torch.zeros(1, 129, dtype=torch.long))
    expected = "expected an integer tensor of shape (batch, seq) with at least one token."
    assert refused(torch.tensor([1, 2])) == f"ids is torch.int64 (2,), {expected}"
    assert refused(torch.zeros(1, 3)) == f"ids is torch.float32 (1, 3), {expected}"
    assert refused(torch.zeros(1, 0, dtype=torch.long)) == f"ids is torch.int64 (1, 0), {expected}"
    assert refused([[1, 2]]) == f"ids is list, {expected}"
    message = refused(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4))
    assert message.startswith("attention_mask has shape (2, 4), expected (2, 3) as the ids")


# The hub: its cache, and a server in its place


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds `someone/model`, and no network."""
    import huggingface_hub.constants as constants

    home = tmp_path / "hub" / "models--someone--model"
    shutil.copytree(tiny_model_dir, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


def test_a_hub_model_from_the_cache(hub_cache: Path, tiny_model_dir: Path) -> None:
    lm, local = load_model("someone/model"), load_model(tiny_model_dir)
    assert (lm.name, lm.revision) == ("someone/model", COMMIT)
    assert lm.fingerprint == local.fingerprint
    assert lm.tokenizer_fingerprint == local.tokenizer_fingerprint
    assert load_model("someone/model", revision=COMMIT).revision == COMMIT


def test_hub_models_that_are_not_there(hub_cache: Path) -> None:
    away = "is not on this machine, and the hub cannot be reached: connect to the network once, or give a local "
    assert failure(ModelError, "someone/other") == (f"the hub model someone/other {away}directory or builtin:tiny.")
    message = failure(ModelError, "someone/model", revision="v2")
    assert message == f"the hub model someone/model at revision 'v2' {away}directory or builtin:tiny."
    (hub_cache / "snapshots" / COMMIT / "model.safetensors").unlink()
    assert "holds no weights, expected model.safetensors" in failure(ModelError, "someone/model")


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub's protocol that a download needs; `folder` is what `someone/model` holds."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
        else:
            repository, revision = "/".join(parts[:2]), parts[3]
        refusals = {
            "someone/private": (404, "RepoNotFound"),
            "someone/gated": (403, "GatedRepo"),
            "someone/down": (500, "Broken"),
        }
        status, code = refusals.get(repository, (200, ""))
        if repository == "someone/model" and revision not in ("main", COMMIT):
            status, code = 404, "RevisionNotFound"
        content = b""
        if status == 200 and parts[0] == "api":
            content = json.dumps(self.tree() if "tree" in parts else self.listing(repository)).encode()
        elif status == 200:
            content = (self.folder / parts[-1]).read_bytes()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{parts[-1]}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def listing(self, repository: str) -> dict[str, Any]:
        files = [{"rfilename": file.name} for file in self.folder.iterdir()]
        return {"id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": [], "siblings": files}

    def tree(self) -> list[dict[str, Any]]:
        sizes = {file.name: file.stat().st_size for file in self.folder.iterdir()}
        return [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub_server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub on this machine, which offers `folder` as `someone/model`."""
    import huggingface_hub.constants as constants

    server = HTTPServer(("127.0.0.1", 0), type("FolderHub", (Hub,), {"folder": folder}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    files = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_model_is_downloaded_once(hub_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub_server / "consolidated.safetensors").write_bytes(b"the same weights, in another format")
    (hub_server / "pytorch_model.bin").write_bytes(b"the same weights, in a third format")
    lm = load_model("someone/model")
    assert lm.revision == COMMIT
    assert lm.fingerprint == load_model(hub_server).fingerprint
    cache = next(hub_server.parent.glob("cache/models--someone--model/snapshots/*"))
    kept = {file.name for file in cache.iterdir()}
    assert "model.safetensors" in kept
    assert not kept & {"consolidated.safetensors", "pytorch_model.bin"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("someone/model").fingerprint == lm.fingerprint


def test_a_hub_model_with_pickles_only(hub_server: Path) -> None:
    torch.save(load_file(hub_server / "model.safetensors"), hub_server / "pytorch_model.bin")
    (hub_server / "model.safetensors").unlink()
    assert load_model("someone/model", revision="main").n_layers == 3


def test_what_the_hub_refuses(hub_server: Path) -> None:
    assert "there is no model someone/private: it is neither a directory here nor a public model on the hub" in failure(
        ModelError, "someone/private"
    )
    assert failure(ModelError, "someone/model", revision="v9") == (
        "the hub model someone/model has no revision 'v9': give a branch, tag or commit of it."
    )
    assert "the hub model someone/gated asks for an agreement: accept its terms" in failure(ModelError, "someone/gated")
    assert "hub model someone/down" in failure(ModelError, "someone/down")


def test_capped_attention_is_not_fused(tmp_path: Path) -> None:
    model = make("gemma2", attn_implementation="eager")
    model.save_pretrained(tmp_path / "gemma2")
    lm = load_model(tmp_path / "gemma2")
    assert lm.module.config._attn_implementation == "eager"
    assert torch.equal(lm.logits(token_ids()), model(token_ids()).logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reads_what_the_processor_reads(tiny_model_dir: Path) -> None:
    here, there = load_model(tiny_model_dir, device="cpu"), load_model(tiny_model_dir)
    assert there.device.type == "cuda"
    assert there.fingerprint == here.fingerprint
    ids, mask = torch.arange(24).view(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :3] = 0
    mine, theirs = here.read(ids, here.sites(), mask), there.read(ids, there.sites(), mask)
    for site, value in mine.items():
        assert theirs[site].is_cuda
        torch.testing.assert_close(theirs[site].cpu()[mask.bool()], value[mask.bool()], rtol=1e-3, atol=1e-4)
    replaced = there.logits(ids, {"resid_post.1": lambda x: x.cpu()}, mask)
    assert torch.equal(replaced, there.logits(ids, attention_mask=mask))
