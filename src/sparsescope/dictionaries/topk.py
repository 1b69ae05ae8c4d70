"""Autoencoders of the top-k family: k codes of each row, or k per row on average over a batch.

BatchTopK and Matryoshka select over a whole batch while they learn. A dictionary may not depend on
what else is in the batch, so they are deployed with a threshold in the place of that selection.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigurationError
from .base import Dictionary, keep_largest, to_dense
from .sae import check_autoencoder, folded


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TopKSAE(Dictionary):
    """Keeps the k largest codes: c = TopK(ReLU(E (x - bias) + e)), x_hat = D^T c + bias.

    `encoder` is E, (n_latents, d); `encoder_bias` is e, (n_latents); `directions` is D, rows unit-norm;
    `bias` (d). At most `k` latents are active in a row, fewer where fewer are positive (Gao et al.
    2024, arXiv 2406.04093). Raises `ConfigurationError` for wrong shapes, norms or k.
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int

    method: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        check_autoencoder(self, "encoder_bias")
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
        return folded(self, scale, "encoder_bias", "bias")


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class BatchTopKSAE(Dictionary):
    """BatchTopK as it is deployed (Bussmann et al. 2024, arXiv 2412.06410).

        pi    = E (x - bias) + e
        c     = ReLU(pi) · 1{pi > threshold}
        x_hat = D^T c + bias

    Fields as in `TopKSAE`; `k` is how many latents were kept per row, on average over a batch, while it
    learned, and `threshold` (0 or more) the mean of the smallest code that was kept then. So k latents
    are active on average, with as many in a row as it needs. Raises `ConfigurationError` for wrong
    shapes, norms, k or threshold.

    >>> import torch
    >>> eye, zero = torch.eye(3), torch.zeros(3)
    >>> sae = BatchTopKSAE(encoder=eye, encoder_bias=zero, directions=eye, bias=zero, k=1, threshold=0.5)
    >>> sae.encode(torch.tensor([[2.0, 1.0, 0.5], [0.25, 0.0, -1.0]])).tolist()
    [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int
    threshold: float

    method: ClassVar[str] = "batchtopk"

    def __post_init__(self) -> None:
        check_autoencoder(self, "encoder_bias")
        self.check_k(self.k, self.n_latents)
        _check_threshold(self, self.threshold)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return _above((x - self.bias) @ self.encoder.T + self.encoder_bias, self.threshold)

    def scaled(self, scale: float) -> "BatchTopKSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "encoder_bias", "bias", "threshold")


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MatryoshkaSAE(Dictionary):
    """Nested dictionaries in one, each a prefix of the next (Bussmann et al. 2025, arXiv 2503.17547).

    Codes, reconstruction and fields are those of `BatchTopKSAE`. `widths` are the sizes of the prefixes
    that had to reconstruct the input by themselves while it learned, ascending, the last of them all
    latents: the first latents are the most general ones. Raises `ConfigurationError` as `BatchTopKSAE`
    does, and for other widths.
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int
    threshold: float
    widths: tuple[int, ...]

    method: ClassVar[str] = "matryoshka"

    def __post_init__(self) -> None:
        check_autoencoder(self, "encoder_bias")
        self.check_k(self.k, self.n_latents)
        _check_threshold(self, self.threshold)
        object.__setattr__(self, "widths", _checked_widths(self.widths, self.n_latents))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        self.check_input(x)
        return _above((x - self.bias) @ self.encoder.T + self.encoder_bias, self.threshold)

    def scaled(self, scale: float) -> "MatryoshkaSAE":
        """The dictionary for `x`, given that this one was trained on `x * scale`."""
        return folded(self, scale, "encoder_bias", "bias", "threshold")


def _above(pi: Float[Tensor, "*batch latent"], threshold: float) -> Float[Tensor, "*batch latent"]:
    """What exceeds the threshold, whole; the rest, all that is negative included, becomes 0. NaN stays NaN."""
    return pi.masked_fill(pi <= threshold, 0)


def _check_threshold(sae: Dictionary, threshold: object) -> None:
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not number or not math.isfinite(threshold) or threshold < 0:  # type: ignore[arg-type, operator]
        raise ConfigurationError(f"{type(sae).__name__}: threshold = {threshold!r}, expected a number of 0 or more.")


def _checked_widths(widths: object, n_latents: int) -> tuple[int, ...]:
    """The widths as a tuple (a file holds a list)."""
    found = tuple(widths) if isinstance(widths, list | tuple) else ()
    whole = all(isinstance(width, int) and not isinstance(width, bool) for width in found)
    if not whole or not found or list(found) != sorted({*found}) or found[0] < 1 or found[-1] != n_latents:
        raise ConfigurationError(
            f"MatryoshkaSAE: widths = {widths!r}, expected ascending whole numbers from 1 on, the last of them "
            f"{n_latents}, all its latents."
        )
    return found
