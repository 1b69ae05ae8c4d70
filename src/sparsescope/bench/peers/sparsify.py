"""sparsify (distributed as eai-sparsify)."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .task import Learned, Task


class Sparsify:
    """The body of `Trainer.fit` and of its hook, for one autoencoder, one process and no logging.

    `choice` is the optimiser: "signum" (the default) or "adam", each built as `Trainer` builds it.
    """

    methods: Mapping[str, str] = {"topk": "SparseCoder"}

    def __init__(self, task: Task) -> None:
        library = import_module("sparsify")
        config = library.SaeConfig(num_latents=task.n_latents, k=task.k)
        self.sae: Any = library.SparseCoder(task.d_in, config, dtype=torch.float32)
        if task.weights is not None:
            self.sae.encoder.weight.data = task.weights.clone()
            self.sae.W_dec.data = task.weights.clone()
        self.first = task.bias is None
        if task.bias is not None:
            self.sae.b_dec.data = task.bias.clone()
        size = (task.n_latents / 2**14) ** 0.5
        self.schedules: list[Any] = []
        if task.choice == "adam":
            self.optimizer: Any = torch.optim.Adam(self.sae.parameters(), lr=task.lr or 2e-4 / size)
            schedule = import_module("transformers").get_linear_schedule_with_warmup
            self.schedules = [schedule(self.optimizer, round(task.warmup * task.steps), task.steps)]
        else:
            sign = import_module("sparsify.sign_sgd").SignSGD(self.sae.parameters(), lr=task.lr or 5e-3 / size)
            self.optimizer = import_module("schedulefree").ScheduleFreeWrapper(sign, momentum=0.95)
            self.optimizer.train()
        self.fired = torch.zeros(task.n_latents, dtype=torch.bool)
        self.silent = torch.zeros(task.n_latents, dtype=torch.long)
        self.task = task

    def step(self, x: Float[Tensor, "row d"]) -> float:
        if self.first:
            self.sae.b_dec.data, self.first = x.mean(0), False
        self.sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = self.sae(x=x, y=x, dead_mask=None, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        loss = float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for schedule in self.schedules:
            schedule.step()
        self.silent += len(x)
        self.silent[self.fired] = 0
        self.fired.zero_()
        return loss

    def learned(self) -> Learned:
        state = {name: tensor.detach().clone() for name, tensor in self.sae.state_dict().items()}
        return Learned(state["encoder.weight"], state["encoder.bias"], state["W_dec"], state["b_dec"], self.task.k)

    @torch.no_grad()
    def own_reconstruction(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        return self.sae(x).sae_out
