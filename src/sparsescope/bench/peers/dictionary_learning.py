"""dictionary_learning (distributed as dictionary-learning)."""

from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .task import Learned, Task


class DictionaryLearning:
    """`Trainer.update`, which does all of a step."""

    methods: Mapping[str, tuple[str, str]] = {
        "topk": ("top_k", "TopKTrainer"),
        "batchtopk": ("batch_top_k", "BatchTopKTrainer"),
        "matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
        "l1": ("standard", "StandardTrainer"),
    }

    def __init__(self, task: Task) -> None:
        module, name = self.methods[task.method]
        warmup = round(task.warmup * task.steps)
        settings: dict[str, Any] = {
            "steps": task.steps,
            "activation_dim": task.d_in,
            "dict_size": task.n_latents,
            "layer": 0,
            "lm_name": "none",
            "device": "cpu",
            "seed": task.seed,
            "warmup_steps": warmup,
        }
        if task.decay:
            settings["decay_start"] = round((1 - task.decay) * task.steps)
        if task.lr is not None:
            settings["lr"] = task.lr
        if task.method == "l1":
            settings["sparsity_warmup_steps"] = warmup
        else:
            settings |= {"k": task.k, "threshold_start_step": min(1000, task.steps // 2)}
        if task.method == "matryoshka":
            settings["group_fractions"] = [(b - a) / task.n_latents for a, b in pairwise((0, *task.groups))]
        trainers = import_module(f"dictionary_learning.trainers.{module}")
        self.trainer: Any = getattr(trainers, name)(**settings)
        if task.dead_after is not None and task.method != "l1":
            self.trainer.dead_feature_threshold = task.dead_after
        self.task, self.count = task, 0
        if task.weights is not None:
            self._place(task.weights)

    def _place(self, weights: Float[Tensor, "latent d"]) -> None:
        """Given weights stand for a run in progress: past the first steps, which set b and wait with the threshold."""
        ae = self.trainer.ae
        if self.task.method == "matryoshka":
            ae.W_enc.data, ae.W_dec.data = weights.T.contiguous(), weights.clone()
        else:
            ae.encoder.weight.data, ae.decoder.weight.data = weights.clone(), weights.T.contiguous()
            ae.encoder.bias.data.fill_(self.task.encoder_bias)
        if self.task.bias is not None:
            (ae.bias if self.task.method == "l1" else ae.b_dec).data = self.task.bias.clone()
        self.count = 2000

    def step(self, x: Float[Tensor, "row d"]) -> float:
        loss = self.trainer.update(self.count, x)
        self.count += 1
        return float("nan") if loss is None else float(loss)  # StandardTrainer tells none

    def learned(self) -> Learned:
        ae = self.trainer.ae
        if self.task.method == "matryoshka":
            weights = ae.W_enc.T, ae.b_enc, ae.W_dec, ae.b_dec
        else:
            bias = ae.bias if self.task.method == "l1" else ae.b_dec
            weights = ae.encoder.weight, ae.encoder.bias, ae.decoder.weight.T, bias
        k = self.task.k if self.task.method == "topk" else None
        threshold = max(0.0, float(ae.threshold)) if self.task.method in ("batchtopk", "matryoshka") else 0.0
        encoder, encoder_bias, directions, bias = (tensor.detach().clone() for tensor in weights)
        return Learned(encoder, encoder_bias, directions, bias, k, threshold)

    @torch.no_grad()
    def own_reconstruction(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        return self.trainer.ae(x)
