"""Activations as training meets them: an offset, features of unequal frequency and strength, noise."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def realistic(rows: int, d: int = 24, features: int = 120, seed: int = 0) -> Tensor:
    """Rows with Zipf-like feature frequencies, exponential strengths, an offset and a little noise."""
    g = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(features, d, generator=g), dim=1)
    frequency = (1.5 / torch.arange(1, features + 1) ** 0.7).clamp(max=0.4)
    strength = torch.empty(rows, features).exponential_(generator=g) + 0.5
    codes = strength * (torch.rand(rows, features, generator=g) < frequency)
    offset = 0.5 * torch.randn(d, generator=g)
    return codes @ directions + offset + 0.05 * torch.randn(rows, d, generator=g)
