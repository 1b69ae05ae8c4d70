"""Which codes of a batch are active: every positive one, or the k largest of each row.

Two forms give the same entries: one in torch, for any device, and one through numpy, which on a CPU
is several times faster at finding few entries among many. The device decides.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUPS = 16
"""How many codes share one candidate for the k-th largest."""


@dataclass
class Active:
    """The non-zero codes of a batch, row after row. `start[i]` is where row i begins."""

    latent: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    row: Int[Tensor, " entry"]
    start: Int[Tensor, " row"]


def positive(codes: Float[Tensor, "row latent"]) -> Active:
    """Every code above zero. A NaN is kept, so that it reaches the loss and is caught there."""
    flat = _true(codes, 0.0)
    row = torch.div(flat, codes.shape[1], rounding_mode="floor")
    start = torch.searchsorted(row, torch.arange(len(codes), device=codes.device))
    return Active(flat - row * codes.shape[1], codes.view(-1)[flat], row, start)


def largest(codes: Float[Tensor, "row latent"], k: int) -> Active:
    """The k largest codes of each row, without those that are not above zero. A NaN counts as largest."""
    value, latent = _top_by_floor(codes, k) if codes.device.type == "cpu" else codes.topk(k, dim=1, sorted=False)
    entry = _true(value, 0.0)
    row = torch.div(entry, k, rounding_mode="floor")
    start = torch.searchsorted(row, torch.arange(len(codes), device=codes.device))
    return Active(latent.view(-1)[entry], value.view(-1)[entry], row, start)


def _true(codes: Tensor, floor: float) -> Int[Tensor, " entry"]:
    """Flat positions of the codes that are not at or below `floor`, ascending."""
    if codes.device.type != "cpu":
        return (~(codes <= floor)).view(-1).nonzero().squeeze(1)
    mask = np.less_equal(codes.numpy(), floor)
    return torch.from_numpy(np.flatnonzero(np.logical_not(mask, out=mask)))


def _top_by_floor(codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`codes.topk(k, dim=1, sorted=False)`, looking only at codes that can be among the k largest.

    The k largest of the maxima of groups of codes are k codes: no smaller code need be looked at.
    """
    rows, width = codes.shape
    if width % GROUPS or width // GROUPS < 2 * k:
        return codes.topk(k, dim=1, sorted=False)
    maxima = codes.view(rows, GROUPS, -1).amax(1).numpy()
    floor = np.partition(maxima, -k, axis=1)[:, -k, None]
    mask = np.less(codes.numpy(), floor)
    flat = np.flatnonzero(np.logical_not(mask, out=mask))
    row = flat // width
    start = np.searchsorted(row, np.arange(rows + 1))
    slot = np.arange(len(flat)) - start[row]
    # candidates side by side; rows with fewer than the fullest are filled up with what is never chosen
    shape = (rows, int(np.diff(start).max()))
    value = torch.full(shape, -torch.inf, dtype=codes.dtype)
    latent = torch.zeros(shape, dtype=torch.int64)
    value.numpy()[row, slot] = codes.numpy().reshape(-1)[flat]
    latent.numpy()[row, slot] = flat - row * width
    value, chosen = value.topk(k, dim=1, sorted=False)
    return value, latent.gather(1, chosen)


def by_latent(active: Active, count: int) -> Int[Tensor, " entry"]:
    """The order that brings the entries of each latent together, rows ascending."""
    if active.latent.device.type == "cpu" and count <= 1 << 16:
        # numpy sorts numbers of 16 bits by radix
        return torch.from_numpy(np.argsort(active.latent.numpy().astype(np.uint16), kind="stable"))
    return active.latent.argsort(stable=True)
