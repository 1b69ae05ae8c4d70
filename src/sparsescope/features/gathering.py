"""Contexts of latents in one streaming pass: the strongest, a draw of the active, and a natural random draw.

A code above zero is activity. Where codes are signed (PCA, ICA) everything here is about their positive
part: the opposite direction would be another latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from ..activations.base import Activations
from ..dictionaries.base import Dictionary
from ..errors import ConfigurationError
from ..metrics.statistics import Moments, moments_from_sums
from .choosing import count_active, draw_latents
from .coding import Chunk, Progress, Rows, coded, rows_of, site_of
from .fragments import Fragments, cut
from .memory import CodeMemory
from .reservoirs import Chosen, Codes, Reservoir, priorities
from .sampling import Drawn, Sample, stratify
from .token_sums import RunningTokenSums, TokenSums

__all__ = ["Drawn", "Gathered", "Sample", "count_active", "draw_latents", "gather"]

_FLOAT16 = np.finfo(np.float16)
_SILENT_DRAW = 1  # keeps the draw of silent fragments apart from that of random ones, which has the same seed


@dataclass(frozen=True, eq=False)
class Gathered:
    """What one pass found out about some latents of one dictionary, on the fragments of one split.

    `latents` are their numbers; the place of a latent in this list is its first index everywhere else.
    `maximum` is its largest code, `density` the share of rows where it is active and `moments` those of
    its positive part, all over the `tokens` rows of the contexts that hold a fragment. `token_sum` has
    sums of codes by token id, `token_count` the rows of each id. `firing` packs one bit per fragment (as
    `np.packbits`): whether the latent is active there.

    `top` are the fragments with the largest code, largest first (of equal ones the earlier); `active` a
    uniform draw without replacement from the others where the latent is active; `random` a uniform draw
    from all fragments, for each latent its own.
    """

    name: str
    method: str
    site: str
    latents: Int64[np.ndarray, " latent"]
    fragments: Fragments
    maximum: Float32[np.ndarray, " latent"]
    density: Float64[np.ndarray, " latent"]
    moments: Moments
    tokens: int
    token_sum: TokenSums
    token_count: Int64[np.ndarray, " vocabulary"]
    firing: UInt8[np.ndarray, "latent byte"]
    top: Drawn
    active: Drawn
    random: Drawn

    def __len__(self) -> int:
        return len(self.latents)

    def is_active(self, place: int) -> Bool[np.ndarray, " fragment"]:
        """On which fragments the latent at `place` is active."""
        return np.unpackbits(self.firing[place], count=len(self.fragments)).astype(bool)

    def sample(
        self,
        place: int,
        *,
        silent: int = 40,
        predicted: Bool[np.ndarray, " fragment"] | None = None,
        seed: int = 0,
    ) -> Sample:
        """A stratified sample of the fragments for the latent at `place`, with true codes and weights.

        All top fragments, the drawn active ones, and up to `silent` silent ones: with `predicted` (which
        fragments an explanation holds to be active), so many of the silent ones predicted active and as
        many of the others. Raises as `stratify` does.
        """
        return stratify(
            self.top.of(place),
            self.active.of(place),
            self.is_active(place),
            silent=silent,
            predicted=predicted,
            seed=(seed, int(self.latents[place]), _SILENT_DRAW),
        )


def gather(
    dictionary: Dictionary,
    store: Activations,
    *,
    split: str,
    latents: Sequence[int] | Int64[np.ndarray, " latent"] | None = None,
    fragments: Fragments | None = None,
    site: str | None = None,
    top: int = 20,
    active: int = 40,
    random: int = 20,
    max_tokens: int | None = None,
    seed: int = 0,
    block: int = 8192,
    memory: CodeMemory | None = None,
    progress: Progress | None = None,
) -> Gathered:
    """Contexts and statistics of `latents` (all, unless given) in one pass over the activations of a split.

    `fragments` are those of the split, cut here (with `max_tokens` and `seed`) unless given. `site` is
    the dictionary's own unless given. Up to `top`, `active` and `random` fragments are kept for each
    latent; memory grows with latents and fragments (one bit for each pair), not with rows. The same
    arguments give the same bits, whatever `block`, the number of rows read at a time; what is drawn for a
    latent does not depend on which others are gathered. `memory` spares later passes the encoding.

    Raises `ConfigurationError` for latents that do not exist, a site that is unknown, or fragments of
    another split or store; `NumericalError` for codes that are not finite.
    """
    if min(top, active, random, seed) < 0:
        raise ConfigurationError(
            f"top={top}, active={active}, random={random}, seed={seed}: expected numbers that are 0 or more."
        )
    numbers = _numbers(latents, dictionary)
    pieces = _pieces(store, split, fragments, max_tokens, seed)
    rows = rows_of(pieces, store)
    at = site_of(dictionary, site)
    running = _Running(numbers, rows, top, active, random, seed)
    for chunk in coded(dictionary, store, at, rows, numbers, block=block, memory=memory, progress=progress):
        running.add(chunk)
    return running.finish(dictionary, at)


class _Running:
    """What has been gathered so far."""

    def __init__(
        self, latents: Int64[np.ndarray, " latent"], rows: Rows, top: int, active: int, random: int, seed: int
    ) -> None:
        fragments, length = rows.fragments, rows.fragments.ids.shape[1]
        self.latents, self.rows, self.seed, self.slots = latents, rows, seed, active
        self.counts = np.zeros(len(latents), np.int64)
        self.powers = np.zeros((4, len(latents)))
        self.maximum = np.zeros(len(latents), np.float32)
        self.token_sums = RunningTokenSums(len(latents), int(fragments.tokens.ids.max()) + 1)
        self.firing = np.zeros((len(latents), -(-len(fragments) // 8)), np.uint8)
        self.top = Reservoir(len(latents), top, length)
        # Top fragments are taken out at the end, when they are known: of so many, enough are left.
        self.active = Reservoir(len(latents), active + top if active else 0, length)
        self.random = Chosen(seed, latents, len(fragments), random, length)

    def add(self, chunk: Chunk) -> None:
        code = chunk.code.astype(np.float64)
        self.counts += np.bincount(chunk.place, minlength=len(self.latents))
        for power, total in enumerate(self.powers, start=1):
            total += np.bincount(chunk.place, weights=code**power, minlength=len(self.latents))
        self.token_sums.add(chunk.place, chunk.token, chunk.code)
        # One column more than there are fragments, for rows in none.
        largest = np.zeros((len(self.latents), chunk.fragments + 1), np.float32)
        np.maximum.at(largest.reshape(-1), chunk.place * largest.shape[1] + chunk.fragment, chunk.code)
        np.maximum(self.maximum, largest.max(1), out=self.maximum)
        self._keep(chunk, largest[:, :-1])

    def _keep(self, chunk: Chunk, largest: Float32[np.ndarray, "latent fragment"]) -> None:
        """Offer the fragments of a chunk to the reservoirs."""
        firing = largest > 0
        packed = np.packbits(firing, axis=1)
        self.firing[:, chunk.first // 8 : chunk.first // 8 + packed.shape[1]] = packed
        codes = _codes(chunk, largest.shape, self.top.codes.shape[2])
        self.top.offer(np.where(firing, largest.astype(np.float64), -np.inf), chunk.first, codes)
        if self.slots:
            numbers = chunk.first + np.arange(chunk.fragments)
            keys = np.where(firing, priorities(self.seed, self.latents, numbers), -np.inf)
            self.active.offer(keys, chunk.first, codes)
        self.random.fill(chunk.first, chunk.fragments, codes)

    def finish(self, dictionary: Dictionary, site: str) -> Gathered:
        tokens = len(self.rows)
        top = self.top.drawn()
        name = dictionary.provenance.name or dictionary.provenance.path or dictionary.method
        return Gathered(
            name=name,
            method=dictionary.method,
            site=site,
            latents=self.latents,
            fragments=self.rows.fragments,
            maximum=self.maximum,
            density=self.counts / tokens,
            moments=moments_from_sums(list(torch.from_numpy(self.powers)), tokens),
            tokens=tokens,
            token_sum=self.token_sums.finish(),
            token_count=np.bincount(self.rows.token, minlength=self.token_sums.shape[1]),
            firing=self.firing,
            top=top,
            active=self.active.without(top, self.slots),
            random=self.random.drawn(),
        )


def _codes(chunk: Chunk, shape: tuple[int, ...], length: int) -> Codes:
    """Looks up the codes of a chunk, as float16, by latent and fragment."""
    smallest, largest = _FLOAT16.smallest_subnormal, _FLOAT16.max

    def codes(place: Int64[np.ndarray, " n"], fragment: Int64[np.ndarray, " n"]) -> np.ndarray:
        wanted = np.full((shape[0], shape[1] + 1), -1)
        wanted[place, fragment] = np.arange(len(place))
        found = np.zeros((len(place), length), np.float16)
        where = wanted[chunk.place, chunk.fragment]
        inside = where >= 0
        found[where[inside], chunk.offset[inside]] = chunk.code[inside].clip(smallest, largest)
        return found

    return codes


def _numbers(
    latents: Sequence[int] | Int64[np.ndarray, " latent"] | None, dictionary: Dictionary
) -> Int64[np.ndarray, " latent"]:
    """Latents as numbers that exist, each once."""
    if latents is None:
        return np.arange(dictionary.n_latents)
    numbers = np.asarray(latents, np.int64)
    if not len(numbers) or len(np.unique(numbers)) < len(numbers):
        raise ConfigurationError("the latents to gather must be at least one, and each named once.")
    if numbers.min() < 0 or numbers.max() >= dictionary.n_latents:
        wrong = numbers[(numbers < 0) | (numbers >= dictionary.n_latents)][0]
        raise ConfigurationError(f"there is no latent {wrong}: the dictionary has 0 to {dictionary.n_latents - 1}.")
    return numbers


def _pieces(
    store: Activations, split: str, fragments: Fragments | None, max_tokens: int | None, seed: int
) -> Fragments:
    if fragments is None:
        return cut(store, split, max_tokens=max_tokens, seed=seed)
    if max_tokens is not None:
        raise ConfigurationError("max_tokens was given beside fragments: give it to `cut`, which draws the contexts.")
    if fragments.split != split:
        raise ConfigurationError(f"the fragments are of the {fragments.split} split, asked for {split!r}.")
    return fragments
