"""Means over latents, effect sizes and corrections against scipy, brute force, and a world with a known answer."""

import doctest
import importlib
import math

import numpy as np
import pytest
import scipy.stats

from sparsescope.errors import ConfigurationError
from sparsescope.interpret.base import Skipped
from sparsescope.interpret.comparison import (
    benjamini_hochberg,
    best_control,
    cliffs_delta,
    cliffs_delta_estimate,
    compare,
    correlation_over_latents,
    correlations,
    excess,
    p_value,
)
from sparsescope.interpret.scores.intervals import (
    Score,
    draw_latents_within,
    mean_over_latents,
    percentile,
    skipped,
    studentised,
    values,
)
from sparsescope.metrics.statistics import Estimate


def scored(value: float, noise: np.ndarray | None = None) -> Score:
    noise = np.zeros(400) if noise is None else noise
    return Score(Estimate(value, value - 0.1, value + 0.1, 20), value + noise)


def dictionary(mean: float, generator: np.random.Generator, latents: int = 40, spread: float = 0.1, shared=None):
    """Latents about a mean, each measured on documents whose noise they may share."""
    noise = np.zeros(400) if shared is None else shared
    own = generator.normal(0, 0.02, (latents, 400))
    return [scored(mean + spread * z, noise + e) for z, e in zip(generator.normal(size=latents), own, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_cliffs_delta_is_the_count_over_all_pairs(seed):
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 6, 17).astype(float), generator.integers(0, 6, 11).astype(float)
    pairs = [np.sign(x - y) for x in a for y in b]
    assert cliffs_delta(a, b) == pytest.approx(float(np.mean(pairs)))
    assert cliffs_delta(np.append(a, math.nan), b) == cliffs_delta(a, b)
    statistic = scipy.stats.mannwhitneyu(a, b).statistic
    assert cliffs_delta(a, b) == pytest.approx(2 * statistic / (len(a) * len(b)) - 1)
    assert math.isnan(cliffs_delta(a, np.array([math.nan])))


@pytest.mark.parametrize("seed", range(3))
def test_benjamini_and_hochberg_correct_as_scipy_does(seed):
    p = np.random.default_rng(seed).random(13) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), scipy.stats.false_discovery_control(p))
    with_gap = np.insert(p, 4, math.nan)
    found = benjamini_hochberg(with_gap)
    assert math.isnan(found[4])
    np.testing.assert_allclose(np.delete(found, 4), scipy.stats.false_discovery_control(p))
    assert len(benjamini_hochberg(np.array([]))) == 0
    with pytest.raises(ConfigurationError, match="outside 0 to 1"):
        benjamini_hochberg(np.array([1.2]))


def test_p_values_where_nothing_differs_or_nothing_is_known():
    assert p_value(np.ones(4), np.ones(5)) == 1
    assert math.isnan(p_value(np.ones(4), np.array([math.nan])))
    a, b = np.arange(20.0), np.arange(20.0) + 30
    assert p_value(a, b) < 1e-6
    assert p_value(a, b) == p_value(b, a)


def test_the_mean_over_latents_covers_the_mean_of_the_dictionary():
    generator, covered, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        documents, latents = 40, 25
        effect = generator.normal(0, 0.3, documents)  # what all latents owe to the same documents
        own = generator.normal(0, 0.5, (latents, documents))
        truth = generator.normal(0.5, 0.2, latents)
        counts = np.random.default_rng(trial).multinomial(documents, np.full(documents, 1 / documents), 300)
        items = [percentile(float(x.mean()), counts @ x / documents, documents) for x in truth[:, None] + own + effect]
        found = mean_over_latents(items, seed=trial).estimate
        covered += found.low <= 0.5 <= found.high
        assert (found.n, found.unit) == (latents, "latent")
        assert found.value == pytest.approx(values(items).mean())
    assert 0.93 <= covered / trials <= 0.99


def test_an_interval_over_seeds_is_wider_where_seeds_differ():
    generator = np.random.default_rng(0)
    offsets = np.repeat([0.0, 0.3, 0.6], 20)
    items = [scored(x + 0.05 * generator.normal()) for x in offsets]
    seeds = np.repeat([5, 7, 9], 20).tolist()
    flat, nested = mean_over_latents(items).estimate, mean_over_latents(items, seeds=seeds).estimate
    assert flat.value == nested.value
    assert nested.high - nested.low > 2 * (flat.high - flat.low)
    drawn = draw_latents_within(60, 500, np.array(seeds), 0)
    assert drawn.shape == (500, 60)
    assert np.bincount(drawn.ravel(), minlength=60) / 500 == pytest.approx(np.ones(60), abs=0.35)
    one = mean_over_latents(items, seeds=[1] * 60).estimate
    assert one == flat


def test_latents_without_a_score_are_counted_and_left_out():
    items = [scored(0.2), Skipped("never fires"), scored(0.4), Skipped("constant prediction"), Skipped("never fires")]
    assert skipped(items) == {"never fires": 2, "constant prediction": 1}
    assert list(skipped(items)) == ["never fires", "constant prediction"]
    mean = mean_over_latents(items, seeds=[1, 1, 2, 2, 2])
    assert (mean.value, mean.estimate.n) == (pytest.approx(0.3), 2)
    nothing = mean_over_latents([Skipped("never fires")]).estimate
    assert (math.isnan(nothing.value), nothing.n, nothing.low) == (True, 0, -math.inf)
    assert mean_over_latents([scored(0.3)]).estimate.high == math.inf
    np.testing.assert_array_equal(values(items), [0.2, math.nan, 0.4, math.nan, math.nan])
    with pytest.raises(ConfigurationError, match="draw documents once"):
        mean_over_latents([scored(0.1), scored(0.1, np.zeros(7))])


