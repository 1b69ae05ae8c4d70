"""Reading the model: one unit of contexts to rows of activations, checked and counted."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from ..errors import NumericalError
from ..text import Tokens
from .base import DTYPES
from .plan import Plan, Unit, take

MASSIVE_RATIO = 10.0
"""A row is massive when its norm is above this many times the median norm at its site.

The massive activations of attention sinks (Sun et al. 2024, arXiv 2402.17762) are hundreds of times
the median, ordinary rows stay within a factor of two or three.
"""


@dataclass(frozen=True, eq=False)
class Reading:
    """The rows of one unit. `keep` marks the positions that became rows, in row order.

    `sums` and `squares` are Σx per dimension and Σx² over the rows as stored, in float64.
    `medians` are the median norms that massive rows are told by, `counts` what was seen.
    """

    unit: Unit
    rows: dict[str, Float[Tensor, "row d"]]
    keep: Bool[Tensor, "n context"]
    sums: dict[str, Float64[Tensor, " d"]]
    squares: dict[str, float]
    medians: dict[str, float]
    massive: dict[str, int]
    bos: int


def read_unit(plan: Plan, unit: Unit, medians: Mapping[str, float] | None) -> Reading:
    """Run the model over a unit and choose the rows.

    `medians` are the median norms per site of the first unit; without them this *is* the first unit
    and they are taken from it. A massive row at any site is left out at all sites, so that rows stay
    aligned between sites.

    Raises `NumericalError` for activations that are not finite, or do not fit the stored dtype.
    """
    real = unit.tokens.document >= 0
    rows, norms = _run(plan, unit, real)
    found = dict(medians or {site: norm.double().quantile(0.5).item() for site, norm in _sampled(norms).items()})
    massive = {site: norm > MASSIVE_RATIO * found[site] for site, norm in norms.items()}
    bos = unit.tokens.bos[real]
    left_out = torch.zeros_like(bos) if plan.include_bos else bos.clone()
    if plan.massive == "drop":
        for marked in massive.values():
            left_out |= marked
    keep = real.clone()
    keep[real] = ~left_out
    if left_out.any():
        rows = {site: x[~left_out] for site, x in rows.items()}
    moments = {site: _moments(x) for site, x in rows.items()}
    return Reading(
        unit,
        rows,
        keep,
        sums={site: total for site, (total, _) in moments.items()},
        squares={site: square for site, (_, square) in moments.items()},
        medians=found,
        massive={site: int(marked.sum()) for site, marked in massive.items()},
        bos=int(bos.sum()),
    )


def _sampled(norms: Mapping[str, Float32[Tensor, " row"]]) -> dict[str, Float32[Tensor, " row"]]:
    """Every k-th norm where there are more than `quantile` takes (16 million)."""
    return {site: norm[:: len(norm) // 10_000_000 + 1] for site, norm in norms.items()}


def _run(
    plan: Plan, unit: Unit, real: Bool[Tensor, "n context"]
) -> tuple[dict[str, Float[Tensor, "row d"]], dict[str, Float32[Tensor, " row"]]]:
    """All rows that are not padding, in the stored dtype, and their norms before rounding."""
    dtype, total = DTYPES[plan.dtype], int(real.sum())
    rows = {site: torch.empty(total, plan.model.width(site), dtype=dtype) for site in plan.sites}
    norms = {site: torch.empty(total) for site in plan.sites}
    at = 0
    for first in range(0, len(unit.tokens), plan.batch):
        part = take(unit.tokens, slice(first, first + plan.batch))
        mask = real[first : first + plan.batch]
        padded = not bool(mask.all())
        device_mask = mask.to(plan.model.device)
        with torch.no_grad():
            read = plan.model.read(part.ids.to(plan.model.device), plan.sites, device_mask if padded else None)
            end = at + int(mask.sum())
            for site in plan.sites:
                x = read[site][device_mask] if padded else read[site].flatten(0, 1)
                rows[site][at:end], norms[site][at:end] = _checked(x, dtype, site, part, mask)
        at = end
    return rows, norms


def _checked(
    x: Float[Tensor, "row d"], dtype: torch.dtype, site: str, tokens: Tokens, mask: Bool[Tensor, "n context"]
) -> tuple[Float[Tensor, "row d"], Float32[Tensor, " row"]]:
    """The rows in the stored dtype, and their norms; a `NumericalError` names the first bad row."""
    stored = x.to(dtype)
    if not all(bool(extreme.isfinite()) for extreme in torch.aminmax(stored)):
        bad = int((~stored.isfinite()).any(-1).nonzero()[0])
        context, position = (int(place) for place in mask.nonzero()[bad])
        where = f"at {site}, document {int(tokens.document[context, position])}, position {position} of its context"
        name = str(dtype).removeprefix("torch.")
        if not x[bad].isfinite().all():
            raise NumericalError(
                f"the model's activations are not finite {where}: a store of NaN or infinity is of no use. "
                "Check the model's weights, or load it in float32 if it runs in half precision."
            )
        raise NumericalError(
            f"an activation of {x[bad].abs().max().item():.4g} {where} does not fit {name} "
            f"(largest {torch.finfo(dtype).max:.4g}): harvest with dtype bfloat16 or float32."
        )
    norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
    if not bool(norm.isfinite().all()):  # squares beyond float32, from values that are within it
        norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).float()
    return stored, norm


def _moments(x: Float[Tensor, "row d"]) -> tuple[Float64[Tensor, " d"], float]:
    """Σx per dimension and Σx², in float64, a piece at a time."""
    total, square = torch.zeros(x.shape[1], dtype=torch.float64), 0.0
    for piece in x.split(1024):
        exact = piece.double()
        total += exact.sum(0)
        square += torch.dot(exact.flatten(), exact.flatten()).item()
    return total, square
