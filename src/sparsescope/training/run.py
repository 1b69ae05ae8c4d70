"""The loop: one read of each batch, every member in turn, and nothing lost when it ends early."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..dictionaries import Dictionary
from ..errors import NumericalError, SparsescopeError
from .checkpoint import FOLDER, Checkpoint, load_checkpoint, save_checkpoint
from .crew import Bench, Crew
from .finish import asked, finish_line, fold, measure_held_out, penalty
from .interruption import Interruption, deferred
from .kernels import Precision, choose
from .member import Member, create
from .memory import is_out_of_memory, out_of_memory
from .methods import Method
from .records import FILE, Records
from .resample import due
from .schedule import Schedule
from .source import Batch, Feed
from .step import Pass

Progress = Callable[[str, int, int], None]
Line = dict[str, Any]

FAULTS = 5
"""Bad batches in a row after which a member is stopped."""
LOG_LINES = 200
"""Lines per member in `metrics.jsonl`, about."""


class Run:
    """One call of `train`: the members, the step they are at, and the records.

    Between steps everything that training remembers is `step` and the members' states; a checkpoint
    is just that. Whatever happens after a resume happens as it would have without the interruption.
    """

    def __init__(
        self,
        feed: Feed,
        methods: Sequence[tuple[int, Method]],
        names: Sequence[str],
        schedule: Schedule,
        rates: Sequence[float] | None = None,
        progress: Progress | None = None,
        folder: Path | None = None,
        every: int = 500,
        precision: Precision = "float32",
        kernels: str = "auto",
    ) -> None:
        self.feed, self.schedule, self.folder = feed, schedule, folder
        self.rates = [1.0] * len(feed.sources) if rates is None else rates
        self.every = every
        self.progress: Progress = progress or (lambda stage, done, total: None)
        self.device = feed.sources[0].device
        self.precision, self.kernels_choice = precision, kernels
        self.make_kernels = partial(choose, self.device, kernels)
        first = self.make_kernels()
        self.kernels = first
        self.members = [
            create(method, name, number, feed.sources[number], schedule, first, precision)
            for (number, method), name in zip(methods, names, strict=True)
        ]
        self.step = self.checkpointed = 0
        self.records = Records(None if folder is None else folder / FILE)
        self.stage = f"training {len(self.members)} dictionaries"

    @torch.no_grad()
    def train(self) -> list[Dictionary | None]:
        """Go from the last checkpoint (or the start) to the end; None stands for a member that was stopped.

        Raises as `train` says.
        """
        try:
            self._resume()
            with self._crew() as crew, deferred() as interruption:
                with closing(self._batches()) as batches:
                    for read in batches:
                        self._advance(read, crew)
                        self.progress(self.stage, self.step, self.schedule.steps)
                        interruption.check()
                self._save()
                return self._finish(interruption)
        except KeyboardInterrupt:
            self._save()
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(error) from None
        finally:
            self.records.close()

    def _batches(self) -> Generator[list[Batch], None, None]:
        """What is left to read. Closing it ends the thread that reads ahead."""
        yield from self.feed.batches(self.schedule.batch, self.step, self.schedule.steps)

    def _crew(self) -> Crew:
        widest = max(member.weights.directions.numel() for member in self.members)
        on_cpu = self.device.type == "cpu"
        return Crew(len(self.members), self.schedule.batch * widest, self.make_kernels, on_cpu)

    def _resume(self) -> None:
        found = None if self.folder is None else load_checkpoint(self.folder / FOLDER)
        if found is None:
            self.records.open(0)
            return
        for member, state in zip(self.members, found.members, strict=True):
            member.restore(state, self.kernels)
        self.records.open(found.size)
        self.step = self.checkpointed = found.step

    def _advance(self, read: Sequence[Batch], crew: Crew) -> None:
        """One step of every member, its records, and a checkpoint where one is due."""
        step = self.step
        logged = step % max(1, self.schedule.steps // LOG_LINES) == 0 or step + 1 == self.schedule.steps
        spreads = [_spread(batch) if logged else None for batch in read]
        lines = crew.each(lambda index, bench: self._one(self.members[index], step, read, spreads, bench))
        self.step = step + 1
        for member, found in zip(self.members, lines, strict=True):
            for line in found:
                self.records.write(line)
            if member.stopped and member.position == self.step:
                self.records.write({"step": step, "name": member.name, "event": "stopped", "why": member.stopped})
        for member, found in zip(self.members, lines, strict=True):  # which may interrupt
            self._tell(member, found)
        if all(member.stopped for member in self.members):
            named = "; ".join(f"{name} ({why})" for name, why in self.stopped().items())
            raise NumericalError(f"every member was stopped: {named}.")
        if self.step - self.checkpointed >= self.every:
            self._save()

    def _one(
        self, member: Member, step: int, read: Sequence[Batch], spreads: Sequence[float | None], bench: Bench
    ) -> list[Line]:
        if member.stopped is not None or member.position > step:
            return []
        lines = self._take(member, step, read[member.source], spreads[member.source], bench)
        member.position, member.torn = step + 1, False
        return lines

    def _take(self, member: Member, step: int, batch: Batch, spread: float | None, bench: Bench) -> list[Line]:
        """One step of one member."""
        steps = self.schedule.steps
        resampling = member.method.resampled and due(step, steps)
        done = member.measure(batch, step / steps, bench.kernels, bench.buffers, resampling)
        fault = member.fault(done.loss)
        if fault is not None:
            return [self._fault(member, step, done.loss, fault)]
        line = None if spread is None else self._line(step, member, done, len(batch.x), spread)
        member.update(done, len(batch.x), self._lr(member, step), bench.kernels)
        lines = [] if line is None else [line | {"dead": member.dead()}]
        member.stopped = member.unreachable(step / steps)
        given = member.resample(step, self.schedule, batch, done, bench.kernels)
        return [*lines, {"step": step, "name": member.name, "event": "resampled", "latents": given}] if given else lines

    def _line(self, step: int, member: Member, done: Pass, rows: int, spread: float) -> Line:
        return {
            "step": step,
            "name": member.name,
            "rows": member.rows + rows,
            "loss": done.loss,
            "mse": done.squared_error / (rows * member.weights.directions.shape[1]),
            "fvu": done.squared_error / spread if spread else None,
            "l0": done.sums["active"] / rows,
            "l1": penalty(member),
            "lr": self._lr(member, step),
        }

    def _lr(self, member: Member, step: int) -> float:
        return self.schedule.lr * self.rates[member.source] * self.schedule.pace(step)

    def _fault(self, member: Member, step: int, loss: float, fault: str) -> Line:
        """A bad batch: the step is not taken. After too many in a row the member is stopped."""
        member.faults += 1
        if member.faults >= FAULTS:
            member.stopped = (
                f"{fault} loss at step {step}, {FAULTS} batches in a row: look at the activations for rows of extreme "
                f"norm, or lower the learning rate, {self.schedule.lr:g}"
                + (f", or the weight of the penalty, {member.coefficient:g}" if member.coefficient else "")
            )
        return {"step": step, "name": member.name, "event": "skipped", "fault": fault, "loss": loss}

    def _tell(self, member: Member, lines: Sequence[Line]) -> None:
        """Say what happened to a member where it is bad news."""
        for line in lines:
            if line.get("event") == "skipped":
                what = f"{line['fault']} loss {line['loss']:g}"
                text = f"skipped a batch for {member.name} at step {line['step']}: {what}"
                self.progress(text, self.step, self.schedule.steps)
        if member.stopped and member.position == self.step:
            self.progress(f"stopped {member.name}: {member.stopped}", self.step, self.schedule.steps)

    def stopped(self) -> dict[str, str]:
        """Members that are trained no further, and why."""
        return {member.name: member.stopped for member in self.members if member.stopped}

    def _save(self) -> None:
        """Write a checkpoint of this moment."""
        if self.folder is None or not self.step or any(member.torn for member in self.members):
            return
        if self.checkpointed == self.step and all(member.position <= self.step for member in self.members):
            return  # nothing has happened since
        self.records.flush()
        states = [member.state() for member in self.members]
        save_checkpoint(self.folder / FOLDER, Checkpoint(self.step, self.records.size, states))
        self.checkpointed = self.step

    def _out_of_memory(self, error: Exception) -> SparsescopeError:
        self._save()
        members = [(member.source, member.method) for member in self.members]
        kept = self.checkpointed
        return out_of_memory(
            error, self.feed, members, self.schedule.batch, self.step, kept, self.precision, self.kernels_choice
        )

    def _finish(self, interruption: Interruption) -> list[Dictionary | None]:
        """Fold each member into a dictionary, measure that on held-out rows, and record it."""
        steps, finished = self.schedule.steps, list[Dictionary | None]()
        held = [source.held_out() for source in self.feed.sources]
        for member in self.members:
            interruption.check()
            if member.stopped is None and not member.finite():
                member.stopped = "weights that are not finite at the end"
                self.records.write({"step": steps, "name": member.name, "event": "stopped", "why": member.stopped})
            if member.stopped is not None:
                finished.append(None)
                continue
            split, batches = held[member.source]
            source = self.feed.sources[member.source]
            dictionary = fold(member, source, self.kernels)
            measured = measure_held_out(dictionary, source, batches)
            self.records.write(finish_line(member, steps, split, measured))
            target = asked(member)
            if target is not None and measured.misses(target):
                self.progress(f"{member.name} ended at L0 {measured.l0:.3g}, not {target:g}", steps, steps)
            finished.append(dictionary)
        return finished


def _spread(batch: Batch) -> float:
    """Σ(y − ȳ)² of the batch."""
    return float((batch.y - batch.y.mean(0)).square().sum(dtype=torch.float64))
