"""SAEDashboard on contexts that `dashboards` prepared. Run by path, in an interpreter that need not have sparsescope.

    echo FOLDER | python dashboard_worker.py

reads FOLDER/request.json, model.safetensors, sae.safetensors and contexts.safetensors, writes the page to
FOLDER/dashboard.html, and answers on stdout with one JSON object; what the libraries print goes to stderr.
"""

import contextlib
import gzip
import json
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HOOK = "blocks.{}.hook_resid_post"


def gpt_neox(request: dict[str, Any], folder: Path) -> Any:
    """The model as SAELens' variety of TransformerLens has it, with the weights of the transformers one."""
    config = request["config"]
    transformers, lens = import_module("transformers"), import_module("transformer_lens")
    convert = import_module("transformer_lens.pretrained.weight_conversions.neox").convert_neox_weights
    # The names of the settings changed between versions of transformers; these are those of 4.
    shape = {name: config[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")}
    theirs = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            **shape, intermediate_size=config["intermediate_size"], rotary_pct=config["rotary_pct"]
        )
    )
    weights = load_file(folder / "model.safetensors")
    theirs.load_state_dict({name.replace("lm_head", "embed_out"): tensor for name, tensor in weights.items()})
    width, heads = config["hidden_size"], config["num_attention_heads"]
    cfg = lens.HookedTransformerConfig(
        n_layers=config["num_hidden_layers"],
        d_model=width,
        n_ctx=config["max_position_embeddings"],
        d_head=width // heads,
        n_heads=heads,
        d_mlp=config["intermediate_size"],
        d_vocab=config["vocab_size"],
        act_fn="gelu",
        positional_embedding_type="rotary",
        rotary_dim=int(width // heads * config["rotary_pct"]),
        rotary_adjacent_pairs=False,
        parallel_attn_mlp=True,
        normalization_type="LN",
        device="cpu",
        default_prepend_bos=False,
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), **request["special_tokens"]
    )
    fast.save_pretrained(folder / "tokenizer")  # TransformerLens loads it again by its name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = import_module("sae_lens").HookedSAETransformer(cfg, tokenizer=tokenizer)
    model.load_and_process_state_dict(convert(theirs, cfg), fold_ln=False, center_writing_weights=False)
    return model.eval()


def topk_sae(request: dict[str, Any], folder: Path) -> Any:
    """The autoencoder as SAELens has it."""
    library, tensors = import_module("sae_lens"), load_file(folder / "sae.safetensors")
    latents, width = tensors["directions"].shape
    # Decoder rows have norm 1, so rescaling changes nothing; without it SAEDashboard refuses TopK.
    config = library.TopKSAEConfig(d_in=width, d_sae=latents, k=request["k"], rescale_acts_by_decoder_norm=True)
    sae = library.TopKSAE(config)
    with torch.no_grad():
        sae.W_enc.copy_(tensors["encoder"].T)
        sae.b_enc.copy_(tensors["encoder_bias"])
        sae.W_dec.copy_(tensors["directions"])
        sae.b_dec.copy_(tensors["bias"])
    return sae.eval()


@torch.no_grad()
def difference(request: dict[str, Any], model: Any, folder: Path) -> float:
    """The largest difference of its activations from ours on one context, relative to the largest of ours."""
    data, hook = load_file(folder / "contexts.safetensors"), HOOK.format(request["layer"])
    _, cache = model.run_with_cache(data["ids"][:1], names_filter=hook)
    ours = data["first"]
    return float((cache[hook][0] - ours).abs().max() / ours.abs().max())


def measured(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds of its two stages, and the size of its page."""
    library, runner = import_module("sae_dashboard.sae_vis_data"), import_module("sae_dashboard.sae_vis_runner")
    writing = import_module("sae_dashboard.data_writing_fns")
    model, sae = gpt_neox(request, folder), topk_sae(request, folder)
    ids = load_file(folder / "contexts.safetensors")["ids"]
    config = library.SaeVisConfig(
        hook_point=HOOK.format(request["layer"]),
        features=request["latents"],
        minibatch_size_features=request["minibatch"],
        cache_dir=folder / "cache",
    )
    apart = difference(request, model, folder)
    begun = time.perf_counter()
    data = runner.SaeVisRunner(config).run(encoder=sae, model=model, tokens=ids)
    data.model = model
    gathered = time.perf_counter()
    writing.save_feature_centric_vis(data, folder / "dashboard.html")
    done = time.perf_counter()
    page = (folder / "dashboard.html").read_bytes()
    return {
        "version": version("sae-dashboard"),
        "seconds": {"gather": gathered - begun, "write": done - gathered},
        "bytes_per_latent": len(page) / len(request["latents"]),
        "compressed_bytes_per_latent": len(gzip.compress(page)) / len(request["latents"]),
        "difference": apart,
    }


def main() -> int:
    folder = Path(sys.stdin.readline().strip())
    request = json.loads((folder / "request.json").read_text())
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    with contextlib.redirect_stdout(sys.stderr):
        answer = measured(request, folder)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
