"""The explorer's server in a process of its own, as `sparsescope explore RUN --no-live` starts it.

python -m sparsescope.bench.explorer_server RUN      prints its address when it listens
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from ..errors import StorageError
from .processes import SOURCE


class ServedRun:
    """A server that lives as long as the block; `url` is its address, without a slash at the end."""

    def __init__(self, run: Path) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed at the end
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sparsescope.bench.explorer_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdin as told:
            told.write(f"{run}\n")
        self.url = self._process.stdout.readline().strip().rstrip("/")
        if not self.url:
            self._log.seek(0)
            raise StorageError(f"the explorer's server did not start: {self._log.read()[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def memory(self) -> dict[str, int | None]:
        """Bytes that it holds, and the most that it ever held; None where the system does not say."""
        status = Path(f"/proc/{self._process.pid}/status")
        said = status.read_text() if status.exists() else ""
        found = {name: re.search(rf"^{field}:\s+(\d+) kB", said, re.MULTILINE) for name, field in _FIELDS.items()}
        return {name: int(match[1]) * 1024 if match else None for name, match in found.items()}


_FIELDS = {"resident": "VmRSS", "peak": "VmHWM"}


def main() -> None:
    """Serve the run that the first line of the input names."""
    from ..explorer.explored import Explored
    from ..explorer.serving import ExplorerServer

    with ExplorerServer(Explored(sys.stdin.readline().rstrip("\n"))) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        server.run()


if __name__ == "__main__":
    main()
