"""Comparing sets of directions: how alike two dictionaries are, and how much room each latent has.

Rows are directions; only their direction matters, except in `capacity`'s formula, which is free of
scale when all rows are scaled alike. A row of zeros has cosine 0 with everything. Nothing here holds
a whole matrix of cosines between large dictionaries: rows are taken `BLOCK` at a time.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigurationError, NumericalError

Pairs: TypeAlias = tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"], Float[np.ndarray, " pair"]]
"""Row numbers of one side, row numbers of the other, and the cosines between them."""

BLOCK = 2048
FULL_MATCHING_LIMIT = 20_000
"""Above this many latents, a matching needs a floor: the full matrix of cosines would not fit."""


def unit_rows(directions: Float[Tensor, "latent d"]) -> Float[Tensor, "latent d"]:
    """Rows scaled to norm 1 in float32; rows of zeros stay zero. Raises `NumericalError` on NaN."""
    directions = directions.detach().float()
    if not torch.isfinite(directions).all():
        raise NumericalError("a direction holds NaN or infinity: this dictionary was damaged or its training diverged.")
    norms = directions.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, directions / norms.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def _cosine_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[int, Float[Tensor, "block other"]]]:
    """(first row of `a`, cosines of a block of rows of `a` with all rows of `b`)."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ConfigurationError(
            f"directions of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared: "
            "expected two matrices with as many columns and at least one row each."
        )
    first, second = unit_rows(a), unit_rows(b).to(a.device)
    for begin in range(0, len(first), BLOCK):
        yield begin, first[begin : begin + BLOCK] @ second.T


def max_cosine(a: Float[Tensor, "latent d"], b: Float[Tensor, "other d"]) -> Float[Tensor, " latent"]:
    """For each row of `a`, its largest cosine with any row of `b`."""
    return torch.cat([cosines.max(1).values for _, cosines in _cosine_blocks(a, b)])


def mmcs(a: Float[Tensor, "latent d"], b: Float[Tensor, "other d"]) -> float:
    """Mean max cosine similarity: mean over rows of `a` of the largest cosine with a row of `b`.

    Several rows of `a` may share a partner, and a larger `b` scores higher by chance alone: compare
    with random directions of the same sizes, and prefer `recovery`. Not symmetric: `mmcs(truth, learned)`
    is how well the truth is represented. Source: Sharkey et al. 2022; Cunningham et al. 2023, §3.

    >>> round(mmcs(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[2.0, 0.0]])), 3)  # (1 + 3/5) / 2
    0.8
    """
    return max_cosine(a, b).double().mean().item()


def match(a: Float[Tensor, "latent d"], b: Float[Tensor, "other d"], *, floor: float | None = None) -> Pairs:
    """One-to-one pairs (rows of `a`, rows of `b`, their cosines) with the largest total cosine.

    With `floor` (above 0), pairs below it are not made and the total counts the others only; the
    problem then falls apart into independent groups of rows linked by cosines at or above the floor,
    which are solved one by one, exactly, whatever the size. Without, every row of the smaller set is
    paired. Source: Kuhn 1955 (Hungarian method), by `scipy.optimize.linear_sum_assignment`.

    Raises `ConfigurationError` for a floor outside (0, 1], or for none above 20,000 latents.
    """
    if floor is not None and not 0 < floor <= 1:
        raise ConfigurationError(f"floor is {floor}; expected a cosine above 0 and at most 1.")
    if floor is None:
        if max(len(a), len(b)) > FULL_MATCHING_LIMIT:
            raise ConfigurationError(
                f"matching {len(a):,} with {len(b):,} latents needs a floor (e.g. 0.5): "
                f"a full matching is limited to {FULL_MATCHING_LIMIT:,}."
            )
        cosines = torch.cat([block for _, block in _cosine_blocks(a, b)]).cpu().double().numpy()
        return _assign(cosines, np.arange(len(a)), np.arange(len(b)))
    rows, columns, values = _edges(a, b, floor)
    found = [_assign_group(rows[g], columns[g], values[g]) for g in _groups(rows, columns, len(a), len(b))]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    paired = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    order = np.argsort(paired[0])
    return paired[0][order], paired[1][order], paired[2][order]


