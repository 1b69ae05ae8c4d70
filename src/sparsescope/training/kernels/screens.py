"""What the compiled kernels keep beside an encoder: its weights in a short format, in which they screen.

The proof that screening selects what float32 selects stands in cpu_screen.h, for any balance of the dimensions.
"""

import ctypes
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from . import calls
from .calls import address

PANEL = 64
"""Latents that lie together in the packed form: see cpu_screen.h."""
LARGEST_D = 60_000
"""Sums of more products of 8-bit integers may not fit into 32 bits."""
REBALANCE = 100
"""Batches between two looks at how large the dimensions are."""
SAMPLE = 1024
"""Rows of a batch, and of the weights, that a look takes in."""


class Screen(Protocol):
    """Something that follows the weights of an encoder."""

    raw: calls.Screen

    def refresh(self, weight: Float[Tensor, "latent d"], threads: int) -> None:
        """Reads the weights again."""


class Integers:
    """Weights in integers of 8 bits, with the bounds of their errors.

    Integers follow the largest dimension, so a few large ones (as language models have them) would leave the
    others too coarse. Hence x / c and w · c are what is rounded, with c = √(rms of x / rms of w) in each
    dimension, taken from the weights and a batch. The answers do not depend on c; the work does.
    """

    def __init__(self, latents: int, d: int) -> None:
        full = -(-latents // PANEL) * PANEL
        self._packed = torch.full((full * -(-d // 4) * 4,), 128, dtype=torch.uint8)
        self._scale, self._norm, self._error = torch.zeros(3, full)
        self._balance, self._inverse = torch.ones(2, d)
        self._batches = 0
        self._stale = True
        self.raw = calls.Screen(
            address(self._packed, torch.uint8),
            None,
            *map(address, (self._scale, self._norm, self._error, self._balance, self._inverse)),
            d,
            latents,
        )

    def refresh(self, weight: Float[Tensor, "latent d"], threads: int) -> None:
        """Leaves the reading to the next batch, which says how to balance."""
        self._stale = True

    def prepare(self, x: Float[Tensor, "row d"], weight: Float[Tensor, "latent d"], threads: int) -> None:
        """To be called before each use, with the batch: balances anew now and then, and reads new weights."""
        if self._stale or self._batches % REBALANCE == 0:
            self._rebalance(x, weight)
            calls.library().screen_weights(ctypes.byref(self.raw), address(weight), threads)
            self._stale = False
        self._batches += 1

    def _rebalance(self, x: Tensor, weight: Tensor) -> None:
        balance = (_sizes(x) / _sizes(weight)).sqrt()
        if bool(torch.isfinite(balance).all()) and bool((balance > 0).all()):
            self._balance.copy_(balance)
            self._inverse.copy_(1 / balance)


class Halves:
    """Weights in bfloat16, with the bounds of their errors."""

    def __init__(self, latents: int, d: int) -> None:
        self.weight = torch.zeros(latents, d, dtype=torch.bfloat16)
        self.norm, self.error = torch.zeros(2, latents)
        self.raw = calls.Screen(
            None,
            address(self.weight, torch.bfloat16),
            None,
            address(self.norm),
            address(self.error),
            None,
            None,
            d,
            latents,
        )

    def refresh(self, weight: Float[Tensor, "latent d"], threads: int) -> None:
        """Rounds the weights."""
        calls.library().screen_weights(ctypes.byref(self.raw), address(weight), threads)


def _sizes(table: Float[Tensor, "row d"]) -> Float[Tensor, " d"]:
    """Root mean squares of the columns, from some of the rows; none is taken to be below a thousandth of their own."""
    some = table[:: max(1, len(table) // SAMPLE)]
    squares = some.square().mean(0)
    return (squares + 1e-6 * squares.mean()).sqrt()
