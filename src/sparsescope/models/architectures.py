"""Where each quantity lives in each architecture: rows of a table.

A row maps a quantity to a place relative to the block:

    PATH            output of that module (of a tuple, the first element)
    PATH:in         its first input, for that module alone
    PATH:stream     its first input, which is the residual stream itself: replacing it also replaces what
                    goes on past the module, so that one value is changed and not one reader of it

`attn_out` and `mlp_out` are what is *added* to the residual stream, so after the extra norms of Gemma 2
and 3. `mlp_act` is the input of the down-projection, so after gating. In the post-norm blocks of BERT the
residual stream is normalised after each sum: `resid_mid` and `resid_post` are the normalised values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One row: the sites of one `model_type` of transformers, for configs with the values in `when`.

    `blocks` is the path of the list of blocks below the base model; `places` maps quantities to places
    below one block; `masked` says that the head predicts masked tokens; `counts_past_padding` that
    positions start at the padding id + 1 (RoBERTa), which takes that many from the context limit.
    """

    model_type: str
    blocks: str
    places: Mapping[str, str]
    when: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = False
    counts_past_padding: bool = False


_BLOCK = {"resid_pre": ":in", "resid_post": ""}

_NEOX_PARALLEL = {
    **_BLOCK,
    "mlp_in": "mlp:in",
    "mlp_out": "mlp.dense_4h_to_h",
    "mlp_act": "mlp.dense_4h_to_h:in",
    "attn_out": "attention.dense",
    "attn_z": "attention.dense:in",
}
_NEOX_SEQUENTIAL = {**_NEOX_PARALLEL, "resid_mid": "post_attention_layernorm:stream"}

_GPT2 = {
    **_BLOCK,
    "resid_mid": "ln_2:stream",
    "mlp_in": "mlp:in",
    "mlp_out": "mlp.c_proj",
    "mlp_act": "mlp.c_proj:in",
    "attn_out": "attn.c_proj",
    "attn_z": "attn.c_proj:in",
}

_LLAMA = {
    **_BLOCK,
    "resid_mid": "post_attention_layernorm:stream",
    "mlp_in": "mlp:in",
    "mlp_out": "mlp.down_proj",
    "mlp_act": "mlp.down_proj:in",
    "attn_out": "self_attn.o_proj",
    "attn_z": "self_attn.o_proj:in",
}

_GEMMA2 = {
    **_LLAMA,
    "resid_mid": "pre_feedforward_layernorm:stream",
    "mlp_out": "post_feedforward_layernorm",
    "attn_out": "post_attention_layernorm",
}

_OPT = {
    **_BLOCK,
    "resid_mid": "final_layer_norm:stream",
    "mlp_in": "fc1:in",
    "mlp_out": "fc2",
    "mlp_act": "fc2:in",
    "attn_out": "self_attn.out_proj",
    "attn_z": "self_attn.out_proj:in",
}
_OPT_POST_NORM = {**_OPT, "resid_mid": "self_attn_layer_norm"}

_BERT = {
    **_BLOCK,
    "resid_mid": "attention.output",
    "mlp_in": "intermediate:in",
    "mlp_out": "output.dense",
    "mlp_act": "output.dense:in",
    "attn_out": "attention.output.dense",
    "attn_z": "attention.output.dense:in",
}
_DISTILBERT = {
    **_BLOCK,
    "resid_mid": "sa_layer_norm",
    "mlp_in": "ffn:in",
    "mlp_out": "ffn.lin2",
    "mlp_act": "ffn.lin2:in",
    "attn_out": "attention.out_lin",
    "attn_z": "attention.out_lin:in",
}

ARCHITECTURES = (
    Architecture("gpt_neox", "layers", _NEOX_PARALLEL, when={"use_parallel_residual": True}),
    Architecture("gpt_neox", "layers", _NEOX_SEQUENTIAL, when={"use_parallel_residual": False}),
    Architecture("gpt2", "h", _GPT2),
    Architecture("llama", "layers", _LLAMA),
    Architecture("mistral", "layers", _LLAMA),
    Architecture("qwen2", "layers", _LLAMA),
    Architecture("qwen3", "layers", _LLAMA),
    Architecture("gemma", "layers", _LLAMA),
    Architecture("gemma2", "layers", _GEMMA2),
    Architecture("gemma3_text", "layers", _GEMMA2),
    Architecture("gemma3", "language_model.layers", _GEMMA2),
    Architecture("opt", "decoder.layers", _OPT, when={"do_layer_norm_before": True}),
    Architecture("opt", "decoder.layers", _OPT_POST_NORM, when={"do_layer_norm_before": False}),
    Architecture("bert", "encoder.layer", _BERT, masked=True),
    Architecture("roberta", "encoder.layer", _BERT, masked=True, counts_past_padding=True),
    Architecture("xlm-roberta", "encoder.layer", _BERT, masked=True, counts_past_padding=True),
    Architecture("distilbert", "transformer.layer", _DISTILBERT, masked=True),
)


def find_architecture(config: Any) -> Architecture | None:
    """The row for a transformers config, or None for an architecture that is not in the table."""
    for row in ARCHITECTURES:
        if row.model_type == config.model_type and all(getattr(config, k) == v for k, v in row.when.items()):
            return row
    return None
