"""How much memory is free: of a device, of this machine, and of what this process may use of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_GROUPS = ("memory.max", "memory.current", "active_file", "inactive_file")
_GROUPS_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file")


def free_memory(device: torch.device | None = None, root: Path | None = None) -> int | None:
    """Bytes that can still be allocated; None where the system does not say.

    On CUDA what the driver calls free and what PyTorch holds without using it. Else, on Linux, what the
    kernel calls available, or less where a control group of this process (a container, a batch job)
    allows less, pages of files not counted, which are given back when memory is wanted. On other
    systems all of the machine's memory. `root` stands for / in tests.
    """
    if device is not None and device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    root = Path("/") if root is None else root
    meminfo = _numbers(root / "proc/meminfo")
    if "MemAvailable:" not in meminfo:
        return _total()
    return max(0, min([meminfo["MemAvailable:"] * 1024, *_group_rooms(root)]))


def _group_rooms(root: Path) -> Iterator[int]:
    """What each control group that this process is in, and those around it, leave free."""
    lines = _read(root / "proc/self/cgroup").splitlines()
    for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if kinds and "memory" not in kinds.split(","):
            continue
        mount = root / ("sys/fs/cgroup/memory" if kinds else "sys/fs/cgroup")
        # within a container the group's path may not be visible: its own group is then the mount itself
        folder = mount / path.strip("/")
        while folder != mount.parent:
            yield from _room(folder, _GROUPS_V1 if kinds else _GROUPS)
            folder = folder.parent


def _room(folder: Path, names: tuple[str, str, str, str]) -> Iterator[int]:
    limit, usage = (_read(folder / name).strip() for name in names[:2])
    if limit.isdigit() and usage.isdigit():  # "max" is no limit
        pages = _numbers(folder / "memory.stat")
        yield int(limit) - int(usage) + sum(pages.get(name, 0) for name in names[2:])


def _numbers(path: Path) -> dict[str, int]:
    """Lines such as 'MemAvailable:  1024 kB' or 'inactive_file 4096'."""
    words = (line.split() for line in _read(path).splitlines())
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or not ours to see: then it sets no limit that we know of
        return ""


def _total() -> int | None:
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
