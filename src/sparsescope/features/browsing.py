"""Reading a prepared feature database to show it: pages of latents, one latent, search, matches.

Nothing here loads torch, and every query is answered from an index or from one pass over the narrow table of
numbers: a dictionary of 100,000 latents is as quick to page through as one of 1,000.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from typing_extensions import Self

from ..errors import ConfigurationError, StorageError
from . import matched, showing
from .blobs import unpack_flags, unpack_integers, unpack_json
from .card import Card, Detail, Histogram, card_id
from .card_columns import TYPES, chosen_latents
from .overview import Overview
from .reading import FeatureReader, StoredExplanation, StoredLatent, StoredScore
from .schema import connect_to_read, damaged
from .searching import finding, holding, ruling
from .searching.rules import Term, parse
from .showing import Shown

__all__ = ["Chosen", "FeatureBrowser", "Shelf", "Shown"]

COLUMNS = (
    "cards.dictionary, latent, density, maximum, entropy, explainer, explanation, score, label, f1, effect, tokens"
)


@dataclass(frozen=True)
class Shelf:
    """A dictionary and how many latents it has of each kind: all 0 while it is not `prepared`.

    `kind` is "dictionary", or that of the control it belongs to.
    """

    id: int
    name: str
    method: str
    site: str
    kind: str
    n_latents: int
    active: int
    dead: int
    dense: int
    explained: int
    prepared: bool


@dataclass(frozen=True)
class Chosen:
    """Which latents of a dictionary: with all these words, of this kind, and numbers within bounds.

    `show` is one of `card_columns.SHOWN`. Each of `ranges` is (column, low, high), a bound None where there is none;
    a latent whose number is undefined is in no range. All of `terms`, which are of `ruling.SETS`, must hold too.
    """

    words: str = ""
    show: str = "all"
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    terms: tuple[Term, ...] = ()


class FeatureBrowser(FeatureReader):
    """A prepared feature database, open for reading only. One connection: use one object per thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the database at `path`. Raises `ArtifactError` when it is missing, damaged, or of another format."""
        return cls(Path(path), connect_to_read(Path(path)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises `ArtifactError` for a damaged file, `StorageError` while it cannot be read."""
        try:
            return self.connection.execute(query, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        """What to do about an error on the way; a fault of the query is our own, and stays what it is."""
        text = str(error)
        if any(reason in text for reason in ("locked", "unable to open", "disk I/O", "interrupted")):
            return StorageError(f"could not read {self.path}: {error}. Try again in a moment.")
        of_ours = isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError)
        return error if of_ours and "decode" not in text else damaged(self.path, error)

    # What there is

    def shelves(self) -> list[Shelf]:
        """All dictionaries, in the order they were put."""
        rows = self.rows(
            "SELECT id, name, method, site, facts, counts, prepared.dictionary IS NOT NULL FROM dictionaries "
            "LEFT JOIN overviews ON overviews.dictionary = id LEFT JOIN prepared ON prepared.dictionary = id "
            "ORDER BY id"
        )
        return [_shelf(*row) for row in rows]

    def overview(self, dictionary: int) -> Overview:
        """Counts and scatters of a dictionary. Raises `ConfigurationError` when it was not prepared."""
        row = self.rows("SELECT counts, scatter FROM overviews WHERE dictionary = ?", (dictionary,))
        if not row:
            raise ConfigurationError(f"dictionary {dictionary} was not prepared: 'sparsescope explore RUN' does it.")
        scatters = {name: [tuple(point) for point in points] for name, points in json.loads(row[0][1]).items()}
        return Overview(json.loads(row[0][0]), scatters)

    def texts(self, ids: Iterable[int]) -> list[str]:
        """The text of token ids; "" for one that the vocabulary does not have."""
        wanted = [int(number) for number in ids]
        found: dict[int, str] = {}
        distinct = sorted(set(wanted))
        for begin in range(0, len(distinct), 500):
            part = distinct[begin : begin + 500]
            marks = ", ".join("?" * len(part))
            found.update(self.rows(f"SELECT id, text FROM vocabulary WHERE id IN ({marks})", part))
        return [found.get(number, "") for number in wanted]

    # A table of latents

    def cards(
        self,
        dictionary: int,
        chosen: Chosen = Chosen(),
        *,
        sort: str = "latent",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> list[Card]:
        """A page of latents, sorted by a column; undefined values come last either way, and ties go by latent.

        Raises `ConfigurationError` for what cannot be sorted or chosen by.
        """
        return self.page(dictionary, chosen, sort=sort, descending=descending, offset=offset, limit=limit)[0]

    def page(
        self,
        dictionary: int,
        chosen: Chosen = Chosen(),
        *,
        sort: str = "latent",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[list[Card], int]:
        """As `cards`, with how many latents are chosen in all."""
        latents = self.ordered(dictionary, chosen, sort, descending)
        page = latents[max(0, offset) : max(0, offset) + max(0, limit)]
        return self.cards_at([card_id(dictionary, latent) for latent in page.tolist()]), len(latents)

    def count(self, dictionary: int, chosen: Chosen = Chosen()) -> int:
        """How many latents are chosen. Raises as `cards`."""
        return len(self.ordered(dictionary, chosen, "latent", False))

    def ordered(
        self, dictionary: int, chosen: Chosen, sort: str = "latent", descending: bool = False
    ) -> Int64[np.ndarray, " latent"]:
        """All chosen latents in the order of `cards`, without their cards. Raises as `cards`."""
        terms = chosen.terms
        if chosen.words.strip():
            terms = (Term("words", ":", chosen.words), *terms)
        having = ruling.having_terms(self, terms, dictionary) if terms else None
        return chosen_latents(lambda name: self.column(dictionary, name), chosen, having, sort, descending)

    def column(self, dictionary: int, name: str) -> np.ndarray:
        """A column of `card_columns.TYPES`, by latent: nothing for a dictionary that was not prepared."""
        rows = self.rows("SELECT body FROM card_columns WHERE dictionary = ? AND name = ?", (dictionary, name))
        return np.frombuffer(rows[0][0] if rows else b"", TYPES[name])

    def card(self, dictionary: int, latent: int) -> Card | None:
        """The card of one latent, None where there is no such latent."""
        if not 0 <= latent < 1 << 32:
            return None
        found = self.cards_at([card_id(dictionary, latent)])
        return found[0] if found else None

    def cards_at(self, numbers: Sequence[int]) -> list[Card]:
        """The cards with these ids, in this order; those that do not exist are left out."""
        query = f"SELECT {COLUMNS} FROM cards JOIN card_bodies USING (id) WHERE id = ?"
        return [_card(row) for number in numbers for row in self.rows(query, (number,))]

    # One latent

    def detail(self, dictionary: int, latent: int) -> Detail:
        """What only the latent's own page shows: all None for a latent that does not exist."""
        query = "SELECT histogram, firing, effects FROM card_bodies WHERE id = ?"
        for histogram, firing, effect in self.rows(query, (card_id(dictionary, latent),)):
            return Detail(
                None if histogram is None else _histogram(histogram),
                None if firing is None else unpack_flags(firing),
                None if effect is None else unpack_json(effect),
            )
        return Detail()

    def statistics(self, dictionary: int, latent: int, split: str = "test") -> StoredLatent | None:
        """What was gathered about one latent on a split."""
        for row in self.rows(
            "SELECT latent, split, maximum, density, mean, variance, skew, kurtosis, entropy, rankings FROM latents "
            "JOIN corpora ON corpora.id = corpus WHERE dictionary = ? AND split = ? AND latent = ?",
            (dictionary, split, latent),
        ):
            rankings = {} if row[-1] is None else unpack_json(row[-1])
            return StoredLatent(*(*row[:-1], rankings))
        return None

    def explanations_of(self, dictionary: int, latent: int) -> list[StoredExplanation]:
        """What every explainer said of one latent, or why it said nothing."""
        rows = self.rows(
            "SELECT latent, explainer, text, body, skipped FROM explanations WHERE dictionary = ? AND latent = ? "
            "ORDER BY explainer",
            (dictionary, latent),
        )
        return [StoredExplanation(a, b, text, json.loads(body), skipped) for a, b, text, body, skipped in rows]

    def scores_of(self, dictionary: int, latent: int) -> list[StoredScore]:
        """All scores of one latent, by explainer and score."""
        rows = self.rows(
            "SELECT latent, explainer, score, value, skipped FROM scores WHERE dictionary = ? AND latent = ? "
            "ORDER BY explainer, score",
            (dictionary, latent),
        )
        return [StoredScore(*row) for row in rows]

    def shown(self, dictionary: int, latent: int, kind: str = "top", limit: int | None = None) -> list[Shown]:
        """The contexts of a latent on the test split, in the order they are stored: top ones strongest first."""
        return showing.shown(self, dictionary, latent, kind, limit)

    def shown_quantiles(self, dictionary: int, latent: int, parts: int = 5, each: int = 4) -> list[list[Shown]]:
        """Contexts by activation quantile, strongest first, at most `each` of each part, evenly from it.

        The active fragments were drawn uniformly, so each part is a draw from that quantile of them all.
        """
        return showing.shown_quantiles(self, dictionary, latent, parts, each)

    def apart(self, dictionary: int, latent: int, other: int, limit: int = 3) -> list[Shown]:
        """The strongest stored contexts of `latent` on which `other`, of the same dictionary, is silent."""
        return showing.apart(self, dictionary, latent, other, limit)

    def fragment(self, corpus: int, number: int) -> tuple[int, list[int], list[str]]:
        """Document, token ids and the text of each token of a fragment of a corpus."""
        return self._fragment(corpus, number)

    # Search

    def by_words(self, text: str, dictionary: int | None = None, limit: int = 50) -> list[Card]:
        """Latents whose explanation, tokens and label together hold all these words; see `holding.by_words`."""
        return holding.by_words(self, text, dictionary, limit)

    def by_token(self, text: str, dictionary: int | None = None, limit: int = 50) -> list[tuple[Card, float]]:
        """Latents that respond to a token, with its share of their activation; see `finding.by_token`."""
        return finding.by_token(self, text, dictionary, limit)

    def by_rule(self, rule: str, dictionary: int | None = None, limit: int = 50) -> list[Card]:
        """Latents of which all terms of a rule hold; see `rules` and `ruling.by_terms`.

        Raises `ConfigurationError` for a rule that is not understood.
        """
        return [card for card, _ in self.by_terms(parse(rule), dictionary, limit)]

    def by_terms(
        self, terms: Sequence[Term], dictionary: int | None = None, limit: int = 50
    ) -> list[tuple[Card, float | None]]:
        """The same for terms that were read already, with the share of each on the tokens of the rule."""
        return ruling.by_terms(self, terms, dictionary, limit)

    def contexts_with(
        self, text: str, limit: int = 20, dictionaries: Sequence[int] | None = None
    ) -> list[finding.FoundContext]:
        """Fragments that hold all these words, and the latents that they are among the strongest of; see `finding`."""
        return finding.contexts_with(self, text, limit, dictionaries)

    # Matches

    def matched(self, first: int, second: int) -> matched.Matched | None:
        """The one-to-one match of two dictionaries, None where there is none; it works in both orders."""
        return matched.matched(self, first, second)

    def counterparts(self, dictionary: int, latent: int) -> list[tuple[int, int, float]]:
        """The latents of other dictionaries that one is matched with: (dictionary, latent, cosine), closest first."""
        return matched.counterparts(self, dictionary, latent)


def _shelf(number: int, name: str, method: str, site: str, facts: str, counts: str | None, prepared: int) -> Shelf:
    kind = str(json.loads(facts).get("kind", "dictionary"))
    found = json.loads(counts) if counts else {}
    numbers = (found.get(key, 0) for key in ("latents", "active", "dead", "dense", "explained"))
    return Shelf(number, name, method, site, kind, *(*numbers, bool(prepared)))


def _card(row: tuple[Any, ...]) -> Card:
    tokens = tuple((text, share) for text, share in json.loads(row[-1]))
    return Card(*(*row[:-1], tokens))


def _histogram(body: bytes) -> Histogram:
    numbers = unpack_integers(body)
    return Histogram(numbers[2:], int(numbers[0]), int(numbers[1]))
