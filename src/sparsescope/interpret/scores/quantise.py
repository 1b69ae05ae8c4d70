"""Activations as the integers 0 to 10 that explainers and simulators talk about."""

import numpy as np
from jaxtyping import Float, Int64

from ..base import LEVELS


def quantise(codes: Float[np.ndarray, "*shape"], maximum: float | None = None) -> Int64[np.ndarray, "*shape"]:
    """n = min(10, ⌊10 · max(a, 0) / a_max⌋), where a_max (`maximum`) is the largest of the codes shown.

    All zero where no code is positive. Source: Bills et al. 2023; Cunningham et al. 2023, appendix.

    >>> quantise(np.array([-1.0, 0.0, 0.19, 0.2, 1.0, 2.0]))
    array([ 0,  0,  0,  1,  5, 10])
    """
    positive = np.maximum(np.asarray(codes, np.float64), 0)
    largest = positive.max(initial=0.0) if maximum is None else float(maximum)
    if not largest > 0:
        return np.zeros(positive.shape, np.int64)
    return np.minimum(LEVELS, np.floor(LEVELS * positive / largest)).astype(np.int64)
