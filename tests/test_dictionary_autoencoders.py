"""Learned dictionaries against their formulas: in numpy over random weights, and by hand over small ones."""

import doctest
import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsescope.dictionaries import (
    BatchTopKSAE,
    Dictionary,
    GatedSAE,
    JumpReLUSAE,
    MatryoshkaSAE,
    PAnnealSAE,
    TiedSAE,
    TopKSAE,
    TranscoderDictionary,
    UntiedSAE,
    load_dictionary,
    save_dictionary,
    to_dense,
    unit_rows,
)
from sparsescope.errors import ConfigurationError

D, N, OUT, K = 12, 40, 9, 5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = 0.3 + normal(60, D, seed=0)
M = unit_rows(normal(N, D, seed=1))[0]
E, BIAS = normal(N, D, seed=2), 0.3 * normal(D, seed=3)
e, r, gate, magnitude = (0.4 * normal(N, seed=seed) for seed in (4, 5, 6, 7))
THETA = normal(N, seed=8).abs()
W, OUT_BIAS, SKIP = unit_rows(normal(N, OUT, seed=9))[0], normal(OUT, seed=10), normal(OUT, D, seed=11)
FIELDS = {"encoder": E, "encoder_bias": e, "directions": M, "bias": BIAS}
EYE, ZERO = torch.eye(2), torch.zeros(2)
SMALL = {"encoder": EYE, "encoder_bias": ZERO, "directions": EYE, "bias": ZERO}


def keep(table: np.ndarray, k: int) -> np.ndarray:
    """Each row with its k largest entries, if positive, and zeros."""
    kept = np.zeros_like(table)
    for row, out in zip(table, kept, strict=True):
        for place in row.argsort()[::-1][:k]:
            out[place] = max(row[place], 0)
    return kept


def formulas() -> dict[str, tuple[Dictionary, np.ndarray, np.ndarray]]:
    """By name: a dictionary, and what its codes and its reconstruction of X must be."""
    x, m, enc, b, eb = (t.numpy() for t in (X, M, E, BIAS, e))
    centred = (x - b) @ enc.T
    plain, pi = np.maximum(x @ enc.T + eb, 0), centred + eb
    tied = np.maximum(x @ m.T + eb, 0)
    theta, limit = THETA.numpy(), 2.5
    gated = np.where(centred + gate.numpy() > 0, 1.0, 0.0) * np.maximum(
        np.exp(r.numpy()) * centred + magnitude.numpy(), 0
    )
    across = keep(x @ enc.T + eb, K)
    out = across @ W.numpy() + OUT_BIAS.numpy()
    gates = {"gate_bias": gate, "magnitude_scale": r, "magnitude_bias": magnitude}
    to_other = {"encoder": E, "encoder_bias": e, "directions": W, "bias": OUT_BIAS, "k": K}
    found: dict[str, tuple[Dictionary, np.ndarray, np.ndarray | float]] = {
        "tied": (TiedSAE(directions=M, encoder_bias=e), tied, 0.0),
        "tied with a bias": (TiedSAE(directions=M, encoder_bias=e, bias=BIAS), tied, b),
        "untied": (UntiedSAE(**FIELDS), plain, b),
        "p-anneal": (PAnnealSAE(**FIELDS), plain, b),
        "gated": (GatedSAE(encoder=E, directions=M, bias=BIAS, **gates), gated, b),
        "jumprelu": (JumpReLUSAE(**FIELDS, threshold=THETA), np.where(pi > theta, pi, 0), b),
        "topk": (TopKSAE(**FIELDS, k=K), keep(pi, K), b),
        "batchtopk": (BatchTopKSAE(**FIELDS, k=K, threshold=limit), np.where(pi > limit, pi, 0), b),
        "matryoshka": (
            MatryoshkaSAE(**FIELDS, k=K, threshold=limit, widths=(7, N)),
            np.where(pi > limit, pi, 0),
            b,
        ),
    }
    whole = {name: (sae, codes, codes @ m + bias) for name, (sae, codes, bias) in found.items()}
    whole["transcoder"] = (TranscoderDictionary(**to_other), across, out)
    whole["skip transcoder"] = (TranscoderDictionary(**to_other, skip=SKIP), across, out + x @ SKIP.numpy().T)
    return whole


