"""New directions for dead latents of methods without an auxiliary loss (Bricken et al. 2023, Monosemanticity)."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from .source import Batch

if TYPE_CHECKING:
    from .member import Member

TIMES = (1 / 8, 2 / 8, 3 / 8, 4 / 8)
"""Shares of the run after which it is done: late enough to know the dead, early enough to train the new."""


def due(step: int, steps: int) -> bool:
    """Whether it is done at this step of so many."""
    return step > 0 and step in {round(share * steps) for share in TIMES}


def resample(member: "Member", batch: Batch, row_error: Float[Tensor, " row"], step: int, silent_for: int) -> int:
    """Point each latent that has been silent for `silent_for` rows at a row that is reconstructed badly.

    Rows are drawn with probability proportional to the square of their squared error, each once: two
    latents of one row would stay twins for ever. Where there are fewer rows, the other latents wait. The direction is
    that of the row (less the bias); an encoder of its own is as long as those of living latents are on
    average, and the bias is their average too. Adam's averages of all of these start anew. Where a
    member has two widths the direction is a row of the output, the encoder one of the input.
    (There: encoders of a fifth of that length, biases of zero, and 100 times rarer.)

    The draw depends on the member's seed and the step alone. Returns the number of latents.
    """
    dead = (member.silent >= silent_for).nonzero().squeeze(1)
    alive = member.silent < silent_for
    chance = row_error.double() / row_error.double().max().clamp_min(1e-300)
    chance = chance.square().float().cpu()
    dead = dead[: int(torch.count_nonzero(chance))]
    if not len(dead) or not bool(alive.any()):
        return 0
    generator = torch.Generator().manual_seed((member.init_seed + step) % 2**63)
    rows = torch.multinomial(chance, len(dead), generator=generator).to(dead.device)
    weights, vectors = member.weights, member.vectors
    bias = weights.vectors.get("bias")
    weights.directions[dead] = _unit(batch.y[rows] if bias is None else batch.y[rows] - bias)
    if weights.encoder is not None:
        length = weights.encoder[alive].norm(dim=1).mean()
        x = batch.x[rows] - weights.vectors["bias"] if weights.centred else batch.x[rows]
        weights.encoder[dead] = length * _unit(x)
    weights.vectors["encoder_bias"][dead] = weights.vectors["encoder_bias"][alive].mean()
    for matrix in member.matrices.values():
        matrix.mean[dead] = 0
        matrix.square[dead] = 0
    vectors.forget("encoder_bias", dead)
    member.silent[dead] = 0
    return len(dead)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-8)
