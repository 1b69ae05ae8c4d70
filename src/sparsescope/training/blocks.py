"""Activations that come block by block, from a list, a loader or a generator of tensors."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..activations.mixing import capacity, mixed
from ..activations.shuffle import shuffled
from ..artifact import digest
from ..errors import ConfigurationError
from .tensors import INPUT, OUTPUT, described, moments, refuse_non_finite

HELD_OUT = 16_384
"""Rows at most that are held out."""
HELD_OUT_UNKNOWN = 4096
"""Rows that are held out of data whose length is not known beforehand."""
SAMPLE = 4096
"""Rows behind the held-out ones that initial biases are set by."""
HEAD = HELD_OUT + SAMPLE
"""Rows that are read when it is opened: moments are theirs."""
BUFFER_ROWS = 65_536
"""Rows that are shuffled among each other, at most."""
BUFFER_BYTES = 256 << 20
"""What the buffer may take before it holds fewer rows (but always four batches)."""

Columns = tuple[Tensor, ...]


class Blocks:
    """Rows from an iterable of tensors (row, d), or of pairs of them: (row, d) and (row, d_out).

    The first rows are held out: one in twenty, at most 16,384; 4,096 where nothing says how many there
    are. The first 20,480 rows are read at once, and the mean and the mean square are theirs, so they
    should not differ in kind from what follows. The rest is read in the order given and shuffled
    within a buffer of 65,536 rows (fewer where they are wide), but no further: shuffle beforehand what
    is sorted. The batch of step t depends on (seed, t) and the blocks alone; to resume, the steps
    before are read and thrown away.

    What can be iterated again (a list, a loader, an object with `__iter__`) is, epoch after epoch, and
    must give the same rows each time. A generator is read once; it ends with an error when it holds
    too few rows. Whoever makes the blocks is called from a background thread.

    Raises `ConfigurationError` for blocks that are not floating rows × dimensions of one width and
    dtype, or fewer than two rows, and `NumericalError` for a NaN or an infinity in the first rows.
    """

    def __init__(self, blocks: Iterable[Tensor | Sequence[Tensor]], buffer_rows: int | None = None) -> None:
        self._blocks = blocks
        reading = iter(blocks)
        self._once = reading is blocks
        self._first: Columns | None = None
        self._seen = 0
        head, ended = self._read_head(reading)
        read = sum(len(block[0]) for block in head)
        if read < 2:
            raise ConfigurationError(f"{self} hold {read} rows, expected two or more.")
        total = read if ended else self._expected_rows(len(head[0][0]))
        self._held_rows = max(1, min(HELD_OUT, total // 20)) if total is not None else HELD_OUT_UNKNOWN
        self._held = _rows(head, 0, self._held_rows)
        self._sample = _rows(head, self._held_rows, self._held_rows + SAMPLE)
        self._moments = [moments(iter(column.split(1024))) for column in _rows(head, 0, HEAD)]
        self._left: Iterator[Columns] | None = chain(head, map(self._checked, reading)) if self._once else None
        row = sum(x.shape[1] * x.element_size() for x in head[0])
        self._buffer_rows = buffer_rows or min(BUFFER_ROWS, BUFFER_BYTES // row)

    def __repr__(self) -> str:
        return f"the activations from a {type(self._blocks).__name__}"

    def _read_head(self, reading: Iterator[Tensor | Sequence[Tensor]]) -> tuple[list[Columns], bool]:
        """The first `HEAD` rows or a little more, and whether that is all there is."""
        head, read = [], 0
        for block in reading:
            columns = self._checked(block)
            for column in columns:
                refuse_non_finite(column, str(self), read)
            if len(columns[0]):
                head.append(columns)
            read += len(columns[0])
            if read >= HEAD:
                return head, False
        return head, True

    def _expected_rows(self, first: int) -> int | None:
        """All rows, as far as that can be known without reading them; `first` is the length of the first block."""
        if isinstance(self._blocks, list):
            return sum(len(self._checked(block)[0]) for block in self._blocks)
        length = getattr(self._blocks, "__len__", None)
        return None if length is None else length() * first

    def _checked(self, block: Tensor | Sequence[Tensor]) -> Columns:
        """A block as one column or two, of the widths and dtypes of the first block."""
        columns = (block,) if isinstance(block, Tensor) else tuple(block) if isinstance(block, (list, tuple)) else ()
        fine = all(isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point() and x.shape[1] for x in columns)
        if len(columns) not in (1, 2) or not fine or len({len(x) for x in columns}) > 1:
            found = " and ".join(map(described, columns)) if columns else described(block)
            raise ConfigurationError(
                f"{self} hold a block {found}, expected floating tensors of rows × dimensions, or pairs of them with "
                "as many rows in both: flatten batch and position first."
            )
        plain = tuple(x.detach().cpu() for x in columns)
        self._first = self._first or tuple(x[:0] for x in plain)
        kinds = [[(x.shape[1], x.dtype) for x in each] for each in (self._first, plain)]
        if kinds[0] != kinds[1]:
            raise ConfigurationError(
                f"{self} begin with blocks of (width, dtype) {kinds[0]}, but one has {kinds[1]}: expected all alike."
            )
        return plain

    @property
    def paired(self) -> bool:
        """Whether the blocks are pairs."""
        return len(self._held) == 2

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the held-out rows and the sample; what follows is not read for it."""
        parts = [hashlib.sha256(_bytes(x)).hexdigest() for x in (*self._held, *self._sample)]
        return digest(["blocks", *parts])

    def rows(self, split: str) -> int:
        """Rows of the split; of "train", those that are known of beforehand."""
        return self._held_rows if split == "validation" else len(self._sample[0])

    def width(self, site: str) -> int:
        return self._held[self._index(site)].shape[1]

    def mean(self, site: str) -> Float64[Tensor, " d"]:
        return self._moments[self._index(site)][0]

    def mean_square(self, site: str) -> float:
        return self._moments[self._index(site)][1]

    def sample(self, sites: Sequence[str]) -> dict[str, Float[Tensor, "row d"]]:
        """The first rows behind the held-out ones; they are trained on as well."""
        return {site: self._sample[self._index(site)].to(torch.float32) for site in sites}

    def buffer_bytes(self, sites: Sequence[str], batch: int) -> int:
        """What reading holds beside the batches: the buffer, and half of it while it is refilled."""
        row = sum(x.shape[1] * x.element_size() for x in self._held)
        return capacity(self._buffer_rows, batch) * row * 3 // 2

    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float[Tensor, "batch d"]]:
        found = self.joint_batches([site], batch=batch, seed=seed, start=start, steps=steps, split=split)
        return (rows[site] for rows in found)

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
        """Batches of the train split (or of the held-out rows, over and over), `steps` from step `start` on.

        Raises `ConfigurationError` where the blocks end before that, or cannot be read another time.
        """
        end = None if steps is None else start + steps
        found = self._held_out_batches(batch, seed) if split != "train" else self._training_batches(batch, seed)
        made = 0
        for columns in islice(found, start, end):
            made += 1
            yield {site: columns[(INPUT, OUTPUT)[self._index(site)]] for site in sites}
        if steps is None or made < steps:
            raise self._too_few(batch, end)

    def _held_out_batches(self, batch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        for first in count(0, batch):
            places = torch.from_numpy(shuffled(first, batch, self._held_rows, seed))
            yield _named(tuple(x[places].to(torch.float32) for x in self._held))

    def _training_batches(self, batch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        return mixed(self._training_rows(), batch=batch, seed=seed, buffer_rows=self._buffer_rows)

    def _training_rows(self) -> Iterator[dict[str, Tensor]]:
        if self._once:
            blocks, self._left = self._left, None
            if blocks is None:
                raise ConfigurationError(
                    f"{self} have been read already, and can be read only once: give a new one, or something that can "
                    "be iterated again, such as a list."
                )
            yield from self._behind_the_held_out(blocks)
            return
        while True:
            yield from self._behind_the_held_out(map(self._checked, self._blocks))

    def _behind_the_held_out(self, blocks: Iterator[Columns]) -> Iterator[dict[str, Tensor]]:
        """One reading of the blocks, without the held-out rows, which are compared with those of the first reading."""
        seen = 0
        for block in blocks:
            held = min(len(block[0]), max(0, self._held_rows - seen))
            if not all(torch.equal(x[:held], y[seen : seen + held]) for x, y in zip(block, self._held, strict=True)):
                raise self._changed()
            seen += len(block[0])
            self._seen = seen
            if held < len(block[0]):
                yield _named(tuple(x[held:] for x in block))
        if seen <= self._held_rows:
            raise self._changed()

    def _changed(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self} begin with other rows when they are read again: held-out rows would be trained on. Give them the "
            "same order each time, or pass a generator over them, which is read once."
        )

    def _too_few(self, batch: int, end: int | None) -> ConfigurationError:
        usable = max(0, self._seen - self._held_rows) // batch
        asked = "without end" if end is None else f"{end:,} steps of {batch:,} rows"
        return ConfigurationError(
            f"{self} ended after {self._seen:,} rows, of which {self._held_rows:,} are held out: enough for {usable:,} "
            f"steps of {batch:,} rows, but asked for were {asked}. Ask for at most {usable * batch:,} tokens, or give "
            "something that can be iterated again, such as a list."
        )

    def _index(self, site: str) -> int:
        return 1 if self.paired and site == OUTPUT else 0


def _named(columns: Columns) -> dict[str, Tensor]:
    return dict(zip((INPUT, OUTPUT), columns, strict=False))


def _rows(blocks: list[Columns], first: int, last: int) -> Columns:
    """A copy of some of the rows of consecutive blocks."""
    parts: list[Columns] = []
    start = 0
    for block in blocks:
        inside = slice(max(0, first - start), max(0, last - start))
        parts.append(tuple(x[inside] for x in block))
        start += len(block[0])
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _bytes(x: Tensor) -> memoryview:
    return x.contiguous().view(torch.uint8).numpy().data
