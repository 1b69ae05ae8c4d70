"""The tables of a feature database, and opening its file with all the checks."""

import os
import sqlite3
from pathlib import Path

from ..errors import ArtifactError, StorageError
from .card_schema import CARD_TABLES

FORMAT = 2
"""Format 1 had no cards; it is added to when it is opened for writing."""
APPLICATION = 0x53534644  # "SSFD": tells the file from any other SQLite database
WAIT = 30.0
"""Seconds that a writer waits for another to finish."""

# Text is stored once, in `fragments` and `explanations`; the search tables are indexes over it, kept by triggers.
# `contexts` has row numbers, unlike `scores`: in a table without, bodies of this size would waste half of each page.
SCHEMA = """
CREATE TABLE corpora (
  id INTEGER PRIMARY KEY, split TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL, fragments INTEGER NOT NULL,
  length INTEGER NOT NULL, coverage REAL NOT NULL
);
CREATE TABLE fragments (
  id INTEGER PRIMARY KEY, corpus INTEGER NOT NULL REFERENCES corpora ON DELETE CASCADE, number INTEGER NOT NULL,
  document INTEGER NOT NULL, context INTEGER NOT NULL, start INTEGER NOT NULL, text TEXT NOT NULL,
  ids BLOB NOT NULL, pieces BLOB NOT NULL, UNIQUE (corpus, number)
);
CREATE TABLE dictionaries (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, method TEXT NOT NULL, site TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE latents (
  id INTEGER PRIMARY KEY, dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
  corpus INTEGER NOT NULL REFERENCES corpora ON DELETE CASCADE, latent INTEGER NOT NULL,
  maximum REAL, density REAL, mean REAL, variance REAL, skew REAL, kurtosis REAL, entropy REAL, rankings BLOB,
  UNIQUE (dictionary, corpus, latent)
);
CREATE INDEX latents_by_corpus ON latents (corpus);
CREATE TABLE contexts (
  latent INTEGER NOT NULL REFERENCES latents ON DELETE CASCADE, kind TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (latent, kind)
);
CREATE TABLE explanations (
  id INTEGER PRIMARY KEY, dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
  latent INTEGER NOT NULL, explainer TEXT NOT NULL, text TEXT NOT NULL, body TEXT NOT NULL, skipped TEXT,
  UNIQUE (dictionary, latent, explainer)
);
CREATE TABLE scores (
  dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE, latent INTEGER NOT NULL,
  explainer TEXT NOT NULL, score TEXT NOT NULL, value REAL, skipped TEXT,
  PRIMARY KEY (dictionary, latent, explainer, score)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE fragment_words USING fts5 (text, content='fragments', content_rowid='id');
CREATE TRIGGER fragment_added AFTER INSERT ON fragments BEGIN
  INSERT INTO fragment_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER fragment_removed AFTER DELETE ON fragments BEGIN
  INSERT INTO fragment_words (fragment_words, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE VIRTUAL TABLE explanation_words USING fts5 (text, content='explanations', content_rowid='id');
CREATE TRIGGER explanation_added AFTER INSERT ON explanations BEGIN
  INSERT INTO explanation_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER explanation_removed AFTER DELETE ON explanations BEGIN
  INSERT INTO explanation_words (explanation_words, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to the feature database at `path`, made first where there is none and `create` is set.

    Statements commit by themselves outside an explicit transaction. A database of an earlier format gets
    the tables it lacks, all or none of them. Raises `ArtifactError` for a file that is missing, damaged, no
    feature database or of a later format, `StorageError` when it cannot be made or written.
    """
    if not create and not path.is_file():
        raise ArtifactError(f"there is no feature database at {path}: 'sparsescope explain RUN' makes it.")
    try:
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    except sqlite3.Error as error:
        raise StorageError(f"could not open {path}: {error}. Make its directory, or make it writable.") from error
    try:
        _prepare(connection, path, create)
    except sqlite3.OperationalError as error:
        connection.close()
        raise StorageError(
            f"could not open {path}: {error}. Free some space, or end what else writes to it."
        ) from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise damaged(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection to the feature database at `path` that can write nothing.

    Raises `ArtifactError` for a file that is missing, damaged, no feature database, or of another format.
    """
    if not path.is_file():
        raise ArtifactError(
            f"there is no feature database at {path}: 'sparsescope explore RUN' makes it from a finished run."
        )
    connection = open_to_read(path)
    try:
        version = check(connection, path)
        if version < FORMAT:
            raise ArtifactError(
                f"{path} has format {version}, of before the explorer: 'sparsescope explore RUN' prepares it."
            )
    except (sqlite3.Error, ArtifactError) as error:
        connection.close()
        raise damaged(path, error) if isinstance(error, sqlite3.Error) else error from error
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """The SQLite database at `path`, which may lie where nothing can be written. Raises `StorageError`."""
    # Read-only access to a database in write-ahead mode needs its index file, which only who can write makes.
    frozen = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-shm").exists()
    address = f"{path.resolve().as_uri()}?mode=ro" + ("&immutable=1" if frozen else "")
    try:
        connection = sqlite3.connect(address, uri=True, timeout=WAIT, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        raise StorageError(f"could not open {path}: {error}. Make it readable.") from error
    return connection


def damaged(path: Path, error: sqlite3.Error) -> ArtifactError:
    """What to do about a file that SQLite cannot read."""
    return ArtifactError(
        f"cannot read {path}: {error}. Move it away, and make another with 'sparsescope explain RUN --again'. Keep "
        "it if people have rated: their answers are nowhere else."
    )


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a feature database. Raises `ArtifactError` for another file, or a later format."""
    application, version = (
        connection.execute(f"PRAGMA {key}").fetchone()[0] for key in ("application_id", "user_version")
    )
    if application != APPLICATION:
        raise ArtifactError(f"{path} is not a feature database: choose another file, or delete it.")
    if version > FORMAT:
        raise ArtifactError(f"{path} has format {version}; this sparsescope reads up to {FORMAT}. Upgrade sparsescope.")
    return int(version)


def _prepare(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    """Check what is there, or make the tables that are missing in one transaction."""
    connection.execute("PRAGMA foreign_keys = ON")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if create and not tables:
        connection.execute("PRAGMA journal_mode = WAL")
        marks = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};"
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {CARD_TABLES} {marks} COMMIT;")
    elif check(connection, path) < FORMAT:
        connection.executescript(f"BEGIN IMMEDIATE; {CARD_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
