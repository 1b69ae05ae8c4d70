"""Codes of some latents on every activation of some fragments' contexts, in one pass over a store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..activations.base import Activations
from ..dictionaries.base import Dictionary
from ..errors import ConfigurationError, NumericalError
from .fragments import Fragments
from .memory import CodeMemory

Progress = Callable[[str, int, int], None]

GROUP = 8
"""A chunk ends after a multiple of so many fragments, so that one bit for each fills whole bytes."""
_DENSE_CELLS = 1 << 23  # a dense (rows, latents) block of codes stays within 32 MiB
_MOST_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Rows:
    """The activations of all contexts that hold a fragment, in the order of the text.

    `fragment` is the number of the row's fragment and -1 where it is in none, `offset` its place there.
    """

    fragments: Fragments
    contexts: Int64[np.ndarray, " context"]
    token: Int64[np.ndarray, " row"]
    fragment: Int64[np.ndarray, " row"]
    offset: Int64[np.ndarray, " row"]

    def __len__(self) -> int:
        return len(self.token)

    def chunks(self, size: int) -> Iterator[tuple[slice, int, int]]:
        """Slices of about `size` rows, with the number of their first fragment and how many there are.

        No fragment is divided. They depend on `size` alone, and so do the bits of the codes: a matrix
        product may round a row differently in a product of another size.
        """
        begins = np.append(self._begins[::GROUP], len(self))
        begins[0], group = 0, 0  # rows before the first fragment belong to the first chunk
        while group < len(begins) - 1:
            end = max(int(np.searchsorted(begins, begins[group] + size, side="right")) - 1, group + 1)
            first = group * GROUP
            yield slice(int(begins[group]), int(begins[end])), first, min(end * GROUP, len(self.fragments)) - first
            group = end

    @cached_property
    def _begins(self) -> Int64[np.ndarray, " fragment"]:
        """The first row of each fragment."""
        inside = np.flatnonzero(self.fragment >= 0)
        return inside[np.searchsorted(self.fragment[inside], np.arange(len(self.fragments)))]


def rows_of(fragments: Fragments, store: Activations) -> Rows:
    """The rows of the contexts that hold one of `fragments`, which must be in the order of the text.

    Raises `ConfigurationError` for fragments that were not cut from this store's split.
    """
    kept = store.kept(fragments.split).numpy()
    if kept.shape != tuple(fragments.tokens.ids.shape):
        raise ConfigurationError(
            f"the fragments were cut from contexts of shape {tuple(fragments.tokens.ids.shape)}, but {store} have "
            f"{kept.shape} in the {fragments.split} split: cut them from these activations."
        )
    place = fragments.context * kept.shape[1] + fragments.start
    if (np.diff(place) <= 0).any():
        raise ConfigurationError("the fragments are not in the order of the text: use them as `cut` gives them.")
    contexts, row = np.unique(fragments.context, return_inverse=True)
    number = np.full((len(contexts), kept.shape[1]), -1, np.int64)
    offset = np.zeros_like(number)
    piece, position = fragments.real.nonzero()
    number[row[piece], fragments.start[piece] + position] = piece
    offset[row[piece], fragments.start[piece] + position] = position
    rows = kept[contexts]
    ids = fragments.tokens.ids.numpy()[contexts]
    return Rows(fragments, contexts, ids[rows].astype(np.int64), number[rows], offset[rows])


def site_of(dictionary: Dictionary, site: str | None) -> str:
    """`site`, or the one the dictionary says it reads. Raises `ConfigurationError` when neither says."""
    found = site or dictionary.provenance.site
    if found is None:
        raise ConfigurationError(
            f"this {dictionary.method} dictionary does not say which site it belongs to: give site=."
        )
    return found


@dataclass(frozen=True, eq=False)
class Chunk:
    """Every positive code of some rows. `place` is the latent's place among those asked for.

    `fragment` and `offset` are where the row is: its fragment counted from `first`, and `fragments`, which
    is how many there are, for rows in none.
    """

    rows: int
    first: int
    fragments: int
    place: Int64[np.ndarray, " entry"]
    token: Int64[np.ndarray, " entry"]
    fragment: Int64[np.ndarray, " entry"]
    offset: Int64[np.ndarray, " entry"]
    code: Float32[np.ndarray, " entry"]


def coded(
    dictionary: Dictionary,
    store: Activations,
    site: str,
    rows: Rows,
    latents: Int64[np.ndarray, " latent"],
    *,
    block: int = 8192,
    memory: CodeMemory | None = None,
    progress: Progress | None = None,
) -> Iterator[Chunk]:
    """The positive codes of `latents` on all `rows`; `block` is how many the store reads at a time.

    `memory` (of this dictionary, site and store alone) spares passes after the first the work of encoding.
    Raises `NumericalError` for codes that are not finite.
    """
    lookup = torch.full((dictionary.n_latents,), -1)
    lookup[torch.from_numpy(latents)] = torch.arange(len(latents))
    size = max(1, min(_MOST_ROWS, _DENSE_CELLS // dictionary.n_latents))
    slices = list(rows.chunks(size))
    pieces = _cut(_inside(store, site, rows, block), [part.stop - part.start for part, _, _ in slices])
    for (part, first, count), x in zip(slices, pieces, strict=True):
        key = rows.fragments.split, part.start, part.stop
        codes = None if memory is None else memory.find(key)
        if codes is None:
            codes = _encoded(dictionary, x)
            if memory is not None:
                memory.keep(key, *codes)
        row, place, code = _positive(*codes, lookup)
        number = rows.fragment[part][row] - first
        yield Chunk(
            rows=len(x),
            first=first,
            fragments=count,
            place=place,
            token=rows.token[part][row],
            fragment=np.where(number < 0, count, number),
            offset=rows.offset[part][row],
            code=code,
        )
        if progress is not None:
            progress("gathering contexts", part.stop, len(rows))


@torch.no_grad()
def _encoded(
    dictionary: Dictionary, x: Float[Tensor, "row d"]
) -> tuple[Int64[Tensor, "row slot"], Float[Tensor, "row slot"]]:
    """The sparse codes of some rows, checked."""
    indices, values = dictionary.encode_sparse(x.to(dictionary.device, dictionary.dtype))
    if not torch.isfinite(values).all():
        name = dictionary.provenance.name or f"a {dictionary.method} dictionary"
        raise NumericalError(f"{name} gave codes that are not finite: train or fit it again.")
    return indices.cpu(), values.float().cpu()


def _positive(
    indices: Int64[Tensor, "row slot"], values: Float[Tensor, "row slot"], lookup: Int64[Tensor, " latent"]
) -> tuple[Int64[np.ndarray, " entry"], Int64[np.ndarray, " entry"], Float32[np.ndarray, " entry"]]:
    """Row, place and value of the positive codes of the latents looked for."""
    place = lookup[indices]
    row, slot = ((values > 0) & (place >= 0)).nonzero(as_tuple=True)
    return row.numpy(), place[row, slot].numpy(), values[row, slot].numpy()


def _inside(store: Activations, site: str, rows: Rows, block: int) -> Iterator[Float[Tensor, "row d"]]:
    """The activations of `rows`, as they come."""
    chosen = torch.from_numpy(rows.contexts)
    for part in store.blocks(site, rows.fragments.split, rows=block):
        inside = torch.isin(part.context, chosen)
        yield part.x if inside.all() else part.x[inside]
        if int(part.context[-1]) > int(chosen[-1]):
            return


def _cut(parts: Iterator[Float[Tensor, "row d"]], sizes: list[int]) -> Iterator[Float[Tensor, "row d"]]:
    """The same rows in pieces of the given sizes."""
    waiting: list[Tensor] = []
    for size in sizes:
        while sum(map(len, waiting)) < size:
            waiting.append(next(parts))
        together = torch.cat(waiting) if len(waiting) > 1 else waiting[0]
        waiting = [together[size:]]
        yield together[:size]
