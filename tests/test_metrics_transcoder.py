"""Evaluation of dictionaries that read one site and reconstruct another: by hand, and inside a real model."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_world import BigramModel, Halves, MemoryStore, following, random_tokens
from torch import Tensor

import sparsescope as ss
from sparsescope.activations.base import Block
from sparsescope.dictionaries import Provenance, TopKSAE, TranscoderDictionary, unit_rows
from sparsescope.errors import ArtifactError, ConfigurationError, NumericalError, SiteError
from sparsescope.metrics import Reconstruction, evaluate, evaluate_all, losses, place_of, splice
from sparsescope.text import SPLITS

IN, OUT = "mlp_in.0", "mlp_out.0"
WIDTH, HIDDEN, D_OUT, TOKENS = 6, 8, 4, 11


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class MLPModel(BigramModel):
    """mlp_in.0 is table[ids]; mlp_out.0 is D^T ReLU(E x + e) + S x + b of it; logits mix it over positions."""

    def __init__(self, *, later: tuple[str, str] = (IN, OUT)) -> None:
        super().__init__()
        self.sites = later
        self.encoder, self.encoder_bias = normal(HIDDEN, WIDTH, seed=1), normal(HIDDEN, seed=2)
        self.directions = unit_rows(normal(HIDDEN, D_OUT, seed=3))[0]
        self.skip, self.out_bias = normal(D_OUT, WIDTH, seed=4), normal(D_OUT, seed=5)
        usual = torch.nn.functional.one_hot(following(torch.arange(TOKENS), TOKENS), TOKENS).float()
        self.head = torch.linalg.pinv(self.mlp(self.table)) @ (4 * usual)

    def mlp(self, x: Tensor) -> Tensor:
        hidden = (x @ self.encoder.T + self.encoder_bias).relu()
        return hidden @ self.directions + x @ self.skip.T + self.out_bias

    def logits(
        self,
        ids: Tensor,
        replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        replace = dict(replace or {})
        x = self.table[ids]
        y = self.mlp(replace.pop(self.sites[0], lambda x: x)(x))
        y = replace.pop(self.sites[1], lambda y: y)(y)
        assert not replace
        steps = torch.arange(1, ids.shape[1] + 1)[:, None]
        return (0.5 * y + 0.5 * y.cumsum(1) / steps) @ self.head


class PairStore(MemoryStore):
    """The activations of both sites of an `MLPModel`."""

    model: MLPModel

    def __init__(self, model: MLPModel | None = None, **settings) -> None:
        tokens = {split: random_tokens(12, seed=seed) for seed, split in enumerate(SPLITS)}
        super().__init__(model or MLPModel(), tokens, **settings)
        self.sites = list(self.model.sites)

    def width(self, site: str) -> int:
        return WIDTH if self._known_site(site) == self.sites[0] else D_OUT

    def mean(self, site: str) -> Tensor:
        return self.at(site, "train").double().mean(0)

    def at(self, site: str, split: str) -> Tensor:
        x = self.all(split)
        return x if self._known_site(site) == self.sites[0] else self.model.mlp(x)

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        y = self.at(site, split)
        for block, part in zip(super().blocks(site, split), y.split(self.block_rows), strict=True):
            yield Block(part, block.document, block.position, block.context)


def copied(model: MLPModel, **more) -> TranscoderDictionary:
    """The model's own MLP as a transcoder."""
    return TranscoderDictionary(
        encoder=model.encoder,
        encoder_bias=model.encoder_bias,
        directions=model.directions,
        bias=model.out_bias,
        k=HIDDEN,
        skip=model.skip,
        provenance=Provenance(site=IN, output_site=OUT, **more),
    )


def approximate(k: int = 3, skip: bool = True, **more) -> TranscoderDictionary:
    """The model's own MLP, disturbed, with fewer latents at a time."""
    own = MLPModel()
    return TranscoderDictionary(
        encoder=own.encoder + 0.2 * normal(HIDDEN, WIDTH, seed=6),
        encoder_bias=own.encoder_bias + 0.3 * normal(HIDDEN, seed=7),
        directions=unit_rows(own.directions + 0.2 * normal(HIDDEN, D_OUT, seed=8))[0],
        bias=own.out_bias + 0.2 * normal(D_OUT, seed=9),
        k=k,
        skip=own.skip + 0.1 * normal(D_OUT, WIDTH, seed=10) if skip else None,
        provenance=Provenance(site=IN, output_site=OUT, **more),
    )


