"""How fast activations come out of a model of Pythia-70M's shape, beside other ways of getting them.

Weights are random: speed does not depend on them. All contenders give the residual stream after block 2
of 6 for the same number of tokens per batch:

    bare forward                   the first three blocks and nothing else: the floor
    sparsescope read               the same through `LanguageModel.read`
    sparsescope harvest            from a text file to a checked store on disk, tokenizing included
    transformers hidden states     the whole model with `output_hidden_states=True`
    TransformerLens stop_at_layer  `run_with_cache(..., stop_at_layer=3)`, what SAELens does
"""

import json
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..activations import harvest
from ..models import LanguageModel, load_model, random_model
from ..text import Text, load_text
from .timing import Rate, interleaved

PYTHIA_70M: dict[str, Any] = {
    "model_type": "gpt_neox",
    "vocab_size": 50304,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "rotary_pct": 0.25,
    "max_position_embeddings": 2048,
    "use_parallel_residual": True,
}
LAYER = 2
SITE = f"resid_post.{LAYER}"
BATCHES = {128: 32, 1024: 4}
"""Contexts per batch, by context length: 4,096 tokens per batch."""
_BARE, _READ, _HARVEST = "bare forward", "sparsescope read", "sparsescope harvest"
_STATES, _LENS = "transformers hidden states", "TransformerLens stop_at_layer"

Progress = Callable[[str, int, int], None]


def measure_harvest(
    *,
    contexts: tuple[int, ...] = (128, 1024),
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    rounds: int = 5,
    tokens: int = 49_152,
    tokenizer_of: str = "builtin:tiny",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokens per second of every contender, in every dtype, at every context length.

    `tokens` are harvested per sample; the slow contenders get a third of them. `tokenizer_of` names the model
    whose tokenizer is used. Returns JSON: `rows` with one entry per contender (`tokens_per_second` is None
    and `note` says why where a library is not installed), and `targets` with the ratios asked for.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="sparsescope-bench-") as folder:
        text = _text_file(Path(folder) / "text.jsonl", tokens)
        tokenizer = load_model(tokenizer_of).tokenizer
        for context in contexts:
            contenders: dict[tuple[str, str], Callable[[], int]] = {}
            for dtype in dtypes:
                contenders.update(_contenders(dtype, context, tokens, text, tokenizer, Path(folder)))
            rates = interleaved(
                {f"{name} {dtype}": work for (name, dtype), work in contenders.items()}, rounds, progress
            )
            for name, dtype in contenders:
                rows.append(_row(name, dtype, context, rates[f"{name} {dtype}"], rates[f"{_BARE} {dtype}"]))
            if not any(name == _LENS for name, _ in contenders):
                note = "transformer-lens is not installed: pip install 'sparsescope[bench]'"
                row = {"name": _LENS, "dtype": "float32", "context": context}
                rows.append({**row, "tokens_per_second": None, "note": note})
    settings = {"config": PYTHIA_70M, "site": SITE, "tokens": tokens, "rounds": rounds, "batches": BATCHES}
    return {"settings": settings, "machine": _machine(), "rows": rows, "targets": _targets(rows)}


