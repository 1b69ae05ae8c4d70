"""Checkpoints of an ensemble in training: whole or absent, the last two kept.

`checkpoints/00000500.safetensors` holds every tensor of every member as it was before step 500;
`00000500.json`, written after it, the plain numbers, the length of `metrics.jsonl` at that moment,
and the checksum of the tensors. Without its JSON a checkpoint was never finished and does not count.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..artifact import checksum, load_tensors, read_json, write_json, write_tensors
from ..errors import ArtifactError
from .member import State

FOLDER = "checkpoints"
KEPT = 2


@dataclass
class Saved:
    """One member at a checkpoint: its state, how often it was rolled back since the last good one,
    and that last good state where it is an older one (None: `state` itself is good)."""

    state: State
    failures: int
    older: State | None = None


@dataclass
class Checkpoint:
    """All members as they were before `step`, and how many bytes of records belong to that moment."""

    step: int
    size: int
    members: list[Saved]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then delete all but the last two. Raises `StorageError`."""
    weights = folder / f"{checkpoint.step:08d}.safetensors"
    tensors: dict[str, Tensor] = {}
    members: list[dict[str, Any]] = []
    for index, saved in enumerate(checkpoint.members):
        entry: dict[str, Any] = {"state": saved.state.numbers, "failures": saved.failures, "older": None}
        tensors |= _named(f"{index}.state.", saved.state)
        if saved.older is not None:
            entry["older"] = saved.older.numbers
            tensors |= _named(f"{index}.older.", saved.older)
        members.append(entry)
    write_tensors(weights, tensors)
    record = {"step": checkpoint.step, "size": checkpoint.size, "sha256": checksum(weights), "members": members}
    write_json(weights.with_suffix(".json"), record)
    for old in sorted(folder.glob("*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None where there is none at all.

    Raises `ArtifactError` when there are some and every one of them is damaged.
    """
    problems = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            return _read(path)
        except (ArtifactError, KeyError, TypeError) as error:
            problems.append(f"{path.name}: {error}")
    if problems:
        raise ArtifactError(
            f"no checkpoint in {folder} can be used ({'; '.join(problems)}): delete {folder.parent} to start afresh."
        )
    return None


def _read(path: Path) -> Checkpoint:
    record = read_json(path)
    weights = path.with_suffix(".safetensors")
    if not weights.is_file() or checksum(weights) != record["sha256"]:
        raise ArtifactError(f"{weights} is missing or has a wrong checksum.")
    tensors = load_tensors(weights)
    members = []
    for index, entry in enumerate(record["members"]):
        state = State(_under(f"{index}.state.", tensors), entry["state"])
        older = None if entry["older"] is None else State(_under(f"{index}.older.", tensors), entry["older"])
        members.append(Saved(state, entry["failures"], older))
    return Checkpoint(record["step"], record["size"], members)


def _named(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
