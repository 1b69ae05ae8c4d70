"""The gated autoencoder: which latents are active, and how strongly, are decided apart."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from .base import Dictionary
from .sae import check_autoencoder, folded


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class GatedSAE(Dictionary):
    """A gate says whether, a magnitude how much (Rajamanoharan et al. 2024, arXiv 2404.16014, section 3).

        pi    = E (x - bias)
        c     = 1{pi + gate_bias > 0} · ReLU(exp(magnitude_scale) · pi + magnitude_bias)
        x_hat = D^T c + bias

    Gate and magnitude share the rows of `encoder`, E (n_latents, d), up to the factor exp(r);
    `magnitude_scale` is r, its logarithm. `gate_bias`, `magnitude_scale` and `magnitude_bias` have one
    entry per latent; `directions` is D, rows unit-norm; `bias` (d). A latent whose gate is open is
    silent all the same where its magnitude is not above zero. Raises `ConfigurationError` for wrong
    shapes or norms.

    >>> import torch
    >>> two, eye = torch.full((2,), 2.0), torch.eye(2)
    >>> sae = GatedSAE(
    ...     directions=eye, encoder=eye, bias=0 * two, gate_bias=-two, magnitude_scale=two.log(), magnitude_bias=-two
    ... )
    >>> sae.encode(torch.tensor([3.0, 1.5])).tolist()  # 2 · 3 - 2; the second gate is closed
    [4.0, 0.0]
    """

    encoder: Float[Tensor, "latent d_in"]
    gate_bias: Float[Tensor, " latent"]
    magnitude_scale: Float[Tensor, " latent"]
    magnitude_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]

    method: ClassVar[str] = "gated"

    def __post_init__(self) -> None:
        check_autoencoder(self, "gate_bias", "magnitude_scale", "magnitude_bias")

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        pi = (x - self.bias) @ self.encoder.T
        magnitude = (self.magnitude_scale.exp() * pi + self.magnitude_bias).relu()
        return magnitude.masked_fill(pi + self.gate_bias <= 0, 0)  # not above 0: NaN stays NaN

    def scaled(self, scale: float) -> "GatedSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "gate_bias", "magnitude_bias", "bias")
