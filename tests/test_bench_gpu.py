"""The GPU benchmark's arithmetic, and what it says where there is nothing to measure."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsescope as ss
from sparsescope.bench import gpu as bench
from sparsescope.errors import ConfigurationError

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_it_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no CUDA device here"):
        bench.measure_gpu()
    command = [sys.executable, str(SCRIPT)]
    path = {"PYTHONPATH": str(Path(ss.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=path, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no CUDA device here")


def test_the_memory_of_a_step_is_mostly_weights_and_averages() -> None:
    d, n = 2304, 1 << 20
    matrices = 2 * n * d
    exact, short = (bench.needed(d, n, 4096, 64, precision)[0] for precision in bench.PRECISIONS)
    assert short - exact == 2 * n * d  # bfloat16 rows to screen with
    assert 12 * matrices < exact < 12.5 * matrices
    assert bench.needed(d, n, 4096, 64, "float32")[1] >= 8 * n * d


def test_what_does_not_fit_is_listed_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "_machine", lambda device: {"device": "small"})
    monkeypatch.setattr(bench, "free_memory", lambda device: 10**9)
    told: list[tuple[str, int, int]] = []
    result = bench.measure_gpu(widths=(512, 4096), n_latents=(1 << 16,), progress=lambda *all: told.append(all))
    assert [(row["d_in"], row["precision"]) for row in result["rows"]] == [
        *((512, "float32"), (512, "screened"), (4096, "float32"), (4096, "screened"))
    ]
    for row in result["rows"]:
        assert row["tokens_per_second"] is None
        assert row["note"].startswith("does not fit: needs about ")
        assert row["note"].endswith("of memory on cuda, 1 GB are free")
    assert told[0] == ("d = 512, 65,536 latents, float32", 0, 4)


def test_running_out_of_memory_is_a_note_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "_machine", lambda device: {"device": "fragmented"})
    monkeypatch.setattr(bench, "free_memory", lambda device: None)

    def fails(*arguments: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench, "_timed", fails)
    (row,) = bench.measure_gpu(widths=(64,), n_latents=(256,), precisions=("screened",))["rows"]
    assert row["note"].startswith("ran out of memory, although about ")
