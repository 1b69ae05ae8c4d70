"""What the tests of the live parts share: an untrained model, and dictionaries of random directions for it."""

from functools import cache

import torch

from sparsescope.dictionaries import TopKSAE
from sparsescope.dictionaries.base import Dictionary, unit_rows
from sparsescope.dictionaries.transcoder import TranscoderDictionary
from sparsescope.explorer.live.lab import Loaded
from sparsescope.models import LanguageModel, load_model

LATENTS = 60
TEXT = "She said: print(foo[1], 2)\nand <b>left</b> \U0001f600 \u05e9"


@cache
def model() -> LanguageModel:
    return load_model("builtin:tiny-random")


def sparse(site: str = "resid_post.1", *, seed: int = 1, k: int = 6, into: str | None = None) -> Dictionary:
    """A TopK autoencoder of random directions, far from unit codes; with `into` a transcoder to that site."""
    generator = torch.Generator().manual_seed(seed)
    width = model().width(site)
    encoder, directions = (torch.randn(LATENTS, width, generator=generator) for _ in range(2))
    given = {"encoder_bias": torch.zeros(LATENTS), "directions": unit_rows(directions)[0], "bias": torch.zeros(width)}
    if into is not None:
        made = TranscoderDictionary(encoder=encoder, k=k, **given)
        return made.with_provenance(site=site, output_site=into)
    return TopKSAE(encoder=encoder, k=k, **given).with_provenance(site=site)


@cache
def loaded() -> Loaded:
    """Dictionaries "a" and "b", and one of two sites, "two"."""
    two = sparse("mlp_in.1", into="mlp_out.1", seed=3)
    return Loaded(model(), {"a": sparse(), "b": sparse("resid_post.2", seed=2), "two": two}, "document")
