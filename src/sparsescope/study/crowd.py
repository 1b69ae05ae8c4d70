"""Several processes that work on the dictionaries of one run."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from types import TracebackType

from typing_extensions import Self

from .. import errors
from ..bench.processes import Piped, on_threads
from ..errors import ResourceError, SparsescopeError
from .workshop import Task, Workshop, opening


@dataclass(frozen=True)
class Trade:
    """What the workers of a crowd do: `module` has their `serve`, `done` is what becomes of a dictionary.

    `remedy` is what to do when one of them was killed.
    """

    module: str
    done: str
    remedy: str


EXPLAINING = Trade(
    "sparsescope.study.workshop", "explained", "go on with --resume, and with --jobs 1 where memory is short"
)


class Crowd:
    """Worker processes with a run open, each on one thread. Use as a context manager: they end with the block.

    Processes of their own, because most of the work is Python between small array operations; started by
    hand, because `multiprocessing` would run the caller's main module again.
    """

    def __init__(self, workshop: Workshop, size: int, trade: Trade = EXPLAINING) -> None:
        self._workers = [_Worker(workshop, trade) for _ in range(size)]

    def work(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Each task as it is finished. Raises what the worker raised; what others are at is then given up."""
        waiting, free = list(tasks), list(self._workers)
        running: dict[Future[None], tuple[Task, _Worker]] = {}
        with ThreadPoolExecutor(len(self._workers)) as pool:
            try:
                while waiting or running:
                    while waiting and free:
                        task, worker = waiting.pop(0), free.pop()
                        running[pool.submit(worker.work, task)] = task, worker
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        task, worker = running.pop(future)
                        future.result()
                        free.append(worker)
                        yield task
            except BaseException:
                self._end()  # or the pool would wait for them
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.close()


class _Worker(Piped):
    """One process."""

    def __init__(self, workshop: Workshop, trade: Trade) -> None:
        command = (sys.executable, "-c", f"from {trade.module} import serve; serve()")
        super().__init__(command, {**os.environ, **on_threads(1, os.environ)}, apart=True)
        self._trade = trade
        self.send(**opening(workshop.run, workshop.folder, workshop.means))

    def work(self, task: Task) -> None:
        answer = self.ask(**asdict(task))
        if answer.get("code") == -signal.SIGKILL:
            raise ResourceError(
                f"{task.name} could not be {self._trade.done}: its process was killed from outside, as happens when "
                f"memory is short. What was finished is kept: {self._trade.remedy}."
            )
        if "code" in answer:
            raise ResourceError(f"{task.name} could not be {self._trade.done}: {answer['error']}")
        if "error" in answer and answer["type"] is None:
            raise RuntimeError(answer["error"]) from RuntimeError(self.told())
        if "error" in answer:
            raise getattr(errors, answer["type"], SparsescopeError)(answer["error"])
