"""Which shards are whole on disk: what a restarted harvest believes, after checking it."""

import json
import os
from pathlib import Path
from typing import Any

from ..artifact import digest, verify_entries, write_bytes
from ..errors import ArtifactError, StorageError
from ..text import SPLITS


def place(entry: dict[str, Any]) -> tuple[int, int]:
    """Where a shard stands in the store: train first, then by number."""
    return SPLITS.index(entry["split"]), entry["shard"]


def intact(path: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of an entry are what was written."""
    try:
        verify_entries(path, entry["files"])
    except ArtifactError:
        return False
    return True


class Ledger:
    """A file with one line per shard that is whole, each with the checksums of the shard's files.

    Opening it drops the lines that do not hold (any more): their shards have to be made again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        if path.is_file():
            # A line may be cut short, when the process was killed, or damaged: its shard is made again.
            for line in path.read_text(errors="replace").splitlines():
                entry = _unsealed(line)
                if entry is not None and intact(path.parent, entry):
                    self.entries.append(entry)
            self.rewrite()

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line and force it to disk. Raises `StorageError` when the disk refuses."""
        try:
            with open(self.path, "a") as file:
                file.write(_sealed(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"could not write {self.path}: {error.strerror or error}. What was finished is kept: "
                "free some space there, or make it writable, and run the same command with --resume."
            ) from None
        self.entries.append(entry)

    def rewrite(self) -> None:
        """All lines in order: the same bytes, whatever was interrupted."""
        self.entries.sort(key=place)
        write_bytes(self.path, "".join(map(_sealed, self.entries)).encode())


def _sealed(entry: dict[str, Any]) -> str:
    """A line that holds the entry and its checksum."""
    return json.dumps({**entry, "sha256": digest(entry)}) + "\n"


def _unsealed(line: str) -> dict[str, Any] | None:
    """The entry of a line, or None when the line is not what was written."""
    try:
        entry = json.loads(line)
        seal = entry.pop("sha256")
    except (ValueError, AttributeError, KeyError):
        return None
    return entry if digest(entry) == seal else None
