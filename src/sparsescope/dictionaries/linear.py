"""Dictionaries that only project: neurons, principal and independent components, random directions.

With `k` unset the first three are signed and complete: one latent per component, codes of either
sign, and the reconstruction is exact up to rounding where the components span the space. With `k` set
they take the form that the paper compares with sparse autoencoders: each component is split into a
positive and a negative latent (the second half of the latents is the first half negated), and the k
largest positive scores of a row are kept. Codes are then non-negative, as an autoencoder's are.

Scores are those of the centred activation, `bias` being the mean. Where directions are not orthogonal
the kept codes are decoded as they are; nothing is solved again on the kept set.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigurationError
from .base import Dictionary, keep_largest, matrix_shape, to_dense, to_sparse


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SignedDictionary(Dictionary):
    """Abstract: scores of either sign, or their top-k form. A subclass provides `components` and `scores`.

    `components`, Float (component, d), rows unit-norm; with `k`, `directions` is `components` followed
    by its negative. `k` is at most the number of components.
    """

    k: int | None = None

    @property
    @abstractmethod
    def component_directions(self) -> Float[Tensor, "component d"]:
        """The direction of each component."""

    @abstractmethod
    def scores(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch component"]:
        """How much of each component there is, of either sign."""

    @cached_property
    def directions(self) -> Float[Tensor, "latent d_out"]:
        positive = self.component_directions
        return positive if self.k is None else torch.cat([positive, -positive])

    @property
    def d_out(self) -> int:
        return self.bias.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.bias.dtype

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return self.scores(x) if self.k is None else to_dense(*self._largest(x, self.k), self.n_latents)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        self.check_input(x)
        return to_sparse(self.scores(x)) if self.k is None else self._largest(x, self.k)

    def _largest(
        self, x: Float[Tensor, "*batch d_in"], k: int
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        """The k largest of the scores and their negatives: a component is there with one sign at most."""
        scores = self.scores(x)
        indices, values = keep_largest(scores.abs(), k)
        negative = scores.gather(-1, indices) < 0
        return (indices + negative * scores.shape[-1]) * (values != 0), values


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class NeuronDictionary(SignedDictionary):
    """The basis that the activations come in: latent i is dimension i.

    `bias` (d) is zero with `k` unset, when codes are the activation itself; with `k` it is the mean,
    and latents d to 2d - 1 are the dimensions' negative deviations.

    >>> neurons = NeuronDictionary(bias=torch.zeros(3), k=1)
    >>> neurons.encode(torch.tensor([1.0, -4.0, 2.0])).tolist()
    [0.0, 0.0, 0.0, 0.0, 4.0, 0.0]
    """

    bias: Float[Tensor, " d_out"]

    method: ClassVar[str] = "neurons"

    def __post_init__(self) -> None:
        if not isinstance(self.bias, Tensor) or self.bias.ndim != 1 or not len(self.bias):
            raise ConfigurationError(f"NeuronDictionary: bias must be a vector (width), got {self.bias!r}.")
        self.check_fields({"bias": (len(self.bias),)})
        if self.k is not None:
            self.check_k(self.k, len(self.bias))

    @cached_property
    def component_directions(self) -> Float[Tensor, "component d"]:
        return torch.eye(len(self.bias), dtype=self.bias.dtype, device=self.bias.device)

    def scores(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch component"]:
        return x - self.bias


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PCADictionary(SignedDictionary):
    """Principal components: scores are (x - mean) · component, in the order of decreasing variance.

    `components` (component, d) has orthonormal rows; `bias` (d) is the mean; `rows` says how many
    activations it was fitted on.

    >>> pca = PCADictionary(components=torch.eye(2), bias=torch.tensor([5.0, 5.0]))
    >>> pca.encode(torch.tensor([6.0, 3.0])).tolist(), pca.reconstruct(torch.tensor([6.0, 3.0])).tolist()
    ([1.0, -2.0], [6.0, 3.0])
    """

    components: Float[Tensor, "component d"]
    bias: Float[Tensor, " d_out"]
    rows: int | None = None

    method: ClassVar[str] = "pca"

    def __post_init__(self) -> None:
        count, width = matrix_shape(self.components, type(self).__name__, "components")
        self.check_fields({"components": (count, width), "bias": (width,)})
        self.check_unit_rows("components")
        if self.k is not None:
            self.check_k(self.k, count)

    @property
    def component_directions(self) -> Float[Tensor, "component d"]:
        return self.components

    def scores(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch component"]:
        # Subtracting first: with a large mean, x @ W - mean @ W loses the digits that matter.
        return (x - self.bias) @ self.components.T


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ICADictionary(SignedDictionary):
    """Independent components: scores are (x - mean) · analysis, and directions are the mixing columns.

    `components` (component, d) holds the columns of the mixing matrix at unit norm; `analysis`
    (component, d) the rows of the unmixing matrix times those columns' norms, so that codes are in the
    units of the activations and decoding is exact. `converged` says whether the fit reached its
    tolerance, `rows` how many activations it saw.
    """

    components: Float[Tensor, "component d"]
    analysis: Float[Tensor, "component d"]
    bias: Float[Tensor, " d_out"]
    converged: bool | None = None
    rows: int | None = None

    method: ClassVar[str] = "ica"

    def __post_init__(self) -> None:
        count, width = matrix_shape(self.components, type(self).__name__, "components")
        self.check_fields({"components": (count, width), "analysis": (count, width), "bias": (width,)})
        self.check_unit_rows("components")
        if self.k is not None:
            self.check_k(self.k, count)

    @property
    def component_directions(self) -> Float[Tensor, "component d"]:
        return self.components

    def scores(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch component"]:
        return (x - self.bias) @ self.analysis.T


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RandomDirections(Dictionary):
    """Directions drawn at random: what a dictionary is worth that has learned nothing.

    With `k` unset, c = (2 d / n_latents) · ReLU(directions · x) and `bias` is zero, as in the paper
    but for the factor: with it the expected reconstruction, over the draw of the directions, is x
    itself at any number of latents. (For a Gaussian g of covariance I/d, E[ReLU(g·x) g] = x / 2d.)
    With `k`, `bias` is the mean and the k largest positive scores of x - mean are kept, unscaled; a
    random direction has no sign to split, so the number of latents stays what was asked for.
    """

    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int | None = None

    method: ClassVar[str] = "random"

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
        gain = 2 * self.d_out / self.n_latents
        return gain * ((x - self.bias) @ self.directions.T).relu()

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        if self.k is None:
            return to_sparse(self.encode(x))
        self.check_input(x)
        return keep_largest((x - self.bias) @ self.directions.T, self.k)
