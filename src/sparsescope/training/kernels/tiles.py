"""Selection from products that torch computes, a tile of rows × latents at a time in one small buffer."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from . import calls
from .base import Codes, Encoder
from .calls import address, threads_for
from .reference import Buffers
from .screens import Halves

TILE_ROWS, TILE_COLUMNS = 1024, 2048
"""As fast as the whole product, or faster, and small."""
byref = ctypes.byref


def problem(x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"]) -> calls.Problem:
    """The pre-activations of a batch, for the library."""
    n, d = encoder.weight.shape
    if x.shape[1] != d or len(bias) != n:
        raise ValueError(f"Rows of {x.shape[1]} numbers and {len(bias)} biases for an encoder of {n} × {d}.")
    return calls.Problem(address(x), address(encoder.weight), address(bias), len(x), d, n)


def output(codes: Codes, first: int = 0) -> calls.Output:
    """Codes to be written, from row `first` on."""
    return calls.Output(
        address(codes.latent[first:], torch.int32),
        address(codes.value[first:]),
        address(codes.count[first:], torch.int32),
        codes.latent.shape[1],
    )


@dataclass
class Block:
    """Some rows of a batch, as the library and torch take them."""

    first: int
    problem: calls.Problem
    rows: Tensor
    margin: Tensor | None


class Tiles:
    """Selection in the precisions whose products are torch's: float32, bfloat16, and screening in bfloat16."""

    def __init__(self, library: ctypes.CDLL, buffers: Buffers) -> None:
        self._library = library
        self._buffers = buffers

    def largest(
        self, x: Tensor, encoder: Encoder, bias: Tensor, codes: Codes, k: int, groups: int, capacity: int
    ) -> None:
        """The k largest of each row, into `codes`. `groups` and `capacity` are the search's: see cpu_select.h."""
        threads = threads_for(len(x) * len(encoder.weight))
        for block in self._blocks(x, encoder, bias):
            search = self._search(len(block.rows), k, groups, capacity)
            self._library.start_search(byref(search), len(block.rows))
            for tile in self._tiles(block, encoder):
                self._library.look_at_tile(byref(search), byref(block.problem), byref(tile), threads)
            out = output(codes, block.first)
            self._library.finish_search(byref(search), byref(block.problem), byref(tile), byref(out), threads)

    def above(self, x: Tensor, encoder: Encoder, bias: Tensor, codes: Codes, floor: float) -> None:
        """All entries above 0 and not below `floor`, into `codes`; counts may exceed its slots."""
        threads = threads_for(len(x) * len(encoder.weight))
        codes.count.zero_()
        for block in self._blocks(x, encoder, bias):
            out = output(codes, block.first)
            for tile in self._tiles(block, encoder):
                self._library.append_tile(byref(block.problem), byref(tile), floor, byref(out), threads)

    def _blocks(self, x: Tensor, encoder: Encoder, bias: Tensor) -> Iterator[Block]:
        for first in range(0, len(x), TILE_ROWS):
            part = x[first : first + TILE_ROWS]
            block = Block(first, problem(part, encoder, bias), part, None)
            if encoder.precision == "bf16":
                block.rows = self._get("half rows", part.shape, torch.bfloat16).copy_(part)
            elif isinstance(encoder.screen, Halves):
                block.rows = self._get("half rows", part.shape, torch.bfloat16)
                block.margin = self._get("margins", (len(part), 2))
                self._library.screen_rows(
                    address(part),
                    *part.shape,
                    address(block.rows, torch.bfloat16),
                    address(block.margin),
                    threads_for(part.numel()),
                )
            yield block

    def _tiles(self, block: Block, encoder: Encoder) -> Iterator[calls.Tile]:
        """The products of a block: each is overwritten by the next."""
        halves = isinstance(encoder.screen, Halves)
        weight = encoder.screen.weight if halves else encoder.weight
        screened = block.margin is not None
        norm, error = (address(encoder.screen.norm), address(encoder.screen.error)) if screened else (None, None)
        for first in range(0, len(weight), TILE_COLUMNS):
            part = weight[first : first + TILE_COLUMNS]
            shape = (len(block.rows), len(part))
            scores = self._get("scores", shape)
            if halves:
                product = torch.mm(block.rows, part.t(), out=self._get("half scores", shape, torch.bfloat16))
                scores.copy_(product)
            else:
                torch.mm(block.rows, part.t(), out=scores)
            yield calls.Tile(address(scores), first, len(part), norm, error, address(block.margin))

    def _search(self, rows: int, k: int, groups: int, capacity: int) -> calls.Search:
        lists = (rows, capacity + calls.SPARE)
        return calls.Search(
            address(self._get("best", (rows, groups))),
            address(self._get("floor", (rows,))),
            address(self._get("listed", lists, torch.int32), torch.int32),
            address(self._get("listed scores", lists)),
            address(self._get("listed count", (rows,), torch.int32), torch.int32),
            groups,
            capacity,
            k,
        )

    def _get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._buffers.get(name, shape, dtype, torch.device("cpu"))
