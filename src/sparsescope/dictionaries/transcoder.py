"""The transcoder: it reads one activation of a model and writes another, as the part between them does."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

from jaxtyping import Float, Int
from torch import Tensor

from .base import Dictionary, keep_largest, matrix_shape, to_dense
from .sae import checked_scale


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TranscoderDictionary(Dictionary):
    """A sparse stand-in for the part of a model between two sites, often an MLP.

        c     = TopK(ReLU(E x + e))
        y_hat = D^T c + bias + S x

    x is the activation at `provenance.site` (width d_in), y_hat stands for the one at
    `provenance.output_site` (width d_out). `encoder` is E, (n_latents, d_in); `encoder_bias` is e;
    `directions` is D, (n_latents, d_out), rows unit-norm, so that codes are in the units of y; `bias`
    (d_out); `skip` is S, (d_out, d_in), or None for a transcoder without the linear path. `decode` gives
    D^T c + bias alone; `reconstruct` adds S x. At most `k` latents are active in a row.

    Sources: Dunefsky et al. 2024, arXiv 2406.11944 (transcoders); Paulo et al. 2025, arXiv 2501.18823
    (TopK, and the skip path). Raises `ConfigurationError` for wrong shapes, norms or k.

    >>> import torch
    >>> swap = TranscoderDictionary(
    ...     encoder=torch.eye(2), encoder_bias=torch.zeros(2), directions=torch.eye(3)[1:], bias=torch.zeros(3), k=1
    ... )
    >>> swap.reconstruct(torch.tensor([4.0, 3.0])).tolist()
    [0.0, 4.0, 0.0]
    """

    encoder: Float[Tensor, "latent d_in"]
    encoder_bias: Float[Tensor, " latent"]
    directions: Float[Tensor, "latent d_out"]
    bias: Float[Tensor, " d_out"]
    k: int
    skip: Float[Tensor, "d_out d_in"] | None = None

    method: ClassVar[str] = "transcoder"
    two_sites: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        n_latents, d_out = matrix_shape(self.directions, name, "directions")
        _, d_in = matrix_shape(self.encoder, name, "encoder")
        shapes: dict[str, tuple[int, ...]] = {"directions": (n_latents, d_out), "encoder": (n_latents, d_in)}
        shapes |= {"encoder_bias": (n_latents,), "bias": (d_out,)}
        self.check_fields(shapes if self.skip is None else {**shapes, "skip": (d_out, d_in)})
        self.check_unit_rows()
        self.check_k(self.k, n_latents)

    @property
    def d_in(self) -> int:
        return self.encoder.shape[1]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latent"]:
        return to_dense(*self.encode_sparse(x), self.n_latents)

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Int[Tensor, "*batch slot"], Float[Tensor, "*batch slot"]]:
        self.check_input(x)
        return keep_largest(x @ self.encoder.T + self.encoder_bias, self.k)

    def reconstruct(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        y_hat = self.decode_sparse(*self.encode_sparse(x))
        return y_hat if self.skip is None else y_hat + x @ self.skip.T

    def scaled(self, input_scale: float, output_scale: float) -> "TranscoderDictionary":
        """The dictionary from x to y, given that this one was trained from x · `input_scale` to y · `output_scale`."""
        inner, outer = checked_scale(input_scale, "input_scale"), checked_scale(output_scale, "output_scale")
        return replace(
            self,
            encoder=self.encoder * (inner / outer),
            encoder_bias=self.encoder_bias / outer,
            bias=self.bias / outer,
            skip=None if self.skip is None else self.skip * (inner / outer),
        )
