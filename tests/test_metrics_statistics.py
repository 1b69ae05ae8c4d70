"""Intervals and moments against numpy, scipy, and the coverage that a 95% interval promises."""

import doctest
import importlib
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch

from sparsescope.errors import ConfigurationError, NumericalError
from sparsescope.metrics import Estimate, moments, ratio_of_sums, resampled_sums


def test_resampled_sums_are_sums_of_rows_drawn_with_replacement():
    rows = np.random.default_rng(1).normal(size=(13, 3))
    samples = resampled_sums(rows, resamples=50, seed=4)
    drawn = np.random.default_rng(4).integers(0, 13, (50, 13))
    np.testing.assert_allclose(samples, rows[drawn].sum(1), rtol=1e-12)


def test_many_documents_are_resampled_in_chunks_without_repeating_draws():
    samples = resampled_sums(np.random.default_rng(0).normal(size=(9000, 1)), resamples=1000)
    assert len(np.unique(samples)) == 1000
    assert samples.std() == pytest.approx(math.sqrt(9000), rel=0.1)


def test_interval_agrees_with_scipy():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 200, 80).astype(float)
    errors = tokens * generator.gamma(4, 0.1, 80)
    ours = ratio_of_sums(errors, tokens, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (errors, tokens),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.value == pytest.approx(errors.sum() / tokens.sum())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.004)


def test_intervals_over_documents_cover_as_often_as_they_say_and_intervals_over_tokens_do_not():
    generator = np.random.default_rng(0)
    trials, documents, covered, naive = 400, 60, 0, 0
    for trial in range(trials):
        tokens = generator.integers(20, 60, documents)
        level = 2 + generator.normal(0, 0.5, documents)  # what the tokens of one document share
        values = [generator.normal(level[d], 1, tokens[d]) for d in range(documents)]
        sums = np.array([v.sum() for v in values])
        found = ratio_of_sums(sums, tokens.astype(float), resamples=500, seed=trial)
        covered += found.low <= 2 <= found.high
        every = np.concatenate(values)
        naive += abs(every.mean() - 2) <= 1.96 * every.std() / math.sqrt(len(every))
    assert 0.92 <= covered / trials <= 0.98
    assert naive / trials < 0.7


def test_the_seed_decides_the_interval():
    rows = np.random.default_rng(0).gamma(2, 1, (2, 30))
    assert ratio_of_sums(*rows, seed=1) == ratio_of_sums(*rows, seed=1)
    assert ratio_of_sums(*rows, seed=1) != ratio_of_sums(*rows, seed=2)


def test_what_the_data_do_not_bound_is_said_to_be_unbounded():
    single = ratio_of_sums(np.array([1.0]), np.array([2.0]))
    assert (single.value, single.low, single.high, single.n) == (0.5, -math.inf, math.inf, 1)
    wavering = ratio_of_sums(np.array([1.0, 1.0, 1.0]), np.array([1.0, -1.5, 1.0]))
    assert wavering.value == 6.0
    assert (wavering.low, wavering.high) == (-math.inf, math.inf)
    undefined = ratio_of_sums(np.array([1.0, 1.0]), np.array([0.0, 0.0]))
    assert math.isnan(undefined.value)
    assert json.loads(json.dumps(undefined.to_dict(), allow_nan=False))["value"] is None


def test_sums_that_are_not_finite_are_refused():
    with pytest.raises(NumericalError, match="not finite"):
        ratio_of_sums(np.array([1.0, math.nan]), np.ones(2))
    with pytest.raises(ConfigurationError, match="resamples is 1"):
        resampled_sums(np.ones((3, 1)), resamples=1)


def test_an_estimate_prints_its_interval():
    estimate = Estimate(0.25, 0.2, 0.3125, 40)
    assert f"{estimate:.2f}" == "0.25 [0.20, 0.31]"
    assert f"{estimate}" == str(estimate) == "0.250 [0.200, 0.312]"
    assert float(estimate) == 0.25


def test_moments_agree_with_scipy():
    codes = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).relu() * torch.tensor([1.0, 2.0, 0.1, 5.0])
    found, dense = moments(codes), codes.double().numpy()
    spread = dense.std(0)
    np.testing.assert_allclose(found.mean, dense.mean(0))
    np.testing.assert_allclose(found.variance, spread**2)
    np.testing.assert_allclose(found.skew, scipy.stats.moment(dense, 3, center=0) / spread**3)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.moment(dense, 4, center=0) / spread**4)


def test_moments_of_codes_with_mean_zero_are_the_usual_ones():
    codes = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)).double()
    codes -= codes.mean(0)
    found = moments(codes)
    np.testing.assert_allclose(found.skew, scipy.stats.skew(codes.numpy()), rtol=1e-9)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(codes.numpy(), fisher=False), rtol=1e-9)


def test_a_latent_that_never_varies_has_neither_skew_nor_kurtosis():
    found = moments(torch.tensor([[0.0, 0.1]] * 50))
    assert found.skew.isnan().all()
    assert found.kurtosis.isnan().all()


@pytest.mark.parametrize("name", ["statistics", "reconstruction", "geometry", "evaluation", "places"])
def test_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(f"sparsescope.metrics.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
