"""From a dictionary to the scores of its latents: explain on one split, simulate and score on the other.

One stratified sample of the scoring split serves three predictions of each latent, which are therefore
compared token by token: by its own explanation, by the best token lookup, and by the explanation of
another latent of the same dictionary ("shuffled").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ..features.gathering import Sample
from .base import Explainer, Explanation, Reason, Simulator, Skipped
from .material import Material
from .rules import Lookup
from .scores.corpus import corpus_rho
from .scores.detection import discrimination
from .scores.intervals import Score, percentile
from .scores.intruder import intruder
from .scores.measuring import bills_sample, design_of, measure_bills, measure_sample
from .scores.resampling import Design
from .subject import USUAL, Effort, Subject, evidence

_BILLS = ("bills_rho", "bills_top", "bills_random")
OWN, LOOKUP, SHUFFLED = "own", "lookup", "shuffled"
SCORES = (
    *("corpus_rho", "context_gain", "bills_rho", "bills_top", "bills_random", "detection", "detection_accuracy"),
    *("fuzzing", "fuzzing_accuracy", "neighbours", "intruder"),
)
"""Of every latent. Detection, fuzzing and neighbours are AUROC, "accuracy" balanced accuracy."""

Scores = Mapping[str, Sequence[Score | Skipped]]


@dataclass(frozen=True, eq=False)
class Judged:
    """The explanations and scores of a subject's latents, in its order.

    `own` has all of `SCORES`, `shuffled` those of the explanations dealt to other latents, `lookup` those of
    the best token lookup. Without an explanation a latent is skipped in all of them but `intruder`.
    """

    subject: Subject
    explanations: Sequence[Explanation | Skipped]
    own: Scores
    lookup: Scores
    shuffled: Scores


def judge(
    subject: Subject,
    material: Material,
    explainer: Explainer,
    simulator: Simulator,
    *,
    effort: Effort = USUAL,
    explanations: Sequence[Explanation | Skipped] | None = None,
    seed: int = 0,
) -> Judged:
    """Explain the latents (unless `explanations` are given, as for a second corpus) and score the explanations.

    Raises what explainer and simulator raise.
    """
    lookup = Lookup(material.vocabulary)
    lookups = lookup.explain(evidence(subject, material, silent=effort.silent, seed=seed))
    if explanations is None:
        hinted = [
            lookup.predicts(found, material.explaining) if isinstance(found, Explanation) else None for found in lookups
        ]
        explanations = explainer.explain(evidence(subject, material, silent=effort.silent, predicted=hinted, seed=seed))
    dealt = shuffled(explanations, seed)
    samples = _samples(subject, material, simulator, explanations, effort, seed)
    predicted = {
        OWN: _simulated(simulator, explanations, samples, material),
        LOOKUP: _simulated(lookup, lookups, samples, material),
        SHUFFLED: _simulated(simulator, dealt, samples, material),
    }
    found: dict[str, list[dict[str, Score | Skipped]]] = {name: [] for name in predicted}
    for place, sample in enumerate(samples):
        alone = intruder(subject.scoring, place, material.features, material.draws, seed=seed)
        own, dealt_out = (
            _scores(subject, material, place, sample, predicted[name][place], seed) for name in (OWN, SHUFFLED)
        )
        rhos = _rhos(material, sample, predicted[LOOKUP][place])
        own |= {"intruder": alone, "context_gain": context_gain(own["corpus_rho"], rhos["corpus_rho"])}
        for name, scores in ((OWN, own), (LOOKUP, rhos), (SHUFFLED, dealt_out)):
            found[name].append(scores)
    columns = {name: {key: [row[key] for row in rows] for key in rows[0]} for name, rows in found.items()}
    return Judged(subject, explanations, columns[OWN], columns[LOOKUP], columns[SHUFFLED])


def shuffled(explanations: Sequence[Explanation | Skipped], seed: int = 0) -> list[Explanation | Skipped]:
    """Every explained latent gets the explanation of another one, drawn at random, and each is used once.

    >>> cards = [Explanation(text, "rules", {}) for text in "abc"]
    >>> {old.text + new.text for old, new in zip(cards, shuffled(cards))} in ({"ab", "bc", "ca"}, {"ac", "ba", "cb"})
    True
    """
    places = [place for place, found in enumerate(explanations) if isinstance(found, Explanation)]
    order = np.random.default_rng([seed, len(places), 0x5F]).permutation(places)
    dealt = list(explanations)
    for receives, gives in zip(order, np.roll(order, 1), strict=True):
        dealt[receives] = explanations[gives] if len(order) > 1 else Skipped("no explanation")
    return dealt


def context_gain(own: Score | Skipped, lookup: Score | Skipped) -> Score | Skipped:
    """ρ of the explanation less ρ of the best token lookup, replicate by replicate.

    A lookup whose prediction is constant predicts nothing: its ρ counts as 0.
    """
    if isinstance(own, Skipped):
        return own
    if lookup == Skipped("constant prediction"):
        return percentile(own.value, own.replicates, own.estimate.n)
    if isinstance(lookup, Skipped):
        return lookup
    return percentile(own.value - lookup.value, own.replicates - lookup.replicates, own.estimate.n)


@dataclass(frozen=True, eq=False)
class _Samples:
    """The fragments on which one latent is scored, and how those of the corpus sample were drawn."""

    corpus: Sample
    design: Design
    bills: Sample | Skipped

    @property
    def numbers(self) -> Int64[np.ndarray, " n"]:
        """All of them, those of the corpus sample first."""
        if isinstance(self.bills, Skipped):
            return self.corpus.numbers
        return np.concatenate([self.corpus.numbers, self.bills.numbers])


def _samples(
    subject: Subject,
    material: Material,
    simulator: Simulator,
    explanations: Sequence[Explanation | Skipped],
    effort: Effort,
    seed: int,
) -> list[_Samples]:
    found = []
    for place, explanation in enumerate(explanations):
        expected = _expected(subject, material, simulator, explanation, place)
        corpus = subject.scoring.sample(place, silent=effort.silent, predicted=expected, seed=seed)
        design = design_of(subject.scoring, place, corpus, material.draws, expected)
        found.append(_Samples(corpus, design, bills_sample(subject.scoring, place)))
    return found


def _expected(
    subject: Subject, material: Material, simulator: Simulator, explanation: Explanation | Skipped, place: int
) -> Bool[np.ndarray, " fragment"]:
    """Which scoring fragments may well be predicted active: the stratum where false alarms are looked for.

    A simulator that predicts the whole corpus for nothing says so itself. For others, the fragments with one
    of the latent's ten most active tokens of the explaining split stand in: any stratum gives a fair estimate.
    """
    fragments = material.scoring
    if isinstance(explanation, Skipped):
        return np.zeros(len(fragments), bool)
    predicts: Any = getattr(simulator, "predicts", None)
    if predicts is not None:
        return predicts(explanation, fragments)
    ids, sums, _ = subject.explaining.token_sum.of(place)
    typical = ids[np.argsort(-sums, kind="stable")[:10]]
    return (np.isin(fragments.ids, typical) & fragments.known).any(1)


def _simulated(
    simulator: Simulator,
    explanations: Sequence[Explanation | Skipped],
    samples: Sequence[_Samples],
    material: Material,
) -> list[Float32[np.ndarray, "fragment position"] | Skipped]:
    """Predictions on all fragments of each latent's samples, in one call: a simulator may work on many at once.

    Where there is none at all, the reason, if the simulator says one (`reasons`).
    """
    places = [place for place, found in enumerate(explanations) if isinstance(found, Explanation)]
    usable = [found for found in explanations if isinstance(found, Explanation)]
    answers = simulator.simulate(usable, material.scoring, [samples[place].numbers for place in places])
    reasons: Sequence[Reason | None] = getattr(simulator, "reasons", [None] * len(answers))
    found: list[Any] = [each if isinstance(each, Skipped) else None for each in explanations]
    for place, answer, reason in zip(places, answers, reasons, strict=True):
        found[place] = answer if reason is None else Skipped(reason)
    return found


_Prediction: TypeAlias = Float32[np.ndarray, "fragment position"] | Skipped


def _rhos(material: Material, sample: _Samples, predicted: _Prediction) -> dict[str, Score | Skipped]:
    """The correlations of one latent and one prediction."""
    if isinstance(predicted, Skipped):
        return dict.fromkeys(("corpus_rho", *_BILLS), predicted)
    some, fragments = len(sample.corpus), material.scoring
    known = fragments.known[sample.corpus.numbers]
    rho = corpus_rho(sample.corpus.codes, predicted[:some], known, sample.design, material.draws)
    return {"corpus_rho": rho, **_bills(sample, predicted[some:], material)}


def _scores(
    subject: Subject, material: Material, place: int, sample: _Samples, predicted: _Prediction, seed: int
) -> dict[str, Score | Skipped]:
    """All scores of one latent by one prediction, but those that need a second one or none."""
    if isinstance(predicted, Skipped):
        return dict.fromkeys((score for score in SCORES if score not in ("intruder", "context_gain")), predicted)
    some = len(sample.corpus)
    found = measure_sample(material.scoring, sample.corpus, predicted[:some], sample.design, material.draws, seed=seed)
    return {
        "corpus_rho": found.corpus_rho,
        "detection": found.detection.auroc,
        "detection_accuracy": found.detection.balanced_accuracy,
        "fuzzing": found.fuzzing.auroc,
        "fuzzing_accuracy": found.fuzzing.balanced_accuracy,
        "neighbours": neighbours(subject, material, place, sample, predicted[:some]),
        **_bills(sample, predicted[some:], material),
    }


def _bills(
    sample: _Samples, predicted: Float32[np.ndarray, "fragment position"], material: Material
) -> dict[str, Score | Skipped]:
    if isinstance(sample.bills, Skipped):
        return dict.fromkeys(_BILLS, sample.bills)
    found = measure_bills(material.scoring, sample.bills, predicted, material.draws)
    return dict(zip(_BILLS, (found.top_and_random, found.top, found.random), strict=True))


def neighbours(
    subject: Subject,
    material: Material,
    place: int,
    sample: _Samples,
    predicted: Float32[np.ndarray, "fragment position"],
) -> Score | Skipped:
    """Detection against the hardest silent fragments: those on which the latent's nearest neighbour is active.

    AUROC of the largest prediction, fragments where the latent fires against fragments where only the
    latent with the closest direction does. "too few contexts" where the sample has none of either.
    """
    codes, known = sample.corpus.codes, material.scoring.known[sample.corpus.numbers]
    fires = ((codes > 0) & known).any(1)
    chosen = fires | (~fires & subject.neighbour_active[place][sample.corpus.numbers])
    chosen &= ~(np.isnan(predicted) & known).any(1)
    if not fires[chosen].any() or fires[chosen].all():
        return Skipped("too few contexts")
    design = sample.design
    weights, resampled = design.weights[chosen], design.resampled(material.draws.counts)[:, chosen]
    largest = np.where(known, predicted, -np.inf).max(1)[chosen]
    return discrimination(fires[chosen], largest, weights, resampled, design.keep(chosen).units).auroc
