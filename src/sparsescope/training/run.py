"""The loop: one read of each batch, every member in turn, with a way back from a bad step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..dictionaries import Dictionary
from ..errors import NumericalError
from .checkpoint import FOLDER, Checkpoint, Saved, load_checkpoint, save_checkpoint
from .crew import Crew
from .finish import HeldOut, finish_line, fold, measure_held_out
from .gradients import Forward, Workspace
from .member import Member, create
from .methods import Method
from .records import FILE, Records
from .schedule import Schedule
from .source import Source

Progress = Callable[[str, int, int], None]
Line = dict[str, Any]

MARK_EVERY = 20
"""Steps between the in-memory copies to which a bad step is rolled back."""
ROLLBACKS = 5
"""Rollbacks of one member between two good copies after which training gives up."""
LOG_LINES = 200
"""Lines per member in `metrics.jsonl`, about."""


class Run:
    """One call of `train`: the members, their last good copies, and the records.

    Every `MARK_EVERY` steps all members are copied (the *mark*). A member's copy counts as good once
    its loss on the next batch is good; until then the one before is kept. A checkpoint is the last
    mark written to disk, with the older good copies that are still needed, so whatever happens after
    a resume happens as it would have without the interruption.
    """

    def __init__(
        self,
        source: Source,
        methods: Sequence[Method],
        names: Sequence[str],
        schedule: Schedule,
        progress: Progress | None = None,
        folder: Path | None = None,
        checkpoint_every: int = 500,
    ) -> None:
        self.source, self.schedule, self.folder = source, schedule, folder
        self.checkpoint_every = checkpoint_every
        self.progress: Progress = progress or (lambda stage, done, total: None)
        self.members = [
            create(method, name, source, schedule.steps) for method, name in zip(methods, names, strict=True)
        ]
        self.good = [member.state() for member in self.members]
        self.failures = [0] * len(self.members)
        self.mark = Checkpoint(0, 0, [])
        self.checkpointed = 0
        self.records = Records(None if folder is None else folder / FILE)
        self.stage = f"training {len(self.members)} dictionaries"

    @torch.no_grad()
    def train(self) -> list[Dictionary]:
        """Go from the last checkpoint (or the start) to the end. Raises as `train` says."""
        steps = self.schedule.steps
        try:
            first = self._resume()
            with Crew(len(self.members)) as crew:
                for step, x in enumerate(self.source.batches(self.schedule.batch, first, steps), first):
                    self._step(step, x, crew)
                    self.progress(self.stage, step + 1, steps)
                return self._finish(crew)
        except KeyboardInterrupt:
            self._save()
            raise
        finally:
            self.records.close()

    def _resume(self) -> int:
        found = None if self.folder is None else load_checkpoint(self.folder / FOLDER)
        if found is None:
            self.records.open(0)
            return 0
        for index, (member, saved) in enumerate(zip(self.members, found.members, strict=True)):
            member.restore(saved.state)
            self.good[index] = saved.state if saved.older is None else saved.older
            self.failures[index] = saved.failures
        self.records.open(found.size)
        self.mark, self.checkpointed = found, found.step
        return found.step

    def _step(self, step: int, x: Float[Tensor, "row d"], crew: Crew) -> None:
        marked = step % MARK_EVERY == 0
        if marked:
            states = [Saved(member.state(), count) for member, count in zip(self.members, self.failures, strict=True)]
            self.mark = Checkpoint(step, self.records.size, states)
        spread = self._spread(step, x)

        def advance(index: int, space: Workspace) -> Line:
            member = self.members[index]
            done = member.measure(x, space)
            loss = member.loss(done)
            fault = member.fault(loss)
            if fault is not None:
                return self._roll_back(step, index, loss, fault)
            if marked:
                self.good[index], self.failures[index] = self.mark.members[index].state, 0
            line = {} if spread is None else self._line(step, member, done, loss, spread)
            member.update(done, loss, self.schedule.lr * self.schedule.pace(step), space)
            return line | {"dead": member.dead()} if line else line

        for index, line in enumerate(crew.each(advance)):
            self._report(index, line)
        if marked and step - self.checkpointed >= self.checkpoint_every:
            self._save()

    def _spread(self, step: int, x: Tensor) -> float | None:
        """Σ(x − x̄)² of the batch at steps that are logged, else None."""
        if step % max(1, self.schedule.steps // LOG_LINES) and step + 1 < self.schedule.steps:
            return None
        return float((x - x.mean(0)).square().sum(dtype=torch.float64))

    def _line(self, step: int, member: Member, done: Forward, loss: float, spread: float) -> Line:
        rows, dimensions = done.residual.shape
        return {
            "step": step,
            "name": member.name,
            "rows": member.rows + rows,
            "loss": loss,
            "mse": done.squared_error / (rows * dimensions),
            "fvu": done.squared_error / spread if spread else None,
            "l0": done.count / rows,
            "l1": None if member.k is not None else member.l1,
            "lr": self.schedule.lr * self.schedule.pace(step),
        }

    def _roll_back(self, step: int, index: int, loss: float, fault: str) -> Line:
        """Skip a bad batch: back to the last good copy."""
        self.failures[index] += 1
        self.members[index].restore(self.good[index])
        return {"step": step, "name": self.members[index].name, "event": "rollback", "fault": fault, "loss": loss}

    def _report(self, index: int, line: Line) -> None:
        """Record a line, and say so where it is bad news. Raises `NumericalError` where it is too bad."""
        if line:
            self.records.write(line)
        if line.get("event") != "rollback":
            return
        back = f"rolled back {line['name']} at step {line['step']}: {line['fault']} loss {line['loss']:g}"
        self.progress(back, line["step"], self.schedule.steps)
        if self.failures[index] >= ROLLBACKS:
            raise NumericalError(
                f"{back}, for the {ROLLBACKS}th time within {MARK_EVERY} steps: going back did not help. "
                f"Look at the activations for rows of extreme norm, or lower the learning rate ({self.schedule.lr:g})."
            )

    def _save(self) -> None:
        """Write the last mark as a checkpoint."""
        if self.folder is None or not self.mark.members:
            return
        for saved, good in zip(self.mark.members, self.good, strict=True):
            saved.older = None if good is saved.state else good
        self.records.flush()
        save_checkpoint(self.folder / FOLDER, self.mark)
        self.checkpointed = self.mark.step

    def _finish(self, crew: Crew) -> list[Dictionary]:
        """Measure each member on held-out rows, record it, and fold it into a dictionary."""
        steps = self.schedule.steps
        split, batches = self.source.held_out()

        def check(index: int, space: Workspace) -> tuple[Line, HeldOut]:
            member, back = self.members[index], Line()
            measured = measure_held_out(member, batches, space)
            fault = member.fault(measured.loss) or (None if member.finite() else "non-finite")
            if fault is not None:
                back = self._roll_back(steps, index, measured.loss, fault)
                measured = measure_held_out(member, batches, space)
            return back, measured

        for index, (back, measured) in enumerate(crew.each(check)):
            member = self.members[index]
            self._report(index, back)
            self._report(index, finish_line(member, steps, split, measured))
            if member.controller is not None and measured.misses(member.controller.target):
                target = member.controller.target
                self.progress(f"{member.name} ended at L0 {measured.l0:.3g}, not {target:g}", steps, steps)
        return [fold(member, self.source) for member in self.members]
