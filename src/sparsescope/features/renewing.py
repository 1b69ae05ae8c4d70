"""What is renewed about latents that a feature database has already."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from .blobs import unpack_codes
from .database import packed_rankings

if TYPE_CHECKING:
    from .database import FeatureDatabase
    from .gathering import Gathered
    from .reading import FeatureReader
    from .statistics import Statistics


def renew_rankings(
    database: "FeatureDatabase", dictionary: int, gathered: "Gathered", statistics: "Statistics"
) -> None:
    """Give stored latents the rankings of a look at more of them: neighbours depend on who was looked at.

    Contexts and all other numbers stay.
    """
    split = gathered.fragments.split
    rows = (
        (packed_rankings(statistics, place), split, dictionary, latent)
        for place, latent in enumerate(gathered.latents.tolist())
    )
    with database.transaction():
        database.connection.executemany(
            "UPDATE latents SET rankings = ? "
            "WHERE corpus = (SELECT id FROM corpora WHERE split = ?) AND dictionary = ? AND latent = ?",
            rows,
        )


def forget_simulations(database: "FeatureDatabase", dictionary: int) -> None:
    """Delete what explanations of a dictionary's latents predicted."""
    with database.transaction():
        query = "DELETE FROM simulations WHERE latent IN (SELECT id FROM latents WHERE dictionary = ?)"
        database.connection.execute(query, (dictionary,))


def forget_preparation(database: "FeatureDatabase", dictionary: int) -> None:
    """Let a dictionary count as not prepared; what is there stays until it is put again."""
    with database.transaction():
        database.connection.execute("DELETE FROM prepared WHERE dictionary = ?", (dictionary,))


def context_numbers(
    database: "FeatureReader", dictionary: int, latent: int, kind: str, split: str = "test"
) -> Int64[np.ndarray, " n"]:
    """The numbers of the fragments kept for a latent, in the order in which they are kept."""
    row = database.connection.execute(
        "SELECT body, maximum, corpora.length FROM contexts JOIN latents ON latents.id = contexts.latent "
        "JOIN corpora ON corpora.id = corpus WHERE dictionary = ? AND latents.latent = ? AND kind = ? AND split = ?",
        (dictionary, latent, kind, split),
    ).fetchone()
    return np.zeros(0, np.int64) if row is None else unpack_codes(*row)[0]
