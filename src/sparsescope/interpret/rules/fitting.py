"""Rules for one latent: which stages are worth having is judged on documents that they were not fitted on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from ..base import LEVELS, Evidence
from .ground import Ground
from .lookup import Lookup, shrunken, without_own_document
from .patterns import ANY
from .questions import answer
from .rows import OTHER, TELLING, Rows, better, correlation
from .tree import MOST_SPLITS, Tree, own_questions
from .tree import grow as grow_tree
from .trie import Trie
from .trie import grow as grow_trie

_SUGGESTS = 0.25
_SLACK = 0.002  # of two trees this close, the smaller


@dataclass(frozen=True, eq=False)
class Fitted:
    """The stages found for one latent.

    `rest` is what tokens of the trie's patterns are worth where none fits; `correlation` what each stage
    reached on left-out documents. `rows` are those that it was fitted on, and `base` what lookup and trie
    expect of them, their own documents left out.
    """

    lookup: Lookup
    trie: Trie
    rest: dict[int, float]
    tree: Tree | None
    correlation: dict[str, float]
    rows: Rows
    base: Float64[ndarray, " row"]


def fit(evidence: Evidence, ground: Ground) -> Fitted:
    """All stages for one latent."""
    simple = shrunken(evidence, len(ground.around.spelling))
    rows = sampled(evidence, simple, ground)
    halves = _halves(rows)
    if not halves.any():
        return Fitted(simple, Trie(), {}, None, {"lookup": correlation(rows, rows.expected)}, rows, rows.expected)
    left_out = {"lookup": rows.expected, "trie": rows.expected.copy()}
    for half in (halves, ~halves):
        grown, _ = grow_trie(rows.take(~half), ground.patterns)
        if not grown.patterns:
            left_out["trie"] = rows.expected
            break
        rest = _rest(grown, simple, evidence, ground)
        left_out["trie"][half] = _with_trie(rows.take(half), grown, rest, simple, ground)
    reached = {name: correlation(rows, expected) for name, expected in left_out.items()}
    answers = ground.answers(rows.position)
    alone, found = _best_tree(rows, rows.expected, left_out["lookup"], halves, answers, ground)
    reached["tree"] = correlation(rows, found)
    simpler = Fitted(simple, Trie(), {}, alone, reached, rows, rows.expected)
    if not better(rows, left_out["trie"], left_out["lookup"]):
        return simpler
    grown, honest = grow_trie(rows, ground.patterns)
    rest = _rest(grown, simple, evidence, ground)
    otherwise = rows.expected * _ratio(rows, rest, simple, ground)
    base = np.where(grown.decide(ground.around, rows.position) >= 0, honest, otherwise)
    after, left_out["tree"] = _best_tree(rows, base, left_out["trie"], halves, answers, ground)
    if not better(rows, left_out["tree"], found):
        return simpler
    reached["tree"] = correlation(rows, left_out["tree"])
    return Fitted(simple, grown, rest, after, reached, rows, base)


def sampled(evidence: Evidence, simple: Lookup, ground: Ground) -> Rows:
    """Rows of the sample, thinned where they say little; the weights of the others make up for it."""
    sample, fragments = evidence.sample, evidence.fragments
    known = fragments.known[sample.numbers]
    position = ground.positions[sample.numbers][known]
    scaled = np.clip(sample.codes[known].astype(np.float64) * (LEVELS / evidence.maximum), 0, LEVELS)
    weight = np.broadcast_to(sample.weight[:, None], known.shape)[known]
    _, document = np.unique(ground.around.document[position], return_inverse=True)
    ids = ground.around.ids[position].astype(np.int64)
    expected = without_own_document(simple, evidence, ids, document, scaled)
    rows = Rows(position, scaled, expected, weight, document)
    telling = (scaled > 0) | (expected >= _SUGGESTS)
    generator = np.random.default_rng([17, evidence.latent])
    parts = []
    for among, most in ((np.flatnonzero(telling), TELLING), (np.flatnonzero(~telling), OTHER)):
        kept = np.sort(generator.choice(among, most, replace=False)) if len(among) > most else among
        part = rows.take(kept)
        parts.append((kept, part.weight * (len(among) / max(len(kept), 1))))
    kept = np.concatenate([kept for kept, _ in parts])
    order = np.argsort(kept)
    thinned = rows.take(kept[order])
    return Rows(
        thinned.position,
        thinned.activation,
        thinned.expected,
        np.concatenate([weight for _, weight in parts])[order],
        thinned.document,
    )


def _halves(rows: Rows) -> Bool[ndarray, " row"]:
    """Documents in two halves with about as much activation in each: dealt 0, 1, 1, 0, the most active first.

    No row is in the second half if there is but one document.
    """
    mass = np.bincount(rows.document, rows.weight * rows.activation)
    turn = np.empty(len(mass), np.int64)
    turn[np.argsort(-mass, kind="stable")] = np.arange(len(mass))
    return np.isin(turn % 4, (1, 2))[rows.document]


def _rest(grown: Trie, simple: Lookup, evidence: Evidence, ground: Ground) -> dict[int, float]:
    """What is left, per row, of a token's activation where no pattern of the trie decides.

    The sums over the whole split are exact; the patterns' share is taken off. Without this, the lookup
    would go on expecting, wherever "stop" is not after "don't", what it found on average.
    """
    tokens = sorted({pattern[0] for pattern in grown.patterns if pattern[0] != ANY})
    rows = ground.all_rows
    wanted = np.zeros(len(simple.values), bool)
    wanted[tokens] = True
    rows = rows[wanted[ground.around.ids[rows]]]
    deciding = grown.decide(ground.around, rows)
    expected = np.where(deciding >= 0, np.array([*grown.values, 0.0])[deciding], 0.0)
    found = {}
    for token in tokens:
        here = ground.around.ids[rows] == token
        count = float(evidence.token_count[token])
        share = float((deciding[here] >= 0).mean()) if here.any() else 0.0
        taken = float(expected[here].mean()) if here.any() else 0.0
        total = float(evidence.token_sum[token]) * (LEVELS / evidence.maximum) - count * taken
        left = count * (1 - share)
        value = (max(total, 0.0) + simple.shrinkage * simple.prior) / (left + simple.shrinkage)
        found[token] = round(min(value, float(simple.values[token])), 3)
    return found


def _ratio(rows: Rows, rest: dict[int, float], simple: Lookup, ground: Ground) -> Float64[ndarray, " row"]:
    """By which the lookup's expectation shrinks where no pattern decides."""
    ratio = np.ones(len(simple.values))
    for token, value in rest.items():
        ratio[token] = value / simple.values[token] if simple.values[token] > 0 else 1.0
    return ratio[ground.around.ids[rows.position]]


