"""A dictionary as explainers and scores see it: some latents, gathered on both splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from ..dictionaries.base import Dictionary
from ..features.gathering import Gathered, count_active, draw_latents, gather
from ..features.memory import CodeMemory
from ..features.statistics import Statistics, statistics
from .base import Evidence
from .material import Material

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Effort:
    """How much is looked at: latents of each dictionary; fragments of each latent, by kind.

    `top` and `active` are the strongest fragments and a draw of the other active ones; `random` the natural
    draw; `silent` how many silent fragments are scored, of those predicted active and of the others.
    """

    latents: int = 150
    top: int = 20
    active: int = 40
    random: int = 20
    silent: int = 40


USUAL = Effort()
FRUGAL = Effort(latents=30, top=10, active=10, random=10, silent=10)
"""For simulators that cost money or minutes."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Latents of one dictionary, gathered on both splits of its material, in the same order.

    `neighbour_active[i]` says on which scoring fragments the latent of the dictionary whose direction is
    closest to that of latent i is active; `memory` holds codes that were computed.
    """

    name: str
    dictionary: Dictionary
    site: str
    explaining: Gathered
    scoring: Gathered
    statistics: Statistics
    neighbour_active: Bool[np.ndarray, "latent fragment"]
    memory: CodeMemory

    @property
    def latents(self) -> Int64[np.ndarray, " latent"]:
        """Their numbers in the dictionary."""
        return self.scoring.latents


def examine(
    name: str,
    dictionary: Dictionary,
    material: Material,
    *,
    site: str | None = None,
    latents: Int64[np.ndarray, " latent"] | None = None,
    effort: Effort = USUAL,
    unembedding: torch.Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Subject | None:
    """Draw latents by how frequent they are on the explaining split (unless given), and gather them on both.

    None when none is alive.
    """
    at, memory = site or str(dictionary.provenance.site), CodeMemory()
    if latents is None:
        counts, _ = count_active(
            dictionary, material.store, material.explaining, site=at, memory=memory, progress=progress
        )
        latents = draw_latents(counts, effort.latents, seed)
    if not len(latents):
        return None

    def gathered(split: str, numbers: np.ndarray, top: int, active: int, random: int) -> Gathered:
        fragments = material.explaining if split == "explaining" else material.scoring
        return gather(
            dictionary,
            material.store,
            split=fragments.split,
            latents=numbers,
            fragments=fragments,
            site=at,
            top=top,
            active=active,
            random=random,
            seed=seed,
            memory=memory,
            progress=progress,
        )

    explaining = gathered("explaining", latents, effort.top, effort.active, 0)
    scoring = gathered("scoring", latents, effort.top, effort.active, effort.random)
    facts = statistics(scoring, dictionary, unembedding)
    nearest = facts.alike.numbers[:, 0]
    beside = _firing(nearest, gathered, len(material.scoring))
    return Subject(name, dictionary, at, explaining, scoring, facts, beside, memory)


def _firing(
    nearest: Int64[np.ndarray, " latent"], gathered: Callable[..., Gathered], fragments: int
) -> Bool[np.ndarray, "latent fragment"]:
    """On which scoring fragments each of `nearest` is active; nowhere for -1, which stands for no neighbour."""
    found = np.zeros((len(nearest), fragments), bool)
    numbers = np.unique(nearest[nearest >= 0])
    if len(numbers):
        others = gathered("scoring", numbers, 0, 0, 0)
        for place, number in enumerate(nearest.tolist()):
            if number >= 0:
                found[place] = others.is_active(int(np.searchsorted(numbers, number)))
    return found


def evidence(
    subject: Subject,
    material: Material,
    *,
    silent: int,
    predicted: Sequence[Bool[np.ndarray, " fragment"] | None] | None = None,
    seed: int = 0,
) -> list[Evidence]:
    """What explainers see of each latent: a stratified sample of the explaining split, and its sums by token.

    With `predicted`, for each latent the explaining fragments where something simpler expects it, silent ones
    of these are among the sample: they show what is not enough to make it fire.
    """
    gathered = subject.explaining
    size = len(material.vocabulary)
    count = np.zeros(size, np.int64)
    count[: len(gathered.token_count)] = gathered.token_count
    return [
        Evidence(
            dictionary=subject.name,
            latent=int(latent),
            fragments=gathered.fragments,
            sample=gathered.sample(
                place, silent=silent, predicted=None if predicted is None else predicted[place], seed=seed
            ),
            maximum=float(gathered.maximum[place]),
            density=float(gathered.density[place]),
            token_sum=gathered.token_sum.dense(place, size),
            token_count=count,
            vocabulary=material.vocabulary,
        )
        for place, latent in enumerate(subject.latents)
    ]
