"""The whole evaluation: known answers, one pass for many, refusals, and the entry it writes."""

import json
import math

import numpy as np
import pytest
import torch
from metrics_world import SITE, BigramModel, Halves, memory_store, random_linear

from sparsescope.dictionaries.base import Provenance
from sparsescope.errors import ArtifactError, ConfigurationError, NumericalError, SiteError
from sparsescope.metrics import evaluate, evaluate_all, fvu, losses, splice
from sparsescope.metrics.evaluate import draw_contexts

ENTRY = {
    "name", "method", "site", "n_latents", "seed", "l1", "k", "target_l0", "fvu", "l0", "alive",
    "ce_clean", "ce_spliced", "ce_zero", "ce_mean", "ce_recovered", "path",
}  # fmt: skip


def at_site(dictionary, **more):
    return dictionary.with_provenance(site=SITE, **more)


def test_neurons_lose_nothing():
    store = memory_store()
    found = evaluate(at_site(Halves(width=6)), store, model=store.model)
    assert found.fvu.value == found.fvu.low == found.fvu.high == 0
    assert found.ce_spliced == found.ce_clean
    assert (found.ce_recovered.value, found.ce_recovered.low, found.ce_recovered.high) == (1, 1, 1)
    assert found.ce_recovered_mean.value == 1
    assert found.perplexity_spliced == math.exp(found.ce_clean)
    assert found.capacity == pytest.approx(0.5)


def test_a_dictionary_of_zeros_recovers_nothing():
    store = memory_store()
    silent = random_linear(6, 4, offset=-1e6)
    silent.bias.zero_()
    found = evaluate(at_site(silent), store, model=store.model)
    assert found.ce_spliced == found.ce_zero == pytest.approx(math.log(11), rel=1e-6)
    assert found.ce_recovered.value == 0
    assert found.l0.value == found.alive == 0


def test_a_dictionary_made_from_another_store_is_refused_unless_the_text_is_said_to_differ():
    store = memory_store()
    stranger = at_site(Halves(width=6), activations="f" * 64, name="stranger")
    with pytest.raises(ArtifactError, match="stranger was made from other activations"):
        evaluate(stranger, store)
    assert evaluate(stranger, store, elsewhere=True).fvu.value == 0
    own = at_site(Halves(width=6), activations=store.fingerprint)
    assert evaluate(own, store).fvu.value == 0


def test_predicting_the_mean_equals_mean_ablation():
    store = memory_store()
    silent = random_linear(6, 4, offset=-1e6)
    silent.bias.copy_(store.mean(SITE))
    found = evaluate(at_site(silent), store, model=store.model)
    assert found.ce_spliced == found.ce_mean
    assert found.ce_recovered_mean.value == 0


def test_numbers_agree_with_those_made_from_all_rows_at_once():
    store, dictionary = memory_store(), at_site(random_linear(6, 24))
    found = evaluate(dictionary, store, model=store.model)
    x = store.all("test")
    codes = dictionary.encode(x)
    assert found.fvu.value == pytest.approx(fvu(x, dictionary.reconstruct(x)), rel=1e-6)
    assert found.l0.value == pytest.approx(float((codes > 0).sum(1).double().mean()))
    assert found.alive == int(((codes > 0).sum(0) > 10).sum())
    assert found.tokens == len(x)
    assert found.fvu.low < found.fvu.value < found.fvu.high
    assert found.fvu.n == len(store.tokens["test"].document.unique())
    loss = losses(store.model, store.tokens["test"], {"it": (SITE, splice(dictionary))})
    assert found.ce_clean == loss.mean()
    assert found.ce_spliced == loss.mean("it")
    assert found.ce_recovered.value == pytest.approx(
        (found.ce_zero - found.ce_spliced) / (found.ce_zero - found.ce_clean), rel=1e-12
    )


def test_many_at_once_equal_each_alone():
    store = memory_store()
    dictionaries = [at_site(random_linear(6, n, seed=n), name=f"d{n}") for n in (4, 40)]
    together = evaluate_all(dictionaries, store, model=store.model)
    for dictionary, entry in zip(dictionaries, together, strict=True):
        alone = evaluate(dictionary, store, model=store.model)
        assert alone.to_dict() == entry.to_dict()
    assert evaluate_all([], store, model=store.model) == []


@pytest.mark.parametrize("rows", [1, 50, 10_000])
def test_the_blocks_of_the_store_change_nothing(rows):
    dictionary = at_site(random_linear(6, 24))
    ours = evaluate(dictionary, memory_store(rows=rows))
    theirs = evaluate(dictionary, memory_store(rows=7))
    for name in ("fvu", "l0", "shrinkage", "norm_ratio"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-6)
    assert ours.to_dict()["density"] == theirs.to_dict()["density"]
    assert ours.alive == theirs.alive


