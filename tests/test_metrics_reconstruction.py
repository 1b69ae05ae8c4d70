"""FVU, L0, alive, density and shrinkage against closed forms, numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from metrics_world import Halves, Linear, Skip, random_linear
from sklearn.metrics import r2_score

from sparsescope.dictionaries import TopKSAE, unit_rows
from sparsescope.errors import ConfigurationError, NumericalError
from sparsescope.metrics import Reconstruction, fvu, moments
from sparsescope.metrics.reconstruction import COLUMNS, RATIOS


def data(rows: int = 200, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def measured(dictionary, x, documents=None, block=None):
    documents = torch.zeros(len(x), dtype=torch.long) if documents is None else documents
    sums = Reconstruction(dictionary, x.double().mean(0), int(documents.max()) + 1)
    for begin in range(0, len(x), block or len(x)):
        part = slice(begin, begin + (block or len(x)))
        sums.add(x[part], documents[part])
    return sums


def ratio(sums, name):
    above, below = RATIOS[name]
    return sums.totals[above] / sums.totals[below]


def test_predicting_the_mean_has_fvu_one_and_three_times_the_mean_is_worse():
    x = data()
    mean = x.double().mean(0).expand_as(x)
    assert fvu(x, mean) == pytest.approx(1, abs=1e-12)
    excess = len(x) * float((2 * mean[0]).square().sum()) / float((x - mean).square().sum())
    assert fvu(x, 3 * mean) == pytest.approx(1 + excess)
    assert fvu(x, x) == 0


def test_fvu_is_one_minus_r2():
    x, guess = data(), data(seed=1) * 0.3
    guess = guess + 0.7 * x
    assert fvu(x, guess) == pytest.approx(1 - r2_score(x, guess, multioutput="variance_weighted"), rel=1e-5)
    column = fvu(x[:, :1], guess[:, :1])
    assert column == pytest.approx(1 - r2_score(x[:, 0], guess[:, 0]), rel=1e-5)


def test_fvu_survives_a_large_offset():
    x = data(500).double()
    guess = x + 0.1
    assert fvu((x + 1e4), (guess + 1e4)) == pytest.approx(fvu(x, guess), rel=1e-6)


def test_fvu_refuses_what_has_no_variance_and_shapes_that_differ():
    with pytest.raises(NumericalError, match="undefined"):
        fvu(torch.ones(5, 2), torch.zeros(5, 2))
    with pytest.raises(ConfigurationError, match=r"\(5, 2\)"):
        fvu(torch.ones(5, 2), torch.zeros(5, 1))


def test_neurons_reconstruct_exactly():
    x = data()
    sums = measured(Halves(width=6), x)
    assert ratio(sums, "fvu") == 0
    assert ratio(sums, "l0") == 6
    assert ratio(sums, "shrinkage") == pytest.approx(1, abs=1e-12)


def test_reconstructions_of_half_the_length_have_shrinkage_and_norm_ratio_one_half():
    sums = measured(Halves(width=6, factor=0.5), data())
    assert ratio(sums, "shrinkage") == pytest.approx(0.5)
    assert ratio(sums, "norm_ratio") == pytest.approx(0.5)


def test_a_dictionary_that_says_nothing_pays_for_the_mean_too():
    x = data()
    silent = random_linear(6, 4, offset=-1e6)
    silent = Linear(directions=silent.directions, encoder=silent.encoder, offset=silent.offset, bias=torch.zeros(6))
    sums = measured(silent, x)
    centred = x.double() - x.double().mean(0)
    assert ratio(sums, "fvu") == pytest.approx(float(x.double().square().sum() / centred.square().sum()))
    assert ratio(sums, "l0") == 0
    assert sums.alive == 0


@pytest.mark.parametrize("latents", [12, 400])  # both ways of decoding: many and few of them active
def test_all_sums_agree_with_numpy(latents):
    x, documents = data(), torch.arange(200) // 30
    dictionary = random_linear(6, latents, offset=-0.5 if latents == 12 else -6.0)
    sums = measured(dictionary, x, documents)
    codes = np.maximum(
        x.double().numpy() @ dictionary.encoder.double().numpy().T + dictionary.offset.double().numpy(), 0
    )
    hat = codes @ dictionary.directions.double().numpy() + dictionary.bias.double().numpy()
    true = x.double().numpy()
    table = {
        "tokens": np.ones(200),
        "error": ((true - hat) ** 2).sum(1),
        "variance": ((true - true.mean(0)) ** 2).sum(1),
        "active": (codes > 0).sum(1),
        "hat_square": (hat**2).sum(1),
        "dot": (hat * true).sum(1),
        "hat_norm": np.linalg.norm(hat, axis=1),
        "norm": np.linalg.norm(true, axis=1),
    }
    for column, name in enumerate(COLUMNS):
        expected = np.bincount(documents, weights=table[name])
        np.testing.assert_allclose(sums.columns[:, column], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(sums.density, (codes > 0).mean(0), rtol=1e-6)
    expected_moments = moments(torch.from_numpy(codes))
    np.testing.assert_allclose(sums.moments.kurtosis, expected_moments.kurtosis, rtol=1e-4)
    np.testing.assert_allclose(sums.moments.skew, expected_moments.skew, rtol=1e-4)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_size_of_blocks_changes_nothing(block):
    x, documents = data(), torch.arange(200) // 30
    dictionary = random_linear(6, 24)
    whole, parts = measured(dictionary, x, documents), measured(dictionary, x, documents, block)
    np.testing.assert_allclose(parts.columns, whole.columns, rtol=1e-6)
    assert torch.equal(parts.counts, whole.counts)


def test_topk_reconstructs_what_it_says():
    x = data()
    directions = unit_rows(torch.randn(16, 6, generator=torch.Generator().manual_seed(2)))[0]
    sae = TopKSAE(directions=directions, encoder=directions, encoder_bias=torch.zeros(16), bias=torch.ones(6), k=3)
    sums = measured(sae, x)
    assert ratio(sums, "fvu") == pytest.approx(fvu(x, sae.reconstruct(x)), rel=1e-9)
    assert ratio(sums, "l0") <= 3


def test_a_dictionary_that_adds_to_its_codes_is_asked_for_its_reconstruction():
    sums = measured(Skip(width=6), data())
    assert ratio(sums, "shrinkage") == pytest.approx(2)


def test_alive_means_active_on_more_than_ten_tokens():
    x = torch.zeros(40, 3)
    x[:10, 0] = 1
    x[:11, 1] = 1
    x[:, 2] = torch.arange(40) % 2
    sums = measured(Halves(width=3), x)
    assert sums.counts.tolist() == [10, 11, 20, 0, 0, 0]
    assert sums.alive == 2
    assert sums.density.tolist() == pytest.approx([10 / 40, 11 / 40, 20 / 40, 0, 0, 0])


def test_nan_in_activations_or_codes_is_an_error():
    x = data()
    x[3, 2] = torch.nan
    with pytest.raises(NumericalError, match="activations hold NaN"):
        measured(Halves(width=6), x)
    broken = random_linear(6, 8)
    broken.offset[2] = torch.nan
    with pytest.raises(NumericalError, match="untied_l1 dictionary gave codes"):
        measured(broken, data())
