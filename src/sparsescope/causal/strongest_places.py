"""Where the latents of a dictionary are strongest: one place in each of some documents, for many latents at once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from ..features.gathering import Gathered
from .cases.windows import LENGTH, Windows, windows_at

CONTEXTS = 5


@dataclass(frozen=True, eq=False)
class Places:
    """Some places of latents: `owner` is where the latent stands in a list of latents, ascending.

    `context` and `position` are a place in the contexts of a split, `code` is the code of the latent there, and
    `chance` a random number in [0, 1) for each place, from a stream of the latent's own.
    """

    owner: Int64[np.ndarray, " place"]
    context: Int64[np.ndarray, " place"]
    position: Int64[np.ndarray, " place"]
    code: Float32[np.ndarray, " place"]
    chance: Float64[np.ndarray, " place"]

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, rows: Any) -> "Places":
        """Some of the places."""
        return Places(*(getattr(self, name)[rows] for name in ("owner", "context", "position", "code", "chance")))

    def of(self, begin: int, end: int) -> "Places":
        """Those of the latents from `begin` to `end` of the list, counted from `begin`."""
        found = self.take((self.owner >= begin) & (self.owner < end))
        return replace(found, owner=found.owner - begin)


def strongest_places(gathered: Gathered, wanted: int = CONTEXTS, *, length: int = LENGTH, seed: int = 0) -> Places:
    """The strongest place in each of the `wanted` strongest fragments of every latent, at most one in a document.

    Of places that end the same `length` tokens (headings, beginnings of documents), only the strongest is
    taken: the model would be asked the same thing again.
    """
    fragments, numbers = gathered.fragments, gathered.top.numbers
    place = fragments.start[numbers] + gathered.top.codes.argmax(2)
    document = fragments.document[numbers]
    text = _text_before(gathered, fragments.context[numbers], place, length)
    earlier = np.tri(numbers.shape[1], k=-1, dtype=bool) & (numbers >= 0)[:, None, :]
    repeated = ((_alike(document) | _alike(text)) & earlier).any(2)
    first = (numbers >= 0) & ~repeated
    owner, slot = (first & (np.cumsum(first, 1) <= wanted)).nonzero()
    number, codes = numbers[owner, slot], gathered.top.codes[owner, slot].astype(np.float32)
    position = place[owner, slot]
    chance = [
        np.random.default_rng([seed, latent, 0xC0]).random(count)
        for latent, count in zip(gathered.latents.tolist(), np.bincount(owner, minlength=len(numbers)), strict=True)
    ]
    return Places(owner, fragments.context[number], position, codes.max(1, initial=0), np.concatenate(chance))


def _alike(values: Int64[np.ndarray, "latent slot"]) -> Bool[np.ndarray, "latent slot slot"]:
    return values[:, :, None] == values[:, None, :]


def _text_before(
    gathered: Gathered,
    context: Int64[np.ndarray, "latent slot"],
    position: Int64[np.ndarray, "latent slot"],
    length: int,
) -> Int64[np.ndarray, "latent slot"]:
    """A number for the tokens up to each place in its document: the same for the same tokens."""
    tokens = gathered.fragments.tokens
    ids, document = tokens.ids.numpy(), tokens.document.numpy()
    width = ids.shape[1]
    distinct, which = np.unique(context * width + position, return_inverse=True)
    row, column = distinct // width, distinct % width
    back = column[:, None] - np.arange(length)
    there = np.maximum(back, 0)
    inside = (back >= 0) & (document[row[:, None], there] == document[row, column][:, None])
    _, number = np.unique(np.where(inside, ids[row[:, None], there], -1), axis=0, return_inverse=True)
    return number.reshape(-1)[which].reshape(context.shape)


def windows_of(
    places: Places,
    gathered: Gathered,
    kept: Bool[Tensor, "context position"],
    *,
    length: int = LENGTH,
    most: int = 64,
) -> Iterator[tuple[Int64[np.ndarray, " pair"], Windows, Int64[np.ndarray, " pair"]]]:
    """Batches: numbers of places, the windows that end there (each once, `most` of them), and the window of each place.

    Windows of a batch are of about the same length, so that little of it is padding.
    """
    tokens = gathered.fragments.tokens
    width = tokens.ids.shape[1]
    distinct, which = np.unique(places.context * width + places.position, return_inverse=True)
    if not len(distinct):
        return
    windows = windows_at(tokens, kept, distinct // width, distinct % width, length)
    order = np.argsort(windows.at.numpy(), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    row = rank[which]
    pairs = np.argsort(row, kind="stable")
    for begin in range(0, len(order), most):
        low, high = np.searchsorted(row[pairs], [begin, begin + most])
        chosen = pairs[low:high]
        yield chosen, _trimmed(windows.take(order[begin : begin + most])), row[chosen] - begin


def _trimmed(windows: Windows) -> Windows:
    """The same windows without the columns that are padding in all of them."""
    end = int(windows.at.max()) + 1
    return replace(windows, **{name: getattr(windows, name)[:, :end] for name in ("ids", "mask", "changeable")})