def recovery(learned: Float[Tensor, "latent d"], truth: Float[Tensor, "feature d"], threshold: float = 0.9) -> float:
    """Share of true directions with a learned partner of their own at cosine ≥ `threshold`.

    Partners are one-to-one (`match` with the threshold as floor), and the share is of all true
    directions, so duplicates earn nothing and a narrow dictionary pays for what it cannot hold.

    >>> truth = torch.eye(3)
    >>> round(recovery(truth[[0, 0, 1]], truth), 3)  # 0 and 1 are found; the second copy of 0 adds nothing
    0.667
    """
    return len(match(learned, truth, floor=threshold)[0]) / len(truth)


def capacity(directions: Float[Tensor, "latent d"], rows: Int[Tensor, " row"] | None = None) -> Float[Tensor, " row"]:
    """‖f_i‖⁴ / Σ_j (f_i·f_j)², for every row, or for the given `rows` (against all).

    1 for a direction orthogonal to all others, 1/m for one of m copies; a row of zeros has 0.
    Source: Scherlis et al. 2022, *Polysemanticity and Capacity in Neural Networks*, eq. 1.

    >>> capacity(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    everything = directions.detach().float()
    chosen = everything if rows is None else everything[rows]
    parts = []
    for begin in range(0, len(chosen), BLOCK):
        block = chosen[begin : begin + BLOCK]
        shared = (block @ everything.T).double().square().sum(1)
        own = block.double().square().sum(1).square()
        parts.append(torch.where(own > 0, own / shared.clamp_min(torch.finfo(torch.float64).tiny), 0.0).float())
    return torch.cat(parts)


def neurons_per_latent(directions: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
    """Effective number of coordinates a direction is spread over: 1 / Σ p², p = |f| / Σ|f|.

    1 for a single neuron, d for a direction that uses all equally; nan for a row of zeros.
    Source: Cunningham et al. 2023 (code); the inverse Simpson index.

    >>> neurons_per_latent(torch.tensor([[0.0, -2.0], [3.0, 3.0]]))
    tensor([1., 2.])
    """
    size = directions.detach().double().abs()
    return (1 / (size / size.sum(1, keepdim=True)).square().sum(1)).float()


def _edges(a: Tensor, b: Tensor, floor: float) -> Pairs:
    rows, columns, values = [], [], []
    for begin, cosines in _cosine_blocks(a, b):
        here = (cosines >= floor).nonzero()
        rows.append((here[:, 0] + begin).cpu())
        columns.append(here[:, 1].cpu())
        values.append(cosines[here[:, 0], here[:, 1]].cpu())
    return torch.cat(rows).numpy(), torch.cat(columns).numpy(), torch.cat(values).double().numpy()


def _groups(rows: np.ndarray, columns: np.ndarray, n_rows: int, n_columns: int) -> list[np.ndarray]:
    """Edge numbers of each connected group of the bipartite graph."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(rows):
        return []
    size = n_rows + n_columns
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns + n_rows)), shape=(size, size)).tocsr()
    label = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _assign_group(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> Pairs:
    """Best pairs inside one group; pairs without an edge count nothing and are dropped."""
    row_names, row_places = np.unique(rows, return_inverse=True)
    column_names, column_places = np.unique(columns, return_inverse=True)
    gain = np.zeros((len(row_names), len(column_names)))
    gain[row_places, column_places] = values
    first, second, cosines = _assign(gain, row_names, column_names)
    return first[cosines > 0], second[cosines > 0], cosines[cosines > 0]


def _assign(gain: np.ndarray, row_names: np.ndarray, column_names: np.ndarray) -> Pairs:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gain, maximize=True)
    return row_names[rows], column_names[columns], gain[rows, columns]
