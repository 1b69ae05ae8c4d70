"""Intruder detection by statistics: do the places where a latent fires have anything in common?

Five fragments, one token marked in each: four times the latent's peak, once, in a fragment where it is
silent, a token drawn at random. The intruder is found as the one least like the other four. No explanation
is made, and nothing is known of the latent on the intruder. Chance is 1 in 5.

Two marked places are as alike as the tokens at and around them. Tokens share a feature (the token, the
word whatever its case, the ending, the kind of characters), and the rarer the feature, the more it says:

    similarity(i, j) = Σ_o w_o · max over shared features v of −log p(v)        o: offset from the mark

with p(v) the share of the corpus' tokens that have the feature. Neighbours count less (w_0 = 1,
w_±1 = 1/2, w_±2 = 1/4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from ...features.gathering import Gathered
from ..base import Skipped
from .intervals import Score, percentile
from .resampling import DocumentDraws

OFFSETS = (0, -1, 1, -2, 2)
WEIGHTS = (1.0, 0.5, 0.5, 0.25, 0.25)
SHOWN = 4
"""Fragments shown beside the intruder."""

TRIALS = 2000
CHANCE = 1 / (SHOWN + 1)


@dataclass(frozen=True, eq=False)
class TokenFeatures:
    """`value[k, t]`: the value of feature k for token id t, as a number; `information[k, v]`: −log of its share.

    Features go from the most specific to the least; the information of a value never falls below that of
    the values of later features, which it implies. The last id stands for "no token".
    """

    value: Int[np.ndarray, "feature vocabulary"]
    information: list[Float64[np.ndarray, " value"]]


def token_features(vocabulary: Sequence[str], counts: Int[np.ndarray, " vocabulary"]) -> TokenFeatures:
    """Features of every token id, given its text and how often it is in the corpus.

    >>> features = token_features([" Anna", " anna", "7"], np.array([1, 1, 2]))
    >>> features.value[1].tolist()[:3], features.information[1].round(3).tolist()[:2]
    ([0, 0, 1], [0.693, 0.693])
    """
    texts = list(vocabulary)
    bare = [text.strip().lower() for text in texts]
    columns: list[list[str]] = [
        [str(number) for number in range(len(texts))],
        bare,
        [word[-3:] if len(word) > 3 else word for word in bare],
        [_kind(text) for text in texts],
    ]
    seen = np.full(len(texts), 0.5)  # a token that was not seen is rare, not impossible
    seen[: len(counts)] = np.maximum(counts[: len(texts)], 0.5)
    share = seen / seen.sum()
    values, information = [], []
    for column in columns:
        known: dict[str, int] = {}
        numbers = np.array([known.setdefault(name, len(known)) for name in column])
        values.append(np.append(numbers, -1))
        information.append(-np.log(np.bincount(numbers, weights=share)))
    return TokenFeatures(np.stack(values), information)


def _kind(text: str) -> str:
    """What sort of characters a token is made of, and whether a space comes first."""
    space, word = text[:1].isspace(), text.strip()
    if not word:
        kind = "blank"
    elif word.isalpha():
        plain = word[1:].lower() == word[1:]
        kind = "lower" if word.islower() else "capital" if plain else "upper"
    elif word.isdigit():
        kind = "digit"
    else:
        kind = "mixed" if any(character.isalnum() for character in word) else "sign"
    return f"{space} {kind}"


def similarities(
    features: TokenFeatures, places: Int[np.ndarray, "mark offset"], others: Int[np.ndarray, "other offset"]
) -> Float64[np.ndarray, "mark other"]:
    """How alike marked places are; each given by the token ids at `OFFSETS` (-1: no token)."""
    total = np.zeros((len(places), len(others)))
    for column, weight in enumerate(WEIGHTS):
        best = np.zeros_like(total)
        for values, information in zip(features.value, features.information, strict=True):
            mine, theirs = values[places[:, column]], values[others[:, column]]
            shared = (mine[:, None] == theirs) & (mine >= 0)[:, None]
            np.maximum(best, np.where(shared, information[mine][:, None], 0), out=best)
        total += weight * best
    return total


def windows(
    ids: Int[np.ndarray, "fragment position"],
    real: Bool[np.ndarray, "fragment position"],
    marks: Int[np.ndarray, " fragment"],
) -> Int[np.ndarray, "fragment offset"]:
    """The token ids at `OFFSETS` from each fragment's mark; -1 outside the fragment."""
    at = marks[:, None] + np.array(OFFSETS)
    inside = (at >= 0) & (at < ids.shape[1])
    at = np.where(inside, at, 0)
    rows = np.arange(len(ids))[:, None]
    return np.where(inside & real[rows, at], ids[rows, at], -1)