@pytest.mark.parametrize("name", formulas())
def test_codes_and_reconstructions_are_those_of_the_formula(name: str) -> None:
    dictionary, codes, hat = formulas()[name]
    share = (codes != 0).mean()
    assert 0.02 < share < 0.9  # or little would be compared
    torch.testing.assert_close(dictionary.encode(X), torch.from_numpy(codes))
    torch.testing.assert_close(to_dense(*dictionary.encode_sparse(X), N), torch.from_numpy(codes))
    torch.testing.assert_close(dictionary.reconstruct(X), torch.from_numpy(hat))


@pytest.mark.parametrize("name", formulas())
def test_gradients_are_those_of_the_formula(name: str) -> None:
    """d(sum of codes)/dx: the rows of the (scaled) encoder of what is active, and nothing else."""
    dictionary, codes, _ = formulas()[name]
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dictionary.encode(x).sum(), x)
    encoder = M if name.startswith("tied") else E * r.exp()[:, None] if name == "gated" else E
    torch.testing.assert_close(gradient, (torch.from_numpy(codes) > 0).double() @ encoder)


def test_a_centred_tied_autoencoder_has_its_centring_in_the_encoder_bias() -> None:
    b = normal(N, seed=12)
    centred = ((X - BIAS) @ M.T + b).relu()
    sae = TiedSAE(directions=M, encoder_bias=b - M @ BIAS, bias=BIAS)
    torch.testing.assert_close(sae.encode(X), centred)
    torch.testing.assert_close(sae.reconstruct(X), centred @ M + BIAS)


def test_a_batch_topk_of_jumprelu_s_form_is_a_jumprelu() -> None:
    batch = BatchTopKSAE(**FIELDS, k=K, threshold=1.25)
    jump = JumpReLUSAE(**FIELDS, threshold=torch.full((N,), 1.25, dtype=torch.float64))
    assert torch.equal(batch.encode(X), jump.encode(X))
    relu = JumpReLUSAE(**FIELDS, threshold=torch.zeros(N, dtype=torch.float64))
    topk = TopKSAE(**FIELDS, k=N)
    torch.testing.assert_close(relu.encode(X), topk.encode(X))


def test_an_open_gate_with_unit_magnitude_is_an_ordinary_autoencoder() -> None:
    zero = torch.zeros(N, dtype=torch.float64)
    sae = GatedSAE(
        encoder=E, directions=M, bias=BIAS, gate_bias=e, magnitude_scale=zero, magnitude_bias=e
    )  # the same bias on both paths: the gate opens exactly where the magnitude is positive
    centred = UntiedSAE(encoder=E, directions=M, bias=BIAS, encoder_bias=e - E @ BIAS)
    torch.testing.assert_close(sae.encode(X), centred.encode(X))


def test_at_the_threshold_itself_a_latent_is_silent() -> None:
    at = torch.tensor([[0.5, 1.0]])
    jump = JumpReLUSAE(**SMALL, threshold=torch.tensor([0.5, 0.999]))
    assert jump.encode(at).tolist() == [[0.0, 1.0]]
    assert BatchTopKSAE(**SMALL, k=1, threshold=0.5).encode(at).tolist() == [[0.0, 1.0]]
    gate = GatedSAE(
        encoder=EYE, directions=EYE, bias=ZERO, gate_bias=-at[0], magnitude_scale=ZERO, magnitude_bias=ZERO + 1
    )
    assert gate.encode(at + torch.tensor([[0.0, 1.0]])).tolist() == [[0.0, 3.0]]


def test_a_magnitude_below_zero_silences_an_open_gate() -> None:
    sae = GatedSAE(
        encoder=EYE, directions=EYE, bias=ZERO, gate_bias=ZERO, magnitude_scale=ZERO, magnitude_bias=ZERO - 2
    )
    assert sae.encode(torch.tensor([1.0, 5.0])).tolist() == [0.0, 3.0]


@pytest.mark.parametrize("name", formulas())
def test_what_is_not_a_number_is_never_silence(name: str) -> None:
    dictionary, _, _ = formulas()[name]
    x = X[:3].clone()
    x[1, 2] = math.nan
    found = dictionary.reconstruct(x)
    assert found[1].isnan().any()
    assert found[[0, 2]].isfinite().all()


