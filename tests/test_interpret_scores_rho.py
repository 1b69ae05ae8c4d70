"""Bills ρ and corpus ρ against formulas written out, a world with known ρ, and planted explanations."""

import math

import numpy as np
import pytest
import torch
from feature_world import SITE, Memory
from interpret_world import World, corpus, draws_of, sample
from metrics_world import Linear

from sparsescope.errors import ConfigurationError
from sparsescope.features.gathering import Gathered, gather
from sparsescope.interpret.base import Skipped
from sparsescope.interpret.scores.bills import RANDOM_RANKS, TOP_RANKS, Bills, bills, bills_rho
from sparsescope.interpret.scores.corpus import corpus_rho, fragment_moments
from sparsescope.interpret.scores.intervals import Score, values
from sparsescope.interpret.scores.measuring import (
    bills_sample,
    design_of,
    expected_active,
    measure_bills,
    measure_sample,
)
from sparsescope.interpret.scores.quantise import quantise
from sparsescope.interpret.scores.resampling import Design, draw_documents, natural


def formula(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson, token by token, from the definition."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    dx, dy = x - x.sum() / len(x), y - y.sum() / len(y)
    return float((dx * dy).sum() / math.sqrt((dx * dx).sum() * (dy * dy).sum()))


def score(found: Score | Skipped) -> Score:
    assert isinstance(found, Score)
    return found


def rare_latents() -> Gathered:
    """Eight latents that are active on about one token in a hundred."""
    store = Memory(contexts=60)
    eye = torch.eye(8)
    rare = Linear(directions=eye, encoder=eye, offset=torch.full((8,), -3.2), bias=torch.zeros(8))
    return gather(rare.with_provenance(site=SITE), store, split="test")


@pytest.mark.parametrize("maximum", [None, 3.0])
def test_quantising_is_the_formula(maximum):
    codes = np.random.default_rng(0).normal(size=(7, 9))
    largest = maximum or max(code for row in codes for code in row)
    expected = [[min(10, math.floor(10 * max(code, 0) / largest)) for code in row] for row in codes]
    assert quantise(codes, maximum).tolist() == expected
    assert not quantise(-np.ones(3)).any()


@pytest.mark.parametrize("quantised", [False, True])
def test_bills_rho_on_contexts_of_a_store_is_pearson_over_all_tokens_laid_end_to_end(quantised):
    gathered = rare_latents()
    fragments = gathered.fragments
    draws = draw_documents(fragments.document)
    for place in range(3):
        chosen = bills_sample(gathered, place)
        predicted = np.random.default_rng(place).random(chosen.codes.shape) * 10 + chosen.codes
        found = measure_bills(fragments, chosen, predicted, draws, quantised=quantised)
        # The same from what was gathered, without any of the code above.
        numbers = [*gathered.top.numbers[place][list(TOP_RANKS)], *gathered.random.numbers[place][list(RANDOM_RANKS)]]
        codes = [*gathered.top.codes[place][list(TOP_RANKS)], *gathered.random.codes[place][list(RANDOM_RANKS)]]
        largest = max(float(code) for row, number in zip(codes, numbers, strict=True) for code in row)
        for which, ours in ((range(10), found.top_and_random), (range(5), found.top), (range(5, 10), found.random)):
            x, y = [], []
            for i in which:
                for position in range(64):
                    if fragments.known[numbers[i], position]:
                        code = float(codes[i][position])
                        x.append(min(10, math.floor(10 * code / largest)) if quantised else code)
                        y.append(predicted[i, position])
            assert score(ours).value == pytest.approx(formula(np.array(x), np.array(y)), abs=1e-12)
            assert ours.estimate.low <= ours.value <= ours.estimate.high


def test_a_missing_answer_is_left_out_and_not_taken_for_zero():
    generator = np.random.default_rng(0)
    codes, known = generator.random((10, 8)), generator.random((10, 8)) > 0.1
    predicted = generator.random((10, 8)) + codes
    missing = predicted.copy()
    missing[[2, 7]] = math.nan
    rest = np.delete(np.arange(10), [2, 7])
    expected = formula(codes[rest][known[rest]], predicted[rest][known[rest]])
    top, document = np.arange(10) < 5, np.arange(10)
    draws = draw_documents(document)
    assert score(bills(codes, missing, known, top, document, draws).top_and_random).value == pytest.approx(expected)
    missing[:5] = math.nan
    none = bills(codes, missing, known, top, document, draws, missing="request failed")
    assert none.top == none.top_and_random == Skipped("request failed")
    assert score(none.random).value > 0


def test_constant_codes_and_constant_predictions_have_no_correlation():
    codes = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    known = np.ones((2, 3), bool)
    assert bills_rho(codes, np.full((2, 3), 0.3), known) == Skipped("constant prediction")
    assert bills_rho(np.full((2, 3), 0.1), codes, known) == Skipped("constant activation")
    assert bills_rho(0 * codes, codes, known) == Skipped("constant activation")
    design, draws = natural(np.arange(2), 2), draw_documents(np.arange(2))
    assert corpus_rho(codes, np.full((2, 3), 0.3), known, design, draws) == Skipped("constant prediction")
    assert corpus_rho(0 * codes, codes, known, design, draws) == Skipped("never fires")
    assert corpus_rho(np.full((2, 3), 0.1), codes, known, design, draws) == Skipped("constant activation")


def test_corpus_rho_of_a_corpus_seen_whole_is_pearson_over_its_tokens():
    made = corpus(World(0.02, 0.5, 0.01, documents=30), np.random.default_rng(0))
    known = np.random.default_rng(1).random(made.codes.shape) > 0.2
    found = score(corpus_rho(made.codes, made.predicted, known, natural(made.document, 30), draws_of(made)))
    assert found.value == pytest.approx(formula(made.codes[known], made.predicted[known]), abs=1e-12)
    # Its replicates are Pearson over the tokens of the documents drawn.
    draws = draws_of(made)
    for replicate in (0, 17):
        times = draws.counts[replicate].astype(int)[made.document]
        again = np.repeat(np.arange(len(times)), times)
        whole = formula(made.codes[again][known[again]], made.predicted[again][known[again]])
        assert found.replicates[replicate] == pytest.approx(whole, abs=1e-12)


def test_every_weighted_moment_is_unbiased_over_repeated_sampling():
    made = corpus(World(0.02, 0.4, 0.01, documents=80), np.random.default_rng(0))
    truth = fragment_moments(made.codes, made.predicted, made.known).sum(0)
    generator, sums = np.random.default_rng(1), []
    for _ in range(400):
        numbers, design = sample(made, generator, top=10, active=15, silent=10)
        sums.append(
            design.weights @ fragment_moments(made.codes[numbers], made.predicted[numbers], made.known[numbers])
        )
    mean, error = np.mean(sums, 0), np.std(sums, 0) / math.sqrt(len(sums))
    assert (np.abs(mean - truth) <= 3 * error + 1e-9).all()
    # Without weights they are nowhere near.
    assert design.weights.max() > 3


def test_intervals_of_corpus_rho_cover_the_known_rho_as_often_as_they_say():
    generator, covered, trials, found = np.random.default_rng(5), 0, 0, []
    for world in (World(0.01, 0.5, 0.005), World(0.01, 0.1, 0.0)):
        for trial in range(150):
            made = corpus(world, generator)
            numbers, design = sample(made, generator)
            rho = score(
                corpus_rho(
                    made.codes[numbers],
                    made.predicted[numbers],
                    made.known[numbers],
                    design,
                    draws_of(made, 200, trial),
                )
            )
            covered += rho.estimate.low <= world.rho <= rho.estimate.high
            found.append(rho.value - world.rho)
            trials += 1
    assert 0.92 <= covered / trials <= 0.98
    assert abs(np.mean(found)) < 0.2 * np.std(found)


def planted(explained: str, generator: np.random.Generator) -> tuple[Bills, Score | Skipped]:
    """A latent that fires on a tenth of the triggers, explained rightly, too broadly, or by a constant."""
    made = corpus(World(0.02, 0.1, 0.0, documents=400, evenness=500), generator)
    right = np.where(made.codes > 0, 8.0, 0.0) + 0.3 * generator.random(made.codes.shape)
    predicted = {"broad": made.predicted, "right": right, "constant": np.full(made.codes.shape, 2.0)}[explained]
    made = type(made)(made.document, made.codes, predicted)
    strongest = np.argsort(-made.codes.max(1), kind="stable")[:20][list(TOP_RANKS)]
    ten = np.concatenate([strongest, generator.choice(len(made.codes), 5, replace=False)])
    draws = draws_of(made)
    paper = bills(made.codes[ten], predicted[ten], made.known[ten], np.arange(10) < 5, made.document[ten], draws)
    numbers, design = sample(made, generator)
    return paper, corpus_rho(made.codes[numbers], predicted[numbers], made.known[numbers], design, draws)


def test_an_explanation_that_says_too_much_looks_good_on_bills_rho_and_not_on_corpus_rho():
    broad = [planted("broad", np.random.default_rng(seed)) for seed in range(8)]
    right = [planted("right", np.random.default_rng(seed)) for seed in range(8)]
    tops = [score(paper.top).value for paper, _ in broad]
    whole = [score(rho).value for _, rho in broad]
    assert np.mean(tops) > 0.6
    assert np.mean([score(paper.top_and_random).value for paper, _ in broad]) > 0.5
    assert np.mean(whole) == pytest.approx(World(0.02, 0.1, 0.0).rho, abs=0.05)
    assert np.mean(whole) < 0.35
    for paper, rho in right:
        assert score(paper.top_and_random).value > 0.8
        assert score(rho).value > 0.75
    paper, rho = planted("constant", np.random.default_rng(0))
    assert paper.top_and_random == paper.top == rho == Skipped("constant prediction")


def test_a_sample_knows_the_corpus_it_was_drawn_from():
    gathered = rare_latents()
    fragments = gathered.fragments
    draws = draw_documents(fragments.document)
    everywhere = np.random.default_rng(0).random(fragments.ids.shape) * 1.5
    expected = expected_active(everywhere, fragments.known, threshold=1.49)
    drawn = gathered.sample(0, predicted=expected, silent=5)
    design = design_of(gathered, 0, drawn, draws, expected)
    np.testing.assert_allclose(design.weights, drawn.weight)
    assert design.population.sum() == len(fragments)
    np.testing.assert_array_equal(design.population.sum(1), np.bincount(draws.places(fragments.document)))
    found = measure_sample(fragments, drawn, everywhere[drawn.numbers], design, draws)
    assert abs(score(found.corpus_rho).value) < 0.2
    with pytest.raises(ConfigurationError, match="drawn from other strata"):
        design_of(gathered, 0, drawn, draws, ~expected)


def test_resampled_weights_are_those_of_the_documents_drawn():
    document, stratum = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    sizes = np.array([[1.0, 3.0], [0.0, 2.0], [0.0, 4.0]])
    design = Design(document, stratum, sizes)
    assert design.weights.tolist() == [1, 3, 3, 3]
    weights = design.resampled(np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 3.0, 0.0]], np.float32))
    assert weights[0].tolist() == [1, 3, 3, 3]
    # Two of document 0 and one of document 2: 10 fragments of stratum 1, three sampled ones.
    np.testing.assert_allclose(weights[1], [2, 20 / 3, 0, 10 / 3])
    np.testing.assert_allclose(weights[2], [0, 0, 6, 0])
    # Other samples of the same design are not those that were kept.
    np.testing.assert_allclose(design.resampled(np.array([[2.0, 0.0, 1.0]], np.float32)), weights[1:2])


def test_the_same_seed_gives_the_same_bits():
    made = corpus(World(0.02, 0.5, 0.01, documents=40), np.random.default_rng(0))
    numbers, design = sample(made, np.random.default_rng(1))
    args = made.codes[numbers], made.predicted[numbers], made.known[numbers], design
    one, two, other = (score(corpus_rho(*args, draws_of(made, seed=seed))) for seed in (3, 3, 4))
    assert one.estimate == two.estimate != other.estimate
    np.testing.assert_array_equal(one.replicates, two.replicates)
    assert values([one, Skipped("never fires")])[0] == one.value


def test_a_perfect_explanation_has_a_correlation_of_one_and_an_interval_that_ends_there():
    made = corpus(World(0.02, 1.0, 0.0, documents=40), np.random.default_rng(0))
    numbers, design = sample(made, np.random.default_rng(1))
    codes = made.codes[numbers]
    found = score(corpus_rho(codes, 2.5 * codes, made.known[numbers], design, draws_of(made)))
    assert found.value == pytest.approx(1)
    assert 0.999 < found.estimate.low <= found.estimate.high <= 1
