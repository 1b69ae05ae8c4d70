"""Effects of many latents at once, against interventions made one by one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from case_world import Lived, dictionary
from tiny_models import WIDTH, make

import sparsescope as ss
from sparsescope.causal import latent_effects as effects_module
from sparsescope.causal.cases.windows import Windows, windows_at
from sparsescope.causal.interventions import replacements
from sparsescope.causal.latent_effects import LatentEffect, latent_effects
from sparsescope.causal.strongest_places import strongest_places
from sparsescope.dictionaries.base import Dictionary, unit_rows
from sparsescope.dictionaries.transcoder import TranscoderDictionary
from sparsescope.errors import ConfigurationError
from sparsescope.features.fragments import cut
from sparsescope.features.gathering import Gathered, gather
from sparsescope.metrics.statistics import ratio_of_sums
from sparsescope.models import LanguageModel

LENGTH, CONTEXTS = 8, 4


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(make("llama").double(), "tiny")


@pytest.fixture(scope="module")
def store(model: LanguageModel) -> Lived:
    lived = Lived(model)
    read = model.read(lived.contexts("test").ids, ["mlp_in.1"])["mlp_in.1"]
    lived.sites = [*lived.sites, "mlp_in.1"]
    lived.values = {**lived.values, "mlp_in.1": read[lived.kept("test")]}
    return lived


def sae() -> Dictionary:
    """Of its latents one is never active; the first fires hardly anywhere."""
    made = dictionary("resid_post.1").to(torch.float64)
    bias = made.encoder_bias.clone()
    bias[3], bias[0] = -1e3, -2.0
    return replace(made, encoder_bias=bias)


def transcoder() -> Dictionary:
    first, second = (unit_rows(torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(s)))[0] for s in (5, 6))
    made = TranscoderDictionary(
        encoder=first, encoder_bias=torch.zeros(20), directions=second, bias=torch.ones(WIDTH), k=3
    )
    return made.to(torch.float64).with_provenance(site="mlp_in.1", output_site="mlp_out.1", name="swap")


def gathered(made: Dictionary, store: Lived) -> Gathered:
    fragments = cut(store, "test", length=12, shortest=4)
    return gather(made, store, split="test", fragments=fragments, top=9, active=2, random=0)


def one_by_one(
    model: LanguageModel, made: Dictionary, store: Lived, found: Gathered, latent: int
) -> LatentEffect | None:
    """The same by hooks: a window, a latent and a pass at a time; places looked for in all codes."""
    site, kept = str(made.provenance.site), store.kept("test")
    codes = torch.zeros(*kept.shape, dtype=torch.float64)
    codes[kept] = made.encode(store.values[site])[:, latent].relu()
    strongest = []
    for number, (context, start, length) in enumerate(
        zip(found.fragments.context, found.fragments.start, found.fragments.length, strict=True)
    ):
        part = codes[context, start : start + length].numpy()
        strongest.append((-float(part.max()), number, int(context), int(start + part.argmax())))
    places: list[tuple[float, int, int]] = []
    documents, texts = set[int](), set[tuple[int, ...]]()
    for code, number, context, position in sorted(strongest)[:9]:
        document = int(found.fragments.document[number])
        inside = store.contexts("test").document[context, : position + 1] == document
        text = tuple(store.contexts("test").ids[context, : position + 1][inside].tolist()[-LENGTH:])
        if code < 0 and document not in documents and text not in texts and len(places) < CONTEXTS:
            places.append((-code, context, position))
        documents.add(document)
        texts.add(text)
    kls, controls, gains = [], [], []
    chance = np.random.default_rng([0, latent, 0xC0]).random(len(places))
    for (code, context, position), luck in zip(places, chance, strict=True):
        window = windows_at(store.contexts("test"), kept, np.array([context]), np.array([position]), LENGTH)
        here = made.encode(model.read(window.ids, [site])[site])[0, -1]
        if here[latent] < code / 2 or not window.changeable[0, -1]:
            continue
        others = [int(each) for each in here.nonzero()[:, 0] if each != latent]
        clean = model.logits(window.ids)[0, -1].log_softmax(-1)

        def without(number: int, window: Windows = window) -> torch.Tensor:
            cut_out = ss.Ablate(made, number, positions=window.changeable)
            return model.logits(window.ids, replacements(model, [cut_out]))[0, -1].log_softmax(-1)

        gone = without(latent)
        kls.append(float((clean.exp() * (clean - gone)).sum()))
        gains.append(clean.exp() - gone.exp())
        if others:
            gone = without(others[int(luck * len(others))])
            controls.append(float((clean.exp() * (clean - gone)).sum()))
    if not kls:
        return None
    gain = torch.stack(gains).mean(0)
    ranked = sorted(((float(value), t) for t, value in enumerate(gain)), reverse=True)
    kl, control = (ratio_of_sums(np.array(v), np.ones(len(v))) if v else None for v in (kls, controls))
    assert kl is not None
    raised = [(t, value) for value, t in ranked if value > 0][:5]
    lowered = [(t, value) for value, t in ranked[::-1] if value < 0][:5]
    return LatentEffect(kl, control, len(kls), raised, lowered)


@pytest.mark.parametrize("make_dictionary", [sae, transcoder])
def test_effects_equal_those_of_interventions_one_by_one(
    model: LanguageModel, store: Lived, make_dictionary: Callable[[], Dictionary], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_dictionary()
    found = gathered(made, store)

    def measured() -> list[LatentEffect | None]:
        kept = store.kept("test")
        return latent_effects(model, made, found, kept, contexts=CONTEXTS, length=LENGTH, wanted=5)

    whole = measured()
    expected = [one_by_one(model, made, store, found, latent) for latent in range(made.n_latents)]
    monkeypatch.setattr(effects_module, "_CELLS", 900)  # batches of a few windows, groups of a few latents
    for each in (whole, measured()):
        same(each, expected)
    counts = {effect.contexts for effect in expected if effect is not None}
    assert CONTEXTS in counts
    assert make_dictionary is transcoder or (None in expected and len(counts) > 1)


def same(found: list[LatentEffect | None], expected: list[LatentEffect | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert one.contexts == other.contexts
        for key in ("kl", "control"):
            mine, theirs = getattr(one, key), getattr(other, key)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert (mine.n, mine.unit) == (theirs.n, "document")
                assert [mine.value, mine.low, mine.high] == pytest.approx(
                    [theirs.value, theirs.low, theirs.high], rel=1e-6, abs=1e-12
                )
        for key in ("raised", "lowered"):
            (mine, theirs) = (dict(getattr(each, key)) for each in (one, other))
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-7)


def test_places_are_of_different_documents_and_draws_are_a_latents_own(store: Lived) -> None:
    made = sae()
    found = gathered(made, store)
    places = strongest_places(found, 3)
    document = store.contexts("test").document.numpy()[places.context, places.position]
    for owner in np.unique(places.owner):
        assert len(set(document[places.owner == owner])) == (places.owner == owner).sum() <= 3
    some = gather(made, store, split="test", latents=[7, 2], fragments=found.fragments, top=9, active=2, random=0)
    alone = strongest_places(some, 3)
    for place, latent in enumerate((7, 2)):
        for column in ("context", "position", "code", "chance"):
            mine, all_of_them = (getattr(each, column) for each in (alone, places))
            assert np.array_equal(mine[alone.owner == place], all_of_them[places.owner == latent])


def test_the_same_text_is_taken_once(store: Lived) -> None:
    found = gathered(sae(), store)
    tokens = replace(store.contexts("test"), ids=torch.ones_like(store.contexts("test").ids))
    found = replace(found, fragments=replace(found.fragments, tokens=tokens))  # one token everywhere
    places = strongest_places(found, 9, length=4)
    document = tokens.document.numpy()
    before = [
        min(4, int((document[context, : position + 1] == document[context, position]).sum()))
        for context, position in zip(places.context, places.position, strict=True)
    ]
    told = list(zip(places.owner.tolist(), before, strict=True))
    assert len(set(told)) == len(told) > 0


def test_a_dictionary_of_another_model_is_refused(model: LanguageModel, store: Lived) -> None:
    made = sae()
    found = gathered(made, store)
    with pytest.raises(ConfigurationError, match="made for the model other"):
        latent_effects(model, made.with_provenance(model="other"), found, store.kept("test"))
