"""From a trained member to a dictionary: the fold, and the measures of what is saved on held-out rows."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..dictionaries import Dictionary, Provenance
from .kernels import Kernels
from .member import Member
from .source import Batch, Source

TOLERANCE = 0.05
"""How far the L0 on held-out rows may be from `target_l0`, as a share of it."""
CHUNK = 1 << 22
"""Codes that are held at a time."""


@dataclass(frozen=True)
class HeldOut:
    """A dictionary measured on rows that it was not trained on: FVU and L0."""

    fvu: float
    l0: float

    def misses(self, target: float) -> bool:
        """Whether L0 is further than `TOLERANCE` from the target."""
        return not abs(self.l0 - target) <= TOLERANCE * target


def measure_held_out(dictionary: Dictionary, source: Source, batches: list[Batch]) -> HeldOut:
    """The dictionary as it will be used, on held-out rows. Sums are pooled over rows."""
    rows = sum(len(batch.y) for batch in batches)
    mean = sum((batch.y.sum(0, dtype=torch.float64) for batch in batches), torch.zeros(())) / rows
    error = active = spread = 0.0
    size = max(1, CHUNK // dictionary.n_latents)
    for batch in batches:
        for x, y in zip(batch.x.split(size), batch.y.split(size), strict=True):
            codes, written = _codes(dictionary, x * source.scale)
            active += codes
            error += float((written / source.output_scale - y).double().square().sum())
            spread += float((y - mean).square().sum())
    return HeldOut(error / spread if spread else math.nan, active / rows)


def _codes(dictionary: Dictionary, x: Tensor) -> tuple[int, Tensor]:
    _, values = dictionary.encode_sparse(x)
    return int(torch.count_nonzero(values)), dictionary.reconstruct(x)


def finish_line(member: Member, step: int, split: str, measured: HeldOut) -> dict[str, Any]:
    """The last line about a member in `metrics.jsonl`. L0 and FVU are those on held-out rows."""
    line: dict[str, Any] = {
        "step": step,
        "name": member.name,
        "event": "finished",
        "split": split,
        "rows": member.rows,
        "fvu": measured.fvu,
        "l0": measured.l0,
        "dead": member.dead(),
        "l1": penalty(member),
    }
    target = asked(member)
    return line if target is None else line | {"target_l0": target, "target_l0_met": not measured.misses(target)}


def asked(member: Member) -> float | None:
    """The L0 that a member was asked for where it need not have it: a target, or k over batches."""
    if member.method.selection == "batch":
        return member.k
    return member.method.target_l0


def penalty(member: Member) -> float | None:
    """The weight of the penalty, as reports call it; None for methods without one."""
    return None if member.k is not None else member.coefficient


def fold(member: Member, source: Source, kernels: Kernels) -> Dictionary:
    """The member as a dictionary in the units of the activations.

    A threshold over the batch becomes one for rows by themselves: that which keeps k per row, on average, of
    a sample of the training split with the final weights. (In the literature a running mean of the batches'
    smallest codes, which lags behind where the run is short or k is annealed.)
    """
    method = member.method
    provenance = Provenance(
        site=source.site or None,
        output_site=source.output_site,
        name=member.name,
        seed=source.seed if method.seed is None else method.seed,
        l1=penalty(member),
        k=member.k,
        target_l0=None if member.controller is None else member.controller.target,
        activations=source.fingerprint,
        model=source.model,
    )
    # its vectors are views of flat memory, and its matrices go on to be the member's
    vectors = {name: vector.detach().cpu().clone() for name, vector in member.weights.vectors.items()}
    directions = member.weights.directions.cpu()
    encoder = None if member.weights.encoder is None else member.weights.encoder.cpu()
    weights = replace(member.weights, directions=directions, encoder=encoder, vectors=vectors)
    threshold = member.deployed_threshold(source.sample.to(source.device), kernels)
    return method.fold(weights, {"threshold": threshold or 0.0}, source, provenance)
