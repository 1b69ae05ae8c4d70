"""SAELens (distributed as sae-lens)."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .task import Learned, Task


class SAELens:
    """`SAETrainer.step` on a training SAE, followed by what `SAETrainer.fit` counts; nothing is logged."""

    methods: Mapping[str, str] = {
        "topk": "TopKTrainingSAE",
        "batchtopk": "BatchTopKTrainingSAE",
        "matryoshka": "MatryoshkaBatchTopKTrainingSAE",
        "l1": "StandardTrainingSAE",
    }

    def __init__(self, task: Task) -> None:
        library, config = import_module("sae_lens"), import_module("sae_lens.config")
        name = self.methods[task.method]
        own: dict[str, Any] = {} if task.method == "l1" else {"k": task.k}
        if task.method == "matryoshka":
            own["matryoshka_widths"] = list(task.groups)
        settings = getattr(library, f"{name}Config")(d_in=task.d_in, d_sae=task.n_latents, device="cpu", **own)
        self.sae: Any = getattr(library, name)(settings)
        if task.weights is not None:
            self.sae.W_enc.data = task.weights.T.contiguous()
            self.sae.W_dec.data = task.weights.clone()
            self.sae.b_enc.data.fill_(task.encoder_bias)
        if task.bias is not None:
            self.sae.b_dec.data = task.bias.clone()
        given = {} if task.lr is None else {"lr": task.lr}
        if task.dead_after is not None:
            given["dead_feature_window"] = max(1, task.dead_after // task.batch)
        self.trainer: Any = library.SAETrainer(
            config.SAETrainerConfig(
                total_training_samples=task.steps * task.batch,
                train_batch_size_samples=task.batch,
                lr_end=1.0,  # taken for granted by the trainer, and ignored by the constant schedule
                lr_warm_up_steps=round(task.warmup * task.steps),
                lr_decay_steps=round(task.decay * task.steps),
                **given,
            ),
            self.sae,
            data_provider=iter(()),
        )
        self.task = task

    def step(self, x: Float[Tensor, "row d"]) -> float:
        self.trainer.maybe_reset_sparsity()
        output = self.trainer.step(x)
        self.trainer.n_training_steps += 1
        return float(output.loss.detach())

    def learned(self) -> Learned:
        self.sae.eval()
        state = {name: tensor.detach().clone() for name, tensor in self.sae.state_dict().items()}
        self.sae.process_state_dict_for_saving_inference(state)
        threshold = float(state["threshold"][0]) if "threshold" in state else 0.0
        k = self.task.k if self.task.method == "topk" else None
        return Learned(state["W_enc"].T, state["b_enc"], state["W_dec"], state["b_dec"], k, threshold)

    @torch.no_grad()
    def own_reconstruction(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """By the inference class, with the weights that the library would write to disk."""
        library = import_module("sae_lens")
        state = {name: tensor.detach().clone() for name, tensor in self.sae.state_dict().items()}
        self.sae.process_state_dict_for_saving_inference(state)
        made = library.SAE.from_dict(self.sae.cfg.get_inference_sae_cfg_dict())
        made.load_state_dict(state)
        return made(x)
