"""The numbers of all latents of a dictionary, column by column: what a table of latents is sorted and chosen by.

A filter and an order of 100,000 numbers take numpy a few milliseconds in any combination. SQLite would need an
index for each combination, or sort on every request.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ..errors import ConfigurationError, suggest
from .card import DENSE, SORTABLE, Card

if TYPE_CHECKING:
    from .browsing import Chosen
    from .database import FeatureDatabase

Column = Callable[[str], np.ndarray]
"""A column by name, in the order of the latents: one of SORTABLE (nan where undefined), "latent" or "explained"."""
TYPES: Mapping[str, str] = {"latent": "<i8", "explained": "|b1", **dict.fromkeys(SORTABLE, "<f8")}
SHOWN: Mapping[str, Callable[[Column], Bool[np.ndarray, " latent"] | None]] = {
    "all": lambda column: None,
    "active": lambda column: column("density") > 0,
    "dead": lambda column: column("density") == 0,
    "dense": lambda column: column("density") > DENSE,
    "explained": lambda column: column("explained"),
}
"""What `Chosen.show` means."""


def chosen_latents(
    column: Column, chosen: "Chosen", having: Iterable[int] | None, sort: str, descending: bool
) -> Int64[np.ndarray, " latent"]:
    """The chosen latents in order; `having` are those with the words of `chosen`, None where it has none.

    Undefined values come last either way, and ties go by latent. Raises `ConfigurationError` for what cannot be
    sorted or chosen by.
    """
    _check(chosen, sort)
    latents = column("latent")
    kept = np.ones(len(latents), bool)
    shown = SHOWN[chosen.show](column)
    if shown is not None:
        kept &= shown
    for name, low, high in chosen.ranges:
        values = column(name)
        kept &= ~np.isnan(values)
        if low is not None:
            kept &= values >= low
        if high is not None:
            kept &= values <= high
    if having is not None:
        among = np.zeros(len(latents), bool)
        wanted = np.fromiter(having, np.int64)
        place = np.searchsorted(latents, wanted)
        among[place[place < len(latents)]] = True
        kept &= among
    latents = latents[kept]
    if sort == "latent":
        return latents[::-1] if descending else latents
    values = column(sort)[kept]
    return latents[np.argsort(-values if descending else values, kind="stable")]  # nan sorts last


def best_latents(
    column: Column, bounds: Sequence[tuple[str, str, float]], limit: int
) -> tuple[Int64[np.ndarray, " latent"], Float64[np.ndarray, " latent"]]:
    """The best explained of the latents within all bounds (column, operator, number), and their scores.

    At most `limit`, by score, those without one last; ties go by latent.
    """
    latents = column("latent")
    kept = np.ones(len(latents), bool)
    for name, operator, number in bounds:
        kept &= _COMPARE[operator](column(name), number)  # never true of nan
    latents, scores = latents[kept], column("score")[kept]
    order = np.argsort(-scores, kind="stable")[:limit]
    return latents[order], scores[order]


_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}


def put_columns(database: "FeatureDatabase", dictionary: int, cards: Sequence[Card], *, keep: bool) -> None:
    """Store the columns of these cards, with `keep` beside those stored."""
    found: dict[str, Any] = {name: np.array([getattr(card, name) for card in cards], np.float64) for name in SORTABLE}
    found["latent"] = np.array([card.latent for card in cards], np.int64)
    found["explained"] = np.array([card.explanation is not None for card in cards], bool)
    if keep:
        stored = dict(
            database.connection.execute("SELECT name, body FROM card_columns WHERE dictionary = ?", (dictionary,))
        )
        found = {
            name: np.concatenate([np.frombuffer(stored.get(name, b""), TYPES[name]), values])
            for name, values in found.items()
        }
    order = np.argsort(found["latent"])
    rows = ((dictionary, name, values[order].astype(TYPES[name]).tobytes()) for name, values in found.items())
    database.connection.executemany("INSERT OR REPLACE INTO card_columns VALUES (?, ?, ?)", rows)


def _check(chosen: "Chosen", sort: str) -> None:
    names = ("latent", *SORTABLE)
    if sort not in names:
        raise ConfigurationError(f"cannot sort by {sort!r}: expected {', '.join(names)}.{suggest(sort, names)}")
    if chosen.show not in SHOWN:
        shown = f"cannot show {chosen.show!r}: expected {', '.join(SHOWN)}.{suggest(chosen.show, SHOWN)}"
        raise ConfigurationError(shown)
    for name, _, _ in chosen.ranges:
        if name not in names:
            raise ConfigurationError(
                f"no number is called {name!r}: expected {', '.join(names)}.{suggest(name, names)}"
            )
