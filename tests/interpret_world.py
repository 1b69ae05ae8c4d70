"""A world in which the corpus ρ of an explanation is known: latents that fire on some of the tokens they are said to.

A token is the trigger with a probability that differs between documents, clustered as words are. On a
trigger the latent fires with probability `precision`, with a code of 1 + Exp(1). The explanation predicts 6
on every trigger, and 3 on a share `false` of the other tokens.
"""

import math
from dataclasses import dataclass

import numpy as np

from sparsescope.interpret.scores.resampling import Design, DocumentDraws, draw_documents, population, strata_of_corpus

LENGTH = 64


@dataclass(frozen=True)
class World:
    rate: float
    precision: float
    false: float
    documents: int = 150
    evenness: float = 50.0  # the smaller, the more the triggers keep to few documents

    @property
    def rho(self) -> float:
        """Pearson's correlation of code and prediction over an endless corpus."""
        p, q, e = self.rate, self.precision, self.false
        x, xx = 2 * p * q, 5 * p * q  # E[1 + Exp] = 2, E[(1 + Exp)²] = 5
        y, yy, xy = 6 * p + 3 * (1 - p) * e, 36 * p + 9 * (1 - p) * e, 12 * p * q
        return (xy - x * y) / math.sqrt((xx - x * x) * (yy - y * y))


@dataclass(frozen=True)
class Corpus:
    document: np.ndarray
    codes: np.ndarray
    predicted: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return np.ones(self.codes.shape, bool)


def corpus(world: World, generator: np.random.Generator, length: int = LENGTH) -> Corpus:
    pieces = generator.geometric(1 / 3, world.documents)
    document = np.repeat(np.arange(world.documents), pieces)
    rates = generator.beta(world.rate * world.evenness, (1 - world.rate) * world.evenness, world.documents)
    shape = (len(document), length)
    trigger = generator.random(shape) < rates[document][:, None]
    codes = np.where(trigger & (generator.random(shape) < world.precision), 1 + generator.exponential(1, shape), 0)
    predicted = np.where(trigger, 6.0, np.where(generator.random(shape) < world.false, 3.0, 0.0))
    return Corpus(document, codes, predicted)


def sample(
    made: Corpus,
    generator: np.random.Generator,
    *,
    top: int = 20,
    active: int = 40,
    silent: int = 40,
    known: bool = True,
) -> tuple[np.ndarray, Design]:
    """Fragments drawn by stratum as `Gathered.sample` draws them, and their design; `known`: the prediction is."""
    fires = (made.codes > 0).any(1)
    expected = (made.predicted >= 1).any(1) if known else None
    strongest = np.argsort(-made.codes.max(1), kind="stable")[:top]
    strongest = strongest[fires[strongest]]
    stratum = strata_of_corpus(len(fires), strongest, fires, expected)
    chosen = [strongest]
    for number, wanted in ((1, active), (2, silent), (3, silent)):
        members = np.flatnonzero(stratum == number)
        chosen.append(generator.choice(members, min(wanted, len(members)), replace=False))
    numbers = np.concatenate(chosen)
    documents = int(made.document.max()) + 1
    return numbers, Design(made.document[numbers], stratum[numbers], population(made.document, stratum, documents, 4))


def draws_of(made: Corpus, resamples: int = 300, seed: int = 0) -> DocumentDraws:
    return draw_documents(made.document, resamples=resamples, seed=seed)
