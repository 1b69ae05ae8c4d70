"""How the positive codes of many latents are distributed: counts in equal bins, in one pass over the activations."""

import numpy as np
from jaxtyping import Float, Float32, Int64

from ..activations.base import Activations
from ..dictionaries.base import Dictionary
from .coding import Progress, coded, rows_of, site_of
from .fragments import Fragments
from .memory import CodeMemory

BINS = 30


def code_histograms(
    dictionary: Dictionary,
    store: Activations,
    fragments: Fragments,
    latents: Int64[np.ndarray, " latent"],
    maximum: Float32[np.ndarray, " latent"],
    *,
    site: str | None = None,
    bins: int = BINS,
    memory: CodeMemory | None = None,
    progress: Progress | None = None,
) -> Int64[np.ndarray, "latent bin"]:
    """The positive codes of each of `latents` in `bins` equal bins from 0 to its `maximum`.

    Over the rows that `gather` reads: all of the contexts that hold a fragment. As in `np.histogram`, a code on an
    edge is in the bin above it, and the maximum in the last one. A row adds up to how often its latent is active.
    Raises as `features.coding.coded` does.
    """
    counts = np.zeros((len(latents), bins), np.int64)
    at, rows = site_of(dictionary, site), rows_of(fragments, store)
    for chunk in coded(dictionary, store, at, rows, latents, memory=memory, progress=progress):
        column = bin_of(chunk.code, maximum[chunk.place], bins)
        counts += np.bincount(chunk.place * bins + column, minlength=counts.size).reshape(counts.shape)
    return counts


def bin_of(
    codes: Float[np.ndarray, " n"], maximum: Float[np.ndarray, " n"], bins: int = BINS
) -> Int64[np.ndarray, " n"]:
    """The bin of each code, of `bins` equal ones from 0 to its own `maximum`, which must be above 0.

    >>> bin_of(np.array([0.1, 0.5, 1.0]), np.ones(3), bins=2).tolist()
    [0, 1, 1]
    """
    code, most = codes.astype(np.float64), maximum.astype(np.float64)
    column = np.minimum((code / most * bins).astype(np.int64), bins - 1)
    # Dividing rounds: what lies on the wrong side of its edge moves to the other.
    width = most / bins
    column -= (column > 0) & (code < column * width)
    column += (column < bins - 1) & (code >= (column + 1) * width)
    return column
