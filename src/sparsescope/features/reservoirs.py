"""The best fragments of every latent so far, by any key, in memory that does not grow with the text.

With the largest code as key these are the top fragments; with a random number as key they are a uniform
draw without replacement (Vitter 1985, "Random sampling with a reservoir"; in this form Efraimidis &
Spirakis 2006). The random numbers are a function of seed, latent and fragment alone, so that a draw
depends neither on the order of the work nor on which other latents are looked at.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float16, Float64, Int64

from .sampling import Drawn

_GOLDEN, _FIRST, _SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)

Codes = Callable[[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]], Float16[np.ndarray, "n position"]]
"""Codes of the latents at some places on some fragments of the chunk at hand (counted from its first)."""


def priorities(
    seed: int, latents: Int64[np.ndarray, " latent"], fragments: Int64[np.ndarray, " fragment"]
) -> Float64[np.ndarray, "latent fragment"]:
    """A number in [0, 1) for each latent and fragment, as good as random.

    Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators": each latent has a stream
    of its own, of which the fragment's number is the step.
    """
    start = _mix(_mix(np.uint64(seed) + latents.astype(np.uint64) * _GOLDEN) + _FIRST)
    mixed = _mix(start[:, None] + (fragments.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mix(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))


class Reservoir:
    """For each latent the fragments with the largest keys, largest first; of equal keys the earlier fragment."""

    def __init__(self, latents: int, slots: int, length: int) -> None:
        self.numbers = np.full((latents, slots), -1, np.int64)
        self.keys = np.full((latents, slots), -np.inf)
        self.codes = np.zeros((latents, slots, length), np.float16)

    def offer(self, keys: Float[np.ndarray, "latent fragment"], first: int, codes: Codes) -> None:
        """Consider the fragments from number `first` on; a key of -inf is no candidate."""
        slots = self.keys.shape[1]
        if not slots:
            return
        changed = np.flatnonzero(keys.max(1) > self.keys[:, -1])
        together = np.concatenate([self.keys[changed], keys[changed]], 1)
        order = np.argsort(-together, axis=1, kind="stable")[:, :slots]
        self.keys[changed] = np.take_along_axis(together, order, 1)
        new = (order >= slots) & (self.keys[changed] > -np.inf)
        old = np.minimum(order, slots - 1)
        numbers = np.take_along_axis(self.numbers[changed], old, 1)
        self.numbers[changed] = np.where(new, first + order - slots, np.where(order < slots, numbers, -1))
        kept = self.codes[changed[:, None], old]
        row, slot = new.nonzero()
        kept[row, slot] = codes(changed[row], order[row, slot] - slots)
        self.codes[changed] = kept

    def drawn(self) -> Drawn:
        """What is held now."""
        return Drawn(self.numbers, self.codes)

    def without(self, other: Drawn, slots: int) -> Drawn:
        """The first `slots` of each latent that are not in `other`."""
        taken = (self.numbers[:, :, None] == other.numbers[:, None, :]).any(2) | (self.numbers < 0)
        order = np.argsort(taken, axis=1, kind="stable")[:, :slots]
        gone = np.take_along_axis(taken, order, 1)
        numbers = np.where(gone, -1, np.take_along_axis(self.numbers, order, 1))
        codes = self.codes[np.arange(len(order))[:, None], order]
        return Drawn(numbers, np.where(gone[..., None], np.float16(0), codes))


class Chosen:
    """Fragments chosen in advance, uniformly from all and for each latent anew; codes are filled in as they come."""

    def __init__(self, seed: int, latents: Int64[np.ndarray, " latent"], fragments: int, slots: int, length: int):
        self.numbers = np.full((len(latents), slots), -1, np.int64)
        self.codes = np.zeros((len(latents), slots, length), np.float16)
        size = min(slots, fragments)
        for place, latent in enumerate(latents.tolist()):
            generator = np.random.default_rng((seed, latent, 0))
            self.numbers[place, :size] = np.sort(generator.choice(fragments, size, replace=False))

    def fill(self, first: int, count: int, codes: Codes) -> None:
        """Take the codes on the fragments `first` to `first + count`."""
        here: Bool[np.ndarray, "latent slot"] = (self.numbers >= first) & (self.numbers < first + count)
        row, slot = here.nonzero()
        self.codes[row, slot] = codes(row, self.numbers[row, slot] - first)

    def drawn(self) -> Drawn:
        return Drawn(self.numbers, self.codes)
