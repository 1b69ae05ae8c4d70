"""The contract that every dictionary keeps, learned or classical.

A dictionary writes an activation as a bias plus a combination of directions:

    codes = encode(x)                     (..., d_in)  -> (..., n_latents)
    x_hat = codes @ directions + bias     (..., n_latents) -> (..., d_out)

Classes below `Dictionary` are final, immutable and stateless: the same input gives the same output,
in any order and any batch size. Scaling and centring learned from data are part of the weights, so
codes are in the units of the activations and nothing needs to be remembered between calls.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag
from typing_extensions import Self

from ..errors import ConfigurationError
from .showing import facts_table

UNIT_NORM_TOLERANCE = 5e-3
"""How far from 1 the norm of a direction may be. Rounding to bfloat16 moves a norm by up to 0.4%."""


@dataclass(frozen=True)
class Provenance:
    """Where a dictionary comes from. Everything is optional: a dictionary may be built by hand.

    `site` is the string form of the site its input is read from; `output_site` that of the site it
    reconstructs, where that is another one; `activations` the fingerprint of the store it was fitted
    on; `model` the name of the model; `l1` the weight of the penalty it was trained with (of JumpReLU,
    of its L0 penalty), `k` and `target_l0` the sparsity it was asked for, each None where the method
    has none; `path` the directory it was loaded from.
    """

    site: str | None = None
    output_site: str | None = None
    name: str | None = None
    seed: int | None = None
    l1: float | None = None
    k: int | None = None
    target_l0: float | None = None
    activations: str | None = None
    model: str | None = None
    path: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Dictionary(ABC):
    """Abstract base. A subclass is a frozen dataclass whose fields are tensors and plain numbers.

    It provides four things, and everything else follows from them:

    - `method`: its name in reports and files (class attribute);
    - `directions`, Float (n_latents, d_out): what each latent adds, per unit of its code;
    - `bias`, Float (d_out): what the reconstruction is when every code is zero;
    - `encode`.
    """

    provenance: Provenance = Provenance()

    method: ClassVar[str]
    two_sites: ClassVar[bool] = False
    """Whether it reads one site and reconstructs another, as a transcoder does."""
    later: ClassVar[tuple[str, ...]] = ()
    """Fields that files written by earlier versions lack; they then have their defaults."""

    if TYPE_CHECKING:
        # At run time a subclass has these as dataclass fields or as properties of its own. They
        # cannot exist here as well: dataclasses would take an inherited property for a default.
        @property
        def directions(self) -> Float[Tensor, "latent d_out"]: ...

        @property
        def bias(self) -> Float[Tensor, " d_out"]: ...

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        """Dense, differentiable codes, in the units of `x`."""

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        """Codes as (indices, values): as many slots as the fullest row has active latents, or more.

        Unused slots hold index 0 and value 0, so summing values at indices gives `encode(x)` exactly.
        """
        return to_sparse(self.encode(x))

    def decode(self, codes: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch d_out"]:
        """`codes @ directions + bias`."""
        return codes @ self.directions + self.bias

    def decode_sparse(
        self, indices: Int[Tensor, "*batch slot"], values: Float[Tensor, "*batch slot"]
    ) -> Float[Tensor, "*batch d_out"]:
        """`decode` of codes given as (indices, values): a weighted sum of the named directions only."""
        batch, slots = indices.shape[:-1], indices.shape[-1]
        if slots == 0:  # every row is silent
            return self.bias.expand(*batch, self.d_out)
        weights = values.reshape(-1, slots)
        summed = embedding_bag(indices.reshape(-1, slots), self.directions, per_sample_weights=weights, mode="sum")
        return summed.reshape(*batch, self.d_out) + self.bias

    def reconstruct(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """What metrics and splicing put in the place of `x` (of the output site's activation, with two sites)."""
        return self.decode(self.encode(x))

    @property
    def n_latents(self) -> int:
        return self.directions.shape[0]

    @property
    def d_in(self) -> int:
        """Width of the activations it reads. Equal to `d_out` unless a subclass says otherwise."""
        return self.d_out

    @property
    def d_out(self) -> int:
        return self.directions.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.directions.dtype

    @property
    def device(self) -> torch.device:
        return self.directions.device

    def tensors(self) -> dict[str, Tensor]:
        """The tensor fields by name: what is written to disk."""
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    def settings(self) -> dict[str, Any]:
        """The plain fields by name: what is written to the manifest."""
        skipped = {"provenance", *self.tensors()}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same dictionary on another device or in another dtype (arguments as `Tensor.to`)."""
        moved: dict[str, Any] = {name: tensor.to(*args, **kwargs) for name, tensor in self.tensors().items()}
        return replace(self, **moved)

    def with_provenance(self, **changes: Any) -> Self:
        """The same dictionary with some entries of `provenance` replaced."""
        return replace(self, provenance=replace(self.provenance, **changes))

    def describe(self) -> Mapping[str, Any]:
        """One line's worth of facts, for `inspect` and `repr`."""
        shape = {"n_latents": self.n_latents, "d_in": self.d_in, "d_out": self.d_out}
        return {"method": self.method, **shape, **self.settings()}

    def __repr__(self) -> str:
        facts = {**self.describe(), "dtype": self.dtype, "site": self.provenance.site, "name": self.provenance.name}
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in facts.items())})"

    def _repr_html_(self) -> str:
        return facts_table(self)

    def check_input(self, x: Tensor) -> None:
        """Raise `ConfigurationError` when `x` has another width or dtype than this dictionary reads."""
        if x.ndim == 0 or x.shape[-1] != self.d_in:
            raise ConfigurationError(
                f"{type(self).__name__} reads activations of width {self.d_in}, got a tensor of shape "
                f"{tuple(x.shape)}: pass activations of the site it was made for ({self.provenance.site})."
            )
        if x.dtype != self.dtype:
            raise ConfigurationError(
                f"{type(self).__name__} is in {self.dtype}, got activations in {x.dtype}: "
                f"convert one of them, for instance dictionary.to({x.dtype})."
            )

    def check_fields(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `ConfigurationError` unless each named field is a floating tensor of its shape, alike in dtype."""
        dtypes = set()
        for name, shape in shapes.items():
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                given = value.dtype if isinstance(value, Tensor) else repr(value)
                raise ConfigurationError(f"{type(self).__name__}: {name} must be a floating-point tensor, got {given}.")
            if tuple(value.shape) != shape:
                raise ConfigurationError(
                    f"{type(self).__name__}: {name} has shape {tuple(value.shape)}, expected {shape}."
                )
            dtypes.add((value.dtype, value.device))
        if len(dtypes) > 1:
            found = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in dtypes))
            raise ConfigurationError(f"{type(self).__name__}: its tensors are {found}: give all the same.")

    def check_unit_rows(self, name: str = "directions") -> None:
        """Raise `ConfigurationError` unless the rows of the named field have norm 1."""
        norms = getattr(self, name).detach().float().norm(dim=-1)
        wrong = ~((norms - 1).abs() <= UNIT_NORM_TOLERANCE)  # negated so that NaN counts as wrong
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ConfigurationError(
                f"{type(self).__name__}: row {row} of {name} has norm {float(norms[row]):.4g}, expected 1 "
                f"({int(wrong.sum())} of {len(norms)} rows are off): normalise the rows (unit_rows does)."
            )

    def check_k(self, k: object, largest: int) -> None:
        """Raise `ConfigurationError` unless `k` is a whole number from 1 to `largest`."""
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= largest:
            raise ConfigurationError(f"{type(self).__name__}: k = {k!r}, expected a whole number from 1 to {largest}.")


def matrix_shape(value: object, owner: str, name: str) -> tuple[int, int]:
    """The shape of a matrix with at least one row and column; anything else is a `ConfigurationError`."""
    if not isinstance(value, Tensor) or value.ndim != 2 or 0 in value.shape:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ConfigurationError(f"{owner}: {name} must be a matrix (latents, width), got {given}.")
    return value.shape[0], value.shape[1]


def unit_rows(weights: Float[Tensor, "row width"]) -> tuple[Float[Tensor, "row width"], Float[Tensor, " row"]]:
    """Rows divided by their norms, and the norms (at least 1e-8, as in the paper's code).

    >>> rows, norms = unit_rows(torch.tensor([[3.0, 4.0]]))
    >>> rows.tolist(), norms.tolist()
    ([[0.6000000238418579, 0.800000011920929]], [5.0])
    """
    norms = weights.norm(dim=-1).clamp_min(1e-8)
    return weights / norms[:, None], norms


def to_sparse(
    codes: Float[Tensor, "*batch latent"],
) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
    """Dense codes as (indices, values), indices ascending, padded with index 0 and value 0.

    >>> to_sparse(torch.tensor([[0.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    (tensor([[1, 2],
            [0, 0]]), tensor([[2., 3.],
            [0., 0.]]))
    """
    flat = codes.reshape(-1, codes.shape[-1])
    row, latent = flat.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(flat))
    slots = int(counts.max()) if len(flat) else 0
    slot = torch.arange(len(row), device=codes.device) - (counts.cumsum(0) - counts)[row]
    place = (row, slot)
    indices = torch.zeros(len(flat), slots, dtype=torch.long, device=codes.device).index_put(place, latent)
    values = flat.new_zeros(len(flat), slots).index_put(place, flat[row, latent])
    shape = (*codes.shape[:-1], slots)
    return indices.reshape(shape), values.reshape(shape)


def to_dense(
    indices: Int[Tensor, "*batch slot"], values: Float[Tensor, "*batch slot"], n_latents: int
) -> Float[Tensor, "*batch latent"]:
    """The inverse of `to_sparse`: values summed at their indices."""
    return values.new_zeros(*values.shape[:-1], n_latents).scatter_add(-1, indices, values)


def keep_largest(
    scores: Float[Tensor, "*batch latent"], k: int
) -> tuple[Int[Tensor, "*batch {k}"], Float[Tensor, "*batch {k}"]]:
    """The k largest positive scores of each row as (indices, values), largest first.

    Where a row has fewer than k positive scores, the other slots hold index 0 and value 0.
    """
    values, indices = scores.relu().topk(k, dim=-1)
    return indices * (values != 0), values
