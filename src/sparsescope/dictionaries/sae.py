"""Autoencoders of the L1 family, as they are after training: weights in the units of the activations.

A trainer that saw `x * scale` hands over the weights it ended with and calls `scaled(scale)`, which
folds the scale in: codes and reconstructions come out in the units of `x`, directions stay unit-norm.
Every learned dictionary has such a `scaled`.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar, final

from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigurationError
from .base import Dictionary, matrix_shape

Learned = TypeVar("Learned", bound=Dictionary)


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TiedSAE(Dictionary):
    """The paper's autoencoder: c = ReLU(M x + e), x_hat = M^T c + bias (Cunningham et al. 2023, section 2).

    `directions` is M, rows unit-norm, (n_latents, d); `encoder_bias` is e, (n_latents). The paper has no
    `bias` (d), and None stands for zeros. Where one was learned by centring the input, c = ReLU(M (x -
    bias) + b), the centring is part of `encoder_bias`: e = b - M bias. Raises `ConfigurationError` for
    wrong shapes or norms.

    >>> import torch
    >>> sae = TiedSAE(directions=torch.eye(3), encoder_bias=torch.tensor([0.0, -1.0, 0.0]))
    >>> sae.encode(torch.tensor([2.0, 3.0, -1.0])).tolist()
    [2.0, 2.0, 0.0]
    """

    directions: Float[Tensor, "latent d_out"]
    encoder_bias: Float[Tensor, " latent"]
    bias: Float[Tensor, " d_out"] = None  # type: ignore[assignment]  # zeros take its place below

    method: ClassVar[str] = "tied_l1"
    later: ClassVar[tuple[str, ...]] = ("bias",)

    def __post_init__(self) -> None:
        n_latents, width = matrix_shape(self.directions, type(self).__name__, "directions")
        if self.bias is None:
            object.__setattr__(self, "bias", self.directions.new_zeros(width))
        self.check_fields({"directions": (n_latents, width), "encoder_bias": (n_latents,), "bias": (width,)})
        self.check_unit_rows()

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return (x @ self.directions.T + self.encoder_bias).relu()

    def scaled(self, scale: float) -> "TiedSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "encoder_bias", "bias")


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class UntiedSAE(Dictionary):
    """An autoencoder with an encoder of its own: c = ReLU(E x + e), x_hat = D^T c + bias.

    `encoder` is E, (n_latents, d); `encoder_bias` is e; `directions` is D, rows unit-norm; `bias` (d)
    may be zero, as in the paper. Raises `ConfigurationError` for wrong shapes or norms.
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]

    method: ClassVar[str] = "untied_l1"

    def __post_init__(self) -> None:
        check_autoencoder(self, "encoder_bias")

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return (x @ self.encoder.T + self.encoder_bias).relu()

    def scaled(self, scale: float) -> "UntiedSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "encoder_bias", "bias")


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PAnnealSAE(Dictionary):
    """Trained with p-annealing (Karvonen et al. 2024, arXiv 2408.00113): c = ReLU(E x + e), x_hat = D^T c + bias.

    The penalty, which sinks from the sum of codes to that of their p-th powers, p < 1, belongs to the
    training; what is left after it has the form and the fields of `UntiedSAE`.
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]

    method: ClassVar[str] = "p_anneal"

    def __post_init__(self) -> None:
        check_autoencoder(self, "encoder_bias")

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return (x @ self.encoder.T + self.encoder_bias).relu()

    def scaled(self, scale: float) -> "PAnnealSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "encoder_bias", "bias")


def check_autoencoder(sae: Dictionary, *vectors: str) -> None:
    """Shapes and norms: `encoder` and `directions` alike, `bias`, and `vectors` with one entry per latent."""
    n_latents, width = matrix_shape(sae.directions, type(sae).__name__, "directions")
    matrices = {"directions": (n_latents, width), "encoder": (n_latents, width)}
    sae.check_fields({**matrices, **dict.fromkeys(vectors, (n_latents,)), "bias": (width,)})
    sae.check_unit_rows()


def folded(dictionary: Learned, scale: float, *names: str) -> Learned:
    """The dictionary with the named fields, those in the units of its input, divided by `scale`."""
    scale = checked_scale(scale)
    return replace(dictionary, **{name: getattr(dictionary, name) / scale for name in names})


def checked_scale(scale: float, name: str = "scale") -> float:
    """A positive finite number, or a `ConfigurationError`."""
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigurationError(
            f"{name} = {scale!r}, expected a positive number: the factor that activations were multiplied by."
        )
    return float(scale)
