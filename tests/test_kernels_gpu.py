"""The Triton kernels: their cases in the interpreter, the compiler's opinion of them, and who may have them.

The cases are in `interpreted_gpu_kernels.py`, which runs in a process of its own: once in Triton's
interpreter on CPU tensors, and, where there is a CUDA device, once more compiled.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import sparsescope as ss
from sparsescope.errors import ConfigurationError
from sparsescope.training.kernels import gpu, gpu_launch

CASES = Path(__file__).with_name("interpreted_gpu_kernels.py")
NAMES = [
    node.name
    for node in ast.parse(CASES.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (it is for Linux only)")
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run_python(*arguments: str, text: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    paths = [str(Path(ss.__file__).parent.parent), *filter(None, sys.path)]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=settings, check=False)


def outcomes_of(folder: Path, **environment: str) -> dict[str, list[str]]:
    """For each case what went wrong with it, run by run."""
    report = folder / "report.xml"
    done = run_python("-m", "pytest", str(CASES), f"--junitxml={report}", **environment)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        wrong = "".join(part.text or part.get("message", "") for part in case)
        found.setdefault(case.get("name", "").split("[")[0], []).append(wrong)
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], Path]:
    """Outcomes in the interpreter, and the file of what was launched."""
    folder = tmp_path_factory.mktemp("interpreted")
    launches = folder / "launches.json"
    return outcomes_of(folder, TRITON_INTERPRET="1", KERNEL_LAUNCHES=str(launches)), launches


@pytest.fixture(scope="module")
def on_cuda(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return outcomes_of(tmp_path_factory.mktemp("cuda"), KERNEL_DEVICE="cuda")


@with_triton
@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(name: str, interpreted: tuple[dict[str, list[str]], Path]) -> None:
    outcomes = interpreted[0][name]
    assert outcomes
    assert not any(outcomes), "\n".join(outcomes)


@pytest.mark.gpu
@with_triton
@with_cuda
@pytest.mark.parametrize("name", NAMES)
def test_on_a_cuda_device(name: str, on_cuda: dict[str, list[str]]) -> None:
    assert on_cuda[name]
    assert not any(on_cuda[name]), "\n".join(on_cuda[name])


SIZES = {"D": 512, "SLOTS": 4, "ENTRIES": 8, "PIECE": 256, "SIZE": 16, "GROUPS": 64, "ROWS": 8, "BLOCK": 128}
"""Sizes of blocks to compile with: those of the cases are small."""
COMPILE = f"""
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsescope.training.kernels import triton_kernels, triton_selection

SIZES = {SIZES}
for launch in json.load(sys.stdin):
    name, constants = launch["function"], launch["constants"]
    constants = dict(constants, **dict((key, SIZES[key]) for key in constants if key in SIZES))
    signature = dict(launch["signature"], **dict.fromkeys(constants, "constexpr"))
    function = getattr(triton_kernels, name, None) or getattr(triton_selection, name)
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    options = dict(num_warps=4, enable_fp_fusion=True)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    assert name in compiled.asm["ptx"]
"""


def one_of_each(launches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Launches such that every function has every choice, level and constant argument once, large ones first."""
    seen: set[tuple[object, ...]] = set()
    chosen = []
    for launch in sorted(launches, key=lambda launch: sum(launch["constants"].values()), reverse=True):
        choices = {(name, min(value, 2)) for name, value in launch["constants"].items() if name not in SIZES}
        kinds = {(launch["function"], *kind) for kind in (*choices, ("product", launch["signature"].get("product")))}
        if kinds - seen:
            chosen.append(launch)
        seen |= kinds
    return chosen


@with_triton
def test_the_compiler_takes_every_kind_of_launch(
    interpreted: tuple[dict[str, list[str]], Path], tmp_path: Path
) -> None:
    """For compute capability 8.0, which needs no device. The interpreter lets through what the compiler refuses."""
    launches = one_of_each(json.loads(interpreted[1].read_text()))
    selecting = {"round_rows", "group_maxima", "row_floors", "pick", "tabulate"}
    others = {"decode", "dots", "sum_by_latent", "sum_pieces", "matrix_rows"}
    assert {launch["function"] for launch in launches} == selecting | others
    done = run_python("-c", COMPILE, text=json.dumps(launches), TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]


def test_importing_the_kernels_does_not_import_triton() -> None:
    code = "import sys; from sparsescope.training.kernels import gpu; print('triton' in sys.modules)"
    done = run_python("-c", code)
    assert done.stdout.strip() == "False", done.stderr


def test_tensors_on_a_cpu_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"run on CUDA devices, and the data is on 'cpu'.*kernels='auto'"):
        gpu.Gpu("cpu")


def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigurationError, match=r"asked for on cuda:1, but PyTorch .* sees no CUDA device.*nvidia-smi"
    ):
        gpu.Gpu("cuda:1")


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_launch, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"need Triton, which is not installed.*kernels='reference'"):
        gpu.Gpu("cuda")
    with pytest.raises(ConfigurationError, match="the data is on 'cpu'"):
        gpu.Gpu("cpu")


@pytest.mark.parametrize("precision", ["screened", "bf16"])
def test_a_device_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    kernels = gpu.Gpu.__new__(gpu.Gpu)
    weight = SimpleNamespace(is_cuda=True, device="cuda")
    with pytest.raises(ConfigurationError, match=f"precision='{precision}' needs bfloat16 products, which Tesla T4"):
        kernels.encoder(weight, precision)
    assert kernels.encoder(weight, "float32").weight is weight


@pytest.fixture
def switches() -> Iterator[None]:
    """PyTorch's switches of precision, brought back to how they begin."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.mark.usefixtures("switches")
def test_products_are_in_full_precision_whatever_is_chosen_and_choices_are_kept() -> None:
    matmul = torch.backends.cuda.matmul
    for chosen in ("medium", "high", "highest"):
        torch.set_float32_matmul_precision(chosen)
        with gpu_launch.full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not matmul.allow_tf32
            assert not matmul.allow_bf16_reduced_precision_reduction
        assert torch.get_float32_matmul_precision() == chosen
        assert matmul.allow_bf16_reduced_precision_reduction
    matmul.fp32_precision = "tf32"  # the newer switch, after which the older one cannot be read
    with gpu_launch.full_precision():
        assert matmul.fp32_precision == "ieee"
        assert not matmul.allow_tf32
    assert matmul.fp32_precision == "tf32"
