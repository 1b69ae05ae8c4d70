"""What every Dictionary promises, whatever made it. A new class belongs into `CASES`."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsescope.dictionaries import (
    BatchTopKSAE,
    Dictionary,
    GatedSAE,
    ICADictionary,
    JumpReLUSAE,
    MatryoshkaSAE,
    NeuronDictionary,
    NMFDictionary,
    PAnnealSAE,
    PCADictionary,
    Provenance,
    RandomDirections,
    TiedSAE,
    TopKSAE,
    TranscoderDictionary,
    UntiedSAE,
    load_dictionary,
    save_dictionary,
    to_dense,
    to_sparse,
    unit_rows,
)
from sparsescope.dictionaries.files import CLASSES
from sparsescope.errors import ConfigurationError

D, N = 12, 40
D_OUT = 9
"""What the transcoders write, which read width D."""


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def directions(count: int = N, seed: int = 1) -> Tensor:
    return unit_rows(normal(count, D, seed=seed))[0]


MEAN = 0.3 * normal(D, seed=2)
ORTHONORMAL = torch.linalg.qr(normal(D, D, seed=3).double()).Q.T.float().contiguous()
MIXING = directions(D, seed=4)
ANALYSIS = torch.linalg.inv(MIXING.double()).T.float().contiguous()
BIASES = 0.2 * normal(N, seed=5)
WEIGHTS = {"encoder": normal(N, D, seed=6), "encoder_bias": BIASES, "directions": directions(), "bias": MEAN}
GATES = {"gate_bias": BIASES, "magnitude_scale": 0.4 * normal(N, seed=8), "magnitude_bias": 0.5 * normal(N, seed=9)}
THRESHOLDS = normal(N, seed=10).abs()
ACROSS = {
    **WEIGHTS,
    "directions": unit_rows(normal(N, D_OUT, seed=14))[0],
    "bias": 0.3 * normal(D_OUT, seed=15),
}
SKIP = normal(D_OUT, D, seed=16)
NON_NEGATIVE = unit_rows(normal(N, D, seed=7).abs())[0]


def gated() -> GatedSAE:
    return GatedSAE(**{name: tensor for name, tensor in WEIGHTS.items() if name != "encoder_bias"}, **GATES)


CASES: dict[str, Callable[[], Dictionary]] = {
    "tied_l1": lambda: TiedSAE(directions=directions(), encoder_bias=BIASES),
    "tied_l1-bias": lambda: TiedSAE(directions=directions(), encoder_bias=BIASES, bias=MEAN),
    "untied_l1": lambda: UntiedSAE(**WEIGHTS),
    "p_anneal": lambda: PAnnealSAE(**WEIGHTS),
    "gated": gated,
    "jumprelu": lambda: JumpReLUSAE(**WEIGHTS, threshold=THRESHOLDS),
    "topk": lambda: TopKSAE(**WEIGHTS, k=5),
    "batchtopk": lambda: BatchTopKSAE(**WEIGHTS, k=5, threshold=3.5),
    "matryoshka": lambda: MatryoshkaSAE(**WEIGHTS, k=5, threshold=3.5, widths=(5, 10, N)),
    "transcoder": lambda: TranscoderDictionary(**ACROSS, k=5),
    "transcoder-skip": lambda: TranscoderDictionary(**ACROSS, k=5, skip=SKIP),
    "neurons": lambda: NeuronDictionary(bias=torch.zeros(D)),
    "neurons-k": lambda: NeuronDictionary(bias=MEAN, k=3),
    "random": lambda: RandomDirections(directions=directions(), bias=torch.zeros(D)),
    "random-k": lambda: RandomDirections(directions=directions(), bias=MEAN, k=5),
    "pca": lambda: PCADictionary(components=ORTHONORMAL, bias=MEAN, rows=100),
    "pca-k": lambda: PCADictionary(components=ORTHONORMAL, bias=MEAN, k=5, rows=100),
    "pca-truncated-k": lambda: PCADictionary(components=ORTHONORMAL[:7], bias=MEAN, k=5),
    "ica": lambda: ICADictionary(components=MIXING, analysis=ANALYSIS, bias=MEAN, converged=True),
    "ica-k": lambda: ICADictionary(components=MIXING, analysis=ANALYSIS, bias=MEAN, k=5, converged=False),
    "nmf": lambda: NMFDictionary(directions=NON_NEGATIVE[:9], bias=-2 + MEAN, converged=True),
    "nmf-k": lambda: NMFDictionary(directions=NON_NEGATIVE[:9], bias=-2 + MEAN, k=3, converged=True),
}
SIGNED = {"neurons", "pca", "ica"}
K_ON_AVERAGE = {"batchtopk", "matryoshka"}
each = pytest.mark.parametrize("dictionary", [build() for build in CASES.values()], ids=list(CASES))


def activations(rows: int = 50, seed: int = 11) -> Tensor:
    return MEAN + normal(rows, D, seed=seed)


def close(ours: Tensor, wanted: Tensor, dictionary: Dictionary) -> None:
    """Equal to rounding, which a solver that runs in float32 until it has converged multiplies."""
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=5e-5 if dictionary.method == "nmf" else 1e-6)


def test_every_class_is_under_contract() -> None:
    assert {type(build()) for build in CASES.values()} == set(CLASSES.values())
    assert set(CLASSES) == {name.split("-")[0] for name in CASES}


@each
def test_decode_is_codes_times_directions_plus_bias(dictionary: Dictionary) -> None:
    codes = normal(20, dictionary.n_latents, seed=12)
    wanted = codes.double() @ dictionary.directions.double() + dictionary.bias.double()
    torch.testing.assert_close(dictionary.decode(codes).double(), wanted, rtol=1e-5, atol=1e-5)
    expanded = dictionary.bias.expand(20, dictionary.d_out)
    torch.testing.assert_close(dictionary.decode(torch.zeros_like(codes)), expanded)


@each
def test_reconstruct_is_decode_of_encode_and_what_skips_the_codes(dictionary: Dictionary) -> None:
    x = activations()
    skip = dictionary.tensors().get("skip")
    skipped = 0 if skip is None else (x.double() @ skip.double().T).float()
    torch.testing.assert_close(dictionary.reconstruct(x), dictionary.decode(dictionary.encode(x)) + skipped)


@each
def test_sparse_codes_are_the_dense_codes(dictionary: Dictionary) -> None:
    x = activations().reshape(5, 10, D)
    indices, values = dictionary.encode_sparse(x)
    dense = dictionary.encode(x)
    assert indices.dtype == torch.long
    assert torch.equal(to_dense(indices, values, dictionary.n_latents), dense)
    assert ((values != 0).sum(-1) == (dense != 0).sum(-1)).all()
    assert (indices[values == 0] == 0).all()
    torch.testing.assert_close(dictionary.decode_sparse(indices, values), dictionary.decode(dense))
    nothing = dictionary.decode_sparse(indices[..., :0], values[..., :0])
    torch.testing.assert_close(nothing, dictionary.decode(torch.zeros_like(dense)))
    assert torch.equal(to_dense(*to_sparse(dense), dictionary.n_latents), dense)


@each
def test_codes_are_sparse_and_non_negative_where_the_method_says_so(dictionary: Dictionary) -> None:
    codes = dictionary.encode(activations(200))
    k = dictionary.settings().get("k")
    if k is not None and dictionary.method not in K_ON_AVERAGE:
        assert (codes != 0).sum(-1).max() == k
    if k is not None or dictionary.method not in SIGNED:
        assert codes.min() == 0
    else:
        assert codes.min() < 0


@each
def test_same_codes_in_any_batch_and_order(dictionary: Dictionary) -> None:
    x = activations(64)
    whole = dictionary.encode(x)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for parts in (x.split(1), x.split(7), x.split(64)):
        close(torch.cat([dictionary.encode(part) for part in parts]), whole, dictionary)
    close(dictionary.encode(x[order]), whole[order], dictionary)


@each
def test_nothing_is_remembered_between_calls(dictionary: Dictionary) -> None:
    x = activations()
    codes, decoded = dictionary.encode(x), dictionary.reconstruct(x)
    weights = {name: tensor.clone() for name, tensor in dictionary.tensors().items()}
    dictionary.reconstruct(1000 * activations(30, seed=13))
    dictionary.encode_sparse(torch.zeros(3, D))
    assert torch.equal(dictionary.encode(x), codes)
    assert torch.equal(dictionary.decode(codes), dictionary.decode(dictionary.encode(x)))
    assert torch.equal(dictionary.reconstruct(x), decoded)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in dictionary.tensors().items())
    with pytest.raises(FrozenInstanceError):
        dictionary.provenance = Provenance()  # type: ignore[misc]


@each
def test_input_is_left_as_it_was(dictionary: Dictionary) -> None:
    x = activations()
    before = x.clone()
    dictionary.reconstruct(x)
    dictionary.encode_sparse(x)
    assert torch.equal(x, before)


@each
def test_leading_dimensions_are_kept(dictionary: Dictionary) -> None:
    x = activations(24)
    flat = dictionary.encode(x)
    for shape in ((2, 3, 4), (24,), (1, 24)):
        shaped = x.reshape(*shape, D)
        codes = dictionary.encode(shaped)
        assert codes.shape == (*shape, dictionary.n_latents)
        close(codes.reshape(24, -1), flat, dictionary)
        assert dictionary.reconstruct(shaped).shape == (*shape, dictionary.d_out)
        indices, values = dictionary.encode_sparse(shaped)
        assert indices.shape == values.shape
        assert indices.shape[:-1] == shape
    close(dictionary.encode(x[0]), flat[0], dictionary)
    indices, values = dictionary.encode_sparse(x[0])
    torch.testing.assert_close(dictionary.decode_sparse(indices, values), dictionary.decode(flat[0]))


@each
def test_no_rows_at_all(dictionary: Dictionary) -> None:
    empty = torch.zeros(0, D)
    assert dictionary.encode(empty).shape == (0, dictionary.n_latents)
    assert dictionary.reconstruct(empty).shape == (0, dictionary.d_out)
    assert len(dictionary.encode_sparse(empty)[0]) == 0


@each
def test_gradients_equal_finite_differences(dictionary: Dictionary) -> None:
    exact = dictionary.to(torch.float64)
    x = activations(3, seed=17).double().requires_grad_()
    for function in (exact.encode, exact.reconstruct, lambda y: exact.encode_sparse(y)[1]):
        assert torch.autograd.gradcheck(function, (x,), eps=1e-7, atol=1e-5, fast_mode=True)


@each
def test_sizes(dictionary: Dictionary) -> None:
    assert dictionary.directions.shape == (dictionary.n_latents, dictionary.d_out)
    assert dictionary.bias.shape == (dictionary.d_out,)
    assert dictionary.encode(activations(4)).shape == (4, dictionary.n_latents)
    assert (dictionary.d_in, dictionary.d_out) == (D, D_OUT if dictionary.two_sites else D)
    shown = repr(dictionary)
    assert type(dictionary).__name__ in shown
    assert str(dictionary.n_latents) in shown


@each
def test_directions_have_unit_norm(dictionary: Dictionary) -> None:
    norms = dictionary.directions.double().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_dtype(dictionary: Dictionary, dtype: torch.dtype) -> None:
    x = activations()
    moved = dictionary.to(dtype)
    assert moved.dtype == moved.bias.dtype == dtype
    assert moved.encode(x.to(dtype)).dtype == moved.reconstruct(x.to(dtype)).dtype == dtype
    assert moved.provenance == dictionary.provenance
    assert moved.settings() == dictionary.settings()
    if dtype == torch.float64:
        torch.testing.assert_close(moved.reconstruct(x.double()).float(), dictionary.reconstruct(x))
        back = moved.to(torch.float32).tensors()
        assert all(torch.equal(back[name], tensor) for name, tensor in dictionary.tensors().items())
    else:
        moved.to(torch.float32)  # rounding must not make the norms unacceptable


@each
def test_what_is_saved_comes_back_bit_for_bit(dictionary: Dictionary, tmp_path) -> None:
    origin = Provenance(site="resid_post.2", name="a name", seed=3, l1=8.6e-4, k=5, target_l0=16.5, activations="abc")
    if dictionary.two_sites:
        origin = replace(origin, output_site="mlp_out.3")
    known = replace(dictionary, provenance=origin)
    out = save_dictionary(known, tmp_path / "saved")
    again = load_dictionary(out)
    assert type(again) is type(dictionary)
    assert again.provenance == replace(origin, path=str(out))
    assert again.settings() == dictionary.settings()
    assert again.tensors().keys() == dictionary.tensors().keys()
    for name, tensor in dictionary.tensors().items():
        assert again.tensors()[name].dtype == tensor.dtype
        assert torch.equal(again.tensors()[name], tensor)
    x = activations()
    assert torch.equal(again.encode(x), dictionary.encode(x))
    assert torch.equal(again.reconstruct(x), dictionary.reconstruct(x))


@each
def test_saving_twice_gives_equal_bytes(dictionary: Dictionary, tmp_path) -> None:
    first, second = save_dictionary(dictionary, tmp_path / "a"), save_dictionary(dictionary, tmp_path / "b")
    assert {file.name: file.read_bytes() for file in first.iterdir()} == {
        file.name: file.read_bytes() for file in second.iterdir()
    }


@each
def test_provenance_is_kept(dictionary: Dictionary) -> None:
    named = dictionary.with_provenance(name="mine", seed=7)
    assert (named.provenance.name, named.provenance.seed) == ("mine", 7)
    assert named.to(torch.float64).provenance == named.provenance
    assert dictionary.provenance == Provenance()


@each
def test_wrong_input_is_a_clear_error(dictionary: Dictionary) -> None:
    for call in (dictionary.encode, dictionary.encode_sparse, dictionary.reconstruct):
        with pytest.raises(ConfigurationError, match=r"reads activations of width 12, got a tensor of shape \(4, 11\)"):
            call(torch.zeros(4, 11))
        with pytest.raises(ConfigurationError, match=r"is in torch.float32, got activations in torch.float16"):
            call(torch.zeros(4, D, dtype=torch.float16))


@each
def test_wrong_fields_are_a_clear_error(dictionary: Dictionary) -> None:
    for name, tensor in dictionary.tensors().items():
        if tensor.ndim == 1 and type(dictionary) is NeuronDictionary:
            wrong = {name: torch.zeros(2, D)}  # its one vector may have any length
        elif name == "encoder" and dictionary.two_sites:
            wrong = {name: tensor[1:]}  # nothing but the encoder says what it reads
        else:
            wrong = {name: torch.cat([tensor, tensor[:1]], dim=-1) if tensor.ndim == 1 else tensor[:, 1:]}
        with pytest.raises(ConfigurationError):
            replace(dictionary, **wrong)
        with pytest.raises(ConfigurationError, match=r"floating-point|all the same"):
            replace(dictionary, **{name: tensor.to(torch.int64)})
        if len(dictionary.tensors()) > 1:
            with pytest.raises(ConfigurationError, match="give all the same"):
                replace(dictionary, **{name: tensor.double()})
    if "k" in {field.name for field in fields(dictionary)}:
        for k in (0, -1, 10_000, 2.0, True):
            with pytest.raises(ConfigurationError, match=r"k = .*expected a whole number from 1 to"):
                replace(dictionary, k=k)


@each
def test_directions_off_the_unit_sphere_are_refused(dictionary: Dictionary) -> None:
    name = "directions" if "directions" in dictionary.tensors() else "components"
    if name not in dictionary.tensors():
        assert type(dictionary) is NeuronDictionary  # the identity cannot be off
        return
    weights = dictionary.tensors()[name]
    for row in (1.1 * weights[2], 0 * weights[2], torch.nan * weights[2]):
        changed = torch.cat([weights[:2], row[None], weights[3:]])
        with pytest.raises(ConfigurationError, match=rf"row 2 of {name} has norm .*, expected 1"):
            replace(dictionary, **{name: changed})


LEARNED = ("tied_l1", "tied_l1-bias", "untied_l1", "p_anneal", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")


@pytest.mark.parametrize("scale", [0.01, 0.37, 25.0])
@pytest.mark.parametrize("name", LEARNED)
def test_folding_a_scale_equals_scaling_the_data(name: str, scale: float) -> None:
    trained: Any = CASES[name]().to(torch.float64).with_provenance(name="kept")
    folded = trained.scaled(scale)
    x = activations().double() / scale
    torch.testing.assert_close(folded.encode(x), trained.encode(x * scale) / scale)
    torch.testing.assert_close(folded.reconstruct(x), trained.reconstruct(x * scale) / scale)
    assert torch.equal(folded.directions, trained.directions)
    assert folded.provenance == trained.provenance
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match=r"scale = .*expected a positive number"):
            trained.scaled(wrong)


@pytest.mark.parametrize(("inner", "outer"), [(0.01, 0.37), (25.0, 25.0), (3.0, 0.2)])
@pytest.mark.parametrize("name", ["transcoder", "transcoder-skip"])
def test_folding_the_scales_of_both_sites_equals_scaling_the_data(name: str, inner: float, outer: float) -> None:
    trained: Any = CASES[name]().to(torch.float64).with_provenance(name="kept")
    folded = trained.scaled(inner, outer)
    x = activations().double() / inner
    torch.testing.assert_close(folded.encode(x), trained.encode(x * inner) / outer)
    torch.testing.assert_close(folded.reconstruct(x), trained.reconstruct(x * inner) / outer)
    assert torch.equal(folded.directions, trained.directions)
    assert (folded.k, folded.provenance) == (trained.k, trained.provenance)
    with pytest.raises(ConfigurationError, match=r"input_scale = 0.0, expected a positive number"):
        trained.scaled(0.0, outer)
    with pytest.raises(ConfigurationError, match=r"output_scale = nan, expected a positive number"):
        trained.scaled(inner, float("nan"))
