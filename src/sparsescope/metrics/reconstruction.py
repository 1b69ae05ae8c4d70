"""How well, and with how many latents, a dictionary writes activations.

Everything is a ratio of sums over tokens, kept per document in float64, so that a number does not
depend on the size of the blocks it was computed from and can be bootstrapped over documents. Squares
are summed before they are divided: an average of per-token ratios would call a constant predictor
good (a known fault of several libraries).

    FVU          Σ‖x − x̂‖² / Σ‖x − x̄‖²     x̄ is the mean of the evaluated tokens
    L0           Σ (number of codes ≠ 0) / Σ 1
    shrinkage γ  Σ‖x̂‖² / Σ x·x̂             below 1: reconstructions are too short
    norm ratio   Σ‖x̂‖ / Σ‖x‖
    density      share of tokens on which a latent is active, per latent
    alive        latents active on more than 10 tokens

Here x is what x̂ stands for: of a transcoder, the activation at its output site.

Sources: FVU, L0, alive from Cunningham et al. 2023; γ from Rajamanoharan et al. 2024 (*Improving
Dictionary Learning with Gated SAEs*, §3.2); norm ratio as in SAEBench.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..dictionaries.base import Dictionary, to_dense
from ..errors import ConfigurationError, NumericalError
from .statistics import Moments, moments_from_sums

ALIVE_ABOVE = 10
"""A latent is alive when it is active on more than this many evaluated tokens."""

RATIOS = {
    "fvu": ("error", "variance"),
    "l0": ("active", "tokens"),
    "shrinkage": ("hat_square", "dot"),
    "norm_ratio": ("hat_norm", "norm"),
}
"""Numerator and denominator of each ratio, by column of `Reconstruction.columns`."""

COLUMNS = ("tokens", "error", "variance", "active", "hat_square", "dot", "hat_norm", "norm")

_DENSE_CELLS = 1 << 24  # rows are cut so that a dense (rows, latents) block stays within 64 MiB


def squared_distance(a: Float[Tensor, "token d"], b: Float[Tensor, "*token d"]) -> Float[Tensor, " token"]:
    """‖a − b‖² per row, squared and summed in float64."""
    return (a.double() - b.double()).square_().sum(-1)


def fvu(x: Float[Tensor, "token d"], x_hat: Float[Tensor, "token d"]) -> float:
    """Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖², pooled over tokens and dimensions.

    0 is perfect, 1 is no better than the mean; worse than 1 is possible. With one dimension it is 1 − R².

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> fvu(x, torch.ones(2, 1))
    1.0
    """
    if x.shape != x_hat.shape:
        raise ConfigurationError(f"x has shape {tuple(x.shape)}, x_hat {tuple(x_hat.shape)}: they must be equal.")
    variance = squared_distance(x, x.double().mean(0)).sum()
    if not variance > 0:
        raise NumericalError("FVU is undefined: the activations are constant or not finite.")
    return float(squared_distance(x, x_hat).sum() / variance)


def sparse_reconstruct(
    dictionary: Dictionary, x: Float[Tensor, "token d_in"]
) -> tuple[Int[Tensor, "token slot"], Float[Tensor, "token slot"], Float[Tensor, "token d_out"]]:
    """Indices and values of the codes, and `dictionary.reconstruct(x)`, encoding once where that is possible.

    A dictionary that overrides `reconstruct` (one that adds more than decoded codes) is asked itself.
    """
    indices, values = dictionary.encode_sparse(x)
    if type(dictionary).reconstruct is not Dictionary.reconstruct:
        x_hat = dictionary.reconstruct(x)
    elif 0 < 8 * indices.shape[-1] < dictionary.n_latents:
        x_hat = dictionary.decode_sparse(indices, values)
    else:  # so many are active that one matrix product is faster
        x_hat = dictionary.decode(to_dense(indices, values, dictionary.n_latents))
    return indices, values, x_hat


def row_chunks(n_rows: int, n_latents: int) -> Iterator[slice]:
    """Slices of at most as many rows as keep a dense block of codes small."""
    size = max(1, min(8192, _DENSE_CELLS // max(n_latents, 1)))
    return (slice(begin, begin + size) for begin in range(0, n_rows, size))


class Reconstruction:
    """Running sums of one dictionary over a set of documents; feed it blocks with `add`.

    `mean` is the mean of all activations that will be reconstructed; `documents` how many documents there are.

    >>> from sparsescope.dictionaries import TiedSAE
    >>> sae = TiedSAE(directions=torch.eye(2), encoder_bias=torch.zeros(2))
    >>> x = torch.tensor([[1.0, 3.0], [-1.0, 1.0]])
    >>> sums = Reconstruction(sae, x.mean(0), documents=1)
    >>> sums.add(x, torch.zeros(len(x), dtype=torch.long))
    >>> sums.totals["error"] / sums.totals["variance"], sums.totals["active"] / sums.totals["tokens"]  # FVU, L0
    (0.25, 1.5)
    """

    columns: Float[np.ndarray, "document column"]
    """Sums per document, in the order of `COLUMNS`."""

    def __init__(self, dictionary: Dictionary, mean: Float[Tensor, " d_out"], documents: int) -> None:
        self.dictionary = dictionary
        self.device = dictionary.device
        self.mean = mean.to(self.device, torch.float64)
        self.columns = np.zeros((documents, len(COLUMNS)))
        self.counts = torch.zeros(dictionary.n_latents, dtype=torch.int64, device=self.device)
        self.powers = torch.zeros(4, dictionary.n_latents, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def add(
        self,
        x: Float[Tensor, "token d_in"],
        document: Int[Tensor, " token"],
        target: Float[Tensor, "token d_out"] | None = None,
    ) -> None:
        """Add tokens; `document` numbers each token's document from 0 to documents − 1.

        `target` is what `reconstruct(x)` stands for, where that is not `x` itself.
        """
        for rows in row_chunks(len(x), self.dictionary.n_latents):
            wanted = None if target is None or target is x else target[rows].to(self.device)
            self._add(x[rows].to(self.device, self.dictionary.dtype), document[rows], wanted)

    def _add(
        self,
        x: Float[Tensor, "token d_in"],
        document: Int[Tensor, " token"],
        target: Float[Tensor, "token d_out"] | None,
    ) -> None:
        indices, values, x_hat = sparse_reconstruct(self.dictionary, x)
        active = values != 0
        true, hat = (x if target is None else target).double(), x_hat.double()
        columns = {
            "tokens": torch.ones_like(true[:, 0]),
            "error": squared_distance(true, hat),
            "variance": squared_distance(true, self.mean),
            "active": active.sum(-1).double(),
            "hat_square": (hat * hat).sum(-1),
            "dot": (true * hat).sum(-1),
            "hat_norm": hat.norm(dim=-1),
            "norm": true.norm(dim=-1),
        }
        table = torch.stack([columns[name] for name in COLUMNS], 1).cpu()
        if not torch.isfinite(table).all() or not (target is None or torch.isfinite(x).all()):
            raise self._not_finite(x, true)
        np.add.at(self.columns, document.cpu().numpy(), table.numpy())
        latents, codes = indices[active], values[active].double()
        self.counts += torch.bincount(latents, minlength=len(self.counts))
        for power, row in enumerate(self.powers, start=1):
            row += torch.bincount(latents, weights=codes**power, minlength=len(self.counts))

    def _not_finite(self, *activations: Tensor) -> NumericalError:
        if not all(torch.isfinite(x).all() for x in activations):
            return NumericalError("the activations hold NaN or infinity: harvest them again, in float32.")
        name = self.dictionary.provenance.name or f"a {self.dictionary.method} dictionary"
        return NumericalError(f"{name} gave codes or reconstructions that are not finite: train or fit it again.")

    @property
    def totals(self) -> dict[str, float]:
        """The columns summed over documents, by name."""
        return dict(zip(COLUMNS, self.columns.sum(0).tolist(), strict=True))

    @property
    def tokens(self) -> int:
        return int(self.columns[:, 0].sum())

    @property
    def density(self) -> Float[Tensor, " latent"]:
        """Share of tokens on which each latent is active."""
        return (self.counts.double() / max(self.tokens, 1)).float().cpu()

    @property
    def alive(self) -> int:
        """Number of latents active on more than `ALIVE_ABOVE` tokens."""
        return int((self.counts > ALIVE_ABOVE).sum())

    @property
    def moments(self) -> Moments:
        """Moments of each latent's code over all tokens."""
        return moments_from_sums(list(self.powers.cpu()), self.tokens)
