"""The C++ library as Python sees it: its structures, its functions, and what they take. See cpu.cpp."""

import ctypes
from ctypes import c_bool, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from ...errors import ConfigurationError
from .build import load_library, why_not

SPARE = 16
"""Room behind a list: see cpu_vector.h."""
SMALL = 1 << 18
"""Work (numbers to multiply or move) that one thread has done before another has woken up."""


class Problem(ctypes.Structure):
    """Pre-activations to be had: x · weight_j + bias_j."""

    _fields_ = (
        ("x", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("d", c_int64),
        ("n", c_int64),
    )


class Table(ctypes.Structure):
    """Codes to be read."""

    _fields_ = (
        ("latent", c_void_p),
        ("value", c_void_p),
        ("count", c_void_p),
        ("rows", c_int64),
        ("slots", c_int64),
    )


class Output(ctypes.Structure):
    """Codes to be written."""

    _fields_ = (("latent", c_void_p), ("value", c_void_p), ("count", c_void_p), ("slots", c_int64))


class Screen(ctypes.Structure):
    """What is kept beside an encoder to screen with."""

    _fields_ = (
        ("packed", c_void_p),
        ("half", c_void_p),
        ("scale", c_void_p),
        ("norm", c_void_p),
        ("error", c_void_p),
        ("balance", c_void_p),
        ("inverse", c_void_p),
        ("d", c_int64),
        ("n", c_int64),
    )


class Search(ctypes.Structure):
    """The search for the k largest of each row, over several tiles of scores."""

    _fields_ = (
        ("best", c_void_p),
        ("floor", c_void_p),
        ("latent", c_void_p),
        ("score", c_void_p),
        ("count", c_void_p),
        ("groups", c_int64),
        ("capacity", c_int64),
        ("k", c_int64),
    )


class Tile(ctypes.Structure):
    """Scores of some rows for neighbouring latents."""

    _fields_ = (
        ("scores", c_void_p),
        ("first", c_int64),
        ("columns", c_int64),
        ("norm", c_void_p),
        ("error", c_void_p),
        ("margin", c_void_p),
    )


class Decoding(ctypes.Structure):
    """What decoding reads and writes beside the codes."""

    _fields_ = (
        ("directions", c_void_p),
        ("bias", c_void_p),
        ("target", c_void_p),
        ("factor", c_float),
        ("bounds", c_void_p),
        ("levels", c_int64),
        ("d", c_int64),
        ("residual", c_void_p),
        ("squares", c_void_p),
        ("slope", c_void_p),
    )


class Term(ctypes.Structure):
    """A part of a gradient."""

    _fields_ = (
        ("start", c_void_p),
        ("entry", c_void_p),
        ("factor", c_void_p),
        ("table", c_void_p),
        ("bounds", c_void_p),
        ("slots", c_int64),
        ("rows", c_int64),
        ("levels", c_int64),
    )


class AdamStep(ctypes.Structure):
    """The constants of one step."""

    _fields_ = (
        ("step", c_float),
        ("beta1", c_float),
        ("beta2", c_float),
        ("epsilon", c_float),
        ("root", c_float),
    )


class Matrix(ctypes.Structure):
    """A matrix and Adam's averages."""

    _fields_ = (
        ("weight", c_void_p),
        ("mean", c_void_p),
        ("square", c_void_p),
        ("n", c_int64),
        ("d", c_int64),
        ("unit", c_int32),
    )


# a: an address or a reference to a structure, l: 64-bit integer, i: 32-bit integer, f: float, b: bool; then what is
# returned
_SIGNATURES = {
    "screening": ("", c_int32),
    "screen_weights": ("aai", None),
    "screen_rows": ("allaai", None),
    "largest_screened": ("aalllai", None),
    "above_screened": ("aafai", None),
    "start_search": ("al", None),
    "look_at_tile": ("aaai", None),
    "finish_search": ("aaaai", None),
    "append_tile": ("aafai", None),
    "finish_above": ("ali", c_int64),
    "keep_total": ("allaa", c_int64),
    "decode": ("aai", None),
    "by_latent": ("alaaai", c_bool),
    "sums": ("aaalai", None),
    "gradient": ("aillai", c_bool),
    "update": ("aaaiaai", c_bool),
}
_TYPES = {"a": c_void_p, "l": c_int64, "i": c_int32, "f": c_float, "b": c_bool}


@cache
def library() -> ctypes.CDLL:
    """The library with its signatures declared. Raises `ConfigurationError` where it cannot be had."""
    found = load_library()
    if found is None:
        raise ConfigurationError(f"The compiled kernels cannot be had: {why_not()}")
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes = [_TYPES[code] for code in arguments]
        function.restype = result
    return found


def address(tensor: Tensor | None, dtype: torch.dtype = torch.float32) -> int | None:
    """Where a tensor's numbers lie; None for None. They must lie there as C++ takes them to."""
    if tensor is None:
        return None
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        form = "contiguous" if tensor.is_contiguous() else "strided"
        raise ValueError(
            f"A {form} tensor of {tensor.dtype} on {tensor.device} was given to a kernel for processors; "
            f"expected a contiguous one of {dtype} on cpu."
        )
    return tensor.data_ptr()


def threads_for(work: int) -> int:
    """How many threads a kernel is given: torch's, unless there is little to do. No result depends on it."""
    return torch.get_num_threads() if work > SMALL else 1
