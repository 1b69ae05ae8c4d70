"""Sparsescope: find the features inside a transformer, and show what each one means and causes.

    import sparsescope as ss

    lm = ss.load_model("builtin:tiny")
    text = ss.load_text("builtin:docs")
    store = ss.harvest(lm, text, sites=["resid_post.2"], tokens=500_000, out="acts")
    saes = ss.train(store, "resid_post.2", [ss.TiedL1(target_l0=16, ratio=4)], tokens=2_000_000, out="saes")
    print(ss.evaluate(saes[0], store, model=lm))

The names below are loaded when first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .activations import harvest, load_store, stream
    from .causal.interventions import Ablate, Add, Clamp, Scale, Set, replacements
    from .dictionaries import ICA, NMF, PCA, Neurons, Random, fit, load_dictionary, save_dictionary
    from .errors import SparsescopeError
    from .explorer.notebook import load_features
    from .metrics.evaluate import evaluate
    from .models import load_model
    from .sites import Site
    from .study import run_study
    from .text import load_text
    from .training import (
        BatchTopK,
        Gated,
        JumpReLU,
        Matryoshka,
        PAnneal,
        TiedL1,
        TopK,
        Transcoder,
        UntiedL1,
        train,
    )

__version__ = "0.1.0"

_HOME = {
    "load_text": "text",
    "load_model": "models",
    "harvest": "activations",
    "stream": "activations",
    "load_store": "activations",
    "train": "training",
    "TiedL1": "training",
    "UntiedL1": "training",
    "PAnneal": "training",
    "Gated": "training",
    "JumpReLU": "training",
    "TopK": "training",
    "BatchTopK": "training",
    "Matryoshka": "training",
    "Transcoder": "training",
    "fit": "dictionaries",
    "PCA": "dictionaries",
    "ICA": "dictionaries",
    "NMF": "dictionaries",
    "Neurons": "dictionaries",
    "Random": "dictionaries",
    "load_dictionary": "dictionaries",
    "save_dictionary": "dictionaries",
    "Ablate": "causal.interventions",
    "Add": "causal.interventions",
    "Clamp": "causal.interventions",
    "Scale": "causal.interventions",
    "Set": "causal.interventions",
    "replacements": "causal.interventions",
    "load_features": "explorer.notebook",
    "evaluate": "metrics",
    "run_study": "study",
    "Site": "sites",
    "SparsescopeError": "errors",
}

__all__ = [
    "ICA",
    "NMF",
    "PCA",
    "Ablate",
    "Add",
    "BatchTopK",
    "Clamp",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "Neurons",
    "PAnneal",
    "Random",
    "Scale",
    "Set",
    "Site",
    "SparsescopeError",
    "TiedL1",
    "TopK",
    "Transcoder",
    "UntiedL1",
    "evaluate",
    "fit",
    "harvest",
    "load_dictionary",
    "load_features",
    "load_model",
    "load_store",
    "load_text",
    "replacements",
    "run_study",
    "save_dictionary",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
