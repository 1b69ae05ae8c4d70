"""What work costs: stages timed as they run, and honest guesses beforehand."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..artifact import read_json, write_json

FILE = "stages.json"
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stages:
    """The stages of a run, in the order they ran: seconds and peak resident memory of each.

    Kept in `stages.json` in the run, so that a resumed study still knows them. A stage that was
    interrupted keeps the time it took until then; a finished one is not counted again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._held: dict[str, dict[str, Any]] = read_json(self._path) if self._path.is_file() else {}

    def report(self) -> dict[str, dict[str, Any]]:
        """`{name: {"seconds", "peak_rss_bytes"}}` of all stages so far."""
        return {name: {key: entry[key] for key in ("seconds", "peak_rss_bytes")} for name, entry in self._held.items()}

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Measure one stage, unless it was finished before."""
        before = self._held.get(name, {"seconds": 0.0, "peak_rss_bytes": 0, "finished": False})
        if before["finished"]:
            yield
            return
        reset_peak()
        started = time.perf_counter()
        finished = False
        try:
            yield
            finished = True
        finally:
            seconds = before["seconds"] + time.perf_counter() - started
            peak = max(before["peak_rss_bytes"], peak_rss())
            self._held[name] = {"seconds": round(seconds, 3), "peak_rss_bytes": peak, "finished": finished}
            if finished or self._worth_keeping():
                write_json(self._path, self._held)

    def _worth_keeping(self) -> bool:
        """Whether the failed stage left anything that can be resumed."""
        return any(entry.is_dir() for entry in self._path.parent.iterdir())


def reset_peak() -> None:
    """Start counting peak memory anew, where the system can (Linux); elsewhere the peak is the process's."""
    try:
        _RESET.write_text("5")
    except OSError:  # another system, or a kernel without it: the peak then covers earlier stages as well
        return


def total_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def current_rss() -> int:
    """Resident memory of this process now, in bytes (its peak, where the system does not say)."""
    return _status("VmRSS:") or _overall_peak()


def peak_rss() -> int:
    """Peak resident memory of this process in bytes, since `reset_peak` where that works."""
    return _status("VmHWM:") or _overall_peak()


def _status(key: str) -> int:
    """An entry of Linux's process status in bytes; 0 on other systems."""
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _overall_peak() -> int:
    import resource  # not on Windows, where nothing above is either

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