def test_the_model_s_own_mlp_loses_nothing() -> None:
    store = PairStore()
    found = evaluate(copied(store.model), store, model=store.model)
    assert found.fvu.value < 1e-12
    assert found.ce_spliced == pytest.approx(found.ce_clean, abs=1e-5)
    assert found.ce_recovered.value == pytest.approx(1, abs=1e-5)
    hidden = (store.all("test") @ store.model.encoder.T + store.model.encoder_bias).relu()
    assert found.l0.value == pytest.approx(float((hidden > 0).sum(1).double().mean()))
    assert (found.site, found.output_site, found.method, found.k) == (IN, OUT, "transcoder", HIDDEN)


@pytest.mark.parametrize("skip", [True, False])
def test_numbers_agree_with_those_made_from_all_rows_at_once(skip: bool) -> None:
    store, transcoder = PairStore(), approximate(skip=skip)
    found = evaluate(transcoder, store, model=store.model)
    x, y = store.at(IN, "test").double(), store.at(OUT, "test").double()
    hidden = (x @ transcoder.encoder.double().T + transcoder.encoder_bias.double()).relu()
    codes = hidden * (hidden >= hidden.topk(3, dim=1).values[:, -1:])
    hat = codes @ transcoder.directions.double() + transcoder.bias.double()
    if transcoder.skip is not None:
        hat = hat + x @ transcoder.skip.double().T
    error, spread = (y - hat).square().sum(), (y - y.mean(0)).square().sum()
    assert found.fvu.value == pytest.approx(float(error / spread), rel=1e-5)
    assert 0.02 < found.fvu.value < 2
    assert found.shrinkage.value == pytest.approx(float(hat.square().sum() / (hat * y).sum()), rel=1e-5)
    assert found.norm_ratio.value == pytest.approx(float(hat.norm(dim=1).sum() / y.norm(dim=1).sum()), rel=1e-5)
    assert found.l0.value == pytest.approx(float((codes > 0).sum(1).double().mean()))
    assert found.tokens == len(x)


