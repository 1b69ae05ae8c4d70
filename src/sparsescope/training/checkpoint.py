"""Checkpoints of an ensemble in training: whole or absent, the last two kept.

`checkpoints/00000500.safetensors` holds every tensor of every member as it was before step 500;
`00000500.json`, written after it, the plain numbers, the length of `metrics.jsonl` at that moment,
and the checksum of the tensors. Without its JSON a checkpoint was never finished and does not count.

This is all that training remembers: the data position is the step, and everything random is a
function of the seed and the step.
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
class Checkpoint:
    """All members as they were before `step`, and how many bytes of records belong to that moment."""

    step: int
    size: int
    members: list[State]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then delete all but the last two. Raises `StorageError`."""
    weights = folder / f"{checkpoint.step:08d}.safetensors"
    tensors: dict[str, Tensor] = {}
    members: list[dict[str, Any]] = []
    for index, state in enumerate(checkpoint.members):
        tensors |= {f"{index}.{name}": tensor for name, tensor in state.tensors.items()}
        members.append(state.numbers)
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
    for index, numbers in enumerate(record["members"]):
        prefix = f"{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        members.append(State(own, numbers))
    return Checkpoint(record["step"], record["size"], members)
