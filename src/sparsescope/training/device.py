"""Where and in what precision to train; refused early where the machine lacks it."""

from typing import get_args

import torch

from ..errors import ConfigurationError, suggest
from .kernels import Precision


def on_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None is the CPU. Raises `ConfigurationError` when this machine lacks it."""
    try:
        found = torch.device("cpu" if device is None else device)
    except RuntimeError:
        raise ConfigurationError(f"device = {device!r}, expected 'cpu', 'cuda' or 'cuda:1'.") from None
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise ConfigurationError(f"device = {str(found)!r}: training runs on 'cpu' and on 'cuda'.")
    count = torch.cuda.device_count()
    if (found.index or 0) >= count:
        raise ConfigurationError(
            f"device = {str(found)!r}, but this machine has {count or 'no'} CUDA devices that PyTorch can use: "
            "train on 'cpu', or install a CUDA build of PyTorch and its driver."
        )
    return found


def check_precision(precision: str) -> None:
    """Raise `ConfigurationError` for a precision that there is not."""
    known = get_args(Precision)
    if precision not in known:
        raise ConfigurationError(
            f"precision = {precision!r}, expected one of {', '.join(known)}.{suggest(str(precision), known)}"
        )
