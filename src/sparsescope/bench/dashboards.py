"""SAEDashboard on the same autoencoder, tokens and latents, in an interpreter of its own.

Its pins exclude the versions of transformers that sparsescope runs on, so it cannot live beside it.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ..artifact import write_json, write_tensors
from ..dictionaries.base import Dictionary
from ..models import LanguageModel
from ..sites import Site
from ..text import Tokens
from .processes import QUIET, TAIL

NAME = "SAEDashboard"
INSTALL = "make an environment for it (pip install sae-dashboard) and give its interpreter with --peer-python"
WORKER = Path(__file__).with_name("dashboard_worker.py")
LONGEST = 3600.0
"""Seconds after which it is given up."""


def measure_dashboard(
    python: str | None,
    lm: LanguageModel,
    sae: Dictionary,
    contexts: Tokens,
    chosen: Int64[np.ndarray, " context"],
    latents: Int64[np.ndarray, " latent"],
    site: str,
    folder: Path,
) -> dict[str, Any]:
    """Seconds and bytes of SAEDashboard for some `latents` on the contexts `chosen`; a note where it cannot run.

    It reads tokens and runs the model itself, which is part of its seconds. `difference` in the answer
    says how far its activations are from ours, relative to the largest: both run the same weights.
    """
    empty = {"name": NAME, "seconds": None, "bytes_per_latent": None}
    if python is None:
        return {**empty, "note": f"not measured: {INSTALL}"}
    layer = Site.parse(site).layer
    ids = contexts.ids[torch.from_numpy(chosen)]
    module: Any = lm.module
    folder.mkdir()
    write_tensors(folder / "model.safetensors", {n: t.contiguous() for n, t in module.state_dict().items()})
    write_tensors(folder / "sae.safetensors", sae.tensors())
    first = lm.read(ids[:1], [site])[site][0].float().contiguous()
    write_tensors(folder / "contexts.safetensors", {"ids": ids.contiguous(), "first": first})
    tokenizer: Any = lm.tokenizer
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "request.json", {**_request(module.config, tokenizer, sae, latents), "layer": layer})
    done = subprocess.run(
        [python, str(WORKER)],
        input=f"{folder}\n",
        capture_output=True,
        text=True,
        env={**os.environ, **QUIET},
        timeout=LONGEST,
    )
    if done.returncode:
        return {**empty, "note": f"it failed: {done.stderr.strip()[-TAIL:]}"}
    return {"name": NAME, "n_latents": len(latents), "tokens": ids.numel(), **json.loads(done.stdout), "note": ""}


def _request(config: Any, tokenizer: Any, sae: Dictionary, latents: Int64[np.ndarray, " latent"]) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
    shape = {name: getattr(config, name) for name in (*names, "max_position_embeddings")}
    special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token")}
    return {
        "config": {**shape, "rotary_pct": config.rope_parameters["partial_rotary_factor"]},
        "special_tokens": {name: token for name, token in special.items() if token is not None},
        "k": sae.settings()["k"],
        "latents": latents.tolist(),
        "minibatch": 256,
        "threads": torch.get_num_threads(),
    }
