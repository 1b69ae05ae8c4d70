"""One streaming pass over the activations, against brute force over dense codes, and what is drawn from it."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from feature_world import SITE, Memory
from scipy import stats

from sparsescope.dictionaries import NeuronDictionary, TopKSAE
from sparsescope.dictionaries.base import Dictionary
from sparsescope.errors import ConfigurationError, NumericalError
from sparsescope.features.fragments import cut
from sparsescope.features.gathering import Drawn, Gathered, count_active, draw_latents, gather
from sparsescope.features.memory import CodeMemory
from sparsescope.features.reservoirs import priorities
from sparsescope.features.sampling import stratify
from sparsescope.metrics import moments


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, as there are when texts are long."""
    monkeypatch.setattr("sparsescope.features.coding._MOST_ROWS", 300)


def topk(d: int = 8, latents: int = 40, k: int = 5, seed: int = 0) -> TopKSAE:
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(latents, d, generator=generator)
    bias = torch.zeros(latents)
    bias[3], bias[4] = -1e3, 1e3  # never, and always active
    return TopKSAE(
        encoder=encoder,
        encoder_bias=bias,
        directions=encoder / encoder.norm(dim=1, keepdim=True),
        bias=torch.zeros(d),
        k=k,
    ).with_provenance(site=SITE, name="planted")


def neurons(d: int = 8) -> NeuronDictionary:
    return NeuronDictionary(bias=torch.zeros(d)).with_provenance(site=SITE)


def dense(gathered: Gathered, store: Memory, dictionary: Dictionary) -> np.ndarray:
    """Positive codes of the gathered latents, [latent, context, position]."""
    kept = store.kept("test")
    codes = torch.zeros(*kept.shape, dictionary.n_latents)
    codes[kept] = dictionary.encode(store.x).relu()
    return codes.movedim(2, 0).numpy()[gathered.latents]


def on_fragments(gathered: Gathered, codes: np.ndarray) -> np.ndarray:
    """The same on fragments, [latent, fragment, position]."""
    fragments = gathered.fragments
    found = np.zeros((len(codes), *fragments.ids.shape), np.float32)
    for number, (context, start, length) in enumerate(
        zip(fragments.context, fragments.start, fragments.length, strict=True)
    ):
        found[:, number, :length] = codes[:, context, start : start + length]
    return found


@pytest.mark.parametrize(
    ("dictionary", "latents"),
    [(topk(), None), (topk(), [39, 4, 3, 7]), (neurons(), None)],
    ids=["all", "some", "signed"],
)
def test_gathering_equals_brute_force(dictionary: Dictionary, latents: list[int] | None) -> None:
    store = Memory()
    got = gather(dictionary, store, split="test", latents=latents, top=6, active=9, random=5, seed=3)
    assert got.latents.tolist() == (list(range(dictionary.n_latents)) if latents is None else latents)
    codes = dense(got, store, dictionary)
    kept, ids = store.kept("test").numpy(), store.contexts("test").ids.numpy()
    rows = codes[:, kept]
    assert got.tokens == rows.shape[1] == store.rows("test")
    np.testing.assert_allclose(got.maximum, rows.max(1), rtol=1e-6)
    np.testing.assert_allclose(got.density, (rows > 0).mean(1))
    expected = moments(torch.from_numpy(rows.T))
    for field in fields(expected):
        np.testing.assert_allclose(getattr(got.moments, field.name), getattr(expected, field.name), rtol=1e-5)
    np.testing.assert_array_equal(got.token_count, np.bincount(ids[kept]))
    for place in range(len(got)):
        sums = np.bincount(ids[kept], weights=rows[place].astype(float), minlength=30)
        np.testing.assert_allclose(got.token_sum.dense(place), sums, rtol=1e-6)
        seen, _, counts = got.token_sum.of(place)
        np.testing.assert_array_equal(counts, np.bincount(ids[kept], rows[place] > 0, minlength=30)[seen])
    check_draws(got, on_fragments(got, codes))


