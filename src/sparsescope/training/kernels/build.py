"""The C++ kernels are built where they run, by the compiler that is there, for the processor that is there.

The library lies in a cache of the user's, under a name made of all that it depends on: sources, flags,
compiler, processor, and torch's OpenMP. Building takes some seconds, once. Processes that build at the
same time do not disturb each other: each writes a file of its own, which then takes the final name.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""Nothing here lets the compiler assume that there is no NaN, or change the order of a sum."""
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT = 300
"""Seconds."""


class CannotBuildError(Exception):
    """Why there is no library, in a sentence for the user."""


def load_library() -> ctypes.CDLL | None:
    """The compiled kernels, built if need be; None where they cannot be had, see `why_not`.

    >>> library = load_library()
    >>> library is not None or "compiler" in why_not()
    True
    """
    return _outcome()[0]


def why_not() -> str:
    """Why `load_library` gave None, in a sentence; empty where it did not."""
    return _outcome()[1]


@cache
def _outcome() -> tuple[ctypes.CDLL | None, str]:
    try:
        compiler = find_compiler()
        return _load(compiler, cache_directory()), ""
    except CannotBuildError as reason:
        return None, str(reason)


def find_compiler() -> list[str]:
    """The C++ compiler as the beginning of a command: $CXX, else the first of `COMPILERS` on the path."""
    named = os.environ.get("CXX")
    if named:
        command = shlex.split(named)
        if command and shutil.which(command[0]):
            return command
        raise CannotBuildError(f"the compiler that CXX names, {named!r}, is not there.")
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise CannotBuildError(f"there is no C++ compiler: none of {', '.join(COMPILERS)} is on the path.")


def cache_directory() -> Path:
    """Where built libraries are kept: $SPARSESCOPE_KERNELS_CACHE, else `sparsescope/kernels` in the user's cache.

    Where that cannot be written, a new directory that only this process uses.
    """
    named = os.environ.get("SPARSESCOPE_KERNELS_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    directory = Path(named).expanduser() if named else home / "sparsescope" / "kernels"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass  # a home that cannot be written, or none at all
    return Path(tempfile.mkdtemp(prefix="sparsescope-kernels-"))


def _load(compiler: list[str], directory: Path) -> ctypes.CDLL:
    """The library from the cache; a file there that does not load is built again."""
    path = directory / f"kernels-{_fingerprint(compiler)}.so"
    if path.exists():
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            path.unlink(missing_ok=True)
    _build(compiler, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotBuildError(f"the kernels were built by {compiler[0]} but do not load: {error}.") from error


def _build(compiler: list[str], path: Path) -> None:
    """With OpenMP; where the compiler has none, without, for one thread."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="building-", suffix=".so")
    os.close(handle)
    try:
        message = ""
        for openmp in (_openmp_flags(), []):
            command = [*compiler, *FLAGS, str(SOURCES / "cpu.cpp"), "-o", temporary, *openmp]
            message = _run(command)
            if not message:
                os.replace(temporary, path)
                return
        raise CannotBuildError(f"the compiler {compiler[0]} does not build them: {message}")
    finally:
        Path(temporary).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    """What the compiler complains of; empty when it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{error}."
    return "" if done.returncode == 0 else done.stderr.strip()[-2000:] or f"it ended with {done.returncode}."


def _openmp_flags() -> list[str]:
    """OpenMP, by torch's own copy of GNU's library where torch brings one: two pools of threads would compete."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-fopenmp", *(["-Wl,--as-needed", str(own[0])] if own and sys.platform == "linux" else [])]


def _fingerprint(compiler: list[str]) -> str:
    """A hash of all that the built library depends on."""
    found = hashlib.sha256()
    for path in sorted([*SOURCES.glob("cpu*.h"), SOURCES / "cpu.cpp"]):
        found.update(path.read_bytes())
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    parts = (*compiler, *FLAGS, *_openmp_flags(), version.stdout, _processor())
    found.update("\0".join(parts).encode())
    return found.hexdigest()[:24]


def _processor() -> str:
    """What the compiler sees with -march=native: the model and the abilities of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in cpuinfo.read_text().splitlines() if line.startswith(wanted)}
    return "\n".join([platform.machine(), *sorted(lines)])