def test_a_biased_bootstrap_does_not_move_the_interval_of_the_mean():
    biased = [scored(0.5 + 0.01 * i, np.full(400, -0.3)) for i in range(20)]
    biased[3].replicates[:50] = math.nan
    found = mean_over_latents(biased).estimate
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.1


def test_noise_that_dictionary_and_control_share_cancels_in_the_excess():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.2, 400)
    ours, control = (dictionary(mean, generator, shared=shared) for mean in (0.6, 0.4))
    means = mean_over_latents(ours, seed=1), mean_over_latents(control, seed=2)
    found = excess(*means)
    assert found.value == pytest.approx(means[0].value - means[1].value)
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.high - found.low < 0.5 * (means[0].estimate.high - means[0].estimate.low)


def test_dictionaries_are_compared_with_the_best_control_and_corrected_together():
    generator = np.random.default_rng(0)
    scores = {
        "sae": [*dictionary(0.6, generator), Skipped("never fires")],
        "pca": dictionary(0.31, generator),
        "dead": [Skipped("never fires")] * 4,
    }
    controls = {
        "random": dictionary(0.2, generator),
        "shuffled": dictionary(0.3, generator),
        "silent": [Skipped("constant prediction")] * 5,
    }
    found = compare(scores, controls)
    assert list(found) == ["sae", "pca", "dead"]
    sae, pca, dead = found.values()
    assert {item.control for item in found.values()} == {"shuffled"}
    assert sae.skipped == {"never fires": 1}
    assert sae.mean.n == 40
    assert sae.excess.low > 0.2
    assert sae.delta.low > 0.8
    assert sae.delta.value == pytest.approx(cliffs_delta(values(scores["sae"]), values(controls["shuffled"])))
    assert sae.delta == cliffs_delta_estimate(scores["sae"], controls["shuffled"])
    assert sae.p == p_value(values(scores["sae"]), values(controls["shuffled"]))
    assert (sae.q, pca.q) == pytest.approx(tuple(scipy.stats.false_discovery_control([sae.p, pca.p])))
    assert pca.excess.low < 0.05
    assert math.isnan(dead.q)
    assert math.isnan(dead.excess.value)
    alone = compare({"sae": scores["sae"]}, {})["sae"]
    assert alone.control is None
    assert math.isnan(alone.excess.value)
    itself = compare({"random": controls["random"]}, {"random": controls["random"]})["random"]
    assert itself.control is None
    assert best_control({"nothing": mean_over_latents([])}) is None


def test_one_set_of_latents_scored_twice_is_compared_latent_by_latent():
    generator = np.random.default_rng(0)
    ours = dictionary(0.6, generator, spread=0.5)
    control = [scored(item.value - 0.1, item.replicates - item.value) for item in ours]
    found = compare({"ours": ours}, {"shuffled": control})["ours"].excess
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_cliffs_delta_keeps_its_interval():
    generator, covered = np.random.default_rng(0), 0
    truth = 2 * scipy.stats.norm.cdf(0.5 / math.sqrt(2)) - 1
    for _ in range(150):
        a, b = ([scored(x) for x in generator.normal(shift, 1, 40)] for shift in (0.5, 0.0))
        found = cliffs_delta_estimate(a, b)
        covered += found.low <= truth <= found.high
    assert 0.9 <= covered / 150 <= 0.99


def test_correlations_over_latents_are_those_of_scipy():
    generator = np.random.default_rng(0)
    kurtosis = generator.gamma(1, 50, 60)
    items = [scored(float(0.002 * k + generator.normal(0, 0.05))) for k in kurtosis]
    items[7], kurtosis[9] = Skipped("never fires"), math.nan
    kept = np.delete(np.arange(60), [7, 9])
    found = correlations(items, kurtosis)
    pearson = scipy.stats.pearsonr(values(items)[kept], kurtosis[kept])
    assert found["pearson"].value == pytest.approx(pearson.statistic)
    assert found["spearman"].value == pytest.approx(
        scipy.stats.spearmanr(values(items)[kept], kurtosis[kept]).statistic
    )
    assert (found["pearson"].n, found["pearson"].unit) == (58, "latent")
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high
    interval = pearson.confidence_interval()
    assert (found["pearson"].low, found["pearson"].high) == pytest.approx(interval, abs=0.06)
    assert math.isnan(correlation_over_latents(np.arange(2.0), np.arange(2.0)).value)
    assert math.isnan(correlation_over_latents(np.ones(9), np.arange(9.0)).value)
    groups = np.repeat([0, 1, 2], 3).tolist()
    assert correlation_over_latents(np.arange(9.0), np.arange(9.0), groups=groups).value == 1


def test_an_interval_needs_more_than_one_document_and_mostly_defined_replicates():
    assert percentile(0.3, np.full(9, 0.3), 1).estimate.high == math.inf
    gaps = np.array([0.1, 0.2, math.nan, math.nan, math.nan])
    assert percentile(0.3, gaps, 5).estimate.low == -math.inf
    assert percentile(0.9, np.array([0.1, 0.2, math.nan]), 5).estimate.high == 0.9
    assert studentised(0.3, 0.1, np.zeros(9), np.full(9, math.nan), 9).estimate.high == math.inf


@pytest.mark.parametrize(
    "name",
    [
        "comparison",
        "truth",
        *(f"scores.{name}" for name in ("bills", "corpus", "detection", "fuzzing", "intervals", "intruder")),
        *("scores.quantise", "scores.resampling"),
    ],
)
def test_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(f"sparsescope.interpret.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
