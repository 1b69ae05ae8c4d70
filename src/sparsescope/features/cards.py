"""Writing the cards of a dictionary, and what else is looked up to show every latent of a run at once.

Everything is written inside a transaction of the feature database, so that readers see all of it or nothing.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ..errors import ConfigurationError
from .blobs import pack_codes, pack_flags, pack_integers, pack_json, unpack_codes
from .card import BINS, DENSE, Card, Detail, Histogram, card_id, cards_of
from .card_columns import put_columns
from .matched import TYPES
from .overview import overview_of
from .searching.affirming import affirmed
from .searching.words import bare, storable

if TYPE_CHECKING:  # the database needs torch, and who only reads must not
    from .database import FeatureDatabase
    from .reading import FeatureReader

__all__ = [
    "BINS",
    "DENSE",
    "Card",
    "Detail",
    "Histogram",
    "is_prepared",
    "mark_prepared",
    "preparation",
    "put_cards",
    "put_matches",
    "put_overview",
    "put_simulations",
    "put_vocabulary",
]

STRONGEST = 5
"""So many of a latent's strongest fragments are found from the fragment."""


def put_cards(
    database: "FeatureDatabase",
    dictionary: int,
    cards: Sequence[Card],
    details: Sequence[Detail],
    *,
    keep: bool = False,
) -> None:
    """Store the cards of a dictionary, one `Detail` for each, in place of all that it had; with `keep`, beside them.

    The shares of tokens, and which latents a fragment is among the strongest of (from the "top" contexts that
    `put_latents` stored on the test split), are stored with them. Raises `ConfigurationError` for lists that
    do not fit together, cards of another dictionary, or an explanation without an explainer.
    """
    _check(dictionary, cards, details)
    with database.transaction():
        execute = database.connection.execute
        if not keep:
            for table in ("card_bodies", "cards"):
                execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", cards_of(dictionary))
            for table in ("token_shares", "strongest"):
                execute(f"DELETE FROM {table} WHERE dictionary = ?", (dictionary,))
        put_columns(database, dictionary, cards, keep=keep)
        many = database.connection.executemany
        many("INSERT INTO cards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_numbers, cards))
        many(
            "INSERT INTO card_bodies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (_body(card, detail) for card, detail in zip(cards, details, strict=True)),
        )
        _put_tokens(database, cards)
        _put_strongest(database, dictionary, [card.latent for card in cards])


def put_vocabulary(database: "FeatureDatabase", texts: Iterable[str]) -> None:
    """Store the text of every token id, from 0 on, in place of those stored."""
    with database.transaction():
        database.connection.execute("DELETE FROM vocabulary")
        rows = ((number, storable(text)) for number, text in enumerate(texts))
        database.connection.executemany("INSERT INTO vocabulary VALUES (?, ?)", rows)


def put_simulations(
    database: "FeatureDatabase",
    dictionary: int,
    kind: str,
    predicted: Mapping[int, Float[np.ndarray, "n position"]],
    split: str = "test",
) -> None:
    """Store, by latent, what its explanation predicts on its contexts of a kind, in the order of those contexts.

    In units of the code: a predicted level of 0 to 10, divided by 10, times the maximum. Predictions for
    positions behind the end of a fragment are 0. Raises `ConfigurationError` for a latent without such
    contexts, or predictions of another shape.
    """
    with database.transaction():
        for latent, codes in predicted.items():
            row = database.connection.execute(
                "SELECT latents.id, body, maximum, corpora.length FROM latents "
                "JOIN contexts ON contexts.latent = latents.id JOIN corpora ON corpora.id = corpus "
                "WHERE dictionary = ? AND latents.latent = ? AND kind = ? AND split = ?",
                (dictionary, int(latent), kind, split),
            ).fetchone()
            if row is None:
                raise ConfigurationError(
                    f"latent {latent} has no {kind} contexts on the {split} split: store them with put_latents first."
                )
            owner, body, maximum, length = row
            numbers, _ = unpack_codes(body, maximum, length)
            if codes.shape != (len(numbers), length):
                raise ConfigurationError(
                    f"predictions of shape {codes.shape} were given for the {kind} contexts of latent {latent}: "
                    f"expected {(len(numbers), length)}, a row for each context."
                )
            database.connection.execute(
                "INSERT OR REPLACE INTO simulations VALUES (?, ?, ?)",
                (owner, kind, pack_codes(numbers, codes, maximum)),
            )


def put_matches(database: "FeatureDatabase", first: int, second: int, pairs: Iterable[tuple[int, int, float]]) -> None:
    """Store the one-to-one match of two dictionaries: (latent of the first, latent of the second, cosine).

    Earlier ones are replaced; it can be read in either order. Raises `ConfigurationError` for a latent that
    is in two pairs.
    """
    rows = sorted(pairs) if first < second else sorted((other, latent, cosine) for latent, other, cosine in pairs)
    columns = [np.array([row[place] for row in rows], kind) for place, kind in enumerate(TYPES)]
    if any(len(np.unique(column)) < len(rows) for column in columns[:2]):
        raise ConfigurationError("a latent is in two pairs: a match is one to one.")
    with database.transaction():
        database.connection.execute(
            "INSERT OR REPLACE INTO matches VALUES (?, ?, ?, ?, ?)",
            (min(first, second), max(first, second), *(column.tobytes() for column in columns)),
        )


def put_overview(database: "FeatureDatabase", dictionary: int) -> None:
    """Store the counts and the scatter of a dictionary, computed from its cards."""
    with database.transaction():
        rows = database.connection.execute(
            "SELECT latent, density, score, f1, effect, explained FROM cards WHERE id BETWEEN ? AND ? ORDER BY id",
            cards_of(dictionary),
        ).fetchall()
        counts, scatter = overview_of(rows, DENSE)
        database.connection.execute(
            "INSERT OR REPLACE INTO overviews VALUES (?, ?, ?)", (dictionary, json.dumps(counts), json.dumps(scatter))
        )


def mark_prepared(
    database: "FeatureDatabase", dictionary: int, settings: Mapping[str, Any], body: Mapping[str, Any] | None = None
) -> None:
    """Say that all of a dictionary is there, made with `settings`; `body` is any JSON beside it."""
    row = dictionary, json.dumps(dict(settings), sort_keys=True), json.dumps(dict(body or {}))
    with database.transaction():
        database.connection.execute("INSERT OR REPLACE INTO prepared VALUES (?, ?, ?)", row)


def is_prepared(database: "FeatureReader", dictionary: int, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a dictionary was prepared: with these very settings, if they are given."""
    row = database.connection.execute("SELECT settings FROM prepared WHERE dictionary = ?", (dictionary,)).fetchone()
    return row is not None and (settings is None or row[0] == json.dumps(dict(settings), sort_keys=True))


def preparation(database: "FeatureReader", dictionary: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Settings and body that `mark_prepared` stored, None for a dictionary that is not prepared."""
    row = database.connection.execute(
        "SELECT settings, body FROM prepared WHERE dictionary = ?", (dictionary,)
    ).fetchone()
    return None if row is None else (json.loads(row[0]), json.loads(row[1]))


def _check(dictionary: int, cards: Sequence[Card], details: Sequence[Detail]) -> None:
    if len(cards) != len(details):
        raise ConfigurationError(f"{len(cards)} cards and {len(details)} details were given: expected one for each.")
    for card in cards:
        if card.dictionary != dictionary:
            raise ConfigurationError(f"a card of dictionary {card.dictionary} was given for dictionary {dictionary}.")
        if (card.explanation is None) != (card.explainer is None):
            raise ConfigurationError(
                f"the card of latent {card.latent} has an explanation or an explainer: expected both or neither."
            )


def _numbers(card: Card) -> tuple[Any, ...]:
    """The row of `cards`."""
    values = (card.entropy, card.score, card.f1, card.effect)
    return (
        *(card_id(card.dictionary, card.latent), card.dictionary, card.latent, float(card.density)),
        *(float(card.maximum), *map(_finite, values), card.explanation is not None),
    )


def _body(card: Card, detail: Detail) -> tuple[Any, ...]:
    """The row of `card_bodies`."""
    texts = (None if text is None else storable(text) for text in (card.explainer, card.explanation, card.label))
    tokens = [(storable(text), round(float(share), 6)) for text, share in card.tokens]
    histogram, firing = detail.histogram, detail.firing
    return (
        *(card_id(card.dictionary, card.latent), *texts),
        None if card.explanation is None else affirmed(storable(card.explanation)),
        *(json.dumps(tokens, ensure_ascii=False, separators=(",", ":")), " ".join(text for text, _ in tokens)),
        None if histogram is None else pack_integers([histogram.active, histogram.rows, *histogram.counts.tolist()]),
        None if firing is None else pack_flags(firing),
        None if detail.effect is None else pack_json(dict(detail.effect)),
    )


def _finite(value: float | None) -> float | None:
    """A number as SQLite stores it: what is not finite is absent."""
    return None if value is None or not math.isfinite(value) else float(value)


def _put_tokens(database: "FeatureDatabase", cards: Sequence[Card]) -> None:
    """Which tokens each latent responds to; tokens that differ in white space alone count together."""
    execute = database.connection.execute
    rows = []
    numbers: dict[str, int] = {}
    for card in cards:
        shares: dict[str, float] = {}
        for text, share in card.tokens:
            key = bare(storable(text))
            shares[key] = shares.get(key, 0.0) + float(share)
        for key, share in shares.items():
            if key not in numbers:
                execute("INSERT OR IGNORE INTO tokens (text) VALUES (?)", (key,))
                numbers[key] = execute("SELECT id FROM tokens WHERE text = ?", (key,)).fetchone()[0]
            rows.append((numbers[key], share, card.dictionary, card.latent))
    database.connection.executemany("INSERT INTO token_shares VALUES (?, ?, ?, ?)", sorted(rows))


def _put_strongest(database: "FeatureDatabase", dictionary: int, latents: Sequence[int]) -> None:
    """From the top contexts on the test split, by fragment, so that a fragment leads to its latents."""
    rows = []
    for latent in latents:
        found = database.connection.execute(
            "SELECT body, maximum, corpora.length, corpora.id FROM latents "
            "JOIN corpora ON corpora.id = corpus JOIN contexts ON contexts.latent = latents.id AND kind = 'top' "
            "WHERE dictionary = ? AND latents.latent = ? AND split = 'test'",
            (dictionary, latent),
        ).fetchone()
        if found is not None:
            body, maximum, length, corpus = found
            numbers, codes = unpack_codes(body, maximum, length)
            strongest = zip(numbers[:STRONGEST].tolist(), codes[:STRONGEST].max(1, initial=0).tolist(), strict=True)
            rows += [
                (corpus, fragment, place, dictionary, latent, code) for place, (fragment, code) in enumerate(strongest)
            ]
    database.connection.executemany("INSERT INTO strongest VALUES (?, ?, ?, ?, ?, ?)", sorted(rows))
