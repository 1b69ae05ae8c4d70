"""From a name to a `LanguageModel`: builtin, local directory or hub. One code path loads them all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigurationError, ModelError, suggest
from .architectures import find_architecture
from .checkpoint import check_directory, checkpoint_fingerprint, config_fingerprint, has_tokenizer
from .hub import fetch, looks_like_hub_id
from .language import LanguageModel

BUILTIN = ("builtin:tiny", "builtin:tiny-random")
_BUILTIN_DIRECTORY = Path(__file__).with_name("builtin_tiny")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    seed: int = 0,
) -> LanguageModel:
    """Load a language model and its tokenizer.

    `name` is `builtin:tiny` (ships with the package), `builtin:tiny-random` (its untrained twin: same config
    and tokenizer, weights drawn from `seed`), a directory in the format of `transformers`, or a hub id, of which
    `revision` picks a branch, tag or commit; the commit it resolved to is in `.revision`. `dtype` is "float32",
    "float16" or "bfloat16"; `device` by default a GPU if there is one.

    Code inside a checkpoint is never run. Attention runs through PyTorch's fused kernel where the architecture
    allows. Raises `ConfigurationError` for an impossible argument and `ModelError` for a model that is
    missing, damaged, incomplete, or of a kind that cannot be loaded.

    >>> lm = load_model("builtin:tiny-random", seed=1)
    >>> lm.name, lm.dtype
    ('builtin:tiny-random', torch.float32)
    """
    name = str(name)
    precision, target = _precision(dtype), _device(device)
    untrained = name == "builtin:tiny-random"
    directory, commit = _locate(name, revision)
    check_directory(directory, name, weights=not untrained)
    # Loading draws random numbers (for weights that are then overwritten): the user's generator stays as it is.
    with _quiet(), torch.random.fork_rng(devices=[]), _explained(name):
        config = _config(directory, name)
        if untrained:
            fingerprint = f"{config_fingerprint(directory)}-random-{seed}"
            module = _random(config, precision, seed)
        else:
            fingerprint = checkpoint_fingerprint(directory)
            module = _pretrained(directory, config, precision, name)
        tokenizer = _tokenizer(directory, name)
        module = module.to(target)
    return LanguageModel(module, name, tokenizer=tokenizer, revision=commit, fingerprint=fingerprint)


def random_model(
    config: Mapping[str, Any],
    *,
    name: str = "random",
    dtype: str = "float32",
    device: str | torch.device | None = None,
    seed: int = 0,
    tokenizer: Any = None,
) -> LanguageModel:
    """An untrained model of any architecture: `config` holds the entries of its `config.json`.

    For controls and for measuring speed. Weights are drawn from `seed`, the same on every device. Raises
    `ConfigurationError` and `ModelError` as `load_model`.

    >>> small = {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 32}
    >>> random_model(small).n_layers
    2
    """
    precision, target = _precision(dtype), _device(device)
    with _quiet(), torch.random.fork_rng(devices=[]), _explained(name):
        from transformers import AutoConfig

        module = _random(AutoConfig.for_model(**config), precision, seed).to(target)
    return LanguageModel(module, name, tokenizer=tokenizer)


def _locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The directory that holds the model, and the commit if it came from the hub."""
    if name.startswith("builtin:") and name not in BUILTIN:
        raise ModelError(f"there is no model {name!r}, expected one of {', '.join(BUILTIN)}.{suggest(name, BUILTIN)}")
    local = _BUILTIN_DIRECTORY if name in BUILTIN else Path(name).expanduser()
    if name in BUILTIN or local.is_dir():
        if revision is not None:
            raise ConfigurationError(f"revision is {revision!r}, but {name} is not on the hub: leave revision out.")
        return local, None
    if local.exists() or not looks_like_hub_id(name):
        raise ModelError(
            f"there is no model directory {name}: expected {' or '.join(BUILTIN)}, a directory with config.json "
            "and model.safetensors, or a hub id such as 'EleutherAI/pythia-70m'."
        )
    return fetch(name, revision)


def _precision(dtype: str) -> torch.dtype:
    if dtype not in _DTYPES:
        raise ConfigurationError(
            f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}.{suggest(str(dtype), _DTYPES)}"
        )
    return _DTYPES[dtype]


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ConfigurationError(f"device is {device!r}, expected 'cpu', 'cuda', 'cuda:1' or the like.") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device is {device!r}, but PyTorch finds no GPU here: use 'cpu'.")
    return target


def _config(directory: Path, name: str) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        # The fused kernel cannot cap logits; before version 5, transformers would use it and leave the cap out.
        config._attn_implementation = "eager"
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder-decoder model ({config.model_type}), expected a decoder or an encoder: "
            "load it with transformers and use wrap()."
        )
    return config


def _auto_class(config: Any) -> Any:
    """The transformers class with the output head that a config's architecture was trained with, if it has one."""
    import transformers

    row = find_architecture(config)
    masked, causal = transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM
    for auto in (masked,) if row is not None and row.masked else (causal, masked):
        if type(config) in auto._model_mapping:
            return auto
    return transformers.AutoModel


def _pretrained(directory: Path, config: Any, dtype: torch.dtype, name: str) -> torch.nn.Module:
    """The model with its weights. A tensor that is missing would be drawn at random: it is an error instead."""
    import transformers

    auto = _auto_class(config)
    module, missing = _load_weights(auto, directory, config, dtype)
    inside = _base_path(module)
    if missing and not any(key.startswith(f"{inside}.") for key in missing):
        # Only the head is absent: the checkpoint is of a base model.
        module, missing = _load_weights(transformers.AutoModel, directory, config, dtype)
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(
            f"the weights of {name} lack {listed}: the checkpoint is incomplete. Copy or download it again."
        )
    return module


def _base_path(module: Any) -> str:
    """The child of a model with a head that holds the base model: the one with the embedding in it."""
    embedding = module.get_input_embeddings()
    return next(path for path, part in module.named_modules() if part is embedding).split(".")[0]


def _load_weights(auto: Any, directory: Path, config: Any, dtype: torch.dtype) -> tuple[torch.nn.Module, list[str]]:
    module, info = auto.from_pretrained(
        directory, config=config, local_files_only=True, output_loading_info=True, dtype=dtype
    )
    return module, sorted(info["missing_keys"])


def _random(config: Any, dtype: torch.dtype, seed: int) -> torch.nn.Module:
    """Weights as transformers initialises them, the same on every device and, up to rounding, in every dtype."""
    torch.manual_seed(seed)
    module: torch.nn.Module = _auto_class(config).from_config(config)
    for parameter in module.parameters():
        # Not module.to(dtype): that would round the frequencies of rotary positions, which stay float32.
        parameter.data = parameter.data.to(dtype)
    return module


def _tokenizer(directory: Path, name: str) -> Any:
    if not has_tokenizer(directory):
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name} has only a slow tokenizer ({type(tokenizer).__name__}), expected a fast one, which knows the "
            "characters of each token: convert it to a tokenizer.json."
        )
    return tokenizer


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever transformers raises about a checkpoint into a `ModelError` which names the checkpoint.

    It raises nearly every built-in type, depending on which entry of which file is wrong.
    """
    try:
        yield
    except (ModelError, ConfigurationError):
        raise
    except Exception as error:
        text = str(error).strip().split("\n")[0] or "no reason given"
        raise ModelError(
            f"cannot load {name}: {text} ({type(error).__name__}). Expected a model and tokenizer that this version "
            "of transformers can load: check the files, or upgrade transformers."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers for a while; its settings are put back as they were."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
