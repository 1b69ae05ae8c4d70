"""Dictionaries on disk: one artifact each, `dictionary.safetensors` beside the manifest.

In the manifest, `config` says what was asked for (it decides whether a directory holds the same
work) and `dictionary` what came out: the method, its plain settings and its provenance. Both are the
same for a dictionary that was saved by hand. Weights hold no times, so saving twice gives equal bytes.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..artifact import MANIFEST, Artifact, Draft, drafting, open_artifact, start, write_tensors
from ..errors import ArtifactError, ConfigurationError, suggest
from .base import Dictionary, Provenance
from .gated import GatedSAE
from .jumprelu import JumpReLUSAE
from .linear import ICADictionary, NeuronDictionary, PCADictionary, RandomDirections
from .nmf import NMFDictionary
from .sae import PAnnealSAE, TiedSAE, UntiedSAE
from .topk import BatchTopKSAE, MatryoshkaSAE, TopKSAE
from .transcoder import TranscoderDictionary

KIND = "dictionary"
CONTAINER = "dictionaries"
WEIGHTS = "dictionary.safetensors"

_FINAL: tuple[type[Dictionary], ...] = (
    *(TiedSAE, UntiedSAE, PAnnealSAE, GatedSAE, JumpReLUSAE),
    *(TopKSAE, BatchTopKSAE, MatryoshkaSAE, TranscoderDictionary),
    *(NeuronDictionary, RandomDirections, PCADictionary, ICADictionary, NMFDictionary),
)
CLASSES: dict[str, type[Dictionary]] = {cls.method: cls for cls in _FINAL}
"""The class that a method's name in a manifest stands for."""


def save_dictionary(
    dictionary: Dictionary,
    out: str | Path,
    *,
    inputs: Mapping[str, str] | None = None,
    resume: bool = False,
) -> Path:
    """Write a dictionary as an artifact; `inputs` maps a role ("activations") to a fingerprint.

    Returns `out`. Raises `ArtifactError` when `out` exists, unless `resume` is set and it holds this
    dictionary; `StorageError` when the disk refuses.

    >>> import tempfile, torch
    >>> sae = TiedSAE(directions=torch.eye(3), encoder_bias=torch.zeros(3))
    >>> folder = tempfile.TemporaryDirectory()
    >>> load_dictionary(save_dictionary(sae, folder.name + "/sae")).n_latents
    3
    """
    draft = start(out, KIND, record(dictionary), dictionary.provenance.seed, inputs, resume)
    if not draft.done:
        with drafting(draft):
            finish(dictionary, draft)
    return draft.out


def record(dictionary: Dictionary) -> dict[str, Any]:
    """What a manifest says about a dictionary, beside its tensors."""
    # Where a dictionary was once loaded from is no part of it: a copy elsewhere is the same one.
    provenance = {**asdict(dictionary.provenance), "path": None}
    return {"method": dictionary.method, "settings": dictionary.settings(), "provenance": provenance}


def finish(dictionary: Dictionary, draft: Draft) -> Artifact:
    """Put a dictionary into an artifact that was started, and seal it."""
    write_tensors(draft.path / WEIGHTS, _apart(dictionary.tensors()))
    return draft.finish(dictionary=record(dictionary))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing memory with another (encoder and directions may): safetensors refuses that."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def load_dictionary(path: str | Path, verify: bool = True) -> Dictionary:
    """Read a dictionary; `provenance.path` says where from.

    Raises `ArtifactError` when the artifact is missing, damaged, of an unknown method, or holds
    several dictionaries (the message lists them).
    """
    artifact = open_artifact(path, verify=False)
    if artifact.kind == CONTAINER:
        raise ArtifactError(f"{path} holds several dictionaries: load one of {', '.join(members(artifact))}.")
    artifact = open_artifact(path, KIND, verify)
    method, settings, provenance = _record(artifact)
    if method not in CLASSES:
        raise ArtifactError(
            f"{path} holds a dictionary of the unknown method {method!r}; this sparsescope knows "
            f"{', '.join(CLASSES)}.{suggest(method, CLASSES)}"
        )
    return _build(CLASSES[method], artifact, settings, provenance)


def members(container: Artifact) -> list[str]:
    """The paths of the dictionaries inside a container, numbered ones in the order of their numbers."""
    names = [file.parent.name for file in container.path.glob(f"*/{MANIFEST}")]
    return [str(container.path / name) for name in sorted(names, key=lambda name: (len(name), name))]


def _record(artifact: Artifact) -> tuple[str, dict[str, Any], dict[str, Any]]:
    found = artifact.manifest.get("dictionary")
    entries = found if isinstance(found, dict) else {}
    method, settings, provenance = (entries.get(name) for name in ("method", "settings", "provenance"))
    if isinstance(method, str) and isinstance(settings, dict) and isinstance(provenance, dict):
        return method, settings, provenance
    raise ArtifactError(
        f"{artifact.path / MANIFEST} does not describe a dictionary (method, settings, provenance): "
        "it is damaged. Make the artifact again."
    )


def _build(
    cls: type[Dictionary], artifact: Artifact, settings: dict[str, Any], provenance: dict[str, Any]
) -> Dictionary:
    """Construct `cls` from exactly the tensors and settings it declares, but for those that came `later`."""
    tensors = artifact.load(WEIGHTS)
    declared = {field.name for field in fields(cls)} - {"provenance"}
    given = tensors.keys() | settings.keys()
    problems = [
        *(f"{name} is missing" for name in sorted(declared - given - set(cls.later))),
        *(f"{name} is not known" for name in sorted(given - declared)),
        *(f"provenance.{name} is not known" for name in sorted(provenance.keys() - asdict(Provenance()).keys())),
        *(f"{name} is given twice" for name in sorted(tensors.keys() & settings.keys())),
    ]
    if problems:
        raise ArtifactError(
            f"{artifact.path} is not a whole {cls.method} dictionary: {'; '.join(problems)}. Make the artifact again."
        )
    origin = Provenance(**{**provenance, "path": str(artifact.path)})
    try:
        return cls(**tensors, **settings, provenance=origin)
    except ConfigurationError as error:
        raise ArtifactError(f"{artifact.path} is not a usable dictionary: {error} Make the artifact again.") from None
