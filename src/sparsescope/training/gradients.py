"""Losses and hand-derived gradients of the autoencoders, exact in two forms.

With r = 2/(n d) · (x̂ − x) for a batch of n rows and width d, and c the codes:

    ∂/∂c = (r Dᵀ + l1/n) where c > 0, else 0        ∂/∂b_dec = Σ r  (TopK: − Eᵀ Σ ∂/∂c as well)
    ∂/∂D = cᵀ r      ∂/∂E = (∂/∂c)ᵀ (x − b_dec)     ∂/∂b_enc = Σ ∂/∂c         tied: ∂/∂M = ∂/∂D + ∂/∂E

The *sparse* form touches active latents only: decoding and both weight gradients are weighted sums
of gathered rows (`embedding_bag`), the code gradient a sampled matrix product. The *dense* form is
four matrix products; it is faster while more than `DENSE_ABOVE` of the codes are non-zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .select import Active, by_latent, largest, positive

DENSE_ABOVE = 0.12
"""Share of non-zero codes above which the dense form is faster (measured, two machines: 0.11 to 0.17)."""


@dataclass
class Weights:
    """What a member learns. Rows of `directions` have unit norm; `encoder` None means tied.

    `bias` is subtracted before encoding and added after decoding; None means that there is none.
    """

    directions: Float[Tensor, "latent d"]
    encoder_bias: Float[Tensor, " latent"]
    encoder: Float[Tensor, "latent d"] | None = None
    bias: Float[Tensor, " d"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class Forward:
    """One batch through one member, up to the residual. Codes are `active` or, densely, `codes`."""

    squared_error: float
    """Sum of (x − x̂)² over rows and dimensions."""
    l1: float
    """Sum of the codes."""
    count: int
    """Number of non-zero codes."""
    fired: Int[Tensor, " latent"]
    """In how many rows each latent was active."""
    centred: Float[Tensor, "row d"]
    residual: Float[Tensor, "row d"]
    """x̂ − x."""
    active: Active | None = None
    decoded: Float[Tensor, "row d"] | None = None
    """The sparse form's sum of directions, with the graph that leads back to `active.value`."""
    codes: Float[Tensor, "row latent"] | None = None


class Workspace:
    """Buffers of batch × latents, allocated once and shared by all members of an ensemble."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A view of this shape of the buffer `name`, which grows when it is too small."""
        size = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or held.numel() < size or held.dtype != like.dtype:
            held = self._buffers[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return held[:size].view(*shape)


def forward(weights: Weights, x: Float[Tensor, "row d"], *, k: int | None, dense: bool, space: Workspace) -> Forward:
    """Encode, decode and measure one batch. `k` None keeps every positive code, else the k largest.

    What it returns points into `space`: use it before the next call.
    """
    encoder = weights.directions if weights.encoder is None else weights.encoder
    centred = x if weights.bias is None else torch.sub(x, weights.bias, out=space.get("centred", x.shape, x))
    codes = space.get("codes", (len(x), len(encoder)), x)
    torch.addmm(weights.encoder_bias, centred, encoder.t(), out=codes)
    if k is not None:
        active = largest(codes, k)
    elif dense:
        return _forward_dense(weights, codes.relu_(), x, centred)
    else:
        active = positive(codes)
    # autograd of embedding_bag in its weights is the matrix product sampled at the active latents
    with torch.enable_grad():
        value = active.value.requires_grad_()
        decoded = embedding_bag(active.latent, weights.directions, active.start, per_sample_weights=value, mode="sum")
    residual = _subtract(decoded.detach(), weights.bias, x)
    fired = torch.bincount(active.latent, minlength=len(encoder))
    total = float(active.value.detach().sum(dtype=torch.float64))
    count = len(active.latent)
    return Forward(_square(residual), total, count, fired, centred, residual, active=active, decoded=decoded)


def _forward_dense(weights: Weights, codes: Tensor, x: Tensor, centred: Tensor) -> Forward:
    residual = _subtract(codes @ weights.directions, weights.bias, x)
    fired = torch.count_nonzero(codes, dim=0)
    total = float(codes.sum(dtype=torch.float64))
    return Forward(_square(residual), total, int(fired.sum()), fired, centred, residual, codes=codes)


def _subtract(decoded: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return decoded.sub_(x) if bias is None else decoded.add_(bias).sub_(x)


def _square(residual: Tensor) -> float:
    return float(torch.dot(residual.view(-1), residual.view(-1)))


def gradients(weights: Weights, done: Forward, *, l1: float, space: Workspace) -> dict[str, Tensor]:
    """Gradient of mean((x − x̂)²) + l1 · mean over rows of ‖c‖₁, by field of `weights`.

    Overwrites `done.residual`. Norms of directions are taken as fixed: see `without_radial`.
    """
    rows, d = done.residual.shape
    residual = done.residual.mul_(2 / (rows * d))
    if done.active is not None:
        found = _sparse_gradients(done, done.active, residual, l1 / rows)
    else:
        found = _dense_gradients(weights, done, residual, l1 / rows, space)
    if weights.bias is not None:
        encoder = weights.directions if weights.encoder is None else weights.encoder
        found["bias"] = residual.sum(0) - found["encoder_bias"] @ encoder
    if weights.encoder is None:
        found["directions"] += found.pop("encoder")
    return found


def _sparse_gradients(done: Forward, active: Active, residual: Tensor, penalty: float) -> dict[str, Tensor]:
    assert done.decoded is not None
    (slope,) = torch.autograd.grad(done.decoded, active.value, residual)
    order = by_latent(active, len(done.fired))
    row, slope = active.row[order], slope[order].add_(penalty)
    start = done.fired.cumsum(0) - done.fired

    def gather(table: Tensor, factor: Tensor) -> Tensor:
        return embedding_bag(row, table, start, per_sample_weights=factor, mode="sum")

    bias = torch.bincount(active.latent[order], weights=slope, minlength=len(done.fired))
    return {
        "directions": gather(residual, active.value.detach()[order]),
        "encoder": gather(done.centred, slope),
        "encoder_bias": bias.to(residual.dtype),
    }


def _dense_gradients(
    weights: Weights, done: Forward, residual: Tensor, penalty: float, space: Workspace
) -> dict[str, Tensor]:
    codes = done.codes
    assert codes is not None
    slope = torch.mm(residual, weights.directions.t(), out=space.get("slope", codes.shape, codes))
    slope.add_(penalty).mul_(codes != 0)
    return {
        "directions": codes.t() @ residual,
        "encoder": slope.t() @ done.centred,
        "encoder_bias": slope.sum(0),
    }


def without_radial(gradient: Float[Tensor, "latent d"], directions: Float[Tensor, "latent d"]) -> Tensor:
    """Remove from each row of the gradient its part along the (unit-norm) direction, in place."""
    along = torch.linalg.vecdot(gradient, directions).unsqueeze(1)
    return gradient.addcmul_(along, directions, value=-1)


def renormalise(directions: Float[Tensor, "latent d"]) -> None:
    """Bring each row back to unit norm, in place."""
    directions.div_(torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min_(1e-8))
