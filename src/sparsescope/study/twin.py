"""A re-initialised copy of a model: what is as good there says nothing about what the model has learned."""

from typing import Any

from ..models import LanguageModel, load_model, random_model
from ..models.load import BUILTIN


def random_twin(model: LanguageModel, seed: int) -> LanguageModel:
    """A model of the same config, tokenizer, dtype and device, with weights drawn from `seed`.

    The twin of `builtin:tiny` is `builtin:tiny-random`. Where those weights are the model's own (it was drawn from
    `seed` itself) they are drawn from `seed` + 1. The same model and seed give the same twin.

    >>> lm = load_model("builtin:tiny-random", seed=7)
    >>> random_twin(lm, 7).fingerprint == load_model("builtin:tiny-random", seed=8).fingerprint
    True
    """
    drawn = _drawn(model, seed)
    return drawn if drawn.fingerprint != model.fingerprint else _drawn(model, seed + 1)


def _drawn(model: LanguageModel, seed: int) -> LanguageModel:
    dtype = str(model.dtype).removeprefix("torch.")
    if model.name in BUILTIN:
        return load_model("builtin:tiny-random", dtype=dtype, device=model.device, seed=seed)
    config: Any = model.module.config
    # to_dict leaves out how attention is computed, and loading may have chosen it (logits that are capped need it)
    entries = {**config.to_dict(), "attn_implementation": config._attn_implementation}
    name = f"{model.name} with random weights"
    return random_model(entries, name=name, dtype=dtype, device=model.device, seed=seed, tokenizer=model.tokenizer)
