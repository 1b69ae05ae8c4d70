"""Two dictionaries matched one to one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64, UInt32

if TYPE_CHECKING:
    from .browsing import FeatureBrowser

TYPES = ("<u4", "<u4", "<f4")
"""How the latents, the others and the cosines of a match are stored."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Pairs of latents of a first and a second dictionary, which have `n_first` and `n_second` latents.

    `latents`, `others` and `cosines` have an entry for each pair, in the order of the latents of whichever
    dictionary was put first.
    """

    latents: UInt32[np.ndarray, " pair"]
    others: UInt32[np.ndarray, " pair"]
    cosines: Float32[np.ndarray, " pair"]
    n_first: int
    n_second: int

    @cached_property
    def closest(self) -> Int64[np.ndarray, " pair"]:
        """The places of the pairs, closest first; of equal ones the lower latent."""
        by_latent = np.argsort(self.latents, kind="stable")
        return by_latent[np.argsort(-self.cosines[by_latent], kind="stable")]

    def at(self, places: Int64[np.ndarray, " n"]) -> list[tuple[int, int, float]]:
        """The pairs at some places: (latent, other, cosine)."""
        columns = (self.latents, self.others, self.cosines)
        return list(zip(*(column[places].tolist() for column in columns), strict=True))

    @property
    def pairs(self) -> list[tuple[int, int, float]]:
        """All pairs, closest first. Of very many take a part with `at`, which is quicker."""
        return self.at(self.closest)

    @cached_property
    def only_first(self) -> Int64[np.ndarray, " latent"]:
        """Latents of the first dictionary that are in no pair."""
        return _absent(self.latents, self.n_first)

    @cached_property
    def only_second(self) -> Int64[np.ndarray, " latent"]:
        """Latents of the second dictionary that are in no pair."""
        return _absent(self.others, self.n_second)


def matched(browser: "FeatureBrowser", first: int, second: int) -> Matched | None:
    """See `FeatureBrowser.matched`."""
    found = browser.rows(
        "SELECT latents, others, cosines FROM matches WHERE first = ? AND second = ?",
        (min(first, second), max(first, second)),
    )
    if not found:
        return None
    latents, others, cosines = _unpacked(found[0])
    if first > second:
        latents, others = others, latents
    sizes = (len(browser.column(dictionary, "latent")) for dictionary in (first, second))
    return Matched(latents, others, cosines, *sizes)


def counterparts(browser: "FeatureBrowser", dictionary: int, latent: int) -> list[tuple[int, int, float]]:
    """See `FeatureBrowser.counterparts`."""
    found = []
    for first, second, *bodies in browser.rows(
        "SELECT first, second, latents, others, cosines FROM matches WHERE first = ? OR second = ?",
        (dictionary, dictionary),
    ):
        latents, others, cosines = _unpacked(bodies)
        mine, theirs = (latents, others) if first == dictionary else (others, latents)
        other = second if first == dictionary else first
        found += [(other, int(theirs[at]), float(cosines[at])) for at in np.flatnonzero(mine == latent)]
    return sorted(found, key=lambda match: (-match[2], match[0]))


def _unpacked(bodies: Sequence[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(body, kind) for body, kind in zip(bodies, TYPES, strict=True)]


def _absent(latents: UInt32[np.ndarray, " pair"], total: int) -> Int64[np.ndarray, " latent"]:
    paired = np.zeros(total, bool)
    paired[latents[latents < total]] = True
    return np.flatnonzero(~paired)
