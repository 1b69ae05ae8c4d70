"""The feature database of a run: what was found out about its latents, in one SQLite file.

    corpora ── fragments (tokens and text, once) ── fragment_words (search)
       │
    latents (statistics, per dictionary and corpus) ── contexts (fragments by number, codes)
       │
    dictionaries ── explanations ── explanation_words (search)
               └─── scores                                           answers of people: `ratings.Ratings`

The file is in write-ahead mode: readers see whole transactions, and never wait for a writer. Text comes
from corpora and from language models and is returned as it is: whoever shows it must escape it.
"""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from ..errors import ConfigurationError, StorageError
from .blobs import pack_codes, pack_integers, pack_json
from .fragments import Fragments
from .gathering import Drawn, Gathered
from .ratings import Ratings
from .reading import FeatureReader
from .schema import connect, damaged
from .searching.words import storable
from .statistics import Ranked, Statistics

KINDS = ("top", "active", "random")
_TEXTS = 512  # fragments whose text is made at a time


class FeatureDatabase(FeatureReader):
    """A feature database, open for reading and writing. One connection: use one object per thread.

    >>> with FeatureDatabase.create(":memory:") as database, database.transaction():
    ...     number = database.put_dictionary("sae", "topk", "resid_post.2")
    ...     database.put_explanations(number, "rules", {7: ("the word 'stop'", {"tokens": [31]})})
    ...     [found.latent for found in database.search_explanations("stop")]
    [7]
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.path = path

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Open the database at `path`, made first if there is none. Raises as `open`, or `StorageError`."""
        return cls(Path(path), connect(Path(path), create=True))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing database. Raises `ArtifactError` when it is missing, damaged or of a later format."""
        return cls(Path(path), connect(Path(path), create=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close it. What SQLite could not make sense of on the way becomes an `ArtifactError`."""
        self.close()
        faults_of_ours = sqlite3.IntegrityError, sqlite3.ProgrammingError
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, faults_of_ours):
            raise damaged(self.path, error) from error

    def close(self) -> None:
        self.connection.close()

    def ratings(self) -> Ratings:
        """What people answered. It is kept by name of dictionary, so it outlives a dictionary put again."""
        return Ratings(self.connection)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is put inside is seen by others at once, at the end, or never. One inside another is part of it.

        Raises `StorageError` when the disk refuses, or another process writes for too long.
        """
        if self.connection.in_transaction:
            yield
            return
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"could not write {self.path}: {error}. Nothing of the last step was kept: free some space, or end "
                "what else writes to it, and run the same command again."
            ) from error

    def put_corpus(self, fragments: Fragments, tokenizer: Any) -> int:
        """Store the tokens and text of the fragments of a split, unless they are there; the number of the corpus.

        There is one corpus for each split. Other fragments replace it, and everything gathered on it goes
        too: put the dictionaries in the same transaction, and no reader sees the gap.
        """
        fingerprint = _fingerprint(fragments)
        found = self.connection.execute(
            "SELECT id, fingerprint FROM corpora WHERE split = ?", (fragments.split,)
        ).fetchone()
        if found is not None and found[1] == fingerprint:
            return int(found[0])
        with self.transaction():
            self.connection.execute("DELETE FROM corpora WHERE split = ?", (fragments.split,))
            row = (fragments.split, fingerprint, len(fragments), fragments.ids.shape[1], fragments.coverage)
            insert = "INSERT INTO corpora (split, fingerprint, fragments, length, coverage) VALUES (?, ?, ?, ?, ?)"
            corpus = int(self.connection.execute(insert, row).lastrowid or 0)
            self.connection.executemany(
                "INSERT INTO fragments (corpus, number, document, context, start, text, ids, pieces) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ((corpus, *row) for row in _fragment_rows(fragments, tokenizer)),
            )
        return corpus

    def put_dictionary(
        self, name: str, method: str, site: str, facts: Mapping[str, Any] | None = None, *, keep: bool = False
    ) -> int:
        """Begin a dictionary, in the place of one with the same name; its number. `facts` is any JSON.

        With `keep`, one that is there with the same method, site and facts is gone on with instead. Raises
        `ConfigurationError` outside a transaction, where readers would see it without its latents.
        """
        if not self.connection.in_transaction:
            raise ConfigurationError(
                f"the dictionary {name!r} was put outside a transaction: put it, and all that belongs to it, inside "
                "`with database.transaction():`."
            )
        row = (storable(name), method, site, json.dumps(dict(facts or {})))
        same = "SELECT id FROM dictionaries WHERE (name, method, site, facts) = (?, ?, ?, ?)"
        if keep and (found := self.connection.execute(same, row).fetchone()) is not None:
            return int(found[0])
        self.connection.execute("DELETE FROM dictionaries WHERE name = ?", row[:1])
        insert = "INSERT INTO dictionaries (name, method, site, facts) VALUES (?, ?, ?, ?)"
        return int(self.connection.execute(insert, row).lastrowid or 0)

    def forget(self, dictionary: int, explainer: str) -> None:
        """Delete what an explainer said of a dictionary's latents, and its scores."""
        with self.transaction():
            for table in ("explanations", "scores"):
                row = dictionary, explainer
                self.connection.execute(f"DELETE FROM {table} WHERE dictionary = ? AND explainer = ?", row)

    def put_latents(
        self, dictionary: int, gathered: Gathered, statistics: Statistics | None = None, *, keep: bool = False
    ) -> None:
        """Store what was gathered about a dictionary's latents, whose fragments `put_corpus` has stored.

        What was stored on the same corpus is replaced; with `keep` it stays, and other latents are added.
        Raises `ConfigurationError` when the fragments are not stored, or differ.
        """
        split = gathered.fragments.split
        found = self.connection.execute("SELECT id, fingerprint FROM corpora WHERE split = ?", (split,)).fetchone()
        if found is None or found[1] != _fingerprint(gathered.fragments):
            raise ConfigurationError(
                f"the fragments of the {split} split on which {gathered.name!r} was gathered are not in {self.path}: "
                "store them with put_corpus first."
            )
        owner = dictionary, int(found[0])
        with self.transaction():
            if not keep:
                self.connection.execute("DELETE FROM latents WHERE dictionary = ? AND corpus = ?", owner)
            there = self.connection.execute("SELECT latent FROM latents WHERE dictionary = ? AND corpus = ?", owner)
            stored = {number for (number,) in there}
            for place, latent in enumerate(gathered.latents.tolist()):
                if latent not in stored:
                    self._put_latent(owner, gathered, statistics, place)

    def _put_latent(
        self, owner: tuple[int, int], gathered: Gathered, statistics: Statistics | None, place: int
    ) -> None:
        maximum = float(gathered.maximum[place])
        moments = gathered.moments
        facts = [maximum, gathered.density[place]]
        facts += [column[place] for column in (moments.mean, moments.variance, moments.skew, moments.kurtosis)]
        facts.append(math.nan if statistics is None else statistics.entropy[place])
        cursor = self.connection.execute(
            "INSERT INTO latents (dictionary, corpus, latent, maximum, density, mean, variance, skew, kurtosis, "
            "entropy, rankings) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*owner, int(gathered.latents[place]), *map(_number, facts), packed_rankings(statistics, place)),
        )
        for kind in KINDS:
            drawn: Drawn = getattr(gathered, kind)
            numbers, codes = drawn.of(place)
            body = pack_codes(numbers, codes, maximum)
            self.connection.execute("INSERT INTO contexts VALUES (?, ?, ?)", (cursor.lastrowid, kind, body))

    def put_explanations(
        self,
        dictionary: int,
        explainer: str,
        explanations: Mapping[int, tuple[str, Mapping[str, Any]]],
        skipped: Mapping[int, str] | None = None,
    ) -> None:
        """Store (text, body) by latent, and for latents without an explanation why; earlier ones are replaced."""
        rows: list[tuple[Any, ...]] = [
            (latent, storable(text), json.dumps(dict(body)), None) for latent, (text, body) in explanations.items()
        ]
        rows += [(latent, "", "{}", reason) for latent, reason in (skipped or {}).items()]
        with self.transaction():
            # Deleted rather than replaced: SQLite's REPLACE does not run the triggers that keep the index.
            self.connection.executemany(
                "DELETE FROM explanations WHERE dictionary = ? AND explainer = ? AND latent = ?",
                ((dictionary, explainer, int(row[0])) for row in rows),
            )
            self.connection.executemany(
                "INSERT INTO explanations (dictionary, explainer, latent, text, body, skipped) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                ((dictionary, explainer, int(latent), *row) for latent, *row in rows),
            )

    def put_scores(self, dictionary: int, explainer: str, score: str, values: Mapping[int, float | str]) -> None:
        """Store one score by latent: a number, or the reason why there is none. Earlier ones are replaced."""
        rows: Iterable[tuple[Any, ...]] = (
            (dictionary, int(latent), explainer, score, *((None, v) if isinstance(v, str) else (_number(v), None)))
            for latent, v in values.items()
        )
        with self.transaction():
            self.connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)


