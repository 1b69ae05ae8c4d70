"""Evaluation of real dictionaries in a real (very small) model, on a store on disk."""

import json
from pathlib import Path

import pytest
import torch
from conftest import SITE

from sparsescope.activations import load_store
from sparsescope.dictionaries import PCA, Neurons, Random, TopKSAE, fit, unit_rows
from sparsescope.errors import ArtifactError, ModelError
from sparsescope.metrics import evaluate, evaluate_all
from sparsescope.metrics.splicing import check_causal
from sparsescope.models import LanguageModel, load_model


def test_what_reconstructs_exactly_loses_nothing_and_what_is_sparse_loses_something(
    small_store: Path, tiny_model_dir: Path
):
    store, model = load_store(small_store), load_model(str(tiny_model_dir))
    methods = [Neurons(), PCA(), PCA(k=4), Random(k=4)]
    dictionaries = [fit(store, SITE, method, seed=0) for method in methods]
    neurons, pca, few, chance = evaluate_all(dictionaries, store, model=model)
    assert neurons.ce_spliced == neurons.ce_clean
    assert neurons.fvu.value == 0
    assert pca.fvu.value < 1e-6
    assert pca.ce_spliced == pytest.approx(pca.ce_clean, abs=1e-4)
    assert 0 < few.fvu.value < chance.fvu.value
    assert few.l0.value == pytest.approx(4, abs=0.5)
    assert (few.method, few.k, few.site) == ("pca", 4, SITE)
    assert neurons.ce_clean == few.ce_clean == evaluate(dictionaries[2], store, model=model).ce_clean
    for found in (neurons, pca, few, chance):
        json.dumps(found.to_dict(), allow_nan=False)


def test_streamed_in_blocks_or_at_once_the_numbers_are_those_of_the_rows(small_store: Path):
    store = load_store(small_store)
    directions = unit_rows(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)))[0]
    zeros = torch.zeros(64)
    sae = TopKSAE(directions=directions, encoder=directions, encoder_bias=zeros, bias=store.mean(SITE).float(), k=5)
    found = evaluate(sae, store, site=SITE)
    blocks = list(store.blocks(SITE, "test"))
    x = torch.cat([block.x for block in blocks]).double()
    error = (x - sae.reconstruct(x.float()).double()).square().sum()
    assert found.fvu.value == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-6)
    assert found.fvu.n == len(torch.cat([block.document for block in blocks]).unique())
    assert found.tokens == store.rows("test")
    assert found.fvu.low < found.fvu.value < found.fvu.high


def test_the_model_of_other_activations_is_refused(small_store: Path, other_model_dir: Path):
    store = load_store(small_store)
    with pytest.raises(ArtifactError, match="give the model they were made with"):
        evaluate(fit(store, SITE, Neurons()), store, model=load_model(str(other_model_dir)))


def test_a_masked_language_model_has_no_next_token_loss():
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    bert = LanguageModel(BertForMaskedLM(BertConfig(**shape)), "bert")
    with pytest.raises(ModelError, match="'bert' sees later tokens"):
        check_causal(bert, torch.randint(0, 50, (1, 24)))
