"""`metrics.jsonl`: what happened to each member, one JSON object per line, no times in it."""

import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ArtifactError, StorageError

FILE = "metrics.jsonl"


class Records:
    """An append-only file of JSON lines that can be cut back to where a checkpoint was made.

    With `path` None nothing is kept. Raises `StorageError` when the disk refuses a write, and
    `ArtifactError` when the file is shorter than a checkpoint says.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def open(self, size: int) -> None:
        """Keep the first `size` bytes of what is there, and go on behind them."""
        if self._path is None:
            return
        found = self._path.stat().st_size if self._path.exists() else 0
        if found < size:
            raise ArtifactError(
                f"{self._path} has {found:,} bytes, but its checkpoint was made at {size:,}: it was cut short. "
                f"Delete {self._path.parent} to start afresh."
            )
        self._file = open(self._path, "r+b" if found else "wb")  # noqa: SIM115 - closed by close()
        self._file.truncate(size)
        self._file.seek(size)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return 0 if self._file is None else self._file.tell()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line. A number that is not finite is written as null: JSON has no word for it."""
        if self._file is not None:
            clean = {key: _plain(value) for key, value in line.items()}
            self._guard(json.dumps(clean, allow_nan=False).encode() + b"\n")

    def flush(self) -> None:
        """Make sure that everything written so far is on the disk."""
        if self._file is not None:
            self._guard(b"")

    def close(self) -> None:
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None

    def _guard(self, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(data)
            if not data:
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(
                f"could not write {self._path}: {error.strerror or error}. What was finished is kept: "
                "free some space and run the same command with --resume."
            ) from None


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
