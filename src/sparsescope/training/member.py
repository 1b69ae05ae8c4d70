"""One member of an ensemble: its weights, its optimiser, and what it knows of its own past."""

import copy
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from .kernels import Adam, Encoder, Kernels, Matrix, Precision
from .kernels.reference import Buffers, adam_step
from .methods import KeepsK, Method, Moment, Weights
from .resample import due, resample
from .schedule import L0Controller, Schedule
from .source import Batch, Source
from .step import DENSE_ABOVE, Job, Pass, dense_pass, sparse_pass

DEAD_AFTER = 100_000
"""Rows without firing after which a latent counts as dead in `metrics.jsonl` (fewer before so many were seen)."""
REVIVED_AFTER = 10_000_000
"""Rows without firing after which the auxiliary loss takes a latent up, or `REVIVED_SHARE` of the run if less."""
REVIVED_SHARE = 1 / 50
REMEMBERED = 64
"""Losses of which the running median is taken."""
EXPLODED = 1e3
"""A loss of so many running medians counts as an explosion."""
LATE = 0.8
"""Share of the run after which an L0 that was not reached will not be."""


@dataclass
class State:
    """Everything that changes in a member: tensors by name, and plain numbers for JSON."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class Vectors:
    """The small tensors of a member, one after the other in flat memory, with Adam's averages and the gradient."""

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self.flat = torch.cat([vector.reshape(-1) for vector in vectors.values()])
        self.mean, self.square, self.gradient = (torch.zeros_like(self.flat) for _ in range(3))
        self.by_name = self._views(self.flat, vectors)
        self._shapes = {name: vector.shape for name, vector in vectors.items()}

    def _views(self, flat: Tensor, like: Mapping[str, Any]) -> dict[str, Tensor]:
        views, place = {}, 0
        for name, vector in like.items():
            shape = vector if isinstance(vector, torch.Size) else vector.shape
            views[name] = flat[place : place + shape.numel()].view(shape)
            place += shape.numel()
        return views

    def update(self, gradients: Mapping[str, Tensor], adam: Adam) -> None:
        """One Adam step. A vector without a gradient stays as it is."""
        for name, view in self._views(self.gradient, self._shapes).items():
            found = gradients.get(name)
            view.zero_() if found is None else view.copy_(found)
        adam_step([self.flat], [self.gradient], [self.mean], [self.square], adam)

    def forget(self, name: str, places: Tensor) -> None:
        """Clear Adam's averages of some elements."""
        for flat in (self.mean, self.square):
            self._views(flat, self._shapes)[name][places] = 0