def _contenders(
    dtype: str, context: int, tokens: int, text: Text, tokenizer: Any, folder: Path
) -> dict[tuple[str, str], Callable[[], int]]:
    """Each contender by (name, dtype): a function that does the work once and returns its tokens."""
    lm = random_model(PYTHIA_70M, name="pythia-70m-shape", dtype=dtype, tokenizer=tokenizer)
    whole: Any = lm.module
    cut: Any = random_model({**PYTHIA_70M, "num_hidden_layers": LAYER + 1}, dtype=dtype).module
    cut.gpt_neox.final_layer_norm = torch.nn.Identity()
    batch = BATCHES.get(context, max(1, 4096 // context))
    ids = torch.randint(0, lm.vocabulary, (batch, context), generator=torch.Generator().manual_seed(0))
    many, few = max(1, tokens // ids.numel()), max(1, tokens // ids.numel() // 3)
    contenders = {
        _BARE: _repeated(many, ids, lambda: cut.gpt_neox(ids).last_hidden_state),
        _READ: _repeated(many, ids, lambda: lm.read(ids, [SITE])[SITE]),
        _HARVEST: lambda: _harvested(lm, text, tokens, context, batch, dtype, folder),
        _STATES: _repeated(few, ids, lambda: whole(ids, output_hidden_states=True).hidden_states[LAYER + 1]),
    }
    lens = _transformer_lens(dtype, lm.tokenizer)
    if lens is not None:
        contenders[_LENS] = _repeated(few, ids, lambda: lens(ids))
    return {(name, dtype): work for name, work in contenders.items()}


def _repeated(times: int, ids: Tensor, work: Callable[[], Tensor]) -> Callable[[], int]:
    def run() -> int:
        with torch.no_grad():
            for _ in range(times):
                work()
        return times * ids.numel()

    return run


def _harvested(lm: LanguageModel, text: Text, tokens: int, context: int, batch: int, dtype: str, folder: Path) -> int:
    """One harvest, written to disk and counted by the rows that are in the store."""
    out = folder / "activations"
    stored = "float16" if dtype == "float32" else dtype
    store = harvest(lm, text, [SITE], tokens=tokens, out=out, context=context, batch=batch, dtype=stored)
    rows = sum(store.rows(split) for split in ("train", "validation", "test"))
    shutil.rmtree(out)
    return rows


def _transformer_lens(dtype: str, tokenizer: Any) -> Callable[[Tensor], Tensor] | None:
    """`run_with_cache` of whichever TransformerLens is installed, or None where none is.

    Up to version 3 that is a `HookedTransformer` of this shape, an implementation of its own; from version 4
    it is a bridge around the transformers model, which switches that model to eager attention.
    """
    if find_spec("transformer_lens") is None:
        return None
    library = import_module("transformer_lens")
    old = "HookedTransformer" in dir(library)
    model = _hooked_transformer(library, dtype) if old else _bridge(dtype, tokenizer)
    name = f"blocks.{LAYER}.hook_resid_post"
    return lambda ids: model.run_with_cache(ids, stop_at_layer=LAYER + 1, names_filter=name)[1][name]


def _hooked_transformer(transformer_lens: Any, dtype: str) -> Any:
    width, heads = PYTHIA_70M["hidden_size"], PYTHIA_70M["num_attention_heads"]
    config = transformer_lens.HookedTransformerConfig(
        n_layers=PYTHIA_70M["num_hidden_layers"],
        d_model=width,
        n_heads=heads,
        d_head=width // heads,
        d_mlp=PYTHIA_70M["intermediate_size"],
        d_vocab=PYTHIA_70M["vocab_size"],
        n_ctx=PYTHIA_70M["max_position_embeddings"],
        act_fn="gelu",
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=int(width // heads * PYTHIA_70M["rotary_pct"]),
        parallel_attn_mlp=True,
        original_architecture="GPTNeoXForCausalLM",
        device="cpu",
        dtype=getattr(torch, dtype),
        seed=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return transformer_lens.HookedTransformer(config)


def _bridge(dtype: str, tokenizer: Any) -> Any:
    bridge = import_module("transformer_lens.model_bridge").TransformerBridge
    module: Any = random_model(PYTHIA_70M, dtype=dtype).module
    with tempfile.TemporaryDirectory() as folder:
        module.config.save_pretrained(folder)
        return bridge.boot_transformers(
            folder, hf_model=module, tokenizer=tokenizer, device="cpu", dtype=getattr(torch, dtype)
        )


def _text_file(path: Path, tokens: int) -> Text:
    """Enough of the builtin stories, as a file: generating them is not what is measured."""
    enough, characters = 12 * tokens, 0
    with open(path, "w", encoding="utf-8") as file:
        for document in load_text("builtin:stories"):
            file.write(json.dumps({"text": document.text}) + "\n")
            characters += len(document.text)
            if characters > enough:
                break
    return load_text(path)


def _row(name: str, dtype: str, context: int, rate: Rate, floor: Rate) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": dtype,
        "context": context,
        "tokens_per_second": rate.describe(),
        "ratio_to_bare": rate.median / floor.median,
    }


def _targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratios asked for, with what was measured: None where the other library is not installed."""
    rates = {
        (row["name"], row["dtype"], row["context"]): row["tokens_per_second"]["median"]
        for row in rows
        if row["tokens_per_second"]
    }
    targets = []
    for name, dtype, context in rates:
        if name != _HARVEST:
            continue
        bases = [(_BARE, dtype, 0.9)] + ([(_LENS, "float32", 2.5)] if dtype == "bfloat16" else [])
        for other, base_dtype, target in bases:
            base = rates.get((other, base_dtype, context))
            ratio = rates[name, dtype, context] / base if base else None
            label = f"{name} {dtype} / {other} {base_dtype}, context {context}"
            met = None if ratio is None else ratio >= target
            targets.append({"ratio": label, "target": target, "measured": ratio, "met": met})
    return targets


def _machine() -> dict[str, Any]:
    """Versions, threads, and GFLOP/s of a matrix product by dtype: bfloat16 is not faster on every processor."""
    found: dict[str, Any] = {"python": platform.python_version(), "threads": torch.get_num_threads()}
    for package in ("torch", "transformers", "transformer-lens"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    products = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, w = torch.randn(1024, 512).to(dtype), torch.randn(1024, 512).to(dtype)
        products[str(dtype).removeprefix("torch.")] = _product(x, w)
    rates = interleaved(products, rounds=5)
    found["matmul_gflops"] = {name: rate.median for name, rate in rates.items()}
    return found


def _product(x: Tensor, w: Tensor) -> Callable[[], float]:
    """`x @ w.T`, returning the billions of floating-point operations that takes."""

    def run() -> float:
        torch.nn.functional.linear(x, w)
        return 2e-9 * x.shape[0] * x.shape[1] * w.shape[0]

    return run