def _fragment_rows(fragments: Fragments, tokenizer: Any) -> Iterator[tuple[Any, ...]]:
    """Number, document, context, start, text, ids and lengths of pieces of every fragment."""
    for begin in range(0, len(fragments), _TEXTS):
        numbers = range(begin, min(begin + _TEXTS, len(fragments)))
        for number, pieces in zip(numbers, fragments.texts(tokenizer, numbers), strict=True):
            places = (int(column[number]) for column in (fragments.document, fragments.context, fragments.start))
            ids = fragments.ids[number, : fragments.length[number]]
            texts = [storable(piece) for piece in pieces]
            yield number, *places, "".join(texts), pack_integers(ids), pack_integers([len(text) for text in texts])


def packed_rankings(statistics: Statistics | None, place: int) -> bytes | None:
    """The rankings of one latent: {name: [numbers, values]}, values to four digits."""
    if statistics is None:
        return None
    found: dict[str, Any] = {}
    for name in ("tokens", "raised", "lowered", "alike", "together"):
        ranked: Ranked | None = getattr(statistics, name)
        if ranked is not None:
            numbers, values = ranked.of(place)
            found[name] = [numbers, [float(f"{value:.4g}") for value in values]]
    return pack_json(found)


def _fingerprint(fragments: Fragments) -> str:
    """SHA-256 over what tells fragments from others."""
    state = hashlib.sha256(f"{fragments.split} {fragments.ids.shape}".encode())
    for column in (fragments.ids, fragments.context, fragments.start, fragments.length, fragments.document):
        state.update(np.ascontiguousarray(column).tobytes())
    return state.hexdigest()


def _number(value: Any) -> float | None:
    """A number as SQLite stores it: what is not finite is absent."""
    return float(value) if math.isfinite(value) else None
