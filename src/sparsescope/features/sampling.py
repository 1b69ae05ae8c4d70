"""Fragments drawn for a latent, and the stratified sample from which scores are estimated for the whole corpus."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int64

from ..errors import ConfigurationError

TOP, ACTIVE, SURPRISING, SILENT = range(4)
"""Strata: the top fragments; others where the latent is active; silent ones predicted active; silent ones otherwise."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Some fragments of each latent: their `numbers`, -1 in slots without one, and the latent's codes on them.

    Codes are 0 where a fragment has no token or no activation. A code above 65,504, the largest float16,
    is kept as that; a positive one that would round to zero as the smallest positive float16.
    """

    numbers: Int64[np.ndarray, "latent slot"]
    codes: Float16[np.ndarray, "latent slot position"]

    def of(self, place: int) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n position"]]:
        """The fragments of one latent and its codes on them, without empty slots."""
        there = self.numbers[place] >= 0
        return self.numbers[place][there], self.codes[place][there].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Sample:
    """Fragments of one latent, drawn by stratum, with true codes and Horvitz–Thompson weights.

    `stratum` is 0 for the top fragments (a census), 1 for others on which the latent is active, 2 for
    silent ones which a prediction holds to be active, 3 for the other silent ones. A fragment stands for
    `weight` = N_h / n_h fragments of its stratum h, so Σ weight · y is an unbiased estimate of the sum of
    y over all fragments, and Σ weight is their number.

    Source: Horvitz & Thompson 1952, "A generalization of sampling without replacement from a finite universe".
    """

    numbers: Int64[np.ndarray, " n"]
    codes: Float32[np.ndarray, "n position"]
    stratum: Int64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.numbers)


def stratify(
    top: tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n position"]],
    active: tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n position"]],
    is_active: Bool[np.ndarray, " fragment"],
    *,
    silent: int = 40,
    predicted: Bool[np.ndarray, " fragment"] | None = None,
    seed: int | tuple[int, ...] = 0,
) -> Sample:
    """The sample of one latent, given its top fragments, a uniform draw of its other active ones, and all active ones.

    Up to `silent` fragments are drawn from each of the silent strata: with `predicted`, from those
    predicted to be active and from the others; else from all. Raises `ConfigurationError` for a
    `silent` below 1, a prediction of another length, or a stratum from which nothing was drawn.

    >>> codes = np.ones((1, 2), np.float32)
    >>> activity = np.array([True, False, True, False, True])
    >>> sample = stratify((np.array([2]), codes), (np.array([4]), codes), activity, silent=1)
    >>> sample.stratum.tolist(), sample.weight.tolist()
    ([0, 1, 3], [1.0, 2.0, 2.0])
    """
    if silent < 1:
        raise ConfigurationError(f"silent is {silent}: expected the number of silent fragments to draw, 1 or more.")
    if predicted is not None and predicted.shape != is_active.shape:
        raise ConfigurationError(
            f"predicted has shape {predicted.shape}, expected one value for each of the {len(is_active)} fragments."
        )
    others = int(is_active.sum()) - len(top[0])
    if others and not len(active[0]):
        raise ConfigurationError(
            f"none of the {others} active fragments below the top was drawn, so they cannot be estimated: gather some."
        )
    generator = np.random.default_rng(seed)
    surprising = ~is_active & predicted if predicted is not None else np.zeros_like(is_active)
    parts = [(TOP, *top, len(top[0])), (ACTIVE, *active, others)]
    for stratum, members in ((SURPRISING, surprising), (SILENT, ~is_active & ~surprising)):
        among = np.flatnonzero(members)
        numbers = np.sort(generator.choice(among, min(silent, len(among)), replace=False))
        parts.append((stratum, numbers, np.zeros((len(numbers), top[1].shape[1]), np.float32), len(among)))
    return Sample(
        numbers=np.concatenate([numbers for _, numbers, _, _ in parts]),
        codes=np.concatenate([codes for _, _, codes, _ in parts]),
        stratum=np.concatenate([np.full(len(numbers), stratum, np.int64) for stratum, numbers, _, _ in parts]),
        weight=np.concatenate([np.full(len(numbers), size / max(len(numbers), 1)) for _, numbers, _, size in parts]),
    )
