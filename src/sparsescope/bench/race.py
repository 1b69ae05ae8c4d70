"""Contenders in turn, each in a process of its own, until every one was sampled often enough."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .contenders import FLOOR, Contender
from .data import bias_for, knowing, superposed, write_rows
from .processes import Process

Progress = Callable[[str, int, int], None]
BATCHES = 8
"""Different batches that steps go around."""
DISTURBED = 0.1
"""A sample during which other processes had more than this share of a core is taken again, while retries last."""
SECONDS, FLOOR_SECONDS = 0.3, 1.0
"""How long a sample is at least, in seconds. All ratios hang on the floor, so its samples are longer."""
PAUSE = 0.3
"""Seconds to wait for a disturbance to pass."""


@dataclass
class Entrant:
    """A contender in a race, its process, and what was measured of it."""

    contender: Contender
    process: Process | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    clean: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    """Seconds per step, of samples that no other process disturbed and of those that one did."""
    note: str | None = None

    def batch(self, batch: int) -> int:
        return self.contender.batch or batch

    @property
    def seconds(self) -> list[float]:
        """The samples that count: the undisturbed, where there are two or more, else all."""
        return self.clean if len(self.clean) > 1 else self.clean + self.disturbed

    def fail(self, why: str) -> None:
        self.note = why
        if self.process is not None:
            self.process.close()
            self.process = None


class Race:
    """All contenders at one size."""

    def __init__(
        self, chosen: Sequence[Contender], shape: dict[str, int], batch: int, progress: Progress | None
    ) -> None:
        self.entrants = [Entrant(each, note=each.missing) for each in chosen]
        self.shape, self.batch = shape, batch
        self.progress = progress or (lambda stage, done, total: None)

    @property
    def running(self) -> list[Entrant]:
        return [each for each in self.entrants if each.process is not None]

    def run(self, rounds: int, *, warm: int = 2, budget: float | None = None, retries: int = 0) -> list[dict[str, Any]]:
        """Measure, and say what was found.

        Every contender takes `warm` steps first, then a sample in each of `rounds`, of which no more are begun
        than fit into `budget` seconds. A disturbed sample is taken again up to `retries` times.
        """
        with tempfile.TemporaryDirectory(prefix="sparsescope-bench-") as folder, ExitStack() as stack:
            files, biases = self._data(Path(folder))
            self._start(stack, files, biases)
            self._warm(warm)
            begun = time.monotonic()
            for turn in range(rounds):
                if turn and budget is not None and (time.monotonic() - begun) * (turn + 1) / turn > budget:
                    break
                self._round(turn, rounds, retries)
            self._finish()
        return [self._row(each) for each in self.entrants]

    def _data(self, folder: Path) -> tuple[dict[str, str], dict[float, float]]:
        """Rows of both kinds and the weights, as files, and the encoder biases of the L0 that are asked for."""
        d, size = self.shape["d_in"], self.shape["n_latents"]
        self.progress("making data", 0, 1)
        files: dict[str, str] = {}
        biases: dict[float, float] = {}
        for kind in sorted({each.contender.data for each in self.entrants}):
            # no fewer directions than latents: copies of one would be selected together
            count = max(8 * d, size)
            x, directions = superposed(BATCHES * self.batch, d, n_features=count, outliers=kind == "outliers")
            write_rows(x, folder / kind)
            files[kind] = str(folder / kind)
            if kind == "plain":
                weights = knowing(directions, size)
                asked = {each.contender.l0 for each in self.entrants if each.contender.l0 is not None}
                biases = {l0: bias_for(x[:1024], weights, l0) for l0 in asked}
                write_rows(weights, folder / "weights")
        self.progress("making data", 1, 1)
        return {**files, "weights": str(folder / "weights")}, biases

    def _start(self, stack: ExitStack, files: dict[str, str], biases: dict[float, float]) -> None:
        """Start processes, one ahead of the one that makes its model: most of the time they import."""
        waiting = [each for each in self.entrants if each.note is None]
        threads = self.shape["threads"]
        for number, entrant in enumerate(waiting):
            self.progress(f"starting, {self.shape['n_latents']:,} latents", number, len(waiting))
            for each in waiting[number : number + 2]:
                if each.process is None:
                    each.process = Process(threads=threads, tuned=each.contender.memory == "tuned")
                    stack.callback(each.process.close)
            given = entrant.contender
            assert entrant.process is not None
            entrant.facts = entrant.process.ask(
                do="make",
                contender=given.settings(),
                rows=files[given.data],
                weights=files["weights"],
                bias=0.0 if given.l0 is None else biases[given.l0],
                batch=entrant.batch(self.batch),
                **self.shape,
            )
            if "error" in entrant.facts:
                entrant.fail(entrant.facts["error"])
        self.progress(f"starting, {self.shape['n_latents']:,} latents", len(waiting), len(waiting))

    def _warm(self, steps: int) -> None:
        running = self.running
        for number, entrant in enumerate(running):
            self.progress(f"warming up, {self.shape['n_latents']:,} latents", number, len(running))
            assert entrant.process is not None
            answer = entrant.process.ask(do="warm", steps=steps)
            if "error" in answer:
                entrant.fail(answer["error"])
        self.progress(f"warming up, {self.shape['n_latents']:,} latents", len(running), len(running))

    def _round(self, turn: int, rounds: int, retries: int) -> None:
        running = self.running
        stage = f"measuring, {self.shape['n_latents']:,} latents"
        for number, entrant in enumerate(running):
            self.progress(stage, turn * len(running) + number, rounds * len(running))
            for attempt in range(retries + 1):
                assert entrant.process is not None
                seconds = FLOOR_SECONDS if entrant.contender.name == FLOOR else SECONDS
                answer = entrant.process.ask(do="sample", seconds=seconds)
                if "error" in answer:
                    entrant.fail(answer["error"])
                    break
                if answer["foreign"] <= DISTURBED:
                    entrant.clean.append(answer["seconds"])
                    break
                if attempt == retries:
                    entrant.disturbed.append(answer["seconds"])
                time.sleep(PAUSE)
        if turn + 1 == rounds:
            self.progress(stage, rounds * len(running), rounds * len(running))

    def _finish(self) -> None:
        for entrant in self.running:
            assert entrant.process is not None
            answer = entrant.process.ask(do="finish")
            if "error" in answer:
                entrant.fail(answer["error"])
            else:
                entrant.facts |= answer

    def _row(self, entrant: Entrant) -> dict[str, Any]:
        given, batch = entrant.contender, entrant.batch(self.batch)
        members = given.members
        ms = [1e3 * each / members for each in entrant.seconds]
        floor = [e.seconds for e in self.entrants if e.contender.name == FLOOR and e.batch(self.batch) == batch]
        keeps_k = given.method in ("topk", "batchtopk", "matryoshka")
        ratio = median(ms) / (1e3 * median(floor[0])) if ms and floor and floor[0] else None
        return {
            "name": given.name,
            "library": given.library,
            "method": given.method,
            "d_in": self.shape["d_in"],
            "n_latents": self.shape["n_latents"],
            "batch": batch,
            "l0": self.shape["k"] if keeps_k else entrant.facts.get("l0", given.l0),
            "precision": given.precision,
            "ms": median(ms) if ms else None,
            "ratio": ratio,
            "peak_bytes": entrant.facts.get("peak_bytes") if ms else None,
            "low": min(ms, default=None),
            "high": max(ms, default=None),
            "n": len(entrant.clean) + len(entrant.disturbed),
            "disturbed": len(entrant.disturbed),
            "memory": given.memory,
            "data": given.data,
            "members": members,
            "choice": given.choice,
            "kernels": entrant.facts.get("kernels"),
            "missed": entrant.facts.get("missed"),
            "loss_first": entrant.facts.get("loss_first"),
            "loss_last": entrant.facts.get("loss_last"),
            "note": entrant.note,
        }
