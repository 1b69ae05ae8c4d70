"""Detection, fuzzing and intruder detection against scikit-learn, brute force, and latents with planted meanings."""

import math

import numpy as np
import pytest
import torch
from feature_world import SITE, Memory
from interpret_world import World, corpus, draws_of, sample
from metrics_world import Linear
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from sparsescope.features.gathering import Gathered, gather
from sparsescope.interpret.base import Skipped
from sparsescope.interpret.scores.detection import auroc, balanced_accuracy, detection
from sparsescope.interpret.scores.fuzzing import fuzzing, marks
from sparsescope.interpret.scores.intervals import Score
from sparsescope.interpret.scores.intruder import (
    CHANCE,
    OFFSETS,
    WEIGHTS,
    intruder,
    intruder_detection,
    odd_one_out,
    similarities,
    token_features,
    windows,
)
from sparsescope.interpret.scores.resampling import draw_documents, natural

WORDS = [" the", " The", " Anna", " anna", "7", "19", ",", " walking", " talking", "\n"]


def score(found: Score | Skipped) -> Score:
    assert isinstance(found, Score)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_balanced_accuracy_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth = generator.random(60) < 0.4
    predicted = generator.integers(0, 5, 60) + truth * generator.integers(0, 2, 60)
    weights = generator.gamma(1, 10, (4, 60))
    for row, area, accuracy in zip(
        weights, auroc(truth, predicted, weights), balanced_accuracy(truth, predicted, weights), strict=True
    ):
        assert area == pytest.approx(roc_auc_score(truth, predicted, sample_weight=row))
        assert accuracy == pytest.approx(balanced_accuracy_score(truth, predicted >= 1, sample_weight=row))


def test_without_both_kinds_there_is_no_auroc():
    assert math.isnan(auroc(np.ones(3, bool), np.arange(3.0), np.ones(3)))
    assert math.isnan(auroc(np.array([True, False]), np.arange(2.0), np.array([1.0, 0.0])))
    assert math.isnan(balanced_accuracy(np.zeros(3, bool), np.arange(3.0), np.ones(3)))


def test_detection_weights_fragments_to_what_the_whole_corpus_would_say():
    made = corpus(World(0.004, 0.5, 0.002, documents=150), np.random.default_rng(0), length=16)
    whole = detection(made.codes, made.predicted, made.known, natural(made.document, 150), draws_of(made))
    truth, largest = (made.codes > 0).any(1), made.predicted.max(1)
    assert score(whole.auroc).value == pytest.approx(roc_auc_score(truth, largest))
    assert score(whole.balanced_accuracy).value == pytest.approx(balanced_accuracy_score(truth, largest >= 1))
    found, generator = [], np.random.default_rng(1)
    for _ in range(200):
        numbers, design = sample(made, generator, top=5, active=10, silent=10)
        one = detection(made.codes[numbers], made.predicted[numbers], made.known[numbers], design, draws_of(made, 2))
        found.append((score(one.auroc).value, score(one.balanced_accuracy).value))
    error = np.std(found, 0) / math.sqrt(len(found))
    difference = np.mean(found, 0) - (score(whole.auroc).value, score(whole.balanced_accuracy).value)
    assert (np.abs(difference) < 3.5 * error + 1e-9).all()


def test_detection_of_a_constant_is_chance_and_of_what_never_or_always_fires_undefined():
    made = corpus(World(0.004, 0.5, 0.0, documents=40), np.random.default_rng(0), length=16)
    design, draws = natural(made.document, 40), draws_of(made)
    flat = detection(made.codes, np.full(made.codes.shape, 3.0), made.known, design, draws)
    assert score(flat.auroc).value == score(flat.balanced_accuracy).value == 0.5
    assert detection(0 * made.codes, made.predicted, made.known, design, draws).auroc == Skipped("never fires")
    always = detection(made.codes + 1, made.predicted, made.known, design, draws)
    assert always.auroc == always.balanced_accuracy == Skipped("constant activation")
    missing = np.full(made.codes.shape, math.nan)
    assert detection(made.codes, missing, made.known, design, draws).auroc == Skipped("unparseable answer")


