"""Several processes that work on the dictionaries of one run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from typing_extensions import Self

from .. import errors
from ..errors import ResourceError, SparsescopeError
from .workshop import Task, Workshop, opening

_SOURCE = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-c", "from sparsescope.study.workshop import serve; serve()")
_TAIL = 2000


class Crowd:
    """Worker processes with a run open, each on one thread. Use as a context manager: they end with the block.

    Processes of their own, because most of the work is Python between small array operations; started by
    hand, because `multiprocessing` would run the caller's main module again.
    """

    def __init__(self, workshop: Workshop, size: int) -> None:
        first = json.dumps(opening(workshop.run, workshop.folder, workshop.means))
        self._workers = [_Worker(first) for _ in range(size)]

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
            worker.end()


class _Worker:
    """One process."""

    def __init__(self, first: str) -> None:
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join(filter(None, [str(_SOURCE), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the process that started them, which ends them
        )
        self._send(first)

    def work(self, task: Task) -> None:
        self._send(json.dumps(asdict(task)))
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ResourceError(f"{task.name} could not be explained: {self._death()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer and answer["type"] is None:
            raise RuntimeError(answer["error"]) from RuntimeError(self._told())
        if "error" in answer:
            kind = getattr(errors, answer["type"], SparsescopeError)
            raise kind(answer["error"])

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._log.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has died, which `work` will tell

    def _death(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return (
                "its process was killed from outside, as happens when memory is short. What was finished is kept: go "
                "on with --resume, and with --jobs 1 where memory is short."
            )
        return f"its process ended with code {code}. {self._told()}"

    def _told(self) -> str:
        """The end of what it wrote to standard error."""
        self._log.seek(0)
        return self._log.read()[-_TAIL:].strip()