def check_draws(got: Gathered, codes: np.ndarray) -> None:
    largest, everything = codes.max(2), np.arange(codes.shape[1])
    for place in range(len(got)):
        active = largest[place] > 0
        np.testing.assert_array_equal(got.is_active(place), active)
        order = np.argsort(-largest[place], kind="stable")
        best = order[active[order]][:6]
        np.testing.assert_array_equal(got.top.of(place)[0], best)
        others = np.setdiff1d(everything[active], best)
        drawn = got.active.of(place)[0]
        assert len(drawn) == len(set(drawn)) == min(9, len(others))
        assert set(drawn) <= set(others)
        natural = got.random.of(place)[0]
        assert len(set(natural)) == 5
        for some in (got.top, got.active, got.random):
            numbers, values = some.of(place)
            np.testing.assert_allclose(values, codes[place, numbers], rtol=1e-3, atol=1e-6)
            assert not some.codes[place, len(numbers) :].any()
            assert set(some.numbers[place, len(numbers) :]) <= {-1}


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal to the last bit."""
    if isinstance(a, np.ndarray | torch.Tensor):
        return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b


def test_the_same_bits_for_any_block_size_and_seed_by_seed() -> None:
    store, dictionary = Memory(), topk()
    first = gather(dictionary, store, split="test", seed=1)
    for block in (1, 97, 100_000):
        assert same(gather(dictionary, store, split="test", seed=1, block=block), first)
    other = gather(dictionary, store, split="test", seed=2)
    assert same(other.top, first.top)
    assert not same(other.active, first.active)
    assert not same(other.random, first.random)


def test_what_is_drawn_for_a_latent_does_not_depend_on_the_others() -> None:
    store, dictionary = Memory(), topk()
    everything, alone = gather(dictionary, store, split="test"), gather(dictionary, store, split="test", latents=[9])
    for kind in ("top", "active", "random"):
        one, all_of_them = getattr(alone, kind), getattr(everything, kind)
        np.testing.assert_array_equal(one.numbers[0], all_of_them.numbers[9])
        np.testing.assert_array_equal(one.codes[0], all_of_them.codes[9])


def test_of_equally_strong_fragments_the_earlier_comes_first() -> None:
    store = Memory()
    store.x = torch.ones_like(store.x)
    got = gather(neurons(), store, split="test", latents=[2], top=10)
    assert got.top.numbers[0].tolist() == list(range(10))


def test_draws_are_uniform() -> None:
    """Each member of a population is drawn equally often over seeds: χ² of the counts."""
    store, dictionary, repeats = Memory(contexts=24), topk(k=2), 200
    counts: dict[str, Any] = {}
    for seed in range(repeats):
        got = gather(dictionary, store, split="test", latents=[11, 20], top=2, active=3, random=6, seed=seed)
        n = len(got.fragments)
        for place in (0, 1):
            sample = got.sample(place, silent=3, seed=seed)
            below_top = got.is_active(place) & ~np.isin(np.arange(n), got.top.of(place)[0])
            for name, population, numbers in (
                ("active", below_top, got.active.of(place)[0]),
                ("random", np.ones(n, bool), got.random.of(place)[0]),
                ("silent", ~got.is_active(place), sample.numbers[sample.stratum == 3]),
            ):
                _, count = counts.setdefault(f"{name} {place}", (population, np.zeros(n)))
                count[numbers] += 1
    for name, (population, count) in counts.items():
        assert not count[~population].any(), name
        size, mean = int(population.sum()), count[population].mean()
        assert size > 5, name
        # Drawn without replacement, a count has the variance of a binomial one, and they sum to a constant.
        statistic = ((count[population] - mean) ** 2).sum() / (mean * (1 - mean / repeats)) * (size - 1) / size
        assert 0.001 < stats.chi2.cdf(statistic, size - 1) < 0.999, name


def test_priorities_are_uniform_and_independent() -> None:
    drawn = priorities(5, np.arange(60), np.arange(500))
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(drawn) - np.eye(60)).max() < 0.2  # 1/√500 is 0.045
    neighbours = np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    assert not np.array_equal(drawn, priorities(6, np.arange(60), np.arange(500)))


def test_the_horvitz_thompson_estimate_of_a_total_is_unbiased() -> None:
    """Σ weight · y over samples, against Σ y over all fragments, for a y that goes with activity."""
    store = Memory(contexts=40)
    dictionary = topk(k=2)
    source = np.random.default_rng(0)
    estimates: list[list[float]] = [[], []]
    for seed in range(200):
        got = gather(dictionary, store, split="test", latents=[11, 20], top=3, active=5, seed=seed)
        if seed == 0:
            n = len(got.fragments)
            predicted = source.random(n) < 0.3
            y = [got.is_active(place) * 2.0 + predicted * 3.0 + source.random(n) for place in (0, 1)]
        for place in (0, 1):
            sample = got.sample(place, silent=6, predicted=predicted if place else None, seed=seed)
            assert sample.weight.sum() == pytest.approx(n)
            estimates[place].append(float((sample.weight * y[place][sample.numbers]).sum()))
            assert not sample.codes[sample.stratum >= 2].any()
            assert (sample.codes[sample.stratum < 2].max(1) > 0).all()
            if place:
                silent = sample.numbers[sample.stratum >= 2]
                np.testing.assert_array_equal(predicted[silent], sample.stratum[sample.stratum >= 2] == 2)
    for place in (0, 1):
        values = np.array(estimates[place])
        error = (values.mean() - y[place].sum()) / (values.std(ddof=1) / np.sqrt(len(values)))
        assert abs(error) < 3.3, place


def test_a_sample_never_holds_a_fragment_twice_and_weights_count_all_of_them() -> None:
    got = gather(topk(), Memory(), split="test", top=5, active=7, random=4)
    for place in range(len(got)):
        sample = got.sample(place, silent=4)
        assert len(set(sample.numbers)) == len(sample)
        assert sample.weight.sum() == pytest.approx(len(got.fragments))
        assert set(sample.stratum) <= {0, 1, 3}
    assert len(got.sample(3, silent=4)) == 4  # never active: silent ones only
    assert set(got.sample(4).stratum) == {0, 1}  # always active


def test_codes_beyond_float16_stay_active_and_finite() -> None:
    store = Memory()
    for scale, expected in ((1e9, 65504.0), (1e-12, 2.0**-24)):
        store.x = store.x.sign() * scale
        got = gather(neurons(), store, split="test", top=3)
        assert set(np.unique(got.top.codes[got.top.codes > 0]).astype(float)) == {expected}
        assert got.maximum.tolist() == pytest.approx([scale] * 8)


def test_counting_and_drawing_latents_by_frequency() -> None:
    store, dictionary = Memory(), topk()
    fragments = cut(store, "test")
    counts, rows = count_active(dictionary, store, fragments)
    got = gather(dictionary, store, split="test", fragments=fragments)
    np.testing.assert_array_equal(counts, np.rint(got.density * rows))
    many = np.concatenate([np.arange(11), np.random.default_rng(0).permutation(np.arange(11, 1011))])
    drawn = draw_latents(many, 50, seed=4)
    assert (many[drawn] > 10).all()
    assert np.histogram(many[drawn], np.arange(11, 1012, 100))[0].tolist() == [5] * 10
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert not np.array_equal(drawn, draw_latents(many, 50, seed=5))
    assert len(draw_latents(many, 57)) == 57
    assert len(draw_latents(many, 3)) == 3
    assert draw_latents(np.array([0, 11, 3, 400]), 10).tolist() == [1, 3]
    assert not len(draw_latents(np.zeros(5, int), 10))


def test_a_draw_of_contexts_is_all_that_is_read() -> None:
    store, dictionary = Memory(), topk()
    got = gather(dictionary, store, split="test", max_tokens=960, seed=2)
    again = gather(dictionary, store, split="test", fragments=cut(store, "test", max_tokens=960, seed=2), seed=2)
    assert same(got, again)
    chosen = np.unique(got.fragments.context)
    assert len(chosen) == 10
    assert got.tokens == store.kept("test")[chosen].sum()
    check_draws(
        gather(dictionary, store, split="test", max_tokens=960, seed=2, top=6, active=9, random=5),
        on_fragments(got, dense(got, store, dictionary)),
    )


def test_what_cannot_be_gathered_is_refused() -> None:
    store, dictionary = Memory(), topk()
    fragments = cut(store, "test")
    for settings, message in (
        ({"latents": [40]}, "there is no latent 40: the dictionary has 0 to 39"),
        ({"latents": [1, 1]}, "each named once"),
        ({"latents": []}, "at least one"),
        ({"seed": -1}, "seed=-1"),
        ({"fragments": fragments, "max_tokens": 5}, "max_tokens was given beside fragments"),
        ({"fragments": cut(Memory(contexts=9), "test")}, "cut them from these activations"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            gather(dictionary, store, **{"split": "test", **settings})
    backwards = replace(fragments, context=fragments.context[::-1].copy())
    with pytest.raises(ConfigurationError, match="not in the order of the text"):
        gather(dictionary, store, split="test", fragments=backwards)
    with pytest.raises(ConfigurationError, match="of the test split, asked for 'validation'"):
        gather(dictionary, store, split="validation", fragments=fragments)
    with pytest.raises(ConfigurationError, match="does not say which site"):
        gather(dictionary.with_provenance(site=None), store, split="test")
    with pytest.raises(ConfigurationError, match="silent is 0"):
        gather(dictionary, store, split="test").sample(0, silent=0)
    with pytest.raises(ConfigurationError, match="so they cannot be estimated"):
        gather(dictionary, store, split="test", active=0).sample(4)
    none = (np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    with pytest.raises(ConfigurationError, match="one value for each of the 5"):
        stratify(none, none, np.zeros(5, bool), predicted=np.zeros(4, bool))
    store.x[100, 0] = torch.nan
    with pytest.raises(NumericalError, match="planted gave codes that are not finite"):
        gather(dictionary, store, split="test")


def test_nothing_is_kept_where_nothing_is_asked_for() -> None:
    got = gather(topk(), Memory(), split="test", top=0, active=0, random=0)
    assert isinstance(got.top, Drawn)
    assert [drawn.numbers.shape[1] for drawn in (got.top, got.active, got.random)] == [0, 0, 0]


def test_codes_that_are_remembered_are_those_that_would_be_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, dictionary = Memory(), topk()
    fragments = cut(store, "test")
    memory = CodeMemory()
    first = gather(dictionary, store, split="test", fragments=fragments, memory=memory)

    def never(*args: Any) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(type(dictionary), "encode_sparse", never)
    again = gather(dictionary, store, split="test", fragments=fragments, memory=memory)
    np.testing.assert_array_equal(first.top.codes, again.top.codes)
    np.testing.assert_array_equal(first.firing, again.firing)
    np.testing.assert_array_equal(first.density, again.density)
    with pytest.raises(AssertionError, match="encoded again"):
        gather(dictionary, store, split="test", fragments=fragments, memory=CodeMemory(most_bytes=8))
