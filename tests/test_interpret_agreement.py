"""Rank agreement against scipy, against a bootstrap by brute force, and with planted agreement."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparsescope.errors import ConfigurationError
from sparsescope.features.ratings import Rating
from sparsescope.interpret.agreement import agreement, expected_interval, grades, intruders, intruders_found, spearman


def graded(latent: np.ndarray, noise: float, random: np.random.Generator) -> np.ndarray:
    """Grades 1 to 5 of a quality, seen with noise."""
    return np.clip(np.round(3 + 1.2 * (latent + noise * random.standard_normal(latent.shape))), 1, 5)


def test_the_correlation_is_that_of_scipy_with_ties_and_gaps() -> None:
    random = np.random.default_rng(0)
    for n in (3, 7, 60):
        x, y = random.standard_normal(n), random.integers(1, 6, n).astype(float)
        y[:2] = [1, 5]
        assert spearman(x, y).value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    x[5], y[9] = math.nan, math.nan
    found = spearman(x, y)
    assert found.value == pytest.approx(spearmanr(x, y, nan_policy="omit").statistic, abs=1e-12)
    assert (found.n, found.unit) == (58, "latent")


def test_the_interval_is_that_of_ranking_every_resample_anew() -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal(30)
    y = graded(x, 1.0, random)
    found = spearman(x, y, resamples=400, seed=5)
    drawn = np.random.default_rng(5).integers(0, 30, (400, 30))  # as `resampled_sums` draws them
    samples = [spearmanr(x[rows], y[rows]).statistic for rows in drawn]
    assert [found.low, found.high] == pytest.approx(np.quantile(samples, [0.025, 0.975]).tolist(), abs=1e-12)
    assert found == spearman(x, y, resamples=400, seed=5)


def test_intervals_cover_planted_agreement() -> None:
    random = np.random.default_rng(2)
    truth = spearmanr(many := random.standard_normal(200_000), graded(many, 0.8, random)).statistic
    covered = 0
    for seed in range(150):
        x = random.standard_normal(60)
        found = spearman(x, graded(x, 0.8, random), resamples=250, seed=seed)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 150 <= 0.99  # 95% planned; five grades and 60 latents


def test_what_is_undefined_is_not_a_number() -> None:
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([], [])):
        found = spearman(np.array(x, float), np.array(y, float))
        assert math.isnan(found.value)
        assert (found.low, found.high) == (-math.inf, math.inf)
    few = spearman(np.arange(3.0), np.arange(3.0))  # some resamples are constant: they bound nothing
    assert (few.value, few.low, few.high) == (1.0, -1.0, 1.0)
    with pytest.raises(ConfigurationError, match="one of each"):
        spearman(np.arange(3.0), np.arange(4.0))


def test_scores_and_people_against_scipy_on_a_partly_shared_set() -> None:
    random = np.random.default_rng(3)
    quality = random.standard_normal(90)
    seen = {"ann": range(0, 60), "bo": range(30, 90), "cy": range(20, 70)}
    ratings = {
        name: dict(zip(rows, graded(quality[rows], 0.5, random), strict=True))
        for name, rows in ((name, list(rows)) for name, rows in seen.items())
    }
    scores = {
        "good": {i: quality[i] + 0.3 * random.standard_normal() for i in range(90)},
        "noise": {i: random.standard_normal() for i in range(90)},
        "partial": {i: math.nan if i % 2 else quality[i] for i in range(80)},
        "elsewhere": {1000: 1.0},
    }
    found = agreement(scores, ratings)
    mean = {i: np.mean([given[i] for given in ratings.values() if i in given]) for i in range(90)}

    def plain(a: dict, b: dict) -> float:
        both = [i for i in a if i in b and not math.isnan(a[i])]
        return spearmanr([a[i] for i in both], [b[i] for i in both]).statistic

    for name in ("good", "noise", "partial"):
        assert found.with_people[name].value == pytest.approx(plain(scores[name], mean), abs=1e-12)
    assert [found.with_people[name].n for name in scores] == [90, 90, 40, 0]
    pairs = {pair: plain(ratings[pair[0]], ratings[pair[1]]) for pair in found.pairs}
    assert set(pairs) == {("ann", "bo"), ("ann", "cy"), ("bo", "cy")}
    for pair, value in pairs.items():
        assert found.pairs[pair].value == pytest.approx(value, abs=1e-12)
    assert found.between_people.value == pytest.approx(np.mean(list(pairs.values())), abs=1e-12)
    others = {i: np.mean([ratings[r][i] for r in ("bo", "cy") if i in ratings[r]]) for i in range(20, 90)}
    assert found.with_others["ann"].value == pytest.approx(plain(ratings["ann"], others), abs=1e-12)
    assert found.rated == {"ann": 60, "bo": 60, "cy": 50}
    assert found.with_people["good"].low > 0.5
    assert found.with_people["noise"].low < 0 < found.with_people["noise"].high
    assert found.to_dict()["with_people"]["elsewhere"]["value"] is None


def test_people_who_share_nothing_make_no_pair_and_one_person_has_no_others() -> None:
    apart = agreement({}, {"ann": {1: 1, 2: 2, 3: 4}, "bo": {4: 1, 5: 3, 6: 5}})
    assert apart.pairs == {}
    assert math.isnan(apart.between_people.value)
    alone = agreement({"rho": {1: 0.1, 2: 0.2, 3: 0.3}}, {"ann": {1: 1, 2: 2, 3: 4}})
    assert alone.with_others == {}
    assert alone.with_people["rho"].value == 1.0
    nobody = agreement({"rho": {1: 0.5}}, {})
    assert (nobody.with_people["rho"].n, nobody.rated) == (0, {})


def test_the_share_of_intruders_found_counts_answers_and_resamples_latents() -> None:
    given = [("ann", 1, True), ("ann", 2, False), ("ann", 3, True), ("bo", 1, True), ("bo", 2, None)]
    ratings = [Rating("sae", latent, rater, "", found, 3 if found else None) for rater, latent, found in given]
    assert grades(ratings) == {"ann": {("sae", 1): 3.0, ("sae", 3): 3.0}, "bo": {("sae", 1): 3.0}}
    found = intruders_found(intruders(ratings))
    assert (found.value, found.n, found.unit) == (0.75, 3, "latent")
    assert math.isnan(intruders_found({}).value)


def test_planning_foretells_the_width_that_is_then_found() -> None:
    random = np.random.default_rng(4)
    widths = []
    for seed in range(30):
        x = random.standard_normal(80)
        y = 0.75 * x + 0.6 * random.standard_normal(80)
        found = spearman(x, y, resamples=250, seed=seed)
        widths.append(found.high - found.low)
    low, high = expected_interval(0.76, 80)
    assert np.mean(widths) == pytest.approx(high - low, rel=0.15)
    for wrong in ((1.0, 50), (0.5, 3)):
        with pytest.raises(ConfigurationError, match="4 latents or more"):
            expected_interval(*wrong)


def test_the_table_for_planning_is_what_the_code_below_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "rating.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], {})
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    table = [row.replace("−", "-").split(" | ") for row in re.findall(r"^\| (\d.* ±.*) \|$", page, re.MULTILINE)]
    assert len(printed) == 5
    assert printed == table
