"""One member of an ensemble: its weights, its optimiser, and what it knows of its own past."""

import copy
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.adam import adam

from .gradients import DENSE_ABOVE, Forward, Weights, Workspace, forward, gradients, renormalise, without_radial
from .methods import Method, TiedL1, TopK, UntiedL1
from .schedule import L0Controller
from .source import Source

BETAS = (0.9, 0.999)
EPSILON = 1e-8
DEAD_AFTER = 100_000
"""Rows without firing after which a latent counts as dead in `metrics.jsonl` (fewer before so many were seen)."""
REMEMBERED = 64
"""Losses of which the running median is taken."""
EXPLODED = 1e3
"""A loss of so many running medians counts as an explosion."""


@dataclass
class State:
    """Everything that changes in a member, copied: tensors by name, and plain numbers for JSON."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass
class Moments:
    """Adam's averages of one tensor's gradient and of its square, and the number of its steps."""

    mean: Tensor
    square: Tensor
    count: Tensor


@dataclass
class Member:
    """A dictionary in training. `create` makes one; `measure` then `update` is one step.

    Nothing in it depends on the other members, so a member of an ensemble equals its solo run.
    """

    method: Method
    name: str
    weights: Weights
    silent: Int[Tensor, " latent"]
    """Rows since each latent last fired."""
    l1: float = 0.0
    controller: L0Controller | None = None
    l0: float = math.inf
    """Active latents per row in the last batch."""
    rows: int = 0
    losses: list[float] = field(default_factory=list)
    moments: dict[str, Moments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.weights.tensors().items():
            zero = torch.zeros_like(tensor)
            self.moments[name] = Moments(zero, zero.clone(), torch.zeros((), dtype=torch.float32))

    @property
    def k(self) -> int | None:
        return self.method.k if isinstance(self.method, TopK) else None

    def measure(self, x: Float[Tensor, "row d"], space: Workspace) -> Forward:
        """One batch forward. Changes nothing in the member."""
        dense = self.l0 > DENSE_ABOVE * len(self.silent)
        return forward(self.weights, x, k=self.k, dense=dense, space=space)

    def loss(self, done: Forward) -> float:
        """mean((x − x̂)²) + l1 · mean over rows of ‖c‖₁ for this batch."""
        rows = len(done.residual)
        return done.squared_error / done.residual.numel() + (self.l1 * done.l1 / rows if self.k is None else 0.0)

    def fault(self, loss: float) -> str | None:
        """Why a step with this loss must not be taken: 'non-finite', 'exploding', or None."""
        if not math.isfinite(loss):
            return "non-finite"
        if len(self.losses) >= 8 and loss > EXPLODED * statistics.median(self.losses):
            return "exploding"
        return None

    def update(self, done: Forward, loss: float, lr: float, space: Workspace) -> None:
        """Take the step: gradients, Adam, unit norms, and the bookkeeping."""
        rows = len(done.residual)
        found = gradients(self.weights, done, l1=self.l1 if self.k is None else 0.0, space=space)
        without_radial(found["directions"], self.weights.directions)
        self._adam(found, lr)
        renormalise(self.weights.directions)
        self.silent.add_(rows).masked_fill_(done.fired > 0, 0)
        self.rows += rows
        self.l0 = done.count / rows
        self.losses = [*self.losses[-REMEMBERED + 1 :], loss]
        if self.controller is not None:
            self.controller.update(self.l0)
            self.l1 = self.controller.l1

    def _adam(self, found: dict[str, Tensor], lr: float) -> None:
        weights = self.weights.tensors()
        moments = [self.moments[name] for name in weights]
        adam(
            list(weights.values()),
            [found[name] for name in weights],
            [each.mean for each in moments],
            [each.square for each in moments],
            [],
            [each.count for each in moments],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    def dead(self) -> int:
        """Latents that have not fired for `DEAD_AFTER` rows, or not at all in fewer."""
        return int((self.silent >= min(DEAD_AFTER, max(1, self.rows))).sum())

    def finite(self) -> bool:
        """Whether every weight and every optimiser average is a finite number."""
        held = [*self.weights.tensors().values(), *(m.mean for m in self.moments.values())]
        held += [each.square for each in self.moments.values()]
        return all(math.isfinite(float(tensor.sum(dtype=torch.float64))) for tensor in held)

    def state(self) -> State:
        """A copy of everything that changes."""
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        numbers = {"l1": self.l1, "l0": self.l0, "rows": self.rows, "losses": list(self.losses)}
        if self.controller is not None:
            numbers["controller"] = copy.copy(vars(self.controller))
        return State(tensors, numbers)

    def restore(self, state: State) -> None:
        """Go back to a copied state, bit for bit."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state.tensors[name])
        numbers = copy.deepcopy(state.numbers)
        controller = numbers.pop("controller", None)
        self.controller = None if controller is None else L0Controller(**controller)
        self.l1, self.l0, self.rows, self.losses = (numbers[key] for key in ("l1", "l0", "rows", "losses"))

    def _tensors(self) -> dict[str, Tensor]:
        named = {"silent": self.silent}
        for name, tensor in self.weights.tensors().items():
            moments = self.moments[name]
            named[name] = tensor
            named |= {f"{name}.mean": moments.mean, f"{name}.square": moments.square, f"{name}.count": moments.count}
        return named


def create(method: Method, name: str, source: Source, steps: int) -> Member:
    """A member at step 0 of `steps`.

    Directions are uniform on the sphere; an encoder of its own starts equal to them; TopK's bias
    is the mean of the activations. Encoder biases are zero, as in the paper; but for a `target_l0`
    they are such that each latent fires in target / n_latents of the rows, so that L0 starts where it
    is to end. The draw depends on the run's seed and the method's fields alone.
    """
    count = method.latents(source.width)
    generator = torch.Generator().manual_seed(method.init_seed(source.seed))
    directions = torch.randn(count, source.width, generator=generator)
    renormalise(directions)
    weights = Weights(directions, torch.zeros(count))
    if not isinstance(method, TiedL1):
        weights.encoder = directions.clone()
    if isinstance(method, TopK):
        weights.bias = source.mean.clone()
    member = Member(method, name, weights, torch.zeros(count, dtype=torch.int64))
    if isinstance(method, (TiedL1, UntiedL1)):
        if method.target_l0 is None:
            member.l1 = float(method.l1 or 0.0)
        else:
            share = method.target_l0 / count
            weights.encoder_bias.copy_(-_exceeded(source.sample, directions, share))
            member.controller = L0Controller.begin(method.target_l0, steps, source.width, source.mean_square)
            member.l1, member.l0 = member.controller.l1, method.target_l0
    return member


def _exceeded(x: Float[Tensor, "row d"], directions: Float[Tensor, "latent d"], share: float) -> Tensor:
    """For each direction, the projection that this share of the rows exceeds."""
    kept = max(1, round(share * len(x)))
    return torch.cat([(part @ x.t()).topk(kept, dim=1).values[:, -1] for part in directions.split(1024)])
