"""Which fragments of the evidence an explainer sees, and with which numbers."""

from typing import Any

import numpy as np

from ..base import Evidence, Skipped
from ..scores.quantise import quantise
from .prompts import Lines, rows

SHOWN = 5
"""Fragments that an explainer sees, as in Bills et al. 2023."""


def strongest(evidence: Evidence, tokenizer: Any, count: int = SHOWN) -> list[Lines] | Skipped:
    """The `count` fragments of the top stratum with the largest codes, scaled by the largest code among them."""
    codes = np.asarray(evidence.sample.codes, np.float32)
    peaks = codes.max(1, initial=0.0)
    top = np.flatnonzero((evidence.sample.stratum == 0) & (peaks > 0))
    if not len(top):
        return Skipped("never fires" if evidence.maximum <= 0 else "too few contexts")
    chosen = top[np.argsort(-peaks[top], kind="stable")][:count]
    numbers = evidence.sample.numbers[chosen]
    values = quantise(codes[chosen])
    texts = evidence.fragments.texts(tokenizer, numbers)
    return [
        rows(tokens, values[place, : len(tokens)].tolist(), evidence.fragments.known[number])
        for place, (number, tokens) in enumerate(zip(numbers, texts, strict=True))
    ]
