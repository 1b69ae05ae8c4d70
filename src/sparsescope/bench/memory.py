"""How much memory a process takes: what it holds now, and the most it held. Linux only; elsewhere unknown."""

import re
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int | None:
    """Bytes of memory that this process has now; None where the system does not say."""
    return _field("VmRSS")


def peak() -> int | None:
    """The most bytes that this process has had since it began, or since `forget_peak`."""
    return _field("VmHWM")


def forget_peak() -> bool:
    """Let `peak` begin anew with what is resident now; whether the system allows that.

    >>> if forget_peak():
    ...     before = peak()
    ...     filled = bytearray(50_000_000)
    ...     assert peak() > before + 40_000_000
    """
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _field(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024
