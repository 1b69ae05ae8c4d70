"""Codes kept from one pass for the next: explaining a dictionary reads the same rows several times."""

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

MOST_BYTES = 256 << 20


class CodeMemory:
    """The sparse codes of one dictionary at one site of one store, by rows, up to `most_bytes`.

    What does not fit is computed again. Chunks of rows are always cut alike, so nothing depends on it.

    >>> memory = CodeMemory()
    >>> memory.keep(("test", 0, 2), torch.tensor([[1], [0]]), torch.tensor([[0.5], [2.0]]))
    >>> memory.find(("test", 0, 2))[1].tolist(), memory.find(("test", 2, 4))
    ([[0.5], [2.0]], None)
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._held: dict[tuple[str, int, int], tuple[Int32[Tensor, "row slot"], Float32[Tensor, "row slot"]]] = {}
        self._room = most_bytes

    def keep(self, rows: tuple[str, int, int], indices: Tensor, values: Tensor) -> None:
        """Remember the codes of `rows` (split, first, end), if there is room."""
        size = indices.numel() * 8
        if size <= self._room:
            self._held[rows] = indices.to(torch.int32), values.float()
            self._room -= size

    def find(self, rows: tuple[str, int, int]) -> tuple[Tensor, Tensor] | None:
        """Indices and values of rows that were kept."""
        found = self._held.get(rows)
        return None if found is None else (found[0].long(), found[1])