def test_wrong_marks_are_as_many_and_elsewhere_and_anywhere():
    generator = np.random.default_rng(0)
    codes = np.where(generator.random((400, 64)) < 0.05, 1 + generator.random((400, 64)), 0)
    codes[0], codes[1] = 1.0, 0.0  # always, never active
    codes[2, 1:] = 1.0  # one silent token
    known = generator.random(codes.shape) > 0.1
    known[:3] = True
    right, wrong = marks(codes, known, np.arange(400), seed=1)
    np.testing.assert_array_equal(right.sum(1), wrong.sum(1))
    assert right.sum(1)[:3].tolist() == [0, 0, 1]
    assert (codes[right] > 0).all()
    assert not codes[wrong].any()
    assert known[right].all()
    assert known[wrong].all()
    for row in range(3, 400):
        code = np.where(known[row], codes[row], 0)
        assert set(np.flatnonzero(right[row])) == set(np.flatnonzero((code > 0.3 * code.max()) & (code > 0)))
    # No position is favoured: each gets its share of the wrong marks.
    share = wrong.sum(0) / wrong.sum()
    assert share.min() > 0.2 / 64
    assert share.max() < 2.5 / 64
    again, other = marks(codes, known, np.arange(400), seed=1)[1], marks(codes, known, np.arange(400), seed=2)[1]
    np.testing.assert_array_equal(wrong, again)
    assert (wrong != other).any(1).mean() > 0.9
    # A fragment has the same wrong marks in whatever sample it is.
    np.testing.assert_array_equal(marks(codes[50:60], known[50:60], np.arange(50, 60), seed=1)[1], wrong[50:60])


def test_fuzzing_is_the_auroc_of_mean_predictions_over_right_and_wrong_marks():
    made = corpus(World(0.02, 0.5, 0.05, documents=60), np.random.default_rng(0))
    numbers, design = sample(made, np.random.default_rng(1))
    codes, predicted, known = made.codes[numbers], made.predicted[numbers], made.known[numbers]
    found = fuzzing(codes, predicted, known, numbers, design, draws_of(made), seed=4)
    right, wrong = marks(codes, known, numbers, seed=4)
    truth, answers, weights = [], [], []
    for which, true in ((right, True), (wrong, False)):
        for row in np.flatnonzero(right.any(1)):
            truth.append(true)
            answers.append(float(np.mean(predicted[row][which[row]])))
            weights.append(design.weights[row])
    assert score(found.auroc).value == pytest.approx(roc_auc_score(truth, answers, sample_weight=weights))
    accuracy = balanced_accuracy_score(truth, np.array(answers) >= 1, sample_weight=weights)
    assert score(found.balanced_accuracy).value == pytest.approx(accuracy)
    perfect = fuzzing(codes, codes, known, numbers, design, draws_of(made))
    assert (score(perfect.auroc).estimate.low, perfect.auroc.value) == pytest.approx((1, 1))
    assert fuzzing(codes + 1, predicted, known, numbers, design, draws_of(made)).auroc == Skipped(
        "fires on every token"
    )
    assert fuzzing(0 * codes, predicted, known, numbers, design, draws_of(made)).auroc == Skipped("never fires")


def test_what_is_predicted_without_regard_to_the_latent_is_at_chance():
    made = corpus(World(0.02, 0.5, 0.05, documents=100), np.random.default_rng(0))
    numbers, design = sample(made, np.random.default_rng(1))
    noise = np.random.default_rng(2).random(made.codes.shape) * 10
    for found in (
        detection(made.codes[numbers], noise[numbers], made.known[numbers], design, draws_of(made)),
        fuzzing(made.codes[numbers], noise[numbers], made.known[numbers], numbers, design, draws_of(made)),
    ):
        assert score(found.auroc).estimate.low < 0.5 < score(found.auroc).estimate.high