def test_without_a_model_nothing_is_said_about_the_loss():
    found = evaluate(at_site(Halves(width=6)), memory_store())
    assert [value for name, value in found.to_dict().items() if name.startswith(("ce_", "perp"))] == [None] * 10
    assert "no model was given" in str(found)


def test_the_entry_is_the_one_of_the_report():
    store = memory_store()
    sae = at_site(random_linear(6, 24), name="mine", seed=3, l1=0.5, path="saes/0")
    found = evaluate(sae, store, model=store.model)
    entry = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert entry.keys() >= ENTRY
    assert {"value", "low", "high", "n"} <= entry["ce_recovered"].keys()
    assert (entry["name"], entry["seed"], entry["l1"], entry["k"], entry["path"]) == ("mine", 3, 0.5, None, "saes/0")
    assert sum(entry["density"]["counts"]) + entry["density"]["silent"] == 24
    assert all(hasattr(found, name) for name in ENTRY)
    assert "FVU" in str(found)
    assert "mine" in str(found)


def test_positions_that_the_store_leaves_out_are_not_spliced():
    model = BigramModel()
    without, with_bos = memory_store(model, keep_bos=False), memory_store(model)
    silent = random_linear(6, 4, offset=-1e6)
    silent.bias.zero_()
    spared, hit = (evaluate(at_site(silent), store, model=model) for store in (without, with_bos))
    assert spared.ce_clean == hit.ce_clean
    assert spared.ce_zero != hit.ce_zero
    assert spared.ce_spliced == spared.ce_zero


def test_limits_take_a_random_draw_of_contexts_and_a_smaller_one_is_part_of_a_larger_one():
    store = memory_store(contexts=40)
    contexts = store.contexts("test")
    small, large = draw_contexts(contexts, 80, 0), draw_contexts(contexts, 320, 0)
    assert len(small) == 5
    assert set(small) < set(large)
    assert small.max() > 10  # not the first few
    found = evaluate(at_site(Halves(width=6)), store, model=store.model, max_tokens=320, splice_tokens=80)
    assert found.tokens == 320
    assert found.predictions <= 80 - 5
    assert len(draw_contexts(contexts, 1, 0)) == 1
    with pytest.raises(ConfigurationError, match="-1"):
        evaluate(at_site(Halves(width=6)), store, max_tokens=-1)


def test_splits_are_kept_apart():
    store = memory_store()
    dictionary = at_site(random_linear(6, 24))
    by_split = {split: evaluate(dictionary, store, split=split).fvu.value for split in ("train", "validation", "test")}
    assert len(set(by_split.values())) == 3
    assert evaluate(dictionary, store).fvu.value == by_split["test"]


def test_what_does_not_fit_is_refused():
    store = memory_store()
    with pytest.raises(ConfigurationError, match="does not say which site"):
        evaluate(Halves(width=6), store)
    with pytest.raises(ConfigurationError, match=r"reads width 5 .* have width 6"):
        evaluate(at_site(Halves(width=5)), store)
    with pytest.raises(SiteError, match=r"mlp_out\.0"):
        evaluate(Halves(width=6), store, site="mlp_out.0")
    stranger = BigramModel()
    stranger.fingerprint = "model-2"
    with pytest.raises(ArtifactError, match="made with the model"):
        evaluate(at_site(Halves(width=6)), store, model=stranger)


def test_nan_and_constant_activations_are_errors():
    model = BigramModel()
    model.table[4, 1] = torch.nan
    with pytest.raises(NumericalError, match=f"activations at {SITE} hold NaN"):
        evaluate(at_site(Halves(width=6)), memory_store(model))
    model.table[:] = 1
    with pytest.raises(NumericalError, match="all the same"):
        evaluate(at_site(Halves(width=6)), memory_store(model))


def test_a_floor_that_costs_nothing_leaves_the_recovered_loss_undefined():
    model = BigramModel()
    model.head.zero_()
    found = evaluate(at_site(random_linear(6, 8)), memory_store(model), model=model)
    assert math.isnan(found.ce_recovered.value)
    assert found.to_dict()["ce_recovered"] == {"value": None, "low": None, "high": None, "n": 18, "unit": "document"}


def test_k_and_path_come_from_where_the_dictionary_comes_from():
    dictionary = Halves(width=6, provenance=Provenance(site=SITE, k=3, path="pca"))
    found = evaluate(dictionary, memory_store())
    assert (found.name, found.k, found.path) == ("pca", 3, "pca")
    assert np.isclose(found.density.sum(), 6, atol=1e-5)
