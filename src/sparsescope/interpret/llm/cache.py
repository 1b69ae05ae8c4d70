"""Answers that were paid for, kept on disk so that none is ever asked for twice."""

import json
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, StorageError

_FORMAT = 1


class Cache:
    """Answers by key, in one SQLite file; in memory only when `path` is None.

    An answer is on disk, whole, before `put` returns: whatever kills the process afterwards, it is there
    again. Several threads, and several processes, may use one file.

    Raises `ArtifactError` for a file that is not such a cache, `StorageError` when the disk refuses.

    >>> cache = Cache(None)
    >>> cache.put("key", {"text": "an answer"})
    >>> cache.get("key"), cache.get("other")
    ({'text': 'an answer'}, None)
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path or ":memory:", timeout=60, check_same_thread=False)
            self.close = weakref.finalize(self, self._connection.close)
            """Let go of the file; it is let go of anyway once nothing refers to the cache."""
            self._open()
        except (sqlite3.OperationalError, OSError) as error:
            raise StorageError(f"cannot open the cache of answers {path}: {error}. Make its folder writable.") from None
        except sqlite3.DatabaseError as error:
            raise ArtifactError(f"{path} is not a cache of answers ({error}): remove it, or name another.") from None

    def _open(self) -> None:
        with self._connection as base:
            version = base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _FORMAT) or (version == 0 and base.execute("SELECT 1 FROM sqlite_master").fetchone()):
                raise ArtifactError(
                    f"{self._path} is an SQLite file of another kind or version ({version}), expected a cache of "
                    f"answers in format {_FORMAT}: name another file."
                )
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = FULL")
            base.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB NOT NULL)")
            base.execute(f"PRAGMA user_version = {_FORMAT}")

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer kept under a key, or None."""
        with self._lock:
            row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(zlib.decompress(row[0]))

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer; one that is there already stays."""
        data = zlib.compress(json.dumps(answer).encode())
        try:
            with self._lock, self._connection as base:
                base.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, data))
        except sqlite3.Error as error:
            raise StorageError(
                f"could not write the cache of answers {self._path}: {error}. What was answered before is kept: "
                "free some space there and run the same command again."
            ) from None

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return self._connection.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        with self._lock:
            return self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]