def _with_trie(
    rows: Rows, grown: Trie, rest: dict[int, float], simple: Lookup, ground: Ground
) -> Float64[ndarray, " row"]:
    return grown.expect(ground.around, rows.position, rows.expected * _ratio(rows, rest, simple, ground))


def _best_tree(
    rows: Rows,
    base: Float64[ndarray, " row"],
    left_out: Float64[ndarray, " row"],
    halves: Bool[ndarray, " row"],
    answers: Float64[ndarray, "row question"],
    ground: Ground,
) -> tuple[Tree | None, Float64[ndarray, " row"]]:
    """The tree with as many splits as are best on left-out documents, None if none is worth it; and what it
    expected of these.

    `base` is what the stages before expect of their own rows, `left_out` of rows that they did not see.
    """
    whole = Rows(rows.position, rows.activation, base, rows.weight, rows.document)
    reached = np.zeros((MOST_SPLITS + 1, len(rows)))
    for half in (halves, ~halves):
        grown = _tree(whole, ~half, answers, ground, MOST_SPLITS)
        place, value = rows.position[half], left_out[half]
        for splits in range(MOST_SPLITS + 1):
            part = grown.first(min(splits, len(grown.splits)))
            reached[splits, half] = part.expect(ground.around, place, value)
        tested, before = rows.take(half), correlation(rows.take(half), value)
        if max(correlation(tested, expected[half]) for expected in reached) < before:
            return None, left_out  # nothing gained on one half: seldom worth looking at the other
    scores = np.array([correlation(rows, expected) for expected in reached])
    best = int(np.flatnonzero(scores >= scores.max() - _SLACK)[0])
    if best == 0 or not better(rows, reached[best], left_out):
        return None, left_out
    return _tree(whole, np.ones_like(halves), answers, ground, best), reached[best]


def _tree(
    rows: Rows,
    inside: Bool[ndarray, " row"],
    answers: Float64[ndarray, "row question"],
    ground: Ground,
    splits: int,
) -> Tree:
    own = own_questions(rows.take(inside), ground.around)
    columns = answers[:, len(ground.questions) :]
    columns[:] = 0
    for number, question in enumerate(own):
        columns[:, number] = answer(question, ground.around, rows.position, rows.expected)
    return grow_tree(rows, inside, [*ground.questions, *own], answers, splits)