@dataclass
class Member:
    """A dictionary in training. `create` makes one; `measure` then `update` is one step.

    Nothing in it depends on the other members, so a member of an ensemble equals its solo run.
    """

    method: Method
    name: str
    source: int
    """Which of the feed's sources it is trained on."""
    init_seed: int
    weights: Weights
    matrices: dict[str, Matrix]
    """What learns: without the directions where they are frozen."""
    vectors: Vectors
    encoder: Encoder
    silent: Int[Tensor, " latent"]
    """Rows since each latent last fired."""
    revived_after: int
    controller: L0Controller | None = None
    coefficient: float = 0.0
    """Weight of the penalty."""
    l0: float = math.inf
    """Active latents per row in the last batch."""
    rows: int = 0
    steps: int = 0
    """Steps taken, which Adam's bias correction needs."""
    position: int = 0
    """Batches dealt with: that of the run, or one more when the run broke off before the others had their turn."""
    torn: bool = False
    """Whether a step is under way that has begun to change something. Such a state is never saved."""
    threshold: float | None = None
    """The smallest code that was kept of the last batch: just below it the next selection begins to look."""
    sums: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    faults: int = 0
    """Bad batches in a row."""
    stopped: str | None = None
    """Why it is trained no further."""

    @property
    def k(self) -> int | None:
        return self.method.k if isinstance(self.method, KeepsK) else None

    def measure(self, batch: Batch, share: float, kernels: Kernels, buffers: Buffers, row_errors: bool = False) -> Pass:
        """One batch after `share` of the run, up to the gradients. Changes nothing in the member."""
        now = Moment(share, self.coefficient, self.sums)
        dead = self._dead_to_revive()
        job = Job(self.method, self.weights, self.encoder, now, self.threshold, dead, row_errors)
        if self.k is None and self.l0 > DENSE_ABOVE * len(self.silent):
            return dense_pass(job, batch, buffers)
        return sparse_pass(job, batch, kernels, buffers)

    def _dead_to_revive(self) -> Tensor | None:
        if not isinstance(self.method, KeepsK) or not self.method.aux or self.rows < self.revived_after:
            return None
        dead = (self.silent >= self.revived_after).nonzero().squeeze(1)
        return dead if len(dead) else None

    def fault(self, loss: float) -> str | None:
        """Why a step with this loss must not be taken: 'non-finite', 'exploding', or None."""
        if not math.isfinite(loss):
            return "non-finite"
        if len(self.losses) >= 8 and loss > EXPLODED * statistics.median(self.losses):
            return "exploding"
        return None

    def unreachable(self, share: float) -> str | None:
        """Why the L0 that was asked for will not be reached, when that is clear; known late in the run."""
        l0 = None if self.controller is None or share < LATE else self.controller.short_without_penalty()
        if l0 is None or self.controller is None:
            return None
        return (
            f"target_l0 = {self.controller.target:g} cannot be reached: with hardly any penalty left {l0:.3g} latents "
            "are active per row. Ask for fewer, or for more latents"
        )

    def update(self, done: Pass, rows: int, lr: float, kernels: Kernels) -> None:
        """Take the step: Adam, unit norms, and the bookkeeping."""
        self.torn = True
        self.steps += 1
        adam = Adam(lr, self.steps)
        for name, matrix in self.matrices.items():
            terms = list(done.terms[name])
            if self.weights.encoder is None:  # one matrix is both
                terms += done.terms["encoder"]
            encoder = self.encoder if matrix.weight is self.encoder.weight else None
            kernels.update(matrix, adam, terms, done.tables.get(name), encoder)
        self.vectors.update(done.vectors, adam)
        self.method.constrain(self.vectors.by_name)
        self.silent.add_(rows).masked_fill_(done.fired > 0, 0)
        self.rows += rows
        self.l0 = done.sums["active"] / rows
        self.sums = done.sums
        self.losses = [*self.losses[-REMEMBERED + 1 :], done.loss]
        self.faults = 0
        self.threshold = self.threshold if done.smallest is None else done.smallest
        if self.controller is not None:
            self.controller.update(self.l0)
            self.coefficient = self.controller.weight

    def deployed_threshold(self, x: Tensor, kernels: Kernels) -> float | None:
        """What the smallest code kept of these rows is with the weights as they are; None where rows stand alone."""
        if self.k is None or self.method.selection != "batch":
            return None
        vectors = self.weights.vectors
        shift = self.method.shift(vectors)
        total = self.k * len(x)
        _, smallest = kernels.largest_of_batch(
            x - vectors["bias"], self.encoder, shift, total, self.threshold, "deployed"
        )
        return smallest

    def resample(self, step: int, schedule: Schedule, batch: Batch, done: Pass, kernels: Kernels) -> int:
        """Give dead latents new directions where it is time to; how many were given."""
        if not self.method.resampled or not due(step, schedule.steps) or done.row_error is None:
            return 0
        given = resample(self, batch, done.row_error, step, silent_for=schedule.steps * schedule.batch // 16)
        if given:
            kernels.refresh(self.encoder)
        return given

    def dead(self) -> int:
        """Latents that have not fired for `DEAD_AFTER` rows, or not at all in fewer."""
        return int((self.silent >= min(DEAD_AFTER, max(1, self.rows))).sum())

    def finite(self) -> bool:
        """Whether every weight and every optimiser average is a finite number."""
        return all(math.isfinite(float(tensor.sum(dtype=torch.float64))) for tensor in self._tensors().values())

    def state(self) -> State:
        """Everything that changes, not copied."""
        keys = ("coefficient", "l0", "rows", "steps", "position", "threshold", "faults", "stopped")
        numbers = {key: getattr(self, key) for key in keys} | {"sums": self.sums, "losses": self.losses}
        numbers["controller"] = None if self.controller is None else copy.copy(vars(self.controller))
        numbers["l0"] = None if math.isinf(self.l0) else self.l0  # JSON has no word for it
        return State(self._tensors(), numbers)

    def restore(self, state: State, kernels: Kernels) -> None:
        """Go to a saved state, bit for bit."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state.tensors[name])
        numbers = copy.deepcopy(state.numbers)
        controller = numbers.pop("controller")
        self.controller = None if controller is None else L0Controller(**controller)
        numbers["l0"] = math.inf if numbers["l0"] is None else numbers["l0"]
        for key, value in numbers.items():
            setattr(self, key, value)
        kernels.refresh(self.encoder)

    def _tensors(self) -> dict[str, Tensor]:
        named = {"silent": self.silent, "vectors": self.vectors.flat}
        named |= {"vectors.mean": self.vectors.mean, "vectors.square": self.vectors.square}
        for name, matrix in self.matrices.items():
            named |= {name: matrix.weight, f"{name}.mean": matrix.mean, f"{name}.square": matrix.square}
        # frozen directions too: another version of torch may draw others
        return {"directions": self.weights.directions, **named}


def create(
    method: Method, name: str, number: int, source: Source, schedule: Schedule, kernels: Kernels, precision: Precision
) -> Member:
    """A member at step 0, on source `number`.

    Directions are uniform on the sphere; see the method for the rest. The draw depends on the run's
    seed and the method's fields alone.
    """
    count = method.latents(source.width)
    seed = method.init_seed(source.seed)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, source.output_width, generator=generator)
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min_(1e-8)
    device = source.device
    weights = method.begin(source, directions, generator)
    vectors = Vectors({key: vector.to(device) for key, vector in weights.vectors.items()})
    weights.directions, weights.vectors = weights.directions.to(device).contiguous(), vectors.by_name
    matrices = {} if method.frozen else {"directions": _matrix(weights.directions, unit=True)}
    if weights.encoder is not None:
        weights.encoder = weights.encoder.to(device).contiguous()
        matrices["encoder"] = _matrix(weights.encoder, unit=False)
    member = Member(
        method,
        name,
        number,
        seed,
        weights,
        matrices,
        vectors,
        kernels.encoder(weights.encoding, precision),
        torch.zeros(count, dtype=torch.int64, device=device),
        _revived_after(method, schedule),
        coefficient=method.coefficient,
    )
    if method.target_l0 is not None:
        member.controller = L0Controller.begin(method, schedule.steps, source.width, source.mean_square)
        member.coefficient, member.l0 = member.controller.weight, method.target_l0
    return member


def _matrix(weight: Tensor, unit: bool) -> Matrix:
    return Matrix(weight, torch.zeros_like(weight), torch.zeros_like(weight), unit)


def _revived_after(method: Method, schedule: Schedule) -> int:
    given = method.dead_after if isinstance(method, KeepsK) else None
    return (
        min(REVIVED_AFTER, max(1, round(schedule.steps * schedule.batch * REVIVED_SHARE))) if given is None else given
    )
