"""What a benchmark ran on."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .contenders import LIBRARIES

_CPU = Path("/proc/cpuinfo")


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores, threads used, whether bfloat16 products are native, and versions (None: not installed)."""
    said = _CPU.read_text() if _CPU.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", said, re.MULTILINE)
    flags = set(re.findall(r"\b(?:avx512_bf16|amx_bf16|avx512f|avx2)\b", said))
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": threads,
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16"}),
        "instructions": sorted(flags),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in ("sparsescope", "torch", "numpy")},
        "libraries": {name: library.version for name, library in LIBRARIES.items()},
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
