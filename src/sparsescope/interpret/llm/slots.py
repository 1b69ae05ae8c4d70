"""From the probabilities of numbers in the slots of a scored prompt to expected activations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from ..base import LEVELS
from .prompts import SLOT, score_prompt
from .request import Slot, Way


@dataclass(frozen=True)
class Scale:
    """How a server scores prompts: the form of its answers, and the largest number that it is asked for.

    That is 10 where '10' is one token. Where it is two, a slot's '1' could be the beginning of '10': there,
    numbers go to 9 and expected values are stretched to 10.
    """

    way: Way
    top: int


def scale_of(slots: Sequence[Slot] | None, way: Way, tokens: int) -> Scale | None:
    """What the answer to a prompt on the scale to 10 says of the server; None when it cannot be used."""
    if slots is None or not _aligned(slots, tokens) or not any(slot.digits for slot in slots[-tokens:]):
        return None
    whole = any(slot.token.strip() == str(LEVELS) for slot in slots[:-tokens])
    return Scale(way, LEVELS if whole else LEVELS - 1)


def expected(slots: Sequence[Slot] | None, tokens: int, scale: Scale) -> Float32[np.ndarray, " token"] | None:
    """Expected activation at the last `tokens` slots, NaN where no number is likely; None when they do not fit."""
    if slots is None or not _aligned(slots, tokens):
        return None
    return np.array([mean_of(slot.digits, scale.top) for slot in slots[-tokens:]], np.float32)


def mean_of(digits: Mapping[str, float], top: int) -> float:
    """Σ k·p(k) / Σ p(k) over the numbers from 0 to `top`, stretched to 0 to 10; NaN when no number has any share.

    >>> mean_of({"0": 0.3, "10": 0.1}, 10), mean_of({"9": 0.5}, 9), mean_of({}, 10)
    (2.5, 10.0, nan)
    """
    shares = {int(number): p for number, p in digits.items() if int(number) <= top}
    total = sum(shares.values())
    return float("nan") if not total > 0 else sum(k * p for k, p in shares.items()) / total * (LEVELS / top)


def _aligned(slots: Sequence[Slot], tokens: int) -> bool:
    """Is there one slot for every line of the prompt, and a slot's mark in each that was asked for?"""
    lines = score_prompt("", [""] * tokens).count("\t")
    return len(slots) == lines and all(slot.token.lstrip().startswith(SLOT) for slot in slots[-tokens:])
