"""One dictionary looked at for the explorer: what is found out about all of its latents at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ..causal.latent_effects import LatentEffect, latent_effects
from ..dictionaries import Dictionary
from ..features.gathering import Gathered, gather
from ..features.histograms import code_histograms
from ..features.memory import CodeMemory
from ..features.statistics import Statistics, statistics
from ..interpret.base import Skipped
from ..interpret.material import Material
from ..interpret.truth import LatentTruth, truth
from ..models import LanguageModel
from .prepared import ACTIVE, CONTEXTS, RANDOM, SEED, TOP
from .workshop import RESIDUAL

Progress = Callable[[str, int, int], None]
_LATENTS = 2048  # whose labels are looked for together


@dataclass(frozen=True, eq=False)
class Survey:
    """All latents of a dictionary on the scoring split, place being number.

    `truth` has, for each latent, the label that fits it best (None where it fires on no labelled document) and is None
    where the text has no labels; `effects` has None for latents without windows.
    """

    gathered: Gathered
    statistics: Statistics
    histograms: Int64[np.ndarray, "latent bin"]
    effects: list[LatentEffect | None]
    truth: list[LatentTruth | None] | None


def survey(
    dictionary: Dictionary, material: Material, model: LanguageModel, progress: Progress | None = None
) -> Survey:
    """Look at every latent: contexts, statistics, histogram, effects, and truth labels where the text has any."""
    site, memory, scoring = str(dictionary.provenance.site), CodeMemory(), material.scoring
    gathered = gather(
        dictionary,
        material.store,
        split=scoring.split,
        fragments=scoring,
        site=site,
        top=TOP,
        active=ACTIVE,
        random=RANDOM,
        seed=SEED,
        memory=memory,
    )
    written = str(dictionary.provenance.output_site or site).partition(".")[0] in RESIDUAL
    return Survey(
        gathered=gathered,
        statistics=statistics(gathered, dictionary, model.unembedding() if written else None),
        histograms=code_histograms(
            dictionary, material.store, scoring, gathered.latents, gathered.maximum, site=site, memory=memory
        ),
        truth=_labels(dictionary, material, gathered, memory),
        effects=_effects(dictionary, material, model, gathered, progress),
    )


def _effects(
    dictionary: Dictionary,
    material: Material,
    model: LanguageModel,
    gathered: Gathered,
    progress: Progress | None,
) -> list[LatentEffect | None]:
    """What ablating each latent does; nothing where the model predicts no token, or its blocks are not known."""
    if model.unembedding() is None or not model.n_layers:
        return [None] * len(gathered)
    kept, placed = material.store.kept(gathered.fragments.split), dictionary.to(model.device)
    return latent_effects(model, placed, gathered, kept, contexts=CONTEXTS, seed=SEED, progress=progress)


def _labels(
    dictionary: Dictionary, material: Material, gathered: Gathered, memory: CodeMemory
) -> list[LatentTruth | None] | None:
    """The best label of every latent. Without a null: it would take most of the time, and choosing does not need it."""
    if material.labels is None:
        return None
    found: list[LatentTruth | None] = [None] * len(gathered)
    alive = np.flatnonzero(gathered.density > 0)
    for begin in range(0, len(alive), _LATENTS):
        part = alive[begin : begin + _LATENTS]
        measured = truth(
            dictionary,
            material.store,
            part,
            *material.labels,
            site=gathered.site,
            permutations=0,
            memory=memory,
            seed=SEED,
        )
        for latent, each in zip(part.tolist(), measured, strict=True):
            found[latent] = None if isinstance(each, Skipped) else each
    return found
