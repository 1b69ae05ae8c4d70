"""The contexts of one latent with their text: the strongest, by quantile, and those that tell it from another."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from .blobs import unpack_codes

if TYPE_CHECKING:
    from .browsing import FeatureBrowser


@dataclass(frozen=True, eq=False)
class Shown:
    """A fragment with the codes of one latent, and what its explanation predicts there where that was stored.

    `pieces` is the text of each token, which together are the fragment's text.
    """

    fragment: int
    document: int
    ids: list[int]
    pieces: list[str]
    codes: Float32[np.ndarray, " token"]
    simulated: Float32[np.ndarray, " token"] | None


@dataclass(frozen=True, eq=False)
class _At:
    """A stored context before its text is read."""

    corpus: int
    fragment: int
    codes: Float32[np.ndarray, " position"]
    simulated: Float32[np.ndarray, " position"] | None

    @property
    def rank(self) -> tuple[float, int]:
        """Strongest first."""
        return -float(self.codes.max()), self.fragment


def shown(browser: "FeatureBrowser", dictionary: int, latent: int, kind: str, limit: int | None) -> list[Shown]:
    """See `FeatureBrowser.shown`."""
    return _texts_of(browser, _stored(browser, dictionary, latent, kind)[:limit])


def shown_quantiles(
    browser: "FeatureBrowser", dictionary: int, latent: int, parts: int, each: int
) -> list[list[Shown]]:
    """See `FeatureBrowser.shown_quantiles`."""
    drawn = sorted(_stored(browser, dictionary, latent, "active"), key=lambda at: at.rank)
    edges = [round(part * len(drawn) / parts) for part in range(parts + 1)]
    found = []
    for begin, end in pairwise(edges):
        size = min(each, end - begin)
        chosen = [drawn[begin + (2 * place + 1) * (end - begin) // (2 * size)] for place in range(size)]
        found.append(_texts_of(browser, chosen))
    return found


def apart(browser: "FeatureBrowser", dictionary: int, latent: int, other: int, limit: int) -> list[Shown]:
    """See `FeatureBrowser.apart`."""
    firing = browser.detail(dictionary, other).firing
    if firing is None:
        return []
    stored = [at for kind in ("top", "active") for at in _stored(browser, dictionary, latent, kind)]
    silent = [at for at in stored if at.fragment < len(firing) and not firing[at.fragment]]
    return _texts_of(browser, sorted(silent, key=lambda at: at.rank)[:limit])


def _stored(browser: "FeatureBrowser", dictionary: int, latent: int, kind: str) -> list[_At]:
    """The contexts of a kind on the test split, without their text."""
    rows = browser.rows(
        "SELECT contexts.body, simulations.body, maximum, corpora.length, corpora.id FROM latents "
        "JOIN corpora ON corpora.id = corpus JOIN contexts ON contexts.latent = latents.id AND contexts.kind = ? "
        "LEFT JOIN simulations ON simulations.latent = latents.id AND simulations.kind = contexts.kind "
        "WHERE dictionary = ? AND latents.latent = ? AND split = 'test'",
        (kind, dictionary, latent),
    )
    found = []
    for body, simulation, maximum, length, corpus in rows:
        numbers, codes = unpack_codes(body, maximum, length)
        predicted = None if simulation is None else unpack_codes(simulation, maximum, length)[1]
        for place, number in enumerate(numbers.tolist()):
            found.append(_At(corpus, number, codes[place], None if predicted is None else predicted[place]))
    return found


def _texts_of(browser: "FeatureBrowser", stored: Iterable[_At]) -> list[Shown]:
    found = []
    for at in stored:
        document, ids, pieces = browser.fragment(at.corpus, at.fragment)
        simulated = None if at.simulated is None else at.simulated[: len(ids)]
        found.append(Shown(at.fragment, document, ids, pieces, at.codes[: len(ids)], simulated))
    return found
