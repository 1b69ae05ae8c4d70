"""What the speed of training is measured on: sparse sums of many directions, and weights that know them.

A step's cost depends on how sparse the codes are and on how evenly latents fire. Random rows and random
weights have neither as after training; rows made of known directions, and weights that start from those
directions, do.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

ACTIVE = 20
"""Directions that a row is made of."""
NOISE = 0.01
OUTLIERS = 4
"""Dimensions that stand out in the outlier variant, as a few do in the residual stream of language models."""
OUTLIER_OFFSET, OUTLIER_SPREAD = 20.0, 2.0
"""Their mean and standard deviation, in units of the other dimensions' root mean square."""
WEIGHT_NOISE = 0.3
"""Norm of what is added to a direction to make a latent of it."""


def superposed(
    rows: int, d: int, *, n_features: int | None = None, outliers: bool = False, seed: int = 0
) -> tuple[Float[Tensor, "row d"], Float[Tensor, "feature d"]]:
    """Rows of unit mean square, and the unit directions they are sums of.

    Each row sums `ACTIVE` of `n_features` (8 · d) directions with strengths uniform in 0.5 to 1.5. Direction i
    is drawn with a weight of (i + 200)^-0.7: some are several times as frequent as others. With `outliers`,
    four dimensions have an offset and a spread far above the rest.

    >>> x, directions = superposed(100, 16)
    >>> x.shape, directions.shape, round(float(x.square().mean()), 3)
    (torch.Size([100, 16]), torch.Size([128, 16]), 1.0)
    """
    draw = torch.Generator().manual_seed(seed)
    count = 8 * d if n_features is None else n_features
    directions = torch.nn.functional.normalize(torch.randn(count, d, generator=draw), dim=1)
    frequency = (torch.arange(count) + 200.0) ** -0.7
    chosen = torch.multinomial(frequency, rows * ACTIVE, replacement=True, generator=draw).view(rows, ACTIVE)
    strength = torch.rand(rows, ACTIVE, generator=draw) + 0.5
    x = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum")
    x += NOISE * torch.randn(rows, d, generator=draw)
    x /= x.square().mean().sqrt()
    if outliers:
        where = torch.randperm(d, generator=draw)[:OUTLIERS]
        sign = torch.randint(2, (len(where),), generator=draw) * 2.0 - 1.0
        x[:, where] += sign * OUTLIER_OFFSET + OUTLIER_SPREAD * torch.randn(rows, len(where), generator=draw)
        x /= x.square().mean().sqrt()
    return x, directions


def knowing(directions: Float[Tensor, "feature d"], n_latents: int, *, seed: int = 1) -> Float[Tensor, "latent d"]:
    """Unit weights near the directions: a random choice of them, or all of them several times over.

    >>> _, directions = superposed(1, 16)
    >>> w = knowing(directions, 8)
    >>> bool(((w @ directions.T).amax(1) > 0.9).all())
    True
    """
    draw = torch.Generator().manual_seed(seed)
    count, d = directions.shape
    order = torch.cat([torch.randperm(count, generator=draw) for _ in range(-(-n_latents // count))])[:n_latents]
    noise = torch.randn(n_latents, d, generator=draw) * (WEIGHT_NOISE / math.sqrt(d))
    return torch.nn.functional.normalize(directions[order] + noise, dim=1)


def bias_for(x: Float[Tensor, "row d"], weights: Float[Tensor, "latent d"], l0: float) -> float:
    """The encoder bias, one for all latents, under which `l0` of them are active on an average row."""
    kept = max(1, round(l0 * len(x)))
    top = (x @ weights.T).flatten().topk(kept).values
    return -float(top[-1])


def write_rows(x: Float[Tensor, "row d"], path: Path) -> None:
    """Bare float32 numbers, which every process of the benchmark maps: read once, and in memory once."""
    x.contiguous().numpy().tofile(path)


def map_rows(path: Path, d: int) -> Float[Tensor, "row d"]:
    """What `write_rows` wrote, mapped into memory."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size // 4, dtype=torch.float32).view(-1, d)
