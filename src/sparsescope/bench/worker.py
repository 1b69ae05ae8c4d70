"""The process of one contender: it makes a model, takes steps when it is told to, and says what they cost.

Run as `python -m sparsescope.bench.worker`. Requests come on stdin and answers go to stdout, one JSON
object a line; whatever a library prints goes to stderr. A process of its own gives every contender
memory, threads and environment that no other has touched.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SparsescopeError
from . import memory
from .contenders import LIBRARIES, OURS, Contender
from .data import map_rows
from .peers import Task, load, start_peer
from .timing import foreign_seconds

HELD_LR = 1e-7
"""Learning rate under which an L0 stays where it was put."""
LR = 3e-4
WARM = 0.5
"""A step shorter than so many seconds is taken once unmeasured before each sample: others have emptied the caches."""
REPEATS = 50


def load_library(name: str) -> None:
    """Import what a contender needs, before memory is counted."""
    if name == OURS:
        import_module(".ours", __package__)
    elif name in LIBRARIES:
        load(name)


class Stepping:
    """What is timed: `step` on one batch after the other."""

    def __init__(self, step: Callable[[Tensor], float], batches: Iterator[Tensor]) -> None:
        self._step, self._batches = step, batches
        self.first: float | None = None
        self.last: float | None = None
        self.took = 0.0

    def once(self) -> None:
        """One step."""
        begun = time.perf_counter()
        loss = self._step(next(self._batches))
        self.took = time.perf_counter() - begun
        self.first = loss if self.first is None else self.first
        self.last = loss

    def sample(self, seconds: float) -> dict[str, float]:
        """Seconds per step over at least `seconds`, and how much of a core other processes had meanwhile."""
        if self.took < WARM:
            self.once()
        foreign, begun, count, passed = foreign_seconds(), time.perf_counter(), 0, 0.0
        while passed < seconds and count < REPEATS:
            self.once()
            count, passed = count + 1, time.perf_counter() - begun
        return {"seconds": passed / count, "foreign": (foreign_seconds() - foreign) / passed}


class Worker:
    """Answers requests: "make", "warm", "sample", "finish", and "quality"."""

    def __init__(self) -> None:
        self.stepping: Stepping | None = None
        self.baseline: int | None = None
        self.trainee: Any = None
        self.x = torch.empty(0)
        self.batch = 1
        self.screens = False
        """Whether the selection is to be compared with that of float32."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request.pop("do")
        if kind == "quality":
            from .quality import run

            return run(**request)
        return getattr(self, kind)(**request)

    def make(
        self,
        contender: dict[str, Any],
        rows: str,
        weights: str,
        d_in: int,
        n_latents: int,
        batch: int,
        k: int,
        bias: float,
        threads: int,
    ) -> dict[str, Any]:
        """Build the model. Memory is counted from here: libraries, rows and initial weights are there already."""
        torch.set_num_threads(threads)
        given = Contender(**contender)
        self.x, initial = map_rows(Path(rows), d_in), map_rows(Path(weights), d_in)
        mean = self.x.mean(0)
        initial.sum()  # brings its pages into memory
        self.batch = batch
        self.screens = given.library == OURS and given.method == "topk" and given.precision == "bf16"
        load_library(given.library)
        self.baseline = memory.resident()
        task = Task(
            given.method,
            d_in,
            n_latents,
            batch,
            k=k,
            lr=HELD_LR if given.method == "l1" else LR,
            choice=given.choice,
            weights=initial,
            bias=mean,
            encoder_bias=bias,
        )
        step = self._step(given, task)
        self.stepping = Stepping(step, cycle(self.x.split(batch)))
        facts = {} if not hasattr(self.trainee, "kernels") else {"kernels": self.trainee.kernels.name}
        return {**facts, "forgot": memory.forget_peak()}

    def _step(self, given: Contender, task: Task) -> Callable[[Tensor], float]:
        if given.method == "product":
            assert task.weights is not None
            weights = task.weights.clone().T
            out = torch.empty(task.batch, task.n_latents)
            return lambda x: float(torch.mm(x, weights, out=out)[0, 0])
        if given.library == OURS:
            from .ours import Ours

            self.trainee = Ours(task, self.x[:4096], given.precision == "bf16", given.members)
        else:
            self.trainee = start_peer(given.library, task)
        return self.trainee.step

    def warm(self, steps: int) -> dict[str, Any]:
        """Take steps that are not measured; seconds of the last."""
        assert self.stepping is not None
        for _ in range(steps):
            self.stepping.once()
        return {"seconds": self.stepping.took}

    def sample(self, seconds: float) -> dict[str, Any]:
        assert self.stepping is not None
        return self.stepping.sample(seconds)

    def finish(self) -> dict[str, Any]:
        """Peak memory of the steps above what was there before, first and last loss, and the L0.

        For screened selections also the rows of a batch whose selection is not exact.
        """
        assert self.stepping is not None
        most = memory.peak()
        found: dict[str, Any] = {
            "peak_bytes": None if most is None or self.baseline is None else max(0, most - self.baseline),
            "loss_first": _finite(self.stepping.first),
            "loss_last": _finite(self.stepping.last),
        }
        if self.screens:
            found["missed"] = self.trainee.missed(self.x[-self.batch :])
        return found if self.trainee is None else {**found, "l0": self._l0()}

    @torch.no_grad()
    def _l0(self) -> float:
        if hasattr(self.trainee, "l0"):
            return float(self.trainee.l0)
        codes = self.trainee.learned().encode(self.x[:1024])
        return float((codes > 0).sum() / len(codes))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def serve() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except SparsescopeError as error:
            answer = {"error": str(error)}
        except Exception as error:  # a library's own: told with its row, and the others go on
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
