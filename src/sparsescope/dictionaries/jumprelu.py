"""The JumpReLU autoencoder: every latent has a threshold of its own, learned with the rest."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigurationError
from .base import Dictionary
from .sae import check_autoencoder, folded


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class JumpReLUSAE(Dictionary):
    """What does not exceed its threshold is silent, what does is kept whole.

        pi    = E (x - bias) + e
        c     = pi · 1{pi > threshold}
        x_hat = D^T c + bias

    `encoder` is E, (n_latents, d); `encoder_bias` is e and `threshold` its companion, one entry per
    latent, 0 or more, so that codes are never negative; `directions` is D, rows unit-norm; `bias` (d).
    Source: Rajamanoharan et al. 2024, arXiv 2407.14435, section 3; there the input is not centred,
    which is the same with e in the place of e - E bias. Raises `ConfigurationError` for wrong shapes,
    norms or thresholds.

    >>> import torch
    >>> eye, zero = torch.eye(2), torch.zeros(2)
    >>> sae = JumpReLUSAE(encoder=eye, encoder_bias=zero, threshold=zero + 1, directions=eye, bias=zero)
    >>> sae.encode(torch.tensor([0.9, 1.1])).tolist()
    [0.0, 1.100000023841858]
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    threshold: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]

    method: ClassVar[str] = "jumprelu"

    def __post_init__(self) -> None:
        check_autoencoder(self, "encoder_bias", "threshold")
        wrong = ~(self.threshold >= 0)  # negated so that NaN counts as wrong
        if wrong.any():
            latent = int(wrong.nonzero()[0])
            raise ConfigurationError(
                f"JumpReLUSAE: threshold[{latent}] = {float(self.threshold[latent]):.4g}, expected 0 or more "
                f"({int(wrong.sum())} of {self.n_latents} are off): a threshold below 0 would make codes negative."
            )

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        pi = (x - self.bias) @ self.encoder.T + self.encoder_bias
        return pi.masked_fill(pi <= self.threshold, 0)  # not above it: NaN stays NaN

    def scaled(self, scale: float) -> "JumpReLUSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "encoder_bias", "threshold", "bias")
