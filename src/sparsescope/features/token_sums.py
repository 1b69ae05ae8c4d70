"""Sums of codes by token id, sparse: most latents respond to few kinds of token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ..errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class TokenSums:
    """Per latent, the token ids on which it was active, with the sum of its codes and the number of rows there.

    The entries of the latent at place p are those from `indptr[p]` to `indptr[p + 1]`, ids ascending.
    `vocabulary` is the number of token ids.
    """

    indptr: Int64[np.ndarray, " latents+1"]
    ids: Int64[np.ndarray, " entry"]
    sums: Float64[np.ndarray, " entry"]
    counts: Int64[np.ndarray, " entry"]
    vocabulary: int

    def of(
        self, place: int
    ) -> tuple[Int64[np.ndarray, " entry"], Float64[np.ndarray, " entry"], Int64[np.ndarray, " entry"]]:
        """Ids, sums and counts of one latent."""
        inside = slice(self.indptr[place], self.indptr[place + 1])
        return self.ids[inside], self.sums[inside], self.counts[inside]

    def dense(self, place: int, vocabulary: int | None = None) -> Float64[np.ndarray, " vocabulary"]:
        """The sums of one latent by token id, 0 where it was never active; longer if `vocabulary` is.

        Raises `ConfigurationError` for a vocabulary smaller than the ids in the text.
        """
        size = self.vocabulary if vocabulary is None else vocabulary
        if size < self.vocabulary:
            raise ConfigurationError(
                f"a vocabulary of {size} is too small: the text has token ids up to {self.vocabulary - 1}."
            )
        found = np.zeros(size)
        ids, sums, _ = self.of(place)
        found[ids] = sums
        return found


class RunningTokenSums:
    """`TokenSums` while the rows stream by."""

    def __init__(self, latents: int, vocabulary: int) -> None:
        self.shape = (latents, vocabulary)
        # Sum and count travel as the two parts of a complex number, so that one pass adds up both.
        self.total = self._matrix(np.zeros(0, np.complex128), np.zeros(0, int), np.zeros(0, int))
        self.pending: list[Any] = []

    def add(
        self,
        place: Int64[np.ndarray, " entry"],
        token: Int64[np.ndarray, " entry"],
        code: Float32[np.ndarray, " entry"],
    ) -> None:
        """Add positive codes of latents at places, on tokens."""
        values = np.empty(len(code), np.complex128)
        values.real, values.imag = code, 1
        self.pending.append(self._matrix(values, place, token))
        # Merged only when the new entries outnumber the old ones, merging costs no more than reading does.
        if sum(part.nnz for part in self.pending) > self.total.nnz:
            self._merge()

    def _merge(self) -> None:
        parts = [part.tocoo() for part in (self.total, *self.pending)]
        data, row, column = (np.concatenate([getattr(part, of) for part in parts]) for of in ("data", "row", "col"))
        self.total, self.pending = self._matrix(data, row, column), []

    def _matrix(self, values: Any, place: Any, token: Any) -> Any:
        from scipy.sparse import coo_matrix

        return coo_matrix((values, (place, token)), shape=self.shape).tocsr()  # equal places are added up

    def finish(self) -> TokenSums:
        self._merge()
        self.total.sort_indices()
        return TokenSums(
            indptr=self.total.indptr.astype(np.int64),
            ids=self.total.indices.astype(np.int64),
            sums=self.total.data.real.copy(),
            counts=np.rint(self.total.data.imag).astype(np.int64),
            vocabulary=self.shape[1],
        )
