"""Non-negative least squares for many rows at once, and its derivative.

The alternating direction method of multipliers (Boyd et al. 2011, sections 3.1 and 5.2) with
over-relaxation: each step is one small matrix product, codes are exact zeros where inactive, and a
row stops when it has converged, whatever else is in its batch.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

RELAXATION = 1.6
"""Over-relaxation; Boyd et al. recommend 1.5 to 1.8."""
CHECK = 20
"""Steps between two looks at which rows have converged."""
MOST_STEPS = 2000
"""Where a row stops in any case. Activations of a language model take 50 to 60 steps in float32."""
EMPTY = 1e-6
"""Eigenvalues of the Gram matrix below this share of the largest do not count for the penalty."""


def penalty_of(gram: Float64[Tensor, "latent latent"]) -> float:
    """The solver's penalty: the geometric mean of the Gram matrix's eigenvalues.

    Measured on five Gram matrices, well and ill conditioned, it is within a factor of three of the
    penalty that converges fastest, which varies by a hundred between them.
    """
    values = torch.linalg.eigvalsh(gram)
    return float(values[values > EMPTY * values[-1]].log().mean().exp())


def non_negative_least_squares(
    products: Float64[Tensor, "row latent"],
    gram: Float64[Tensor, "*row latent latent"],
    penalty: float,
    dtype: torch.dtype,
) -> Float[Tensor, "row latent"]:
    """c >= 0 that minimises ||x - c D||², from `products` = x Dᵀ and `gram` = D Dᵀ (one, or one per row).

    The steps run in `dtype`; a row has converged when a step moves it by less than ε^¾ of its size.
    Differentiable once with respect to `products`: by the implicit function theorem, the codes that
    are positive are a linear function of their products, and the others stay zero.

    >>> products, gram = torch.tensor([[3.0, -1.0]]).double(), torch.eye(2).double()
    >>> non_negative_least_squares(products, gram, 1.0, torch.float64).round(decimals=6).tolist()
    [[3.0, 0.0]]
    """
    return _LeastSquares.apply(products, gram, penalty, dtype)


class _LeastSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, products: Tensor, gram: Tensor, penalty: float, dtype: torch.dtype) -> Tensor:
        codes = _minimise(products, gram, penalty, dtype)
        ctx.save_for_backward(codes > 0, gram)
        return codes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        active, gram = ctx.saved_tensors
        return _solve_active(active, gram, gradient.to(gram.dtype)), None, None, None


def _solve_active(
    active: Bool[Tensor, "row latent"],
    gram: Float64[Tensor, "*row latent latent"],
    target: Float64[Tensor, "row latent"],
) -> Float64[Tensor, "row latent"]:
    """The solution of gram · s = target on each row's active latents, zero elsewhere."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    both = active[:, :, None] & active[:, None, :]
    system = torch.where(both, gram, identity)
    return torch.linalg.solve(system, torch.where(active, target, 0.0))


def _minimise(products: Tensor, gram: Tensor, penalty: float, dtype: torch.dtype) -> Tensor:
    """`free` solves the penalised problem, `codes` is its projection, `dual` sums up how the two disagree."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(gram + penalty * identity)
    # Rows that share a large part cancel in this product: it needs float64, the steps do not.
    base = _times(products, inverse).to(dtype)
    pull = (penalty * inverse).to(dtype)
    codes, dual, found = torch.zeros_like(base), torch.zeros_like(base), torch.zeros_like(base)
    left = torch.arange(len(base), device=base.device)
    tolerance = torch.finfo(dtype).eps ** 0.75
    for step in range(1, MOST_STEPS + 1):
        free = base + _times(codes - dual, pull)
        relaxed = RELAXATION * free + (1 - RELAXATION) * codes
        projected = (relaxed + dual).relu()
        dual = dual + relaxed - projected
        before, codes = codes, projected
        if step % CHECK:
            continue
        found[left] = codes
        going = ~_converged(before, codes, free, base, tolerance)
        if not going.any():
            break
        left, codes, dual, base = left[going], codes[going], dual[going], base[going]
        pull = pull[going] if pull.ndim == 3 else pull
    return found


def _converged(before: Tensor, codes: Tensor, free: Tensor, base: Tensor, tolerance: float) -> Tensor:
    moved = torch.maximum((codes - before).abs().amax(-1), (free - codes).abs().amax(-1))
    return moved <= tolerance * torch.maximum(codes.amax(-1), base.abs().amax(-1))


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Each row times the matrix, or times its own."""
    return rows @ matrix if matrix.ndim == 2 else (rows[:, None, :] @ matrix)[:, 0, :]
