"""Contenders in processes of their own, told what to do over pipes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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


class Process:
    """One worker. Use as a context manager: it ends with the block."""

    def __init__(self, *, threads: int, tuned: bool = False, python: str = sys.executable) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close
        command = [python, "-m", "sparsescope.bench.worker"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, env=environment(threads, tuned)
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
        """The answer to the oldest request that has none yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": self._death()}

    def _death(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        last = self._log.read()[-TAIL:].strip()
        return f"its process ended with code {code}{': ' if last else ''}{last}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def environment(threads: int, tuned: bool, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a worker's process is started with: threads, quiet libraries, this package, and where asked `TUNED`."""
    found = {**(os.environ if base is None else base), **QUIET}
    found |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE), found.get("PYTHONPATH")]))
    found.pop("GLIBC_TUNABLES", None)
    return {**found, "GLIBC_TUNABLES": TUNED} if tuned else found
