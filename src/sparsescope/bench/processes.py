"""Contenders in processes of their own, told what to do over pipes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from .contenders import TUNED

SOURCE = Path(__file__).resolve().parents[2]
QUIET = {
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    # sparsify otherwise takes its GPU decoder wherever Triton can be imported, on a CPU too, and fails
    "SPARSIFY_DISABLE_TRITON": "1",
}
TAIL = 2000
"""Characters of what a process wrote last that are shown when it has died."""


class Piped:
    """A process that answers one JSON object for each that it is sent. A context manager: it ends with the block.

    With `apart`, Ctrl-C is for the process that started it alone.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, apart: bool = False) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, env=env, start_new_session=apart
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer, which has "error" where it failed or the process died."""
        self.send(**request)
        return self.receive()

    def send(self, **request: Any) -> None:
        """Send a request; `receive` waits for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has died, which receive will tell

    def receive(self) -> dict[str, Any]:
        """The answer to the oldest request that has none yet; of a process that died "error" and its "code"."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code, last = self._process.wait(), self.told()
        return {"error": f"its process ended with code {code}{': ' if last else ''}{last}", "code": code}

    def told(self) -> str:
        """The end of what it wrote to standard error."""
        self._log.seek(0)
        return self._log.read()[-TAIL:].strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process. A second time does nothing."""
        if self._log.closed:
            return
        self._process.kill()
        self._process.communicate()
        self._log.close()


class Process(Piped):
    """One worker of a benchmark."""

    def __init__(self, *, threads: int, tuned: bool = False, python: str = sys.executable) -> None:
        super().__init__([python, "-m", "sparsescope.bench.worker"], environment(threads, tuned))


def environment(threads: int, tuned: bool, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a worker's process is started with: threads, quiet libraries, this package, and where asked `TUNED`."""
    found = {**(os.environ if base is None else base), **QUIET}
    found |= on_threads(threads, found)
    found.pop("GLIBC_TUNABLES", None)
    return {**found, "GLIBC_TUNABLES": TUNED} if tuned else found


def on_threads(threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """What a process is started with to find this package and to use so many threads."""
    path = os.pathsep.join(filter(None, [str(SOURCE), base.get("PYTHONPATH")]))
    return {**dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)), "PYTHONPATH": path}