def test_top_k_with_fewer_positive_latents_than_k() -> None:
    sae = TopKSAE(**{**FIELDS, "encoder_bias": e - 3}, k=30)
    indices, values = sae.encode_sparse(X)
    wanted = ((X - BIAS) @ E.T + e - 3).relu()
    assert (values > 0).sum(-1).max() < 30
    torch.testing.assert_close(to_dense(indices, values, N), wanted)


def test_a_transcoder_reads_one_width_and_writes_another() -> None:
    sae = TranscoderDictionary(encoder=E, encoder_bias=e, directions=W, bias=OUT_BIAS, k=K, skip=SKIP)
    assert (sae.d_in, sae.d_out, sae.n_latents) == (D, OUT, N)
    codes = sae.encode(X)
    torch.testing.assert_close(sae.decode(codes), codes @ W + OUT_BIAS)  # without the skip, which is not in the codes
    torch.testing.assert_close(sae.reconstruct(X) - sae.decode(codes), X @ SKIP.T)
    with pytest.raises(ConfigurationError, match="reads activations of width 12"):
        sae.encode(normal(3, OUT, seed=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: JumpReLUSAE(**SMALL, threshold=torch.tensor([0.0, -0.1])),
            r"threshold\[1\] = -0.1, expected 0 or more",
        ),
        (lambda: JumpReLUSAE(**SMALL, threshold=torch.tensor([math.nan, 0])), r"threshold\[0\] = nan, expected 0 or"),
        (lambda: JumpReLUSAE(**SMALL, threshold=torch.zeros(3)), r"threshold has shape \(3,\), expected \(2,\)"),
        (lambda: BatchTopKSAE(**SMALL, k=1, threshold=-0.5), r"BatchTopKSAE: threshold = -0.5, expected a number of 0"),
        (lambda: BatchTopKSAE(**SMALL, k=1, threshold=math.nan), r"threshold = nan, expected a number of 0 or more"),
        (lambda: BatchTopKSAE(**SMALL, k=1, threshold=math.inf), r"threshold = inf, expected a number of 0 or more"),
        (lambda: BatchTopKSAE(**SMALL, k=1, threshold=True), r"threshold = True, expected a number of 0 or more"),
        (
            lambda: MatryoshkaSAE(**SMALL, k=1, threshold="1", widths=(1, 2)),
            r"MatryoshkaSAE: threshold = '1', expected",
        ),
        *(
            (lambda w=w: MatryoshkaSAE(**SMALL, k=1, threshold=0.5, widths=w), r"widths = .*, the last of them 2, all")
            for w in ((), (1,), (2, 1), (1, 1, 2), (0, 2), (1, 2.0), (1, 3), 2, (True, 2))
        ),
        (
            lambda: TranscoderDictionary(**SMALL, k=1, skip=torch.zeros(3, 2)),
            r"skip has shape \(3, 2\), expected \(2, 2\)",
        ),
        (
            lambda: TranscoderDictionary(**{**SMALL, "encoder": torch.zeros(3, 4)}, k=1),
            r"encoder has shape \(3, 4\), expected \(2, 4\)",
        ),
        (lambda: TranscoderDictionary(**{**SMALL, "encoder": ZERO}, k=1), r"encoder must be a matrix"),
        (lambda: TranscoderDictionary(**SMALL, k=3), r"k = 3, expected a whole number from 1 to 2"),
        (lambda: TiedSAE(directions=EYE, encoder_bias=ZERO, bias=torch.zeros(3)), r"bias has shape \(3,\), expected"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_widths_come_back_from_a_file_as_they_were(tmp_path) -> None:
    sae = MatryoshkaSAE(**SMALL, k=1, threshold=0.1 + 0.2, widths=[1, 2])  # a list will do
    again = load_dictionary(save_dictionary(sae, tmp_path / "sae"))
    assert again.settings() == sae.settings() == {"k": 1, "threshold": 0.1 + 0.2, "widths": (1, 2)}


@pytest.mark.parametrize("name", ["sae", "gated", "jumprelu", "topk", "transcoder", "base"])
def test_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(f"sparsescope.dictionaries.{name}")
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
