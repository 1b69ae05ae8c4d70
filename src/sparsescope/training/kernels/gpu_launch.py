"""What every launch of a Triton function needs: Triton itself, a device it can run on, and block sizes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch

from ...errors import ConfigurationError


def check_device(device: torch.device) -> None:
    """Raise `ConfigurationError` unless Triton functions run on this device.

    They run on CUDA devices; on a CPU in Triton's interpreter alone, which is for tests and very slow.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            f"The GPU kernels were asked for on {device}, but PyTorch {torch.__version__} sees no CUDA device. "
            "Choose kernels='auto', or install a PyTorch build for CUDA and check that nvidia-smi lists a GPU."
        )
    installed = find_spec("triton") is not None
    if device.type != "cuda" and not (installed and device.type == "cpu" and interpreted()):
        raise ConfigurationError(
            f"The GPU kernels run on CUDA devices, and the data is on {str(device)!r}. Choose kernels='auto', or train "
            "with device='cuda'. (For tests they run on a CPU when TRITON_INTERPRET=1 is set at the start.)"
        )
    if not installed:
        raise ConfigurationError(
            "The GPU kernels need Triton, which is not installed. PyTorch for CUDA brings it (pip install triton, on "
            "Linux); or choose kernels='reference'."
        )


def interpreted() -> bool:
    """Whether Triton functions run in its interpreter, on CPU tensors: as decided when it was imported."""
    from triton.runtime.interpreter import InterpretedFunction

    from . import triton_kernels

    return isinstance(triton_kernels.decode, InterpretedFunction)


def launch(function: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, **constants: Any) -> None:
    """Run a Triton function over a grid, on the device of its first tensor; an empty grid does nothing."""
    if 0 in grid:
        return
    device = next(value.device for value in arguments if isinstance(value, torch.Tensor))
    here: AbstractContextManager[Any] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with here:
        # fused multiply-add is asked for by name: its default differs between versions of Triton
        function[grid](*arguments, num_warps=num_warps, enable_fp_fusion=True, **constants)


def ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number` (1 for 0)."""
    return 1 << max(0, number - 1).bit_length()


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 in float32 products, and no partial sums in bfloat16, whatever the process has chosen."""
    matmul = torch.backends.cuda.matmul
    partial = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    newer = None
    try:
        older = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    except RuntimeError:
        # PyTorch refuses to read the older switch once the newer one has been used
        newer, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = partial
        if newer is not None:
            matmul.fp32_precision = newer
        else:
            torch.set_float32_matmul_precision(older)
