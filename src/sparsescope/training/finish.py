"""From a trained member to a dictionary: the last check, the measures on held-out rows, the fold."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..dictionaries import Dictionary, Provenance, TiedSAE, TopKSAE, UntiedSAE
from ..errors import NumericalError
from .gradients import Workspace
from .member import Member
from .methods import TiedL1, TopK
from .source import Source

TOLERANCE = 0.05
"""How far the L0 on held-out rows may be from `target_l0`, as a share of it."""


@dataclass(frozen=True)
class HeldOut:
    """A member measured on rows that it was not trained on: loss, FVU and L0."""

    loss: float
    fvu: float
    l0: float

    def misses(self, target: float) -> bool:
        """Whether L0 is further than `TOLERANCE` from the target."""
        return not abs(self.l0 - target) <= TOLERANCE * target


def measure_held_out(member: Member, batches: list[Float[Tensor, "row d"]], space: Workspace) -> HeldOut:
    """The member on held-out rows, in the units it was trained in. Sums are pooled over all rows."""
    rows = sum(len(x) for x in batches)
    mean = sum((x.sum(0, dtype=torch.float64) for x in batches), torch.zeros(())) / rows
    error = count = loss = spread = 0.0
    for x in batches:
        done = member.measure(x, space)
        loss += member.loss(done) * len(x) / rows
        error += done.squared_error
        count += done.count
        spread += float((x - mean).square().sum())
    return HeldOut(loss, error / spread if spread else math.nan, count / rows)


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
        "l1": None if member.k is not None else member.l1,
    }
    if member.controller is not None:
        target = member.controller.target
        line |= {"target_l0": target, "target_l0_met": not measured.misses(target)}
    return line


def fold(member: Member, source: Source) -> Dictionary:
    """The member as a dictionary in the units of the activations. Raises `NumericalError`, never saves a NaN."""
    weights = member.weights
    if not member.finite():
        raise NumericalError(
            f"{member.name} ended with weights that are not finite: it is not saved. Train it again with a lower "
            "learning rate."
        )
    method = member.method
    provenance = Provenance(
        site=source.site or None,
        name=member.name,
        seed=source.seed if method.seed is None else method.seed,
        l1=None if isinstance(method, TopK) else member.l1,
        k=member.k,
        target_l0=None if member.controller is None else member.controller.target,
        activations=source.fingerprint,
        model=source.model,
    )
    directions, encoder_bias = weights.directions, weights.encoder_bias
    # trained on x / scale
    scale = 1 / source.scale
    if isinstance(method, TiedL1):
        return TiedSAE(directions=directions, encoder_bias=encoder_bias, provenance=provenance).scaled(scale)
    assert weights.encoder is not None
    bias = torch.zeros_like(directions[0]) if weights.bias is None else weights.bias
    if isinstance(method, TopK):
        return TopKSAE(
            directions=directions,
            encoder=weights.encoder,
            encoder_bias=encoder_bias,
            bias=bias,
            k=method.k,
            provenance=provenance,
        ).scaled(scale)
    return UntiedSAE(
        directions=directions, encoder=weights.encoder, encoder_bias=encoder_bias, bias=bias, provenance=provenance
    ).scaled(scale)