def by_hand(model: MLPModel, change: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Mean nats per counted prediction of the test contexts, `change` making what stands at the output site."""
    tokens = PairStore(model).tokens["test"]
    nats = []
    for ids, document, bos in zip(tokens.ids, tokens.document, tokens.bos, strict=True):
        x = model.table[ids]
        y = change(x, model.mlp(x))
        for t in range(len(ids) - 1):
            if document[t] == document[t + 1] and not bos[t + 1]:
                scores = (0.5 * y[t] + 0.5 * y[: t + 1].mean(0)) @ model.head
                nats.append(float(scores.logsumexp(0) - scores[ids[t + 1]]))
    return float(np.mean(nats))


def test_losses_and_floors_are_those_of_the_output_site() -> None:
    store, transcoder = PairStore(), approximate()
    found = evaluate(transcoder, store, model=store.model)
    mean = store.mean(OUT).float()
    assert found.ce_clean == pytest.approx(by_hand(store.model, lambda x, y: y), rel=1e-5)
    assert found.ce_spliced == pytest.approx(by_hand(store.model, lambda x, y: transcoder.reconstruct(x)), rel=1e-5)
    assert found.ce_zero == pytest.approx(math.log(TOKENS), rel=1e-6)
    assert found.ce_mean == pytest.approx(by_hand(store.model, lambda x, y: mean.expand_as(y)), rel=1e-5)
    assert found.ce_recovered.value == pytest.approx(
        (found.ce_zero - found.ce_spliced) / (found.ce_zero - found.ce_clean), rel=1e-9
    )


def test_the_input_is_that_of_the_same_run() -> None:
    model = MLPModel()
    tokens = PairStore(model).tokens["test"]
    seen: list[Tensor] = []

    def remember(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(*x.shape[:-1], D_OUT)

    losses(model, tokens, {"it": ((IN, OUT), remember)}, batch=5)
    assert torch.equal(torch.cat(seen), model.table[tokens.ids])


def test_positions_that_the_store_leaves_out_are_not_spliced() -> None:
    model = MLPModel()
    store, transcoder = PairStore(model, keep_bos=False), approximate()
    found = evaluate(transcoder, store, model=model)

    def change(x: Tensor, y: Tensor) -> Tensor:
        bos = (x == model.table[0]).all(-1, keepdim=True)
        return torch.where(bos, y, transcoder.reconstruct(x))

    assert found.ce_spliced == pytest.approx(by_hand(model, change), rel=1e-5)
    everywhere = evaluate(transcoder, PairStore(model), model=model)
    assert found.ce_spliced != everywhere.ce_spliced
    assert found.ce_clean == everywhere.ce_clean


@pytest.mark.parametrize("rows", [1, 50, 10_000])
def test_the_blocks_of_the_store_change_nothing(rows: int) -> None:
    ours, theirs = evaluate(approximate(), PairStore(rows=rows)), evaluate(approximate(), PairStore(rows=7))
    for name in ("fvu", "l0", "shrinkage", "norm_ratio"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-6)


def test_transcoders_and_autoencoders_are_measured_side_by_side() -> None:
    store = PairStore()
    sae = Halves(width=D_OUT, factor=0.5, provenance=Provenance(site=OUT, name="sae"))
    first = Halves(width=WIDTH, factor=0.5, provenance=Provenance(site=IN, name="first"))
    all_of_them = [sae, approximate(name="some"), first, copied(store.model, name="own")]
    together = evaluate_all(all_of_them, store, model=store.model, max_tokens=150)
    for dictionary, entry in zip(all_of_them, together, strict=True):
        assert evaluate(dictionary, store, model=store.model, max_tokens=150).to_dict() == entry.to_dict()
    assert together[0].ce_zero == together[1].ce_zero == together[3].ce_zero != together[2].ce_zero
    assert [(e.site, e.output_site) for e in together] == [(OUT, None), (IN, OUT), (IN, None), (IN, OUT)]
    assert "transcoder, 8 latents at mlp_in.0 → mlp_out.0" in str(together[1])
    assert json.loads(json.dumps(together[1].to_dict(), allow_nan=False))["output_site"] == OUT


def test_sites_may_be_given_where_the_dictionary_names_none() -> None:
    store = PairStore()
    bare = approximate().with_provenance(site=None, output_site=None)
    with pytest.raises(ConfigurationError, match=r"which sites it reads and reconstructs: give site=\(input, output\)"):
        evaluate(bare, store)
    with pytest.raises(ConfigurationError, match=r"which sites it reads and reconstructs"):
        evaluate(bare, store, site=IN)
    given, own = evaluate(bare, store, site=(IN, OUT)), evaluate(approximate(), store)
    assert given.fvu == own.fvu
    assert place_of(Halves(width=D_OUT), store, OUT) == (OUT, OUT)


def test_sites_that_do_not_fit_are_refused() -> None:
    store = PairStore()
    elsewhere = approximate().with_provenance(output_site="mlp_out.1")
    with pytest.raises(SiteError, match=r"no site 'mlp_out\.1': they have mlp_in\.0, mlp_out\.0"):
        evaluate(elsewhere, store)
    with pytest.raises(SiteError, match=r"no site 'mlp_in\.1'"):
        evaluate(approximate().with_provenance(site="mlp_in.1"), store)
    with pytest.raises(ConfigurationError, match=r"reads width 6 at mlp_out\.0, where the activations have width 4"):
        evaluate(approximate(name="t").with_provenance(site=OUT, output_site=IN), store)
    square = TopKSAE(
        encoder=torch.eye(4), encoder_bias=torch.zeros(4), directions=torch.eye(4), bias=torch.zeros(4), k=1
    )
    with pytest.raises(ConfigurationError, match=r"reads width 4 at mlp_in\.0, where the activations have width 6"):
        evaluate(square, store, site=(IN, OUT))
    with pytest.raises(ArtifactError, match="made from other activations"):
        evaluate(approximate(activations="f" * 64), store)


def test_an_output_before_the_input_is_refused() -> None:
    backwards = MLPModel(later=(OUT, IN))
    named = approximate(name="mine").with_provenance(site=OUT, output_site=IN)
    with pytest.raises(SiteError, match=r"mine reads mlp_out\.0 and reconstructs mlp_in\.0, but .*expected an input"):
        evaluate(named, PairStore(backwards))
    same = TranscoderDictionary(encoder=torch.eye(4), encoder_bias=torch.zeros(4), directions=torch.eye(4),
                                bias=torch.zeros(4), k=1)  # fmt: skip
    with pytest.raises(SiteError, match=r"reads mlp_out\.0 and reconstructs mlp_out\.0"):
        evaluate(same, PairStore(), site=(OUT, OUT))


def test_the_order_of_modules_is_found_by_running_the_model() -> None:
    class Turned(MLPModel):
        def logits(self, ids, replace=None, attention_mask=None):
            for function in reversed(list((replace or {}).values())):
                function(torch.zeros(*ids.shape, WIDTH))
            return torch.zeros(*ids.shape, TOKENS)

    model = Turned(later=("module:a", "module:b"))
    store = PairStore(model)
    transcoder = approximate(name="mine").with_provenance(site="module:a", output_site="module:b")
    assert evaluate(transcoder, store).fvu.value > 0  # without a model nobody can know
    with pytest.raises(SiteError, match=r"the model does not come to module:a before module:b"):
        evaluate(transcoder, store, model=model)
    with pytest.raises(SiteError, match=r"the model comes to module:b before module:a"):
        losses(model, store.tokens["test"], {"it": (("module:a", "module:b"), splice(transcoder))})


def test_nan_at_either_site_is_an_error() -> None:
    model = MLPModel()
    model.table[4, 1] = torch.nan
    with pytest.raises(NumericalError, match=f"activations at {OUT} hold NaN"):
        evaluate(approximate(), PairStore(model))

    class Broken(PairStore):
        def at(self, site: str, split: str) -> Tensor:
            y = super().at(site, split)
            return torch.where(y > 1, torch.inf, y) if site == IN else y

    with pytest.raises(NumericalError, match="activations hold NaN or infinity"):
        evaluate(approximate(), Broken())


def test_an_infinite_input_that_leaves_every_latent_silent_is_an_error() -> None:
    silent = TranscoderDictionary(
        encoder=torch.ones(2, 3), encoder_bias=torch.zeros(2), directions=torch.eye(2), bias=torch.zeros(2), k=1
    )
    x, y, document = torch.tensor([[-torch.inf, 0, 0]]), torch.ones(1, 2), torch.zeros(1, dtype=torch.long)
    assert torch.equal(silent.reconstruct(x), torch.zeros(1, 2))
    with pytest.raises(NumericalError, match="activations hold NaN or infinity"):
        Reconstruction(silent, torch.zeros(2), documents=1).add(x, document, y)


def test_inside_a_real_model_it_stands_for_the_mlp(
    tiny_model_dir: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ss.load_model(str(tiny_model_dir))
    sites = ["mlp_in.1", "mlp_out.1"]
    store = ss.harvest(
        model, ss.load_text(text_file), sites, tokens=4000, out=tmp_path / "acts", context=32, dtype="float32"
    )
    transcoder = TranscoderDictionary(
        encoder=normal(64, 32, seed=0),
        encoder_bias=normal(64, seed=1),
        directions=unit_rows(normal(64, 32, seed=2))[0],
        bias=0.1 * normal(32, seed=3),
        k=4,
        skip=0.1 * normal(32, 32, seed=4),
        provenance=Provenance(site=sites[0], output_site=sites[1], activations=store.fingerprint),
    )
    found = evaluate(transcoder, store, model=model, splice_tokens=None)
    x, y = (torch.cat([block.x for block in store.blocks(site, "test")]) for site in sites)
    hat = transcoder.reconstruct(x)
    assert found.fvu.value == pytest.approx(ss.metrics.fvu(y, hat), rel=1e-5)
    mlp = model.module.gpt_neox.layers[1].mlp
    torch.testing.assert_close(mlp(x), y)  # aligned rows
    monkeypatch.setattr(mlp, "forward", transcoder.reconstruct)
    replaced = losses(model, store.contexts("test"), {})
    assert found.ce_spliced == pytest.approx(replaced.mean(), rel=1e-6)
    assert found.ce_clean != found.ce_spliced
    monkeypatch.undo()
    path = "module:gpt_neox.layers.1.mlp"
    turned = ss.harvest(model, ss.load_text(text_file), [path, f"{path}:in"], tokens=4000, out=tmp_path / "b")
    backwards = transcoder.with_provenance(site=path, output_site=f"{path}:in", activations=turned.fingerprint)
    with pytest.raises(SiteError, match="expected an input site before the output site"):
        evaluate(backwards, turned, model=model)
