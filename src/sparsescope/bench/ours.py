"""The engine's own step, as `train` takes it: every member through a crew, on a batch that is already there."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigurationError
from ..training import BatchTopK, Matryoshka, Method, TiedL1, TopK
from ..training.crew import Bench, Crew
from ..training.kernels import Precision, choose
from ..training.member import Member, create
from ..training.schedule import Schedule
from ..training.source import Batch, open_feed
from .peers import Learned, Task

L1 = 1e-3
"""Weight of the penalty. Where an L0 is to be held, the learning rate is too small for it to matter."""

ROUNDING = 2.0**-20
"""How far a product of rows of norm 1 may be off in float32."""


class Ours:
    """Members of one method. `choice` of the task names the kernels.

    Built on `sample`, rows of the activations in units of their root mean square. Close it to give
    torch's threads back.
    """

    def __init__(self, task: Task, sample: Float[Tensor, "row d"], screened: bool, members: int = 1) -> None:
        kernels = task.choice or "auto"
        precision: Precision = "screened" if screened else "float32"
        device = torch.device("cpu")
        source = open_feed(sample, None, seed=task.seed, scale=False).sources[0]
        schedule = Schedule(task.steps * task.batch, task.batch, task.lr or 3e-4, task.warmup, task.decay)
        first = choose(device, kernels)
        self.kernels, self.schedule, self.task = first, schedule, task
        self.members: list[Member] = []
        for number in range(members):
            member = create(_method(task, number), str(number), 0, source, schedule, first, precision)
            if task.weights is not None:
                _place(member, task, task.weights.roll(number, 0))
                first.refresh(member.encoder)
            self.members.append(member)
        # given weights stand for a run in progress: what is annealed at its beginning is over
        self.count = 0 if task.weights is None else task.steps // 2
        work = task.batch * task.n_latents * task.d_in
        self._crew = Crew(members, work, lambda: choose(device, kernels))
        self._crew.__enter__()

    def close(self) -> None:
        self._crew.__exit__(None, None, None)

    def step(self, x: Float[Tensor, "row d"]) -> float:
        """One step of every member; the first one's loss."""
        share = self.count / self.schedule.steps
        lr = self.schedule.lr * self.schedule.pace(self.count)
        batch = Batch(x, x)

        def one(index: int, bench: Bench) -> float:
            member = self.members[index]
            done = member.measure(batch, share, bench.kernels, bench.buffers)
            if member.fault(done.loss) is None:
                member.update(done, len(x), lr, bench.kernels)
            return done.loss

        self.count += 1
        return self._crew.each(one)[0]

    @property
    def l0(self) -> float:
        """Active latents per row in the last batch, on average over members."""
        return sum(member.l0 for member in self.members) / len(self.members)

    @torch.no_grad()
    def missed(self, x: Float[Tensor, "row d"]) -> int:
        """Rows whose selection by the first member is not the k largest, but for what float32 cannot tell apart."""
        member, k = self.members[0], self.task.k
        centred = x - member.weights.vectors["bias"] if member.weights.centred else x
        shift, encoder = member.method.shift(member.weights.vectors), member.weights.encoding
        codes = self.kernels.largest(centred, member.encoder, shift, k, "missed")
        lost = 0
        for part in torch.arange(len(x)).split(256):
            exact = (centred[part].double() @ encoder.double().T + shift.double()).relu_()
            chosen = exact.gather(1, codes.latent[part].long()).where(codes.value[part] > 0, 0.0)
            scale = centred[part].norm(dim=1).double() * float(encoder.norm(dim=1).max())
            lost += int((exact.topk(k).values.sum(1) - chosen.sum(1) > k * ROUNDING * scale).sum())
        return lost

    def learned(self) -> Learned:
        """The first member."""
        member = self.members[0]
        vectors = {name: vector.clone() for name, vector in member.weights.vectors.items()}
        directions = member.weights.directions.clone()
        bias = vectors.get("bias", torch.zeros(self.task.d_in))
        encoder_bias = vectors["encoder_bias"]
        if not member.weights.centred:
            encoder_bias = encoder_bias + member.weights.encoding @ bias
        k = self.task.k if self.task.method == "topk" else None
        threshold = 0.0 if self.task.method in ("topk", "l1") or member.threshold is None else member.threshold
        return Learned(member.weights.encoding.clone(), encoder_bias, directions, bias, k, threshold)


def _method(task: Task, number: int) -> Method:
    size: dict[str, Any] = {"n_latents": task.n_latents, "seed": task.seed + number}
    made: dict[str, Callable[[], Method]] = {
        "topk": lambda: TopK(k=task.k, dead_after=task.dead_after, **size),
        "batchtopk": lambda: BatchTopK(k=task.k, dead_after=task.dead_after, **size),
        "matryoshka": lambda: Matryoshka(
            k=task.k, dead_after=task.dead_after, widths=tuple(each / task.n_latents for each in task.groups), **size
        ),
        "l1": lambda: TiedL1(l1=L1, **size),
    }
    if task.method not in made:
        raise ConfigurationError(f"no method {task.method!r} is measured, only {', '.join(made)}.")
    return made[task.method]()


def _place(member: Member, task: Task, weights: Float[Tensor, "latent d"]) -> None:
    """Begin with given weights and biases instead of drawn ones."""
    member.weights.directions.copy_(weights)
    if member.weights.encoder is not None:
        member.weights.encoder.copy_(weights)
    member.weights.vectors["encoder_bias"].fill_(task.encoder_bias)
    if task.bias is not None and "bias" in member.weights.vectors:
        member.weights.vectors["bias"].copy_(task.bias)
