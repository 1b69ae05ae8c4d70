"""The scores of gathered latents: which fragments are needed, and what comes of the predictions on them.

draws = draw_documents(gathered.fragments.document)              once per split, for all dictionaries
sample = bills_sample(gathered, place)                            then ask the simulator about sample.numbers
measure_bills(gathered.fragments, sample, predicted, draws)
sample = gathered.sample(place, predicted=expected_active)        likewise
design = design_of(gathered, place, sample, draws, expected_active)
measure_sample(gathered.fragments, sample, predicted, design, draws)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ...errors import ConfigurationError
from ...features.fragments import Fragments
from ...features.gathering import Gathered, Sample
from ..base import Reason, Skipped
from .bills import RANDOM_RANKS, TOP_RANKS, Bills, bills, ranks
from .corpus import corpus_rho
from .detection import ACTIVE_FROM, Discrimination, detection
from .fuzzing import fuzzing
from .intervals import Score
from .resampling import Design, DocumentDraws, population, strata_of_corpus

STRATA = 4
_TOP, _RANDOM = 0, 1


@dataclass(frozen=True, eq=False)
class SampleScores:
    """What a stratified sample says about one latent and one explanation."""

    corpus_rho: Score | Skipped
    detection: Discrimination
    fuzzing: Discrimination


def bills_sample(gathered: Gathered, place: int) -> Sample | Skipped:
    """The five top and five random fragments on which the paper's score is taken (strata 0 and 1, weight 1)."""
    if not gathered.maximum[place] > 0:
        return Skipped("never fires")
    parts = []
    for drawn, asked in ((gathered.top, TOP_RANKS), (gathered.random, RANDOM_RANKS)):
        numbers, codes = drawn.of(place)
        chosen = ranks(len(numbers), asked)
        if chosen is None:
            return Skipped("too few contexts")
        parts.append((numbers[chosen], codes[chosen]))
    numbers, codes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    stratum = np.repeat([_TOP, _RANDOM], [len(part[0]) for part in parts])
    return Sample(numbers, codes, stratum, np.ones(len(numbers)))


def measure_bills(
    fragments: Fragments,
    sample: Sample,
    predicted: Float[np.ndarray, "fragment position"],
    draws: DocumentDraws,
    *,
    quantised: bool = False,
    missing: Reason = "unparseable answer",
) -> Bills:
    """The paper's scores of one latent, from a `bills_sample` and the predictions on its fragments."""
    return bills(
        sample.codes,
        predicted,
        fragments.known[sample.numbers],
        sample.stratum == _TOP,
        fragments.document[sample.numbers],
        draws,
        quantised=quantised,
        missing=missing,
    )


def design_of(
    gathered: Gathered,
    place: int,
    sample: Sample,
    draws: DocumentDraws,
    expected_active: Bool[np.ndarray, " fragment"] | None = None,
) -> Design:
    """Where a sample stands in its corpus. `expected_active` as it was given to `Gathered.sample`.

    Raises `ConfigurationError` when the sizes of the strata are not those that the sample was drawn from.
    """
    fragments = gathered.fragments
    top = sample.numbers[sample.stratum == _TOP]
    stratum = strata_of_corpus(len(fragments), top, gathered.is_active(place), expected_active)
    sizes = population(draws.places(fragments.document), stratum, len(draws.numbers), STRATA)
    design = Design(draws.places(fragments.document[sample.numbers]), sample.stratum, sizes)
    if not np.allclose(design.weights, sample.weight, rtol=1e-9):
        raise ConfigurationError(
            f"the sample of latent {gathered.latents[place]} was drawn from other strata: give `expected_active` "
            "as it was given to Gathered.sample, and the same gathered latents."
        )
    return design


def measure_sample(
    fragments: Fragments,
    sample: Sample,
    predicted: Float[np.ndarray, "fragment position"],
    design: Design,
    draws: DocumentDraws,
    *,
    seed: int = 0,
    missing: Reason = "unparseable answer",
) -> SampleScores:
    """Corpus ρ, detection and fuzzing of one latent, from predictions on the fragments of its `sample`.

    `design` is that of the sample (`design_of`), and may serve several predictions.
    """
    known = fragments.known[sample.numbers]
    return SampleScores(
        corpus_rho(sample.codes, predicted, known, design, draws, missing=missing),
        detection(sample.codes, predicted, known, design, draws, missing=missing),
        fuzzing(sample.codes, predicted, known, sample.numbers, design, draws, seed=seed, missing=missing),
    )


def expected_active(
    predicted: Float[np.ndarray, "fragment position"],
    known: Bool[np.ndarray, "fragment position"],
    threshold: float = ACTIVE_FROM,
) -> Bool[np.ndarray, " fragment"]:
    """Which fragments a prediction holds to be active: `threshold` of 10 or more at some known token."""
    return ((predicted >= threshold) & known).any(1)
