"""What a peer is asked to train, and the one form in which its weights come back."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What is to be trained: sizes, sparsity, and for how long.

    `weights` are what encoder and decoder start from, `bias` what the decoder's bias starts at and
    `encoder_bias` the bias of every latent; without them a library initialises as it does. `lr` None is
    the library's own choice. `warmup` and `decay` are shares of `steps`. `dead_after` rows without
    firing make a latent dead; None leaves that to the library.
    """

    method: str
    d_in: int
    n_latents: int
    batch: int
    k: int = 32
    steps: int = 1_000_000
    lr: float | None = None
    warmup: float = 0.0
    decay: float = 0.0
    seed: int = 0
    choice: str | None = None
    widths: tuple[int, ...] = ()
    dead_after: int | None = None
    weights: Float[Tensor, "latent d"] | None = None
    bias: Float[Tensor, " d"] | None = None
    encoder_bias: float = 0.0

    @property
    def groups(self) -> tuple[int, ...]:
        """Prefix widths of a Matryoshka dictionary: an eighth, a quarter, a half and all, unless given."""
        return self.widths or tuple(self.n_latents // part for part in (8, 4, 2, 1))


@dataclass(frozen=True)
class Learned:
    """A dictionary in one form for all libraries: π = E (x − b) + e; c = π where it is kept, else 0; x̂ = Dᵀ c + b.

    Kept are the `k` largest positive π of a row, or all above `threshold`, or all above 0.
    """

    encoder: Float[Tensor, "latent d"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d"]
    bias: Float[Tensor, " d"]
    k: int | None = None
    threshold: float = 0.0

    def encode(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        pre = (x - self.bias) @ self.encoder.T + self.encoder_bias
        if self.k is None:
            return pre.relu() * (pre > self.threshold)
        top = pre.topk(self.k, dim=1)
        return torch.zeros_like(pre).scatter_(1, top.indices, top.values.relu())

    def reconstruct(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        return self.encode(x) @ self.directions + self.bias


class Trainee(Protocol):
    """A model in training."""

    def step(self, x: Float[Tensor, "row d"]) -> float:
        """One training step; the loss before it."""

    def learned(self) -> Learned:
        """What it has learned so far."""

    def own_reconstruction(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """The library's own inference, to check `learned` against."""
