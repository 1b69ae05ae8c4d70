"""What the dashboards of other tools show of one latent, taken from the feature database and the weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from ...errors import ArtifactError, ConfigurationError
from ..browsing import Chosen, FeatureBrowser, Shelf, Shown
from ..card import Card, Histogram
from ..reading import StoredLatent

SPLIT = "test"
TOP, EACH = 20, 5
"""Contexts that SAEDashboard shows: the strongest, and of each interval of activation."""
ALIGNED = 3  # neurons listed beside a direction, as there
LOGIT_BINS = 50
_PAGE = 256  # cards read at a time


@dataclass(frozen=True, eq=False)
class Weights:
    """What a dictionary writes, and the matrix that turns the residual stream into logits where it writes to that."""

    directions: Float32[np.ndarray, "latent d"]
    unembedding: Float32[np.ndarray, "d vocabulary"] | None = None

    @cached_property
    def _centred(self) -> Float32[np.ndarray, "d vocabulary"] | None:
        matrix = self.unembedding
        return None if matrix is None else matrix - matrix.mean(1, keepdims=True)

    def logits(self, latent: int) -> Float32[np.ndarray, " vocabulary"] | None:
        """By how much a unit of the latent's code moves every logit directly, less the mean over the vocabulary.

        None without an unembedding.

        >>> Weights(np.eye(2, dtype="f4"), np.array([[1, 3], [0, 0]], "f4")).logits(0).tolist()
        [-1.0, 1.0]
        """
        return None if self._centred is None else self.directions[latent] @ self._centred

    def aligned(self, latent: int) -> tuple[list[int], list[float], list[float]]:
        """The dimensions in which the direction is largest: which, how much, and their share of its L1 norm."""
        direction = self.directions[latent].astype(np.float64)
        best = np.argsort(-direction, kind="stable")[:ALIGNED]
        values = direction[best]
        return best.tolist(), values.tolist(), (np.abs(values) / np.abs(direction).sum()).tolist()


@dataclass(frozen=True, eq=False)
class Interval:
    """Contexts whose largest code is from `low` to `high`; `share` of all rows have a code there."""

    low: float
    high: float
    share: float
    contexts: Sequence[Shown]


@dataclass(frozen=True, eq=False)
class Portrait:
    """One latent that is alive: its numbers, its contexts, and what its weights say where they are at hand."""

    card: Card
    statistics: StoredLatent
    histogram: Histogram
    strongest: Sequence[Shown]
    intervals: Sequence[Interval]
    weights: Weights | None

    @property
    def bins(self) -> Float64[np.ndarray, " bin"]:
        """The middles of the histogram's bins."""
        count = len(self.histogram.counts)
        return (np.arange(count) + 0.5) / count * self.card.maximum

    @property
    def aligned(self) -> tuple[list[int], list[float], list[float]]:
        """As `Weights.aligned`; nothing without weights."""
        return ([], [], []) if self.weights is None else self.weights.aligned(self.card.latent)

    @cached_property
    def logits(self) -> Float32[np.ndarray, " vocabulary"] | None:
        """As `Weights.logits`; None without weights."""
        return None if self.weights is None else self.weights.logits(self.card.latent)

    @property
    def logit_bins(self) -> tuple[list[int], list[float]]:
        """How many tokens of the vocabulary the latent moves how far: counts, middles; nothing without logits."""
        if self.logits is None:
            return [], []
        counts, edges = np.histogram(self.logits.astype(np.float64), LOGIT_BINS)
        return counts.tolist(), ((edges[1:] + edges[:-1]) / 2).tolist()

    def ranked(self, name: str) -> tuple[list[int], list[float]]:
        """The tokens "raised" or "lowered" most, and by how much; nothing where the latent writes to no logits."""
        numbers, values = self.statistics.rankings.get(name, ([], []))
        return list(numbers), list(values)


def portraits(
    browser: FeatureBrowser, shelf: Shelf, *, parts: int, weights: Weights | None = None
) -> Iterator[Portrait]:
    """The latents of a dictionary that are alive, by number, with contexts of `parts` equal intervals of activation.

    Raises `ArtifactError` for a dictionary that has not been prepared.
    """
    if not shelf.prepared:
        raise ArtifactError(
            f"the dictionary {shelf.name!r} is not prepared: 'sparsescope explore RUN' does that first."
        )
    if weights is not None and len(weights.directions) != shelf.n_latents:
        raise ConfigurationError(
            f"{shelf.name!r} has {shelf.n_latents:,} latents, but {len(weights.directions):,} directions were given: "
            "these are the weights of another dictionary."
        )
    for card in cards(browser, shelf, "active"):
        yield _portrait(browser, card, parts, weights)


def cards(browser: FeatureBrowser, shelf: Shelf, show: str) -> Iterator[Card]:
    """The cards of a dictionary by latent: of those "active", "dead" or "all"."""
    chosen = Chosen(show=show)
    for offset in range(0, browser.count(shelf.id, chosen), _PAGE):
        yield from browser.cards(shelf.id, chosen, offset=offset, limit=_PAGE)


def _portrait(browser: FeatureBrowser, card: Card, parts: int, weights: Weights | None) -> Portrait:
    statistics = browser.statistics(card.dictionary, card.latent, SPLIT)
    histogram = browser.detail(card.dictionary, card.latent).histogram
    if statistics is None or histogram is None:
        raise ArtifactError(
            f"latent {card.latent} is active, but its numbers are not in the feature database: prepare the run again "
            "with 'sparsescope explore RUN'."
        )
    strongest = browser.shown(card.dictionary, card.latent, "top", TOP)
    drawn = browser.shown(card.dictionary, card.latent, "active")
    return Portrait(card, statistics, histogram, strongest, _intervals(card, histogram, drawn, parts), weights)


def _intervals(card: Card, histogram: Histogram, drawn: Sequence[Shown], parts: int) -> list[Interval]:
    """Weakest first. Fragments were drawn uniformly from those where the latent is active."""
    shares = histogram.counts.reshape(parts, -1).sum(1) / histogram.rows
    edges = np.linspace(0, card.maximum, parts + 1)
    places = [min(int(float(each.codes.max()) / card.maximum * parts), parts - 1) for each in drawn]
    return [
        Interval(
            float(edges[part]),
            float(edges[part + 1]),
            float(shares[part]),
            [each for each, place in zip(drawn, places, strict=True) if place == part][:EACH],
        )
        for part in range(parts)
    ]
