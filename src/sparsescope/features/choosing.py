"""Which latents of a dictionary to look at: drawn by frequency, so that rare and frequent ones are both there."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from ..activations.base import Activations
from ..dictionaries.base import Dictionary
from ..errors import ConfigurationError
from ..metrics.reconstruction import ALIVE_ABOVE
from .coding import Progress, coded, rows_of, site_of
from .fragments import Fragments
from .memory import CodeMemory

STRATA = 10


def count_active(
    dictionary: Dictionary,
    store: Activations,
    fragments: Fragments,
    *,
    site: str | None = None,
    memory: CodeMemory | None = None,
    progress: Progress | None = None,
) -> tuple[Int64[np.ndarray, " latent"], int]:
    """On how many rows each latent of the dictionary is active, and the number of rows: what `draw_latents` needs."""
    rows = rows_of(fragments, store)
    counts = np.zeros(dictionary.n_latents, np.int64)
    everyone = np.arange(dictionary.n_latents)
    for chunk in coded(dictionary, store, site_of(dictionary, site), rows, everyone, memory=memory, progress=progress):
        counts += np.bincount(chunk.place, minlength=len(counts))
    return counts, len(rows)


def draw_latents(counts: Int64[np.ndarray, " latent"], wanted: int, seed: int = 0) -> Int64[np.ndarray, " n"]:
    """`wanted` latents drawn by frequency: as many from each tenth of those that are alive, in ascending order.

    Alive latents (active on more than 10 rows) are ranked by how often they are active and cut into ten
    equal strata, from each of which the same number is drawn (one more from some, where it does not
    divide). All of them are returned when there are no more than `wanted`, none when none is alive.

    >>> draw_latents(np.array([5, 100, 20, 30]), 2).tolist() in ([1, 2], [1, 3], [2, 3])
    True
    """
    if wanted < 1:
        raise ConfigurationError(f"{wanted} latents were asked for: expected 1 or more.")
    alive = np.flatnonzero(counts > ALIVE_ABOVE)
    if len(alive) <= wanted:
        return alive
    generator = np.random.default_rng(seed)
    ranked = np.array_split(alive[np.argsort(counts[alive], kind="stable")], min(STRATA, wanted))
    shares = [len(part) for part in np.array_split(np.arange(wanted), len(ranked))]
    return np.sort(np.concatenate([*_draws(ranked, shares, generator)]))


def _draws(
    strata: list[Int64[np.ndarray, " n"]], shares: list[int], generator: np.random.Generator
) -> Iterator[Int64[np.ndarray, " n"]]:
    for stratum, share in zip(strata, shares, strict=True):
        yield generator.choice(stratum, share, replace=False)
