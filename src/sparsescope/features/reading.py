"""Reading a feature database: rows as plain records, and search."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32

from ..errors import ConfigurationError, suggest
from .blobs import unpack_codes, unpack_integers, unpack_json
from .searching.words import plain, query_of


@dataclass(frozen=True)
class StoredDictionary:
    """A dictionary: its number in the database, and what `put_dictionary` was told."""

    id: int
    name: str
    method: str
    site: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class StoredLatent:
    """Statistics of one latent on one split; None where a number is undefined.

    `rankings` has what `Statistics` has, by name: "tokens", "raised", "lowered", "alike" and "together",
    each a list of numbers and a list of values; it is empty where no statistics were stored.
    """

    latent: int
    split: str
    maximum: float
    density: float
    mean: float
    variance: float
    skew: float | None
    kurtosis: float | None
    entropy: float | None
    rankings: Mapping[str, tuple[list[int], list[float]]]


@dataclass(frozen=True, eq=False)
class StoredContext:
    """A fragment with the codes of one latent: `pieces` is the text of each token, which together are its text."""

    fragment: int
    document: int
    ids: list[int]
    pieces: list[str]
    codes: Float32[np.ndarray, " token"]


@dataclass(frozen=True)
class StoredExplanation:
    """An explanation, or the reason in `skipped` why there is none."""

    latent: int
    explainer: str
    text: str
    body: Mapping[str, Any]
    skipped: str | None


@dataclass(frozen=True)
class StoredScore:
    """A score, or the reason in `skipped` why `value` is None."""

    latent: int
    explainer: str
    score: str
    value: float | None
    skipped: str | None


@dataclass(frozen=True)
class FoundFragment:
    """A fragment that a search found."""

    split: str
    fragment: int
    document: int
    text: str


@dataclass(frozen=True)
class FoundExplanation:
    """An explanation that a search found."""

    dictionary: str
    latent: int
    explainer: str
    text: str


class FeatureReader:
    """The reading half of `FeatureDatabase`. Dictionaries are named by their number, `StoredDictionary.id`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def dictionaries(self) -> list[StoredDictionary]:
        """All dictionaries, in the order they were put."""
        rows = self.connection.execute("SELECT id, name, method, site, facts FROM dictionaries ORDER BY id")
        return [StoredDictionary(i, name, method, site, json.loads(facts)) for i, name, method, site, facts in rows]

    def dictionary(self, name: str) -> StoredDictionary:
        """The dictionary of that name. Raises `ConfigurationError` when there is none."""
        found = {each.name: each for each in self.dictionaries()}
        if name not in found:
            known = ", ".join(found) or "none"
            raise ConfigurationError(
                f"there is no dictionary {name!r} in the feature database: it has {known}.{suggest(name, found)}"
            )
        return found[name]

    def latents(self, dictionary: int, split: str = "test") -> list[StoredLatent]:
        """What was gathered about a dictionary's latents on one split, by latent."""
        rows = self.connection.execute(
            "SELECT latent, split, maximum, density, mean, variance, skew, kurtosis, entropy, rankings "
            "FROM latents JOIN corpora ON corpora.id = corpus WHERE dictionary = ? AND split = ? ORDER BY latent",
            (dictionary, split),
        )
        return [StoredLatent(*(*row[:-1], {} if row[-1] is None else unpack_json(row[-1]))) for row in rows]

    def contexts(self, dictionary: int, latent: int, kind: str = "top", split: str = "test") -> list[StoredContext]:
        """The fragments kept for a latent, with its codes: the "top", "active" or "random" ones.

        Top ones are in descending order of their largest code. None are found for a latent not stored.
        """
        row = self.connection.execute(
            "SELECT body, maximum, corpora.length, corpora.id FROM contexts "
            "JOIN latents ON latents.id = contexts.latent JOIN corpora ON corpora.id = corpus "
            "WHERE dictionary = ? AND latents.latent = ? AND kind = ? AND split = ?",
            (dictionary, latent, kind, split),
        ).fetchone()
        if row is None:
            return []
        body, maximum, length, corpus = row
        numbers, codes = unpack_codes(body, maximum, length)
        found = []
        for number, values in zip(numbers.tolist(), codes, strict=True):
            document, ids, pieces = self._fragment(corpus, number)
            found.append(StoredContext(number, document, ids, pieces, values[: len(ids)]))
        return found

    def quantiles(self, dictionary: int, latent: int, parts: int = 5, split: str = "test") -> list[list[StoredContext]]:
        """Contexts by activation quantile, strongest first: the active fragments below the top ones in equal parts.

        The active fragments were drawn uniformly, so each part is a draw from that quantile of them all.
        """
        drawn = self.contexts(dictionary, latent, "active", split)
        ranked = sorted(drawn, key=lambda context: (-float(context.codes.max()), context.fragment))
        edges = [round(part * len(ranked) / parts) for part in range(parts + 1)]
        return [ranked[begin:end] for begin, end in pairwise(edges)]

    def _fragment(self, corpus: int, number: int) -> tuple[int, list[int], list[str]]:
        """Document, token ids and pieces of a fragment."""
        document, text, ids, lengths = self.connection.execute(
            "SELECT document, text, ids, pieces FROM fragments WHERE corpus = ? AND number = ?", (corpus, number)
        ).fetchone()
        ends = np.cumsum(unpack_integers(lengths)).tolist()
        pieces = [text[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        return document, unpack_integers(ids).tolist(), pieces

    def explanations(self, dictionary: int) -> list[StoredExplanation]:
        """All explanations of a dictionary's latents, by latent and explainer."""
        rows = self.connection.execute(
            "SELECT latent, explainer, text, body, skipped FROM explanations WHERE dictionary = ? "
            "ORDER BY latent, explainer",
            (dictionary,),
        )
        return [StoredExplanation(a, b, text, json.loads(body), skipped) for a, b, text, body, skipped in rows]

    def scores(self, dictionary: int) -> list[StoredScore]:
        """All scores of a dictionary's latents, by latent, explainer and score."""
        rows = self.connection.execute(
            "SELECT latent, explainer, score, value, skipped FROM scores WHERE dictionary = ? "
            "ORDER BY latent, explainer, score",
            (dictionary,),
        )
        return [StoredScore(*row) for row in rows]

    def search(self, text: str, limit: int = 50) -> list[FoundFragment]:
        """Fragments that hold all the words of `text`, best match first; without a word in it, that very text.

        Nothing in `text` is an operator: quotes, stars and keywords are only what they are.
        """
        rows = self._found(
            text, limit, "fragment_words", "fragments", "split, number, document, text", "corpora", "corpus"
        )
        return [FoundFragment(*row) for row in rows]

    def search_explanations(self, text: str, limit: int = 50) -> list[FoundExplanation]:
        """Explanations that hold all the words of `text`, best match first; see `search`."""
        columns = "name, latent, explainer, text"
        rows = self._found(text, limit, "explanation_words", "explanations", columns, "dictionaries", "dictionary")
        return [FoundExplanation(*row) for row in rows]

    def _found(
        self, text: str, limit: int, index: str, table: str, columns: str, owners: str, owner: str
    ) -> list[tuple[Any, ...]]:
        """Rows of `table` joined to what they belong to; the names are ours, only `text` is somebody's."""
        words = query_of(text)
        if words:
            # The search table has a column "text" too, so it is joined by its row numbers alone.
            match = f"(SELECT rowid AS found, rank AS place FROM {index} WHERE {index} MATCH ? ORDER BY rank LIMIT ?)"
            query = (
                f"SELECT {columns} FROM {match} JOIN {table} ON {table}.id = found "
                f"JOIN {owners} ON {owners}.id = {owner} ORDER BY place, found"
            )
            return self.connection.execute(query, (words, limit)).fetchall()
        if not text.strip():
            return []
        query = (
            f"SELECT {columns} FROM {table} JOIN {owners} ON {owners}.id = {owner} "
            f"WHERE instr(text, ?) ORDER BY {table}.id LIMIT ?"
        )
        return self.connection.execute(query, (plain(text).strip(), limit)).fetchall()
