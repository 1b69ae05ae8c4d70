"""Non-negative matrix factorisation as a dictionary: codes are the exact non-negative least squares.

Activations are shifted so that each dimension's minimum over the fitted rows is zero (the paper's way
of making them non-negative); the shift is `bias`. Activations below it are encoded like any others.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .base import Dictionary, keep_largest, matrix_shape, to_dense, to_sparse
from .nnls import non_negative_least_squares, penalty_of

HELD_ENTRIES = 1 << 23
"""How many Gram entries are held at once when codes are solved again on each row's own latents."""


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class NMFDictionary(Dictionary):
    """c = argmin over c >= 0 of ||x - bias - c @ directions||².

    `directions` (latent, d) has unit-norm rows, non-negative as fitted; `bias` (d) is the shift. With
    `k`, the k largest codes are kept and the least squares solved again on those alone. `converged`
    says whether the fit reached its tolerance, `rows` how many activations it saw.

    >>> nmf = NMFDictionary(directions=torch.eye(2), bias=torch.tensor([-1.0, -1.0]))
    >>> [round(code, 4) for code in nmf.encode(torch.tensor([2.0, -3.0])).tolist()]
    [3.0, 0.0]
    """

    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int | None = None
    converged: bool | None = None
    rows: int | None = None

    method: ClassVar[str] = "nmf"

    def __post_init__(self) -> None:
        count, width = matrix_shape(self.directions, type(self).__name__, "directions")
        self.check_fields({"directions": (count, width), "bias": (width,)})
        self.check_unit_rows()
        if self.k is not None:
            self.check_k(self.k, count)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        if self.k is not None:
            return to_dense(*self.encode_sparse(x), self.n_latents)
        self.check_input(x)
        codes = self._solve(self._products(x), self._gram)
        return codes.to(self.dtype).reshape(*x.shape[:-1], self.n_latents)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        if self.k is None:
            return to_sparse(self.encode(x))
        self.check_input(x)
        size = max(1, HELD_ENTRIES // self.k**2)
        parts = [self._largest(products, self.k) for products in self._products(x).split(size)]
        indices, values = (torch.cat(each).reshape(*x.shape[:-1], self.k) for each in zip(*parts, strict=True))
        return indices, values.to(self.dtype)

    def _largest(
        self, products: Float64[Tensor, "row latent"], k: int
    ) -> tuple[Int[Tensor, "row slot"], Float[Tensor, "row slot"]]:
        """The k largest codes, solved again on their own latents. A slot whose code was zero stays empty."""
        with torch.no_grad():
            indices, kept = keep_largest(self._solve(products, self._gram), k)
        gram = self._gram[indices[:, :, None], indices[:, None, :]]
        # Empty slots name latent 0 again: give each a latent of its own that nothing pulls on.
        full = (kept > 0)[:, :, None] & (kept > 0)[:, None, :]
        gram = torch.where(full, gram, torch.eye(k, dtype=gram.dtype, device=gram.device))
        values = self._solve(torch.where(kept > 0, products.gather(-1, indices), 0.0), gram)
        return indices * (values > 0), values

    def _solve(
        self, products: Float64[Tensor, "row latent"], gram: Float64[Tensor, "*row latent latent"]
    ) -> Float[Tensor, "row latent"]:
        working = torch.promote_types(self.dtype, torch.float32)
        return non_negative_least_squares(products, gram, self._penalty, working)

    def _products(self, x: Float[Tensor, "*batch d"]) -> Float64[Tensor, "row latent"]:
        """What the solver needs of x: its products with the directions."""
        centred = (x - self.bias).reshape(-1, self.d_in)
        return centred.to(torch.float64) @ self.directions.to(torch.float64).T

    @cached_property
    def _gram(self) -> Float64[Tensor, "latent latent"]:
        exact = self.directions.detach().to(torch.float64)
        return exact @ exact.T

    @cached_property
    def _penalty(self) -> float:
        return penalty_of(self._gram)
