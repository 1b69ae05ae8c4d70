"""Tiny random models of every architecture, and where transformers keeps their parts.

The places are written down here a second time, as attributes of the blocks, so that the tests do not
agree with the table in `sparsescope.models` by construction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 16, 24, 3, 4, 2, 60, 40

_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_GEMMA = {**_LLAMA, "head_dim": 6}
_GEMMA2 = {**_GEMMA, "query_pre_attn_scalar": 6, "sliding_window": 8}
_BERT = {**_NEOX, "pad_token_id": 1, "type_vocab_size": 2}
_OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "ffn_dim": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "word_embed_proj_dim": WIDTH,
    "pad_token_id": 1,
}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_inner": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": WIDTH,
    "hidden_dim": HIDDEN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 1,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox parallel": ("GPTNeoXForCausalLM", {**_NEOX, "use_parallel_residual": True}),
    "gpt_neox sequential": ("GPTNeoXForCausalLM", {**_NEOX, "use_parallel_residual": False}),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "llama": ("LlamaForCausalLM", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", _LLAMA),
    "qwen3": ("Qwen3ForCausalLM", {**_LLAMA, "head_dim": 6}),
    "gemma": ("GemmaForCausalLM", _GEMMA),
    "gemma2": ("Gemma2ForCausalLM", _GEMMA2),
    "gemma3": ("Gemma3ForCausalLM", _GEMMA2),
    "opt": ("OPTForCausalLM", {**_OPT, "do_layer_norm_before": True}),
    "opt post-norm": ("OPTForCausalLM", {**_OPT, "do_layer_norm_before": False}),
    "opt projected": ("OPTForCausalLM", {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 12}),
    "bert": ("BertForMaskedLM", _BERT),
    "roberta": ("RobertaForMaskedLM", {**_BERT, "max_position_embeddings": CONTEXT + 2}),
    "distilbert": ("DistilBertForMaskedLM", _DISTILBERT),
}


def make(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A transformers model of one of `MODELS`, every parameter random, biases and norms included."""
    import transformers

    name, settings = MODELS[kind]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**settings, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 if parameter.ndim > 1 else parameter + noise * 0.2)
    return model


