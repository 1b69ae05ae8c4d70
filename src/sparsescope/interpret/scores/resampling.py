"""Bootstrap samples of documents, and what they do to a stratified sample of fragments.

The documents of a split are drawn with replacement, once, and every latent and every dictionary is seen
through the same draws: replicate r of two of them means the same documents. In a replicate, the number
of fragments in a stratum is that of the documents drawn, and the stratum's mean is that of the sampled
fragments in documents drawn (two-phase sampling). To resample the sampled fragments alone would treat
the known size of a stratum as if it had been estimated from them, and give intervals far too wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64, Int

from ...errors import ConfigurationError

RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class DocumentDraws:
    """`counts[r, d]`: how often document `numbers[d]` (ascending) is in bootstrap sample r."""

    numbers: Int[np.ndarray, " document"]
    counts: Float[np.ndarray, "resample document"]

    def places(self, documents: Int[np.ndarray, " item"]) -> Int[np.ndarray, " item"]:
        """Columns of `counts` that belong to these document numbers."""
        places = np.searchsorted(self.numbers, documents)
        if not np.array_equal(self.numbers[np.minimum(places, len(self.numbers) - 1)], documents):
            raise ConfigurationError("a fragment belongs to a document that was not drawn from: draw from all of them.")
        return places


def draw_documents(documents: Int[np.ndarray, " item"], *, resamples: int = RESAMPLES, seed: int = 0) -> DocumentDraws:
    """`resamples` samples with replacement of the different numbers in `documents`, each as many as there are.

    >>> draws = draw_documents(np.array([7, 3, 7]), resamples=4)
    >>> draws.numbers.tolist(), draws.counts.sum(1).tolist()
    ([3, 7], [2.0, 2.0, 2.0, 2.0])
    """
    numbers = np.unique(documents)
    n = len(numbers)
    if resamples < 2 or not n:
        raise ConfigurationError(
            f"{resamples} resamples of {n} documents; a bootstrap needs at least 2 (the default is {RESAMPLES}) of one."
        )
    generator = np.random.default_rng([seed, n, 0xD0C])
    counts = np.empty((resamples, n), np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, n, n), minlength=n)
    return DocumentDraws(numbers, counts)


@dataclass(frozen=True, eq=False)
class Design:
    """A stratified sample of fragments, and the corpus that it was drawn from.

    Of each sampled fragment: `document` is the place of its document in the draws, `stratum` its stratum.
    `population[d, h]` is how many fragments of stratum h there are in document d of the whole corpus.
    """

    document: Int[np.ndarray, " sampled"]
    stratum: Int[np.ndarray, " sampled"]
    population: Float64[np.ndarray, "document stratum"]
    _kept: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, repr=False)

    @cached_property
    def weights(self) -> Float64[np.ndarray, " sampled"]:
        """N_h / n_h of each fragment's stratum: how many fragments of the corpus it stands for."""
        taken = np.bincount(self.stratum, minlength=self.population.shape[1])
        return self.population.sum(0)[self.stratum] / taken[self.stratum]

    @property
    def units(self) -> int:
        """How many different documents the sampled fragments come from."""
        return len(np.unique(self.document))

    def keep(self, chosen: np.ndarray) -> "Design":
        """The same corpus, seen through some of the sampled fragments only."""
        if chosen.all():
            return self  # with all that was computed already
        return Design(self.document[chosen], self.stratum[chosen], self.population)

    def resampled(self, counts: Float[np.ndarray, "resample document"]) -> Float64[np.ndarray, "resample sampled"]:
        """The weight of each sampled fragment in each bootstrap sample of the documents.

        It is kept for the next who asks for the same samples, so it must not be written to.
        """
        for known, weights in self._kept:
            if known is counts:
                return weights
        drawn = np.take(counts, self.document, 1).astype(np.float64)
        sizes = (counts @ self.population.astype(counts.dtype)).astype(np.float64)
        member = self.stratum[:, None] == np.arange(self.population.shape[1])
        taken = drawn @ member.astype(np.float64)
        drawn *= np.take(sizes / np.where(taken > 0, taken, 1), self.stratum, 1)
        self._kept[:] = [(counts, drawn)]
        return drawn


def natural(document: Int[np.ndarray, " item"], documents: int) -> Design:
    """The design of a corpus seen whole: one stratum, every item taken."""
    counts = np.bincount(document, minlength=documents).astype(np.float64)
    return Design(np.asarray(document), np.zeros(len(document), np.int64), counts[:, None])


def population(
    document: Int[np.ndarray, " fragment"], stratum: Int[np.ndarray, " fragment"], documents: int, strata: int
) -> Float64[np.ndarray, "document stratum"]:
    """How many fragments of each stratum each document has, given both for every fragment of the corpus."""
    cells = np.bincount(document * strata + stratum, minlength=documents * strata)
    return cells.reshape(documents, strata).astype(np.float64)


def strata_of_corpus(
    fragments: int, top: Int[np.ndarray, " top"], active: np.ndarray, predicted: np.ndarray | None
) -> Int[np.ndarray, " fragment"]:
    """The stratum of every fragment: 0 top, 1 active, 2 silent but predicted to be active, 3 silent otherwise."""
    stratum = np.full(fragments, 3, np.int64)
    if predicted is not None:
        stratum[predicted] = 2
    stratum[active] = 1
    stratum[top] = 0
    return stratum


def checked_lengths(**arrays: Sequence | np.ndarray) -> None:
    """Raise `ConfigurationError`, naming them, unless all have the same shape."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ConfigurationError(f"shapes differ ({listed}): expected one row per fragment and one column per token.")