def test_similarity_is_the_information_of_the_most_specific_feature_shared():
    counts = np.array([50, 2, 4, 1, 3, 3, 30, 2, 2, 3])
    features = token_features(WORDS, counts)
    share = counts / counts.sum()
    none = [-1] * 4
    rows = np.array([[i, *none] for i in range(len(WORDS))])
    table = similarities(features, rows, rows)
    assert table[2, 2] == pytest.approx(-math.log(share[2]))  # the token itself
    assert table[2, 3] == pytest.approx(-math.log(share[2] + share[3]))  # the word, whatever its case
    assert table[7, 8] == pytest.approx(-math.log(share[7] + share[8]))  # the ending
    assert table[4, 5] == pytest.approx(-math.log(share[4] + share[5]))  # digits
    assert table[2, 1] == pytest.approx(-math.log(share[1] + share[2]))  # a capital
    assert table[4, 6] == 0
    np.testing.assert_allclose(table, table.T)
    ends = np.array([[6, 4, -1, -1, -1], [0, 4, -1, -1, -1]])
    expected = WEIGHTS[1] * -math.log(share[4])
    assert similarities(features, ends, ends)[0, 1] == pytest.approx(expected)


def test_windows_end_where_the_fragment_does():
    ids, real = np.arange(6)[None] + 10, np.array([[True] * 5 + [False]])
    assert OFFSETS == (0, -1, 1, -2, 2)
    assert windows(ids, real, np.array([0])).tolist() == [[10, -1, 11, -1, 12]]
    assert windows(ids, real, np.array([4])).tolist() == [[14, 13, -1, 12, -1]]


def test_the_odd_one_is_the_least_like_the_others():
    generator = np.random.default_rng(0)
    tables = generator.random((50, 5, 5))
    tables = tables + tables.transpose(0, 2, 1)
    for table, found in zip(tables, odd_one_out(tables), strict=True):
        alike = [sum(table[i, j] for j in range(5) if j != i) for i in range(5)]
        assert found.tolist() == [float(i == int(np.argmin(alike))) for i in range(5)]
    np.testing.assert_allclose(odd_one_out(np.zeros((1, 5, 5))), 0.2)


def test_a_latent_without_meaning_is_at_chance_and_its_interval_says_so():
    features = token_features([chr(97 + i) * 4 for i in range(26)], np.ones(26))
    held, values = 0, []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        document = np.arange(100)
        active, silent = (generator.integers(0, 26, (n, len(OFFSETS))) for n in (60, 40))
        draws = draw_documents(document, resamples=300, seed=seed)
        found = score(intruder_detection(active, silent, features, document, draws, seed=seed))
        values.append(found.value)
        held += found.estimate.low <= CHANCE <= found.estimate.high
    assert np.mean(values) == pytest.approx(CHANCE, abs=4 * np.std(values) / math.sqrt(60))
    assert held >= 52


def test_too_few_contexts_give_no_intruder():
    features, draws = token_features(["a"], np.ones(1)), draw_documents(np.arange(9))
    window = np.zeros((5, 5), int)
    assert intruder_detection(window[:4], window, features, np.arange(9), draws) == Skipped("too few contexts")
    assert intruder_detection(window, window[:0], features, np.arange(5), draws) == Skipped("too few contexts")


def test_latents_that_stand_for_tokens_are_found_out_and_random_ones_less():
    store = Memory(contexts=60, vocabulary=30)
    words = ["".join(chr(97 + (7 * i + 3 * j) % 26) for j in range(5)) for i in range(30)]
    gathered, noise = _latents(store)
    features = token_features(words, np.bincount(gathered.fragments.ids[gathered.fragments.real], minlength=30))
    draws = draw_documents(gathered.fragments.document)
    meant = [score(intruder(gathered, place, features, draws)).value for place in range(8)]
    chance = [score(intruder(noise, place, features, draws)).value for place in range(8)]
    assert np.mean(meant) > np.mean(chance) + 0.1
    assert np.mean(chance) == pytest.approx(CHANCE, abs=0.08)


def _latents(store: Memory) -> tuple[Gathered, Gathered]:
    """Latents which follow the token, and the same with the activations put into another order."""
    eye = torch.eye(8)
    rare = Linear(directions=eye, encoder=eye, offset=torch.full((8,), -3.2), bias=torch.zeros(8))
    rare = rare.with_provenance(site=SITE)
    first = gather(rare, store, split="test")
    store.x = store.x[torch.randperm(len(store.x), generator=torch.Generator().manual_seed(0))]
    return first, gather(rare, store, split="test")
