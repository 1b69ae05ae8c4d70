"""Sparse autoencoders, as they are after training: weights in the units of the activations.

A trainer that saw `x * scale` hands over the weights it ended with and calls `scaled(scale)`, which
folds the scale in: codes and reconstructions come out in the units of `x`, directions stay unit-norm.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigurationError
from .base import Dictionary, keep_largest, matrix_shape, to_dense


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TiedSAE(Dictionary):
    """The paper's autoencoder: c = ReLU(M x + b), x_hat = M^T c (Cunningham et al. 2023, section 2).

    `directions` is M, rows unit-norm, (n_latents, d); `encoder_bias` is b, (n_latents). There is no
    decoder bias, so `bias` is zero. Raises `ConfigurationError` for wrong shapes or norms.

    >>> import torch
    >>> sae = TiedSAE(directions=torch.eye(3), encoder_bias=torch.tensor([0.0, -1.0, 0.0]))
    >>> sae.encode(torch.tensor([2.0, 3.0, -1.0])).tolist()
    [2.0, 2.0, 0.0]
    """

    directions: Float[Tensor, "latent d_out"]
    encoder_bias: Float[Tensor, " latent"]

    method: ClassVar[str] = "tied_l1"

    def __post_init__(self) -> None:
        n_latents, width = matrix_shape(self.directions, type(self).__name__, "directions")
        self.check_fields({"directions": (n_latents, width), "encoder_bias": (n_latents,)})
        self.check_unit_rows()

    @property
    def bias(self) -> Float[Tensor, " d_out"]:
        return self.directions.new_zeros(self.d_out)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return (x @ self.directions.T + self.encoder_bias).relu()

    def scaled(self, scale: float) -> "TiedSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return replace(self, encoder_bias=self.encoder_bias / checked_scale(scale))


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
        check_autoencoder(self)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return (x @ self.encoder.T + self.encoder_bias).relu()

    def scaled(self, scale: float) -> "UntiedSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        scale = checked_scale(scale)
        return replace(self, encoder_bias=self.encoder_bias / scale, bias=self.bias / scale)


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TopKSAE(Dictionary):
    """Keeps the k largest codes: c = TopK(ReLU(E (x - bias) + e)), x_hat = D^T c + bias.

    Fields as in `UntiedSAE`, and `k`: at most k latents are active in a row, fewer where fewer are
    positive (Gao et al. 2024, arXiv 2406.04093). Raises `ConfigurationError` for wrong shapes, norms
    or k.
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int

    method: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        check_autoencoder(self)
        self.check_k(self.k, self.n_latents)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        return to_dense(*self.encode_sparse(x), self.n_latents)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        self.check_input(x)
        return keep_largest((x - self.bias) @ self.encoder.T + self.encoder_bias, self.k)

    def reconstruct(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.decode_sparse(*self.encode_sparse(x))

    def scaled(self, scale: float) -> "TopKSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        scale = checked_scale(scale)
        return replace(self, encoder_bias=self.encoder_bias / scale, bias=self.bias / scale)


def check_autoencoder(sae: UntiedSAE | TopKSAE) -> None:
    """Shapes and norms of an autoencoder with separate encoder and decoder."""
    n_latents, width = matrix_shape(sae.directions, type(sae).__name__, "directions")
    sae.check_fields(
        {
            "directions": (n_latents, width),
            "encoder": (n_latents, width),
            "encoder_bias": (n_latents,),
            "bias": (width,),
        }
    )
    sae.check_unit_rows()


def checked_scale(scale: float) -> float:
    """A positive finite number, or a `ConfigurationError`."""
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigurationError(
            f"scale = {scale!r}, expected a positive number: the factor that inputs were multiplied by."
        )
    return float(scale)
