"""What training reads: an activation store, or anything that reads like one, such as plain tensors."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..activations.shuffle import shuffled
from ..artifact import digest
from ..errors import ConfigurationError, NumericalError

INPUT, OUTPUT = "input", "output"
"""How the two halves of a pair are called among themselves; neither is a site."""
BLOCK = 1 << 22
"""Numbers of a tensor that are looked at at a time."""


class Rows(Protocol):
    """What training reads one site of: `ActivationStore` has it, and so have streams and synthetic worlds."""

    @property
    def fingerprint(self) -> str: ...
    def rows(self, split: str) -> int: ...
    def width(self, site: str) -> int: ...
    def mean(self, site: str) -> Tensor: ...
    def mean_square(self, site: str) -> float: ...
    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Tensor]: ...


class JointRows(Rows, Protocol):
    """What training reads several sites of: `Activations.joint_batches` says what is asked for."""

    def joint_batches(
        self,
        sites: Sequence[str],
        *,
        batch: int,
        seed: int = 0,
        start: int = 0,
        steps: int | None = None,
        split: str = "train",
    ) -> Iterator[dict[str, Tensor]]: ...


class TensorRows:
    """A plain tensor of rows, or a pair of them, read in a seeded shuffled order like a store.

    One row in twenty, drawn with a fixed seed, is held out as the validation split. The batch of
    step t depends on (seed, t) alone; every epoch has its own order; batches run on over epoch ends.
    A pair has the sites `INPUT` and `OUTPUT`; a single tensor answers to any name.

    Raises `ConfigurationError` for anything but floating tensors of two rows or more, as many in both
    halves of a pair, and `NumericalError` when they hold a NaN or an infinity.
    """

    def __init__(self, x: Float[Tensor, "row d"], y: Float[Tensor, "row d_out"] | None = None) -> None:
        self._x = _checked(x, "activations")
        self._y = None if y is None else _checked(y, "the outputs")
        if self._y is not None and len(self._x) != len(self._y):
            raise ConfigurationError(
                f"activations are a pair of {len(x):,} inputs and {len(self._y):,} outputs, expected as many: row i of "
                "the outputs is what is to be made of row i of the inputs."
            )
        order = shuffled(0, len(x), len(x), seed=0)
        held = max(1, len(x) // 20)
        self._splits = {"validation": torch.from_numpy(order[:held]), "train": torch.from_numpy(order[held:])}
        self._moments = {site: moments(self._blocks(site, "train")) for site in (INPUT, OUTPUT)[: 1 + (y is not None)]}

    def _column(self, site: str) -> Tensor:
        return self._y if self._y is not None and site == OUTPUT else self._x

    def _moment(self, site: str) -> tuple[Float64[Tensor, " d"], float]:
        return self._moments[OUTPUT if self._y is not None and site == OUTPUT else INPUT]

    def _blocks(self, site: str, split: str) -> Iterator[Tensor]:
        x = self._column(site)
        for part in self._splits[split].split(_rows_at_a_time(x)):
            yield x[part]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shapes, dtypes and bytes."""
        parts = [_fingerprint(self._x), *([] if self._y is None else [_fingerprint(self._y)])]
        return digest(parts[0] if len(parts) == 1 else parts)

    def rows(self, split: str) -> int:
        return len(self._splits[split])

    def width(self, site: str) -> int:
        return self._column(site).shape[1]

    def mean(self, site: str) -> Float64[Tensor, " d"]:
        return self._moment(site)[0]

    def mean_square(self, site: str) -> float:
        return self._moment(site)[1]

    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float[Tensor, "batch d"]]:
        rows = self._splits[split]
        step = start
        while steps is None or step < start + steps:
            places = torch.from_numpy(shuffled(step * batch, batch, len(rows), seed))
            yield self._column(site)[rows[places]].to(torch.float32)
            step += 1

    def joint_batches(
        self,
        sites: Sequence[str],
        *,
        batch: int,
        seed: int = 0,
        start: int = 0,
        steps: int | None = None,
        split: str = "train",
    ) -> Iterator[dict[str, Float[Tensor, "batch d"]]]:
        readers = [self.batches(site, batch=batch, seed=seed, start=start, steps=steps, split=split) for site in sites]
        return (dict(zip(sites, found, strict=True)) for found in zip(*readers, strict=True))


def moments(blocks: Iterator[Float[Tensor, "row d"]]) -> tuple[Float64[Tensor, " d"], float]:
    """The mean over all rows, and the mean of x² over rows and dimensions, in float64."""
    total: Tensor | float = 0.0
    square, count, width = 0.0, 0, 1
    for block in blocks:
        exact = block.to(torch.float64)
        total = total + exact.sum(0)
        square += float(torch.dot(exact.flatten(), exact.flatten()))
        count, width = count + len(exact), exact.shape[1]
    assert isinstance(total, Tensor)
    return total / count, square / (count * width)


def refuse_non_finite(x: Float[Tensor, "row d"], what: str, first: int = 0, total: int | None = None) -> None:
    """Raise `NumericalError` naming the first row of `x` that holds a NaN or an infinity, if there is one.

    `first` is the number of the first row, `total` how many there are in all.
    """
    size = _rows_at_a_time(x)
    for start in range(0, len(x), size):
        bad = ~x[start : start + size].isfinite().all(1)
        if bad.any():
            row = first + start + int(bad.nonzero()[0])
            of = "" if total is None else f" of {total:,}"
            raise NumericalError(
                f"{what} hold a NaN or an infinity, first in row {row:,}{of}; expected finite numbers. Leave such "
                "rows out, or find out where in the model they come from."
            )


def _rows_at_a_time(x: Tensor) -> int:
    return max(1, BLOCK // x.shape[1])


def _checked(x: Tensor, what: str) -> Float[Tensor, "row d"]:
    """`x` on the CPU, when it is rows that can be trained on."""
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point() or len(x) < 2 or not x.shape[1]:
        raise ConfigurationError(
            f"{what} are {described(x)}, expected floating rows × dimensions with two rows or more: flatten batch and "
            "position first."
        )
    x = x.detach().cpu()
    refuse_non_finite(x, what, total=len(x))
    return x


def described(x: object) -> str:
    """'a torch.float32 tensor of shape (3, 4)', or the type of what is not a tensor."""
    return f"a {x.dtype} tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"


def _fingerprint(x: Tensor) -> list[object]:
    data = x.contiguous().view(torch.uint8).numpy()
    return [list(x.shape), str(x.dtype), hashlib.sha256(data.data).hexdigest()]
