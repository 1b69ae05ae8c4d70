"""Small compressed forms of what the feature database keeps in numbers: fragments, codes, rankings."""

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

LEVELS = 127


def pack_integers(numbers: Int64[np.ndarray, " n"] | Sequence[int]) -> bytes:
    """Whole numbers below 2³², compressed.

    >>> unpack_integers(pack_integers([3, 70_000])).tolist()
    [3, 70000]
    """
    return zlib.compress(_planes(numbers), 9)


def unpack_integers(body: bytes) -> Int64[np.ndarray, " n"]:
    """The inverse of `pack_integers`."""
    return _numbers(zlib.decompress(body))


def _planes(numbers: Int64[np.ndarray, " n"] | Sequence[int]) -> bytes:
    # Byte by byte: the high bytes are nearly all zero, and side by side they compress to nothing.
    return np.asarray(numbers, "<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _numbers(planes: bytes) -> Int64[np.ndarray, " n"]:
    table = np.frombuffer(planes, np.uint8).reshape(4, -1).T
    return np.ascontiguousarray(table).view("<u4").reshape(-1).astype(np.int64)


def pack_codes(numbers: Int64[np.ndarray, " n"], codes: Float[np.ndarray, "n position"], maximum: float) -> bytes:
    """Fragments of one latent and its codes there, one byte for each code.

    The byte is 127·√(code / maximum), rounded, and at least 1 for a positive code: the error is below
    0.8% of the maximum, and smaller for small codes.
    """
    share = np.sqrt(np.clip(codes.astype(np.float64), 0, maximum) / maximum) if maximum > 0 else np.zeros(codes.shape)
    levels = np.rint(share * LEVELS).clip(codes > 0, LEVELS).astype(np.uint8)
    return zlib.compress(_planes(numbers) + levels.tobytes(), 9)


def unpack_codes(
    body: bytes, maximum: float, length: int
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n position"]]:
    """The inverse of `pack_codes`, but for rounding."""
    raw = zlib.decompress(body)
    count = len(raw) // (4 + length)
    levels = np.frombuffer(raw[4 * count :], np.uint8).reshape(count, length)
    return _numbers(raw[: 4 * count]), ((levels / LEVELS) ** 2 * maximum).astype(np.float32)


def pack_flags(flags: Bool[np.ndarray, " n"]) -> bytes:
    """Yes or no for each of `n`, one bit for each, compressed.

    >>> unpack_flags(pack_flags(np.array([True, False, True]))).tolist()
    [True, False, True]
    """
    return zlib.compress(len(flags).to_bytes(4, "little") + np.packbits(flags).tobytes(), 9)


def unpack_flags(body: bytes) -> Bool[np.ndarray, " n"]:
    """The inverse of `pack_flags`."""
    raw = zlib.decompress(body)
    return np.unpackbits(np.frombuffer(raw, np.uint8, offset=4), count=int.from_bytes(raw[:4], "little")).astype(bool)


def pack_json(value: Any) -> bytes:
    """A JSON value, compressed."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)


def unpack_json(body: bytes) -> Any:
    """The inverse of `pack_json`."""
    return json.loads(zlib.decompress(body))
