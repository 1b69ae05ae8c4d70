"""What training will take is what it takes, and what does not fit is refused with a size that would."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import realistic

from sparsescope.errors import ConfigurationError, ResourceError
from sparsescope.study.cost import current_rss
from sparsescope.study.estimate import training_cost
from sparsescope.training import (
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Method,
    PAnneal,
    TiedL1,
    TopK,
    Transcoder,
    UntiedL1,
    memory,
)
from sparsescope.training.free import free_memory
from sparsescope.training.kernels.reference import Reference
from sparsescope.training.member import create
from sparsescope.training.memory import check_memory, is_out_of_memory, out_of_memory
from sparsescope.training.plan import Size, gigabytes, plan
from sparsescope.training.schedule import Schedule
from sparsescope.training.source import open_feed

METHODS: list[Method] = [
    TiedL1(l1=0.1, n_latents=600),
    TiedL1(target_l0=8, n_latents=600),
    UntiedL1(l1=0.1, n_latents=600),
    PAnneal(l1=0.1, n_latents=600),
    Gated(l1=0.1, n_latents=600),
    JumpReLU(l0=0.1, n_latents=600),
    TopK(k=8, n_latents=600),
    BatchTopK(k=8, n_latents=600),
    Matryoshka(k=8, n_latents=600),
]


def standing(source: Any, method: Method) -> int:
    """The bytes of every tensor of a member that has been made."""
    member = create(method, "it", 0, source, Schedule(1000, 10, 1e-3, 0.1, 0.1), Reference(), "float32")
    held = {tensor.data_ptr(): tensor.nbytes for tensor in member.state().tensors.values()}
    held[member.vectors.gradient.data_ptr()] = member.vectors.gradient.nbytes
    return sum(held.values())


ALONE: list[Method] = [Transcoder(k=8, n_latents=600, skip=True), TopK(k=8, n_latents=600, frozen=True)]


@pytest.mark.parametrize("method", [*METHODS, *ALONE], ids=lambda m: m.label())
def test_weights_and_moments_are_those_of_a_member(method: Method) -> None:
    x = realistic(400, d=128)
    given = (x, x[:, :96].clone()) if isinstance(method, Transcoder) else x
    (source,) = open_feed(given, None, 0, True).sources  # type: ignore[arg-type]
    size = Size(method, 600, source.width, source.output_width)
    planned = plan([size], batch=10)
    actual = standing(source, method)
    assert 0.95 * actual <= planned.weights + planned.moments <= 1.05 * actual


def test_members_add_up_and_what_they_share_does_not() -> None:
    one, two = (plan([Size(METHODS[6], 600, 48, 48)] * n, batch=100) for n in (1, 2))
    assert (two.weights, two.moments) == (2 * one.weights, 2 * one.moments)
    assert (two.codes, two.products, two.batches, two.gradients) == (
        one.codes,
        one.products,
        one.batches,
        one.gradients,
    )
    side_by_side = plan([Size(METHODS[6], 600, 48, 48)] * 2, batch=100, workers=2)
    assert side_by_side.codes == 2 * one.codes
    parts = (one.weights, one.moments, one.codes, one.products, one.batches, one.gradients, one.finishing, one.reading)
    assert one.total == sum(parts)
    screened = plan([Size(METHODS[6], 600, 48, 48)], batch=100, precision="screened")
    assert screened.weights - one.weights == 600 * 48 * 2


MEASURE = """
import torch
from sparsescope.study.cost import current_rss, peak_rss, reset_peak
from sparsescope.training import BatchTopK, train
from sparsescope.training.plan import Size, plan
torch.set_num_threads(1)
x = torch.randn(40_000, 256)
def run(n, steps):
    method = BatchTopK(k=16, n_latents=n)
    train(x, None, [method], tokens=steps * 1000, batch=1000, kernels="reference")
    return method