def odd_one_out(similarity: Float64[np.ndarray, "trial five five"]) -> Float64[np.ndarray, "trial five"]:
    """For each trial, 1 for the fragment least like the others (shared out among equals), else 0.

    >>> odd_one_out(np.array([[[0, 2, 1], [2, 0, 1], [1, 1, 0.0]]])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    n = similarity.shape[-1]
    alike = np.where(np.eye(n, dtype=bool), 0, similarity).sum(-1)
    least = alike <= alike.min(-1, keepdims=True) + 1e-9
    return least / least.sum(-1, keepdims=True)


def intruder_detection(
    active: Int[np.ndarray, "active offset"],
    silent: Int[np.ndarray, "silent offset"],
    features: TokenFeatures,
    document: Int[np.ndarray, " active+silent"],
    draws: DocumentDraws,
    *,
    trials: int = TRIALS,
    seed: int = 0,
) -> Score | Skipped:
    """How often the intruder is found, over `trials` draws of four active windows and a silent one.

    `document` are places in the draws, of active windows first. The interval is that of the linearised
    statistic (Hájek): each window moves it by what the trials with it differ from all. "too few contexts"
    below five active windows or without a silent one.

    >>> from sparsescope.interpret.scores.resampling import draw_documents
    >>> features = token_features(["a", "b"], np.array([9, 1]))
    >>> same, other = np.full((6, 5), 1), np.zeros((3, 5), int)
    >>> draws = draw_documents(np.arange(9))
    >>> intruder_detection(same, other, features, np.arange(9), draws).value
    1.0
    """
    if len(active) <= SHOWN or not len(silent):
        return Skipped("too few contexts")
    generator = np.random.default_rng([seed, len(active), len(silent), 0x0DD])
    four = np.argsort(generator.random((trials, len(active))), 1)[:, :SHOWN]
    five = np.concatenate([four, len(active) + generator.integers(0, len(silent), (trials, 1))], 1)
    every = np.concatenate([active, silent])
    table = similarities(features, every, every)
    found = odd_one_out(table[five[:, :, None], five[:, None, :]])[:, -1]
    value = float(found.mean())
    influence = np.zeros(draws.counts.shape[1])
    seen = np.bincount(five.ravel(), minlength=len(every))
    mean = np.bincount(five.ravel(), np.repeat(found, SHOWN + 1), minlength=len(every)) / np.maximum(seen, 1)
    share = np.where(np.arange(len(every)) < len(active), SHOWN / len(active), 1 / len(silent))
    np.add.at(influence, document, share * np.where(seen > 0, mean - value, 0))
    replicates = np.clip(value + (draws.counts - 1) @ influence, 0, 1)
    return percentile(value, replicates, len(np.unique(document)))


def intruder(
    gathered: Gathered,
    place: int,
    features: TokenFeatures,
    draws: DocumentDraws,
    *,
    trials: int = TRIALS,
    seed: int = 0,
) -> Score | Skipped:
    """Intruder detection of the latent at `place`, from its top, active and silent fragments.

    Undefined for a latent that never fires, and for one that is silent in no fragment.
    """
    if not gathered.maximum[place] > 0:
        return Skipped("never fires")
    if gathered.is_active(place).all():
        return Skipped("constant activation")
    sample = gathered.sample(place, seed=seed)
    fires = sample.stratum < 2
    known = gathered.fragments.known[sample.numbers]
    chance = np.random.default_rng([seed, int(gathered.latents[place]), 0x0DD])
    decoys = np.where(known, chance.random(known.shape), -1).argmax(1)
    marks = np.where(fires, sample.codes.argmax(1), decoys)
    around = windows(gathered.fragments.ids[sample.numbers], gathered.fragments.real[sample.numbers], marks)
    document = draws.places(gathered.fragments.document[sample.numbers])
    return intruder_detection(
        around[fires], around[~fires], features, np.concatenate([document[fires], document[~fires]]), draws,
        trials=trials, seed=seed,
    )  # fmt: skip
