"""Histograms of codes, against numpy over raw codes."""

import numpy as np
import pytest
import torch
from feature_world import SITE, Memory

from sparsescope.dictionaries import NeuronDictionary, TopKSAE
from sparsescope.dictionaries.base import Dictionary
from sparsescope.features.fragments import cut
from sparsescope.features.gathering import gather
from sparsescope.features.histograms import bin_of, code_histograms
from sparsescope.features.memory import CodeMemory


def topk() -> TopKSAE:
    encoder = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    bias = torch.zeros(20)
    bias[3] = -1e3  # never active
    return TopKSAE(
        encoder=encoder,
        encoder_bias=bias,
        directions=encoder / encoder.norm(dim=1, keepdim=True),
        bias=torch.zeros(8),
        k=4,
    ).with_provenance(site=SITE)


@pytest.mark.parametrize("dictionary", [topk(), NeuronDictionary(bias=torch.zeros(8)).with_provenance(site=SITE)])
def test_counts_are_those_of_numpy_over_raw_codes(dictionary: Dictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsescope.features.coding._MOST_ROWS", 300)
    store, memory = Memory(), CodeMemory()
    fragments = cut(store, "test")
    found = gather(dictionary, store, split="test", fragments=fragments, memory=memory)
    made = code_histograms(dictionary, store, fragments, found.latents, found.maximum, memory=memory)
    codes = dictionary.encode(store.x).numpy()
    assert made.shape == (dictionary.n_latents, 30)
    for latent, counts in enumerate(made):
        active = codes[codes[:, latent] > 0, latent].astype(np.float64)
        assert counts.sum() == round(found.density[latent] * found.tokens) == len(active)
        if len(active):
            assert np.array_equal(counts, np.histogram(active, bins=30, range=(0, float(found.maximum[latent])))[0])


def test_codes_on_an_edge_are_in_the_bin_above() -> None:
    maximum = np.float64(0.7)
    edges = np.linspace(0, maximum, 31)
    around = np.concatenate([edges[1:], np.nextafter(edges[1:], 0), np.nextafter(edges[1:-1], 1)])
    expected = [np.histogram([code], bins=30, range=(0, maximum))[0].argmax() for code in around]
    assert bin_of(around, np.full(len(around), maximum)).tolist() == expected
