"""A run opened for looking at it live. Importing this loads no torch: the server does before a model is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from ..explorer.live.lab import Loaded

IMPORTING, READING = 5.0, 300e6
"""Seconds that importing the libraries takes, and bytes of weights read in one, on a small machine."""


def loader(run: str | Path, *, model: str | None = None) -> "Callable[[], Loaded]":
    """What loads the model of a run, and shelves its dictionaries: for `explorer.live.lab.Lab`.

    `model` says where the model lies now, if that is elsewhere than when the run was made. The function raises
    `ArtifactError` for what is no run or another model, `ModelError` when the model cannot be loaded or reads no text.

        loaded = loader("runs/demo")()
        loaded.model.name, list(loaded.dictionaries)
    """

    def load() -> "Loaded":
        from ..activations import load_store
        from ..explorer.live.lab import Loaded
        from .contents import load_run_model
        from .directory import ACTIVATIONS, open_run
        from .shelving import Shelved, dictionaries_of

        artifact = open_run(run, verify=False)
        found = load_run_model(artifact, name=model)
        if found.tokenizer is None:
            raise ModelError(
                f"{found.name} has no tokenizer, so no text can be typed for it: use a model that has one."
            )
        store = load_store(artifact.path / ACTIVATIONS, verify=False)
        return Loaded(
            found, Shelved(dictionaries_of(artifact.path), found.device), str(store.config.get("bos", "auto"))
        )

    return load


def expected_seconds(run: str | Path, *, model: str | None = None) -> float | None:
    """About how long loading the model of a run takes; None where that cannot be told before (a model of the hub)."""
    name = model or _model_of(Path(run))
    if name is None or name.startswith("builtin:"):
        return None if name is None else IMPORTING
    folder = Path(name)
    if not folder.is_dir():
        return None
    return IMPORTING + sum(file.stat().st_size for file in folder.glob("*.safetensors")) / READING


def _model_of(run: Path) -> str | None:
    """The model that the manifest of a run names; None where it cannot be read: loading says why."""
    try:
        return str(json.loads((run / "manifest.json").read_text("utf-8"))["run"]["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
