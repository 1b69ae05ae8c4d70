"""Statistics of latents against closed forms, plain loops and numpy."""

import math

import numpy as np
import pytest
import torch
from feature_world import SITE, Memory

from sparsescope.dictionaries import NeuronDictionary, TopKSAE
from sparsescope.errors import ConfigurationError
from sparsescope.features.gathering import Gathered, gather
from sparsescope.features.statistics import alike, logit_effect, statistics, together, token_entropy, top_tokens
from sparsescope.features.token_sums import RunningTokenSums, TokenSums


def random_sae(latents: int = 40, d: int = 8) -> TopKSAE:
    encoder = torch.randn(latents, d, generator=torch.Generator().manual_seed(0))
    directions = encoder / encoder.norm(dim=1, keepdim=True)
    plain = {"encoder_bias": torch.zeros(latents), "bias": torch.zeros(d), "k": 3}
    return TopKSAE(encoder=encoder, directions=directions, **plain).with_provenance(site=SITE)


@pytest.fixture
def gathered() -> Gathered:
    return gather(random_sae(), Memory(), split="test", latents=[5, 0, 39, 17])


def sums(*rows: dict[int, float]) -> TokenSums:
    running = RunningTokenSums(len(rows), 50)
    for place, row in enumerate(rows):
        for token, mass in row.items():
            running.add(np.array([place]), np.array([token]), np.array([mass], np.float32))
    return running.finish()


def test_token_entropy_has_its_closed_forms() -> None:
    found = token_entropy(sums({7: 3.0}, dict.fromkeys(range(8), 0.5), {1: 1.0, 2: 3.0}, {}))
    mixed = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    np.testing.assert_allclose(found[:3], [0, math.log(8), mixed], atol=1e-12)
    assert math.isnan(found[3])


def test_top_tokens_are_those_with_the_most_mass() -> None:
    found = top_tokens(sums({7: 1.0, 3: 6.0, 9: 1.0}, {}), wanted=2)
    assert found.of(0) == ([3, 7], [0.75, 0.125])
    assert found.of(1) == ([], [])


def test_sums_by_token_add_up_however_they_arrive() -> None:
    source = np.random.default_rng(0)
    place, token, code = source.integers(0, 4, 900), source.integers(0, 50, 900), source.random(900, np.float32)
    running = RunningTokenSums(4, 50)
    for part in np.array_split(np.arange(900), 70):
        running.add(place[part], token[part], code[part])
    got, table, counts = running.finish(), np.zeros((4, 50)), np.zeros((4, 50), int)
    np.add.at(table, (place, token), code)
    np.add.at(counts, (place, token), 1)
    for latent in range(4):
        np.testing.assert_allclose(got.dense(latent), table[latent])
        ids, _, seen = got.of(latent)
        assert ids.tolist() == np.flatnonzero(counts[latent]).tolist()
        assert seen.tolist() == counts[latent][ids].tolist()
    assert got.dense(0, 60).tolist() == [*got.dense(0).tolist(), *[0.0] * 10]
    with pytest.raises(ConfigurationError, match="a vocabulary of 49 is too small"):
        got.dense(0, 49)


def test_the_logit_effect_is_the_centred_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsescope.features.statistics._CELLS", 60)  # in pieces of two latents
    sae, unembedding = random_sae(), torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    latents = np.array([4, 2, 9])
    raised, lowered = logit_effect(sae, latents, unembedding + 5.0 * torch.randn(8, 1), wanted=4)
    effect = (sae.directions @ unembedding).numpy()[latents]
    effect = effect - effect.mean(1, keepdims=True)
    np.testing.assert_array_equal(raised.numbers, np.argsort(-effect, 1)[:, :4])
    np.testing.assert_array_equal(lowered.numbers, np.argsort(effect, 1)[:, :4])
    np.testing.assert_allclose(raised.values, -np.sort(-effect, 1)[:, :4], atol=1e-5)
    np.testing.assert_allclose(lowered.values, np.sort(effect, 1)[:, :4], atol=1e-5)
    with pytest.raises(ConfigurationError, match=r"shape \(30, 8\), but directions have width 8"):
        logit_effect(sae, latents, unembedding.T)


def test_neighbours_by_cosine_are_other_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsescope.features.statistics._CELLS", 80)
    sae = random_sae()
    cosine = (sae.directions @ sae.directions.T).numpy() - 2 * np.eye(40)
    found = alike(sae, np.arange(40), wanted=3)
    np.testing.assert_array_equal(found.numbers, np.argsort(-cosine, 1)[:, :3])
    np.testing.assert_allclose(found.values, -np.sort(-cosine, 1)[:, :3], atol=1e-6)


def test_neighbours_by_cooccurrence_equal_sets(gathered: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsescope.features.statistics._CELLS", 8)
    active = [set(np.flatnonzero(gathered.is_active(place)).tolist()) for place in range(4)]
    found = together(gathered.firing, gathered.latents, wanted=3)
    for place in range(4):
        jaccard = {
            int(gathered.latents[other]): len(active[place] & active[other]) / len(active[place] | active[other])
            for other in range(4)
            if other != place
        }
        numbers, values = found.of(place)
        assert dict(zip(numbers, values, strict=True)) == pytest.approx({n: v for n, v in jaccard.items() if v > 0})
        assert values == sorted(values, reverse=True)
    assert found.numbers.shape == (4, 3)


def test_all_statistics_together(gathered: Gathered) -> None:
    with_logits = statistics(gathered, random_sae(), torch.eye(8), wanted=2)
    without = statistics(gathered, random_sae(), wanted=2)
    assert with_logits.raised is not None
    assert with_logits.raised.numbers[0, 0] == int(random_sae().directions[5].argmax())
    assert without.raised is None
    assert without.lowered is None
    np.testing.assert_array_equal(without.entropy, token_entropy(gathered.token_sum))
    lonely = gather(
        NeuronDictionary(bias=torch.zeros(8)).with_provenance(site=SITE), Memory(), split="test", latents=[3]
    )
    assert together(lonely.firing, lonely.latents).numbers.shape == (1, 0)
