"""overcomplete."""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .task import Learned, Task


class Overcomplete:
    """`train_sae` on one batch at a time, with the mean squared error of its documentation (plus L1 for "l1")."""

    methods: Mapping[str, str] = {"topk": "TopKSAE", "batchtopk": "BatchTopKSAE", "l1": "SAE"}

    def __init__(self, task: Task) -> None:
        library = autoencoders()
        top = {"topk": {"top_k": task.k}, "batchtopk": {"top_k": task.k * task.batch}}.get(task.method, {})
        self.sae: Any = getattr(library, self.methods[task.method])(task.d_in, nb_concepts=task.n_latents, **top)
        if task.weights is not None:
            linear = self.sae.encoder.final_block[0]
            linear.weight.data = task.weights.clone()
            linear.bias.data.fill_(task.encoder_bias)
            self.sae.dictionary._weights.data = task.weights.clone()
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=task.lr or 5e-4)
        self.train, self.losses, self.last = (
            library.train_sae,
            import_module("overcomplete.sae.losses"),
            torch.zeros(()),
        )
        self.task = task

    def _criterion(self, x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        if self.task.method == "l1":
            self.last = self.losses.mse_l1(x, x_hat, pre_codes, codes, dictionary, penalty=1e-3)
        else:
            self.last = (x - x_hat).square().mean()
        return self.last

    def step(self, x: Float[Tensor, "row d"]) -> float:
        self.train(self.sae, [x], self._criterion, self.optimizer, nb_epochs=1, monitoring=0)
        return float(self.last.detach())

    def learned(self) -> Learned:
        linear = self.sae.encoder.final_block[0]
        weights = linear.weight, linear.bias, self.sae.get_dictionary()
        encoder, encoder_bias, directions = (tensor.detach().clone() for tensor in weights)
        k = self.task.k if self.task.method == "topk" else None
        threshold = float(getattr(self.sae, "running_threshold", None) or 0.0)  # None before the first step
        return Learned(encoder, encoder_bias, directions, torch.zeros(self.task.d_in), k, threshold)

    @torch.no_grad()
    def own_reconstruction(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        self.sae.eval()
        made = self.sae(x)[2]
        self.sae.train()
        return made


def autoencoders() -> ModuleType:
    """Its autoencoders alone: the whole package also loads vision models and plotting, in versions of their own."""
    if "overcomplete" not in sys.modules:
        found = find_spec("overcomplete")
        assert found is not None
        package = ModuleType("overcomplete")
        package.__spec__ = found
        package.__path__ = list(found.submodule_search_locations or [])
        sys.modules["overcomplete"] = package
    return import_module("overcomplete.sae")
