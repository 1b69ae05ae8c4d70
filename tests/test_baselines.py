"""The classical methods against numpy, scikit-learn and scipy, and the promises of `fit`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsescope.activations.base import Activations, Block
from sparsescope.dictionaries import (
    ICA,
    NMF,
    PCA,
    Dictionary,
    FitMethod,
    ICADictionary,
    Neurons,
    NMFDictionary,
    PCADictionary,
    Random,
    fit,
    load_dictionary,
    unit_rows,
)
from sparsescope.errors import ArtifactError, ConfigurationError, NumericalError, SiteError

D = 8
SITE = "resid_post.1"
METHODS = [Neurons, Random, PCA, ICA, NMF]
every = pytest.mark.parametrize("method", METHODS, ids=[method.method for method in METHODS])


class MemoryStore(Activations):
    """A store that holds its train split in memory."""

    def __init__(self, x: Tensor, site: str = SITE) -> None:
        self.sites = [site]
        self.config = {"model": "builtin:tiny"}
        self.inputs = {}
        self.seed = 0
        self.fingerprint = f"rows {len(x)} sum {float(x.double().sum())}"
        self._x = x

    def width(self, site: str) -> int:
        self._known_site(site)
        return self._x.shape[1]

    def rows(self, split: str) -> int:
        return len(self._x) if split == "train" else 0

    def mean(self, site: str) -> Tensor:
        return self._x.double().mean(0)

    def mean_square(self, site: str) -> float:
        return float(self._x.double().square().mean())

    def batches(self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps=None, split="train"):
        order = torch.randperm(len(self._x), generator=torch.Generator().manual_seed(seed))
        for step in range(start, start + steps):
            yield self._x[order[torch.arange(step * batch, (step + 1) * batch) % len(order)]]

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        zeros = torch.zeros(len(self._x), dtype=torch.long)
        for x, zero in zip(self._x.split(rows), zeros.split(rows), strict=True):
            yield Block(x, zero, zero, zero)

    def contexts(self, split: str):
        raise AssertionError("fitting does not read tokens")

    def kept(self, split: str):
        raise AssertionError("fitting does not read tokens")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def activations(rows: int = 600, seed: int = 0, offset: float = 3.0) -> Tensor:
    """Non-centred, correlated, non-Gaussian rows."""
    source = torch.empty(rows, D).exponential_(generator=generator(seed)) - 1
    return source @ torch.randn(D, D, generator=generator(99)) + offset * torch.randn(D, generator=generator(98))


def fvu(x: Tensor, reconstructed: Tensor) -> float:
    return float((x - reconstructed).square().sum() / (x - x.mean(0)).square().sum())


# Full forms


def test_pca_equals_numpys_singular_vectors() -> None:
    x = activations()
    pca = fit(x, None, PCA())
    exact = x.double().numpy()
    _, _, vectors = np.linalg.svd(exact - exact.mean(0))
    overlap = np.abs(np.diag(pca.directions.double().numpy() @ vectors.T))
    np.testing.assert_allclose(overlap, 1, atol=1e-6)
    np.testing.assert_allclose(pca.bias.numpy(), exact.mean(0), rtol=1e-6)
    variances = pca.encode(x).var(0)
    assert (variances.diff() <= 0).all()
    torch.testing.assert_close(pca.directions @ pca.directions.T, torch.eye(D), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [PCA(), ICA()], ids=["pca", "ica"])
@pytest.mark.parametrize("offset", [0.0, 3.0, 100.0])
def test_full_rank_reconstructs_non_centred_data(method: FitMethod, offset: float) -> None:
    train, x = activations(800), activations(500, seed=1)
    spread = float(train.std())
    shift = offset * spread * torch.randn(D, generator=generator(5)).sign()
    dictionary = fit(train + shift, None, method)
    x = x + shift
    for rebuilt in (dictionary.reconstruct(x), dictionary.encode(x) @ dictionary.directions + dictionary.bias):
        assert float((rebuilt - x).abs().max()) < 1e-5 * float(x.abs().max()) + 1e-5 * spread
    assert fvu(x, dictionary.reconstruct(x)) < 1e-8


def test_pca_keeps_its_digits_under_an_offset() -> None:
    x = activations(20_000)  # several blocks
    shift = 100 * x.std() * torch.ones(D)
    plain, shifted = fit(x.double(), None, PCA()), fit(x.double() + shift, None, PCA())
    torch.testing.assert_close(shifted.directions, plain.directions, rtol=0, atol=1e-6)
    rounded = fit(x + shift, None, PCA())  # the rows themselves lose digits here
    torch.testing.assert_close(rounded.directions, plain.directions, rtol=0, atol=1e-4)


def test_ica_equals_scikit_learns_own_transform() -> None:
    from sklearn.decomposition import FastICA

    x = activations(2000)
    ica = fit(x, None, ICA(tol=1e-6, max_iter=2000), seed=4)
    assert isinstance(ica, ICADictionary)
    assert ica.converged is True
    exact = x.double().numpy()
    order = torch.randperm(len(x), generator=generator(4)).numpy()
    theirs = FastICA(whiten="unit-variance", whiten_solver="eigh", tol=1e-6, max_iter=2000, random_state=4)
    theirs.fit(exact[order])
    norms = np.linalg.norm(theirs.mixing_, axis=0)
    directions = (theirs.mixing_ / norms).T
    # Which component comes first, and with which sign, means nothing: pair them up.
    cosines = ica.directions.double().numpy() @ directions.T
    partner = np.abs(cosines).argmax(1)
    sign = np.sign(cosines[np.arange(D), partner])
    assert sorted(partner) == list(range(D))
    np.testing.assert_allclose(ica.directions.numpy(), sign[:, None] * directions[partner], atol=1e-4)
    codes = theirs.transform(exact) * norms
    np.testing.assert_allclose(ica.encode(x).numpy(), sign * codes[:, partner], atol=1e-3)
    np.testing.assert_allclose(ica.reconstruct(x).numpy(), theirs.inverse_transform(codes / norms), atol=1e-4)
    assert (ica.encode(x).var(0).diff() <= 0).all()


def test_ica_in_float32_finds_what_it_finds_in_float64() -> None:
    x = activations(4000)
    rough, exact = (fit(x, None, ICA(tol=tol, max_iter=2000)) for tol in (1e-5, 0.9e-5))
    cosines = (rough.directions @ exact.directions.T).abs()
    assert cosines.amax(1).min() > 0.9999
    assert isinstance(rough, ICADictionary)
    unmixed = rough.analysis.double() @ rough.components.double().T
    torch.testing.assert_close(unmixed, torch.eye(D).double(), rtol=0, atol=1e-5)


def test_ica_finds_planted_directions_where_pca_does_not() -> None:
    planted = unit_rows(torch.randn(D, D, generator=generator(6)))[0]
    sparse = torch.randn(8000, D, generator=generator(7)) * (torch.rand(8000, D, generator=generator(8)) < 0.2)
    x = sparse @ planted + 2
    found = [fit(x, None, method).directions @ planted.T for method in (ICA(), PCA())]
    ica, pca = (each.abs().amax(0) for each in found)
    assert ica.min() > 0.99
    assert pca.min() < 0.9


def test_ica_on_data_without_variance_in_some_directions() -> None:
    basis = torch.linalg.qr(torch.randn(D, 5, generator=generator(9))).Q.T
    x = activations(1000)[:, :5] @ basis + 2
    ica = fit(x, None, ICA())
    assert ica.n_latents == 5
    torch.testing.assert_close(ica.reconstruct(x), x, rtol=0, atol=1e-4)
    along_axes = torch.empty(1000, D).exponential_(generator=generator(3)).sub_(1).mul_(torch.arange(1, D + 1))
    centred = along_axes - along_axes.mean(0)
    principal = centred @ torch.linalg.eigh(centred.double().T @ centred.double()).eigenvectors.float()
    torch.testing.assert_close(fit(principal, None, ICA()).reconstruct(principal), principal, rtol=0, atol=1e-4)
    with pytest.raises(ConfigurationError, match="vary in 5 of 8 dimensions, expected at least 8"):
        fit(x, None, ICA(components=8))
    with pytest.raises(ConfigurationError, match="vary in 0 of 8 dimensions"):
        fit(torch.ones(100, D), None, ICA())


def test_a_fit_that_does_not_converge_says_so(tmp_path) -> None:
    x = activations(300)
    for method in (ICA(max_iter=1, tol=1e-12), NMF(max_iter=1)):
        dictionary = fit(x, None, method, out=tmp_path / method.method)
        assert dictionary.settings()["converged"] is False
        manifest = json.loads((tmp_path / method.method / "manifest.json").read_text())
        assert manifest["dictionary"]["settings"]["converged"] is False
    assert fit(x, None, ICA(tol=0.01)).settings()["converged"] is True
    assert fit(x, None, NMF(tol=0.1)).settings()["converged"] is True


def test_neurons_are_the_activations_themselves() -> None:
    x = activations()
    neurons = fit(x, None, Neurons())
    assert torch.equal(neurons.encode(x), x)
    assert torch.equal(neurons.reconstruct(x), x)
    assert torch.equal(neurons.directions, torch.eye(D))


def test_random_directions_reconstruct_x_on_average() -> None:
    x = activations(3)
    for ratio in (1, 2, 8):
        drawn = [fit(x, None, Random(ratio=ratio), seed=seed) for seed in range(500)]
        mean = torch.stack([each.reconstruct(x) for each in drawn]).double().mean(0)
        assert float((mean - x).norm() / x.norm()) < 0.12
        assert drawn[0].n_latents == ratio * D
        codes = 2 / ratio * (x @ drawn[0].directions.T).relu()
        torch.testing.assert_close(drawn[0].encode(x), codes)
    assert fit(x, None, Random(n_latents=5)).n_latents == 5
    assert not torch.equal(drawn[0].directions, drawn[1].directions)


# Non-negative matrix factorisation


def nnls(directions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls as solve

    return np.stack([solve(directions.T, row)[0] for row in rows])


def test_nmf_codes_are_the_non_negative_least_squares() -> None:
    x = activations(400)
    nmf = fit(x, None, NMF(components=6))
    assert (nmf.directions >= 0).all()
    assert torch.equal(nmf.bias, x.amin(0))
    new = activations(200, seed=3)  # also below the shift
    assert (new < nmf.bias).any()
    target = (new.double() - nmf.bias.double()).numpy()
    exact = nmf.directions.double().numpy()
    wanted = nnls(exact, target)
    np.testing.assert_allclose(nmf.encode(new).numpy(), wanted, atol=1e-3 * wanted.max())
    ours = ((nmf.reconstruct(new).double() - new) ** 2).sum(1).numpy()
    best = ((wanted @ exact - target) ** 2).sum(1)
    np.testing.assert_allclose(ours, best, rtol=1e-4, atol=1e-6)


def test_nmf_solver_on_nearly_parallel_directions() -> None:
    base = torch.rand(1, 24, generator=generator(1)) + 1
    directions = unit_rows(base + 0.2 * torch.rand(40, 24, generator=generator(2)))[0]
    x = 10 * torch.rand(100, 24, generator=generator(3)) + 20
    nmf = NMFDictionary(directions=directions, bias=torch.zeros(24))
    exact, target = directions.double().numpy(), x.double().numpy()
    best = ((nnls(exact, target) @ exact - target) ** 2).sum(1)
    ours = ((nmf.encode(x).double().numpy() @ exact - target) ** 2).sum(1)
    np.testing.assert_allclose(ours, best, rtol=1e-3)


def test_nmf_is_as_good_as_scikit_learns_own_codes() -> None:
    from sklearn.decomposition import MiniBatchNMF

    x = activations(2000)
    shifted = (x - x.amin(0)).numpy()
    theirs = MiniBatchNMF(5, init="random", max_iter=50, tol=0.0, max_no_improvement=None, random_state=0).fit(shifted)
    their_error = float(((theirs.transform(shifted) @ theirs.components_ - shifted) ** 2).sum())
    ours = fit(x, None, NMF(components=5))
    assert float((ours.reconstruct(x) - x).square().sum()) < 1.05 * their_error


def test_nmf_top_k_solves_again_on_the_kept_latents() -> None:
    x = activations(150)
    full = fit(x, None, NMF())
    kept = fit(x, None, NMF(k=2))
    exact = full.directions.double().numpy()
    target = (x.double() - full.bias.double()).numpy()
    codes = nnls(exact, target)
    wanted = np.zeros_like(codes)
    for row, (code, shifted) in enumerate(zip(codes, target, strict=True)):
        support = np.argsort(-code)[:2]
        support = support[code[support] > 0]
        wanted[row, support] = nnls(exact[support], shifted[None])[0]
    np.testing.assert_allclose(kept.encode(x).numpy(), wanted, atol=1e-3 * wanted.max())
    plain = full.encode(x) * (full.encode(x) >= full.encode(x).topk(2).values[:, -1:])
    assert fvu(x, kept.reconstruct(x)) < fvu(x, full.decode(plain))


# Top-k forms


@pytest.mark.parametrize("method", [Neurons, PCA, ICA], ids=["neurons", "pca", "ica"])
@pytest.mark.parametrize("k", [1, 3, D])
def test_signed_top_k_forms_keep_the_largest_scores(method: type[FitMethod], k: int) -> None:
    x = activations()
    dictionary = fit(x, None, method(k=k))
    mean = x.double().mean(0).numpy()
    components = dictionary.directions[:D].double().numpy()
    assert torch.equal(dictionary.directions[D:], -dictionary.directions[:D])
    scores = (x.double().numpy() - mean) @ np.linalg.inv(components)
    both = np.concatenate([scores, -scores], axis=1).clip(min=0)
    for row in both:
        row[np.argsort(row)[: 2 * D - k]] = 0
    np.testing.assert_allclose(dictionary.encode(x).numpy(), both, atol=1e-3)
    rebuilt = both @ np.concatenate([components, -components]) + mean
    np.testing.assert_allclose(dictionary.reconstruct(x).numpy(), rebuilt, atol=1e-3)
    assert dictionary.provenance.k == dictionary.settings()["k"] == k
    assert dictionary.method == method.method
    if k == D:
        torch.testing.assert_close(dictionary.reconstruct(x), x, rtol=0, atol=1e-4)


def test_random_top_k_keeps_the_largest_positive_scores() -> None:
    x = activations()
    dictionary = fit(x, None, Random(k=3, ratio=4))
    assert dictionary.n_latents == 4 * D
    scores = ((x - x.mean(0)) @ dictionary.directions.T).relu().numpy()
    for row in scores:
        row[np.argsort(row)[:-3]] = 0
    np.testing.assert_allclose(dictionary.encode(x).numpy(), scores, atol=1e-4)


def test_pca_is_the_best_linear_basis_for_few_components_of_gaussian_data() -> None:
    x = (
        torch.randn(4000, D, generator=generator(0))
        * (2.0 ** -torch.arange(D))
        @ torch.linalg.qr(torch.randn(D, D, generator=generator(1))).Q
    )
    errors = {method: fvu(x, fit(x, None, method(k=2)).reconstruct(x)) for method in (PCA, Neurons, Random)}
    assert errors[PCA] < 0.1 < errors[Neurons] < errors[Random]


@pytest.mark.parametrize("method", [PCA, ICA, NMF], ids=["pca", "ica", "nmf"])
def test_a_top_k_form_made_of_the_full_form_is_the_same(method: type[FitMethod]) -> None:
    x = activations()
    full = fit(x, None, method(), seed=2)
    afresh, derived = fit(x, None, method(k=2), seed=2), fit(x, None, method(k=2), seed=2, full=full)
    assert afresh.provenance == derived.provenance
    assert afresh.settings() == derived.settings()
    assert all(torch.equal(tensor, derived.tensors()[name]) for name, tensor in afresh.tensors().items())
    with pytest.raises(ConfigurationError, match="full was fitted with seed = 2, asked for is 3"):
        fit(x, None, method(k=2), seed=3, full=full)
    with pytest.raises(ConfigurationError, match="full was fitted with activations = "):
        fit(activations(seed=1), None, method(k=2), seed=2, full=full)
    with pytest.raises(ConfigurationError, match="full was fitted with rows = 600, asked for is 500"):
        fit(x, None, method(k=2), seed=2, full=full, rows=500)
    with pytest.raises(ConfigurationError, match="expected a PCA, ICA or NMF without k"):
        fit(x, None, method(), seed=2, full=full)
    with pytest.raises(ConfigurationError, match="expected a PCA, ICA or NMF without k"):
        fit(x, None, Neurons(k=2), full=fit(x, None, Neurons()))


# The function


def same(one: Dictionary, other: Dictionary) -> bool:
    tensors = other.tensors()
    return one.settings() == other.settings() and all(torch.equal(t, tensors[n]) for n, t in one.tensors().items())


@every
@pytest.mark.parametrize("k", [None, 2])
def test_a_store_gives_what_its_rows_give(method: type[FitMethod], k: int | None) -> None:
    x = activations()
    of_store, of_tensor = fit(MemoryStore(x), SITE, method(k=k)), fit(x, None, method(k=k))
    assert same(of_store, of_tensor)
    provenance = of_store.provenance
    assert (provenance.site, provenance.model, provenance.seed, provenance.k) == (SITE, "builtin:tiny", 0, k)
    assert provenance.activations == MemoryStore(x).fingerprint
    assert provenance.name == method(k=k).label()


@every
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generators_alone(method: type[FitMethod]) -> None:
    x = activations()
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = fit(x, None, method(k=2), seed=5), fit(x, None, method(k=2), seed=5)
    assert same(first, second)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    if method in (Random, ICA, NMF):
        assert not same(first, fit(x, None, method(k=2), seed=6))


def test_fewer_rows_are_drawn_at_random() -> None:
    x = torch.cat([activations(300), activations(300, seed=1) + 50])
    for data, site in ((x, None), (MemoryStore(x), SITE)):
        some = fit(data, site, PCA(), rows=100)
        assert isinstance(some, PCADictionary)
        assert some.rows == 100
        middle = float((some.bias - x.mean(0)).abs().max())
        assert 0 < middle < 15  # the first hundred rows alone would be off by 25
        assert torch.equal(fit(data, site, Neurons(k=1), rows=100).bias, some.bias)
    assert torch.equal(fit(x, None, PCA(), rows=600).directions, fit(x, None, PCA()).directions)


@every
def test_out_is_written_and_loaded_and_never_overwritten(method: type[FitMethod], tmp_path) -> None:
    store, out = MemoryStore(activations()), tmp_path / "deep" / "fitted"
    seen: list[tuple[str, int, int]] = []
    fitted = fit(store, SITE, method(k=2), out=out, seed=1, progress=lambda *step: seen.append(step))
    assert same(fitted, load_dictionary(out))
    assert same(fitted, fit(store, SITE, method(k=2), seed=1))
    assert fitted.provenance.path == str(out)
    assert all(0 <= done <= total for _, done, total in seen)
    assert bool(seen) == (method in (PCA, ICA, NMF))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ArtifactError, match="already holds a finished artifact"):
        fit(store, SITE, method(k=2), out=out, seed=1)
    assert same(fit(store, SITE, method(k=2), out=out, seed=1, resume=True), fitted)
    with pytest.raises(ArtifactError, match=r"was made with config.provenance.k = 2, now asked for 3"):
        fit(store, SITE, method(k=3), out=out, seed=1, resume=True)
    with pytest.raises(ArtifactError, match="was made with"):
        fit(MemoryStore(activations(seed=8)), SITE, method(k=2), out=out, seed=1, resume=True)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "dictionary"
    assert manifest["config"]["method"] == method.method
    assert manifest["config"]["settings"] == {**asdict(method(k=2)), "rows": 600}
    assert manifest["inputs"] == {"activations": store.fingerprint}


def test_an_interrupted_fit_leaves_nothing_and_resumes(tmp_path) -> None:
    x, out = activations(), tmp_path / "pca"

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(x, None, PCA(), out=out, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert same(fit(x, None, PCA(), out=out, resume=True), fit(x, None, PCA()))


def test_a_killed_fit_is_taken_up(tmp_path) -> None:
    x, out = activations(), tmp_path / "pca"
    fit(x, None, PCA(), out=out)
    manifest = json.loads((out / "manifest.json").read_text())
    plan = {key: manifest[key] for key in ("kind", "config", "seed", "inputs")}
    for file in out.iterdir():
        file.unlink()
    partial = out.rename(tmp_path / "pca.partial")  # as SIGKILL leaves it: a plan, and a file cut short
    (partial / "plan.json").write_text(json.dumps(plan))
    (partial / "dictionary.safetensors.tmp").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="--resume"):
        fit(x, None, PCA(), out=out)
    assert same(fit(x, None, PCA(), out=out, resume=True), fit(x, None, PCA()))
    assert not partial.exists()


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_activations_are_named(method: type[FitMethod], value: float, tmp_path) -> None:
    x = activations()
    x[417, 3] = value
    with pytest.raises(NumericalError, match=r"activations at resid_post.1 hold .* dimension 3.*Harvest again"):
        fit(MemoryStore(x), SITE, method(k=2), out=tmp_path / "out")
    with pytest.raises(NumericalError, match="NaN or infinite"):
        fit(x, None, method(k=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", [PCA(), ICA(), NMF(), NMF(components=20)], ids=str)
def test_too_few_rows(method: FitMethod) -> None:
    with pytest.raises(ConfigurationError, match=r"7 rows are too few for (8|20) components.*harvest more tokens"):
        fit(activations(7), None, method)
    with pytest.raises(ConfigurationError, match=r"rows = 601, expected 1 to 600, .* at resid_post.1"):
        fit(MemoryStore(activations()), SITE, method, rows=601)


def test_requests_that_cannot_be_met() -> None:
    x = activations()
    for method in (Neurons(k=9), PCA(k=9), ICA(k=9), NMF(k=9), Random(k=17), ICA(k=4, components=3)):
        with pytest.raises(ConfigurationError, match=r"k = \d+, expected at most"):
            fit(x, None, method)
    with pytest.raises(ConfigurationError, match="components = 9, expected at most the width, 8"):
        fit(x, None, ICA(components=9))
    with pytest.raises(ConfigurationError, match=r"site is None, expected the site to fit on: one of resid_post.1"):
        fit(MemoryStore(x), None, PCA())
    with pytest.raises(ConfigurationError, match="a tensor has no sites"):
        fit(x, SITE, PCA())
    with pytest.raises(SiteError, match=r"no site 'resid_post.2'"):
        fit(MemoryStore(x), "resid_post.2", PCA())
    with pytest.raises(ConfigurationError, match="flatten batch and position"):
        fit(x.reshape(2, 300, D), None, PCA())
    with pytest.raises(ConfigurationError, match="expected one of PCA"):
        fit(x, None, PCA)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="do not vary"):
        fit(torch.ones(100, D), None, NMF())


def test_settings_are_checked_when_a_method_is_made() -> None:
    for make in METHODS:
        for k in (0, -3, 2.5, True, "8"):
            with pytest.raises(ConfigurationError, match=r"k = .*expected a whole number, 1 or more"):
                make(k=k)
    for wrong in ({"components": 0}, {"max_iter": 0}, {"tol": 0.0}, {"tol": float("nan")}):
        for make in (ICA, NMF):
            with pytest.raises(ConfigurationError, match="expected a"):
                make(**wrong)
    for wrong in ({"ratio": 0}, {"ratio": -1.0}, {"n_latents": 0}):
        with pytest.raises(ConfigurationError, match="expected a"):
            Random(**wrong)
    assert replace(PCA(), k=4) == PCA(k=4)


def test_labels_tell_methods_apart() -> None:
    made = [PCA(), PCA(k=8), ICA(), ICA(components=5), NMF(k=2, components=5), Random(), Random(k=8, n_latents=40)]
    labels = [method.label() for method in made]
    assert labels == ["pca", "pca-k_8", "ica", "ica-m5", "nmf-k_2-m5", "random-x2", "random-k_8-m40"]
