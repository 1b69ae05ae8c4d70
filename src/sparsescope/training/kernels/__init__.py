"""Sparse kernels of training: one interface, chosen by device. See `base`."""

from typing import Literal

import torch

from ...errors import ConfigurationError, suggest
from .base import Adam as Adam
from .base import ByLatent as ByLatent
from .base import Codes as Codes
from .base import Decoded as Decoded
from .base import Encoder as Encoder
from .base import Kernels as Kernels
from .base import Matrix as Matrix
from .base import Precision as Precision
from .base import Term as Term
from .reference import Reference

Choice = Literal["auto", "compiled", "reference", "gpu"]
"""Which kernels train: "auto" takes the fastest that the device and the machine have."""


def choose(device: torch.device, choice: str = "auto") -> Kernels:
    """Kernels for tensors on `device`.

    On a CPU "auto" means the compiled ones where there is a C++ compiler, else plain PyTorch; on CUDA
    Triton's. Raises `ConfigurationError` when those asked for cannot be had.
    """
    known = ("auto", "compiled", "reference", "gpu")
    if choice not in known:
        raise ConfigurationError(
            f"kernels = {choice!r}, expected one of {', '.join(known)}.{suggest(str(choice), known)}"
        )
    if choice == "gpu" or (choice == "auto" and device.type == "cuda"):
        from .gpu import Gpu

        return Gpu(device)
    if choice == "reference":
        return Reference()
    if device.type != "cpu":
        raise ConfigurationError(f"kernels = {choice!r} compute on the CPU, not on {device}: use 'gpu' or 'auto'.")
    from .compiled import Compiled

    if Compiled.available():
        return Compiled()
    if choice == "compiled":
        from .build import why_not

        raise ConfigurationError(
            f"kernels = 'compiled' cannot be had: {why_not()} Install a C++ compiler, or use 'reference'."
        )
    return Reference()