def token_ids(batch: int = 2, length: int = 9, seed: int = 0) -> Tensor:
    """Random ids, none of which is a padding id."""
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Parts:
    """What a test needs to recompute a block by hand; each takes the block, the first two the model.

    `after_blocks` is what the model applies between the last block and the head (a norm, mostly); `values` gives
    the value vectors per head and `hidden` the MLP's hidden layer; `added_...` the norm after attention or MLP.
    """

    blocks: Callable[[Any], Any]
    after_blocks: Callable[[Any], nn.Module | None]
    norm1: Callable[[Any], nn.Module]
    norm2: Callable[[Any], nn.Module]
    attention: Callable[[Any], nn.Module]
    project: Callable[[Any], nn.Module]
    values: Callable[[Any, Tensor], Tensor]
    hidden: Callable[[Any, Tensor], Tensor]
    down: Callable[[Any], nn.Module]
    added_attention: Callable[[Any, Tensor], Tensor] = lambda block, x: x
    added_mlp: Callable[[Any, Tensor], Tensor] = lambda block, x: x
    order: str = "pre"


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, seq, count * size) -> (batch, HEADS, seq, size), groups repeated."""
    split = x.view(*x.shape[:2], count, -1).transpose(1, 2)
    return split.repeat_interleave(HEADS // count, 1)


def _neox_values(block: Any, x: Tensor) -> Tensor:
    qkv = block.attention.query_key_value(x).view(*x.shape[:2], HEADS, 3, -1)
    return qkv[:, :, :, 2].transpose(1, 2)


_NEOX_PARTS: dict[str, Any] = {
    "blocks": lambda model: model.gpt_neox.layers,
    "after_blocks": lambda model: model.gpt_neox.final_layer_norm,
    "norm1": lambda block: block.input_layernorm,
    "norm2": lambda block: block.post_attention_layernorm,
    "attention": lambda block: block.attention,
    "project": lambda block: block.attention.dense,
    "values": _neox_values,
    "hidden": lambda block, x: nn.functional.gelu(block.mlp.dense_h_to_4h(x)),
    "down": lambda block: block.mlp.dense_4h_to_h,
}
_LLAMA_PARTS: dict[str, Any] = {
    "blocks": lambda model: model.model.layers,
    "after_blocks": lambda model: model.model.norm,
    "norm1": lambda block: block.input_layernorm,
    "norm2": lambda block: block.post_attention_layernorm,
    "attention": lambda block: block.self_attn,
    "project": lambda block: block.self_attn.o_proj,
    "values": lambda block, x: _heads(block.self_attn.v_proj(x), KV_HEADS),
    "hidden": lambda block, x: nn.functional.silu(block.mlp.gate_proj(x)) * block.mlp.up_proj(x),
    "down": lambda block: block.mlp.down_proj,
}


def _gemma_hidden(block: Any, x: Tensor) -> Tensor:
    return nn.functional.gelu(block.mlp.gate_proj(x), approximate="tanh") * block.mlp.up_proj(x)


_GEMMA_PARTS = {**_LLAMA_PARTS, "hidden": _gemma_hidden}
_GEMMA2_PARTS = {
    **_GEMMA_PARTS,
    "norm2": lambda block: block.pre_feedforward_layernorm,
    "added_attention": lambda block, x: block.post_attention_layernorm(x),
    "added_mlp": lambda block, x: block.post_feedforward_layernorm(x),
}
_OPT_PARTS: dict[str, Any] = {
    "blocks": lambda model: model.model.decoder.layers,
    "after_blocks": lambda model: model.model.decoder.final_layer_norm,
    "norm1": lambda block: block.self_attn_layer_norm,
    "norm2": lambda block: block.final_layer_norm,
    "attention": lambda block: block.self_attn,
    "project": lambda block: block.self_attn.out_proj,
    "values": lambda block, x: _heads(block.self_attn.v_proj(x), HEADS),
    "hidden": lambda block, x: nn.functional.relu(block.fc1(x)),
    "down": lambda block: block.fc2,
}
_BERT_PARTS: dict[str, Any] = {
    "blocks": lambda model: model.base_model.encoder.layer,
    "after_blocks": lambda model: None,
    "norm1": lambda block: block.attention.output.LayerNorm,
    "norm2": lambda block: block.output.LayerNorm,
    "attention": lambda block: block.attention.self,
    "project": lambda block: block.attention.output.dense,
    "values": lambda block, x: _heads(block.attention.self.value(x), HEADS),
    "hidden": lambda block, x: nn.functional.gelu(block.intermediate.dense(x)),
    "down": lambda block: block.output.dense,
    "order": "post",
}

PARTS: dict[str, Parts] = {
    "gpt_neox parallel": Parts(**_NEOX_PARTS, order="parallel"),
    "gpt_neox sequential": Parts(**_NEOX_PARTS),
    "gpt2": Parts(
        blocks=lambda model: model.transformer.h,
        after_blocks=lambda model: model.transformer.ln_f,
        norm1=lambda block: block.ln_1,
        norm2=lambda block: block.ln_2,
        attention=lambda block: block.attn,
        project=lambda block: block.attn.c_proj,
        values=lambda block, x: _heads(block.attn.c_attn(x)[..., 2 * WIDTH :], HEADS),
        hidden=lambda block, x: nn.functional.gelu(block.mlp.c_fc(x), approximate="tanh"),
        down=lambda block: block.mlp.c_proj,
    ),
    **{kind: Parts(**_LLAMA_PARTS) for kind in ("llama", "mistral", "qwen2", "qwen3")},
    "gemma": Parts(**_GEMMA_PARTS),
    "gemma2": Parts(**_GEMMA2_PARTS),
    "gemma3": Parts(**_GEMMA2_PARTS),
    "opt": Parts(**_OPT_PARTS),
    "opt post-norm": Parts(**{**_OPT_PARTS, "order": "post"}),
    "opt projected": Parts(
        **{**_OPT_PARTS, "order": "post", "after_blocks": lambda model: model.model.decoder.project_out}
    ),
    "bert": Parts(**_BERT_PARTS),
    "roberta": Parts(**_BERT_PARTS),
    "distilbert": Parts(
        blocks=lambda model: model.distilbert.transformer.layer,
        after_blocks=lambda model: None,
        norm1=lambda block: block.sa_layer_norm,
        norm2=lambda block: block.output_layer_norm,
        attention=lambda block: block.attention,
        project=lambda block: block.attention.out_lin,
        values=lambda block, x: _heads(block.attention.v_lin(x), HEADS),
        hidden=lambda block, x: nn.functional.gelu(block.ffn.lin1(x)),
        down=lambda block: block.ffn.lin2,
        order="post",
    ),
}