run(512, 2)
reset_peak()
before = current_rss()
method = run(16_384, 3)
planned = plan([Size(method, 16_384, 256, 256)], 1000, fused=False, reading=3 * 1000 * 256 * 4)
print((peak_rss() - before) / planned.total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is told through /proc")
def test_the_plan_is_what_training_takes() -> None:
    """In a process of its own, over what a small run of the same kind has left there."""
    # glibc keeps freed blocks below a threshold that it moves by itself: then the peak is a matter of luck.
    steady = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", MEASURE], capture_output=True, text=True, env=steady)
    assert done.returncode == 0, done.stderr
    assert 0.75 < float(done.stdout) < 1.05


def test_what_fits_is_let_through_and_what_does_not_is_refused_with_a_size_that_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = open_feed(realistic(500), None, 0, True)
    size = 2_000_000
    wanted: list[tuple[int, Method]] = [(0, TopK(k=4, n_latents=size)), (0, TiedL1(l1=0.1, n_latents=3000))]
    needed = check_memory(feed, wanted, 100, kernels="reference").total
    monkeypatch.setattr(memory, "free_memory", lambda device: needed)
    check_memory(feed, wanted, 100, kernels="reference")
    monkeypatch.setattr(memory, "free_memory", lambda device: needed // 2)
    with pytest.raises(ConfigurationError) as caught:
        check_memory(feed, wanted, 100, kernels="reference")
    message = str(caught.value)
    assert (
        f"training needs about {gigabytes(needed)} of memory on cpu, but {gigabytes(needed // 2)} are free" in message
    )
    assert "weights" in message
    found = re.search(r"the largest size that would fit is ([\d,]+) latents per member", message)
    assert found is not None
    largest = int(found[1].replace(",", ""))
    assert 3000 < largest < size
    check_memory(feed, [(0, TopK(k=4, n_latents=largest)), wanted[1]], 100, kernels="reference")
    with pytest.raises(ConfigurationError):
        check_memory(feed, [(0, TopK(k=4, n_latents=largest + 1)), wanted[1]], 100, kernels="reference")
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ConfigurationError, match="At batch 100 no size would fit: give a smaller batch"):
        check_memory(feed, wanted, 100, kernels="reference")
    monkeypatch.setattr(memory, "free_memory", lambda device: None)  # a system that does not say
    check_memory(feed, wanted, 100, kernels="reference")


def test_more_than_any_machine_has_is_refused_before_it_is_taken() -> None:
    feed = open_feed(realistic(500), None, 0, True)
    before = current_rss()
    with pytest.raises(ConfigurationError, match=r"needs about \d\.\d+e\+0[56] GB of memory on cpu"):
        check_memory(feed, [(0, TopK(k=4, n_latents=10**12))], 1024, kernels="reference")
    assert current_rss() - before < 50e6


def failures() -> list[Exception]:
    """What PyTorch and NumPy raise when they cannot have memory."""
    found: list[Exception] = []
    for allocate in (lambda: torch.empty(2**60), lambda: np.empty(2**59), lambda: bytearray(2**62)):
        try:
            allocate()
        except Exception as error:
            found.append(error)
    return [*found, torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")]


def test_failures_to_allocate_are_told_from_other_errors() -> None:
    assert len(failures()) == 4
    assert all(is_out_of_memory(error) for error in failures())
    for other in (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("x")):
        assert not is_out_of_memory(other)


def test_memory_that_ran_out_says_where_why_and_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = open_feed(realistic(500), None, 0, True)
    members: list[tuple[int, Method]] = [(0, TopK(k=4, n_latents=50_000))]
    planned = check_memory(feed, members, 100, kernels="reference")
    for free in (10**12, planned.total // 10):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        error = out_of_memory(failures()[0], feed, members, 100, 17, saved=17, kernels="reference")
        assert isinstance(error, ResourceError)
        assert error.exit_code == 1
        assert re.match(r"memory ran out at step 17 \(.*can't allocate memory", str(error))
        assert str(error).endswith("The state before that step is saved: resume when there is more memory.")
        found = re.search(r"is ([\d,]+) latents", str(error))
        assert found is not None
        fits = int(found[1].replace(",", ""))
        assert fits <= 45_000  # it has just failed, whatever is free by now
        room = free + planned.weights + planned.moments
        tried = [plan([Size(members[0][1], n, 24, 24)], 100, fused=False).total for n in (fits, fits + 1)]
        assert tried[0] <= room
        assert fits == 45_000 or tried[1] > room
    unsaved = out_of_memory(MemoryError(), feed, members, 100, 0, saved=0, kernels="reference")
    assert "at step 0 (MemoryError)" in str(unsaved)
    assert "Nothing was saved" in str(unsaved)


def test_a_forecast_holds_the_plan() -> None:
    method = TopK(k=8, n_latents=4096)
    planned = plan([Size(method, 4096, 64, 64)], 128)
    cost = training_cost(64, [method], 1000, 128)
    assert planned.total < cost.memory - current_rss() + 20e6
    assert cost.memory < current_rss() + planned.total + 20e6
    larger = training_cost(64, [TopK(k=8, n_latents=8192)], 1000, 128)
    assert larger.disk == pytest.approx(2 * cost.disk, rel=0.01)


# What is free


def system(root: Path, available: int, groups: str = "", **files: str) -> Path:
    """A system's own account of its memory, below `root`; `__` in a name stands for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  {available} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        folder, _, file = name.replace("__", "/").rpartition("/")
        path = root / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / file.replace("_in_", ".X_in_").replace("memory_", "memory.").replace(".X", "")).write_text(text)
    return root


def test_without_groups_what_is_available_is_free(tmp_path: Path) -> None:
    assert free_memory(root=system(tmp_path, 5000)) == 5000 * 1024


@pytest.mark.parametrize(
    ("limit", "usage", "free"),
    [
        ("4000000", "1000000", 3_300_000),
        ("max", "1000000", 5000 * 1024),
        ("9000000", "1", 5000 * 1024),
        ("7", "900000", 0),
    ],
)
def test_a_group_of_version_two_may_leave_less(tmp_path: Path, limit: str, usage: str, free: int) -> None:
    stat = "anon 5\nactive_file 100000\ninactive_file 200000\n"
    files = {"job__memory_max": limit, "job__memory_current": usage, "job__memory_stat": stat}
    assert free_memory(root=system(tmp_path, 5000, "0::/job\n", **files)) == free


def test_a_group_of_version_one_may_leave_less(tmp_path: Path) -> None:
    files = {
        "memory__a__memory_limit_in_bytes": "2000000",
        "memory__a__memory_usage_in_bytes": "500000",
        "memory__a__memory_stat": "total_active_file 30\ntotal_inactive_file 70\n",
        "memory__memory_limit_in_bytes": "9223372036854771712",
        "memory__memory_usage_in_bytes": "7000000",
    }
    groups = "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/a\n0::/\n"
    assert free_memory(root=system(tmp_path, 5000, groups, **files)) == 1_500_100


def test_the_groups_around_a_group_count_too(tmp_path: Path) -> None:
    files = {
        "pod__memory_max": "3000000",
        "pod__memory_current": "2900000",
        "pod__box__memory_max": "max",
        "pod__box__memory_current": "100",
    }
    assert free_memory(root=system(tmp_path, 5000, "0::/pod/box\n", **files)) == 100_000


def test_a_group_whose_path_cannot_be_seen_is_the_one_that_is_mounted(tmp_path: Path) -> None:
    files = {"memory_max": "1000000", "memory_current": "1"}
    assert free_memory(root=system(tmp_path, 5000, "0::/docker/abc\n", **files)) == 999_999


def test_another_system_tells_all_it_has(tmp_path: Path) -> None:
    import os

    assert free_memory(root=tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux only")
def test_of_this_machine_some_is_free_and_not_more_than_there_is() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    free = free_memory(torch.device("cpu"))
    assert free is not None
    assert 0 < free < int(total.split()[1]) * 1024
