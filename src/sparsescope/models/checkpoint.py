"""A model directory on disk, looked at without transformers: is it whole, and which one is it?"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..artifact import digest
from ..errors import ModelError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
_VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")
"""Config entries that say nothing about what the model computes."""
_BLOCK = 1 << 16
_BLOCKS = 1024
"""Files up to 64 MiB are hashed whole; of larger ones 1,024 evenly spaced blocks of 64 KiB."""


def check_directory(directory: Path, name: str, weights: bool = True) -> None:
    """Raise `ModelError` unless `directory` holds a readable config and (unless told not to look) whole weights."""
    if not directory.is_dir():
        raise ModelError(f"there is no model directory {name}: expected one with config.json and model.safetensors.")
    config = read_config(directory)
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(
            f"{directory / 'config.json'} names no model_type, expected the config of a transformers model: "
            "save the model again with save_pretrained."
        )
    if weights:
        for file in weight_files(directory):
            if file.suffix == ".safetensors":
                _check_safetensors(file)


def read_config(directory: Path) -> Any:
    """The parsed `config.json`. Raises `ModelError` when it is missing or no JSON."""
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory} has no config.json, expected a model saved by transformers' save_pretrained.")
    return _read_json(file)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, in the order of their names.

    Raises `ModelError` when there are none, or when one that the index lists is missing.
    """
    found = next((directory / name for name in _WEIGHTS if (directory / name).is_file()), None)
    if found is None:
        raise ModelError(f"{directory} holds no weights, expected {_WEIGHTS[0]} or {_WEIGHTS[1]} beside config.json.")
    if found.suffix != ".json":
        return [found]
    index = _read_json(found)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise ModelError(f"{found} has no weight_map, so it is no index of weights. Copy or download the model again.")
    files = [directory / name for name in sorted(set(index["weight_map"].values()))]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file} is missing, but {found.name} lists it. Copy or download the model again.")
    return files


def has_tokenizer(directory: Path) -> bool:
    """Whether any tokenizer file lies beside the model."""
    return any((directory / name).is_file() for name in _TOKENIZER)


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config, without entries that say nothing about what the model computes."""
    return digest(json.loads(json.dumps({k: v for k, v in config.items() if k not in _VOLATILE}, default=str)))


def config_fingerprint(directory: Path) -> str:
    """`config_digest` of the `config.json` in a directory."""
    return config_digest(read_config(directory))


def checkpoint_fingerprint(directory: Path) -> str:
    """SHA-256 over the config and the weight files: whole up to 64 MiB each, a sample of larger ones.

    It belongs to the files, so it is the same whatever dtype and device a model is loaded with.
    """
    state = hashlib.sha256(config_fingerprint(directory).encode())
    for file in weight_files(directory):
        state.update(str(file.stat().st_size).encode())
        for block in _sample(file):
            state.update(block)
    return state.hexdigest()


def _sample(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    blocks = -(-size // _BLOCK)
    kept = range(blocks) if blocks <= _BLOCKS else sorted({i * (blocks - 1) // (_BLOCKS - 1) for i in range(_BLOCKS)})
    with open(file, "rb") as stream:
        for i in kept:
            stream.seek(i * _BLOCK)
            yield stream.read(_BLOCK)


def _check_safetensors(file: Path) -> None:
    """The header of a safetensors file says how long the file is: a file cut short is found without reading it."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read the weights in {file}: {error}. Copy or download the model again.") from None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {file}: {error}. Copy or download the model again.") from None
