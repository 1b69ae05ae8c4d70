"""Selection on a GPU: from a batch and an encoder to the entries that count, a block of rows at a time.

The product of a block lies in a buffer of bounded size. Screened products are bfloat16, and what they
cannot rule out is computed again in float32: see `triton_selection.interval` for the bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import BFloat16, Float, Float32, Int32, Int64
from torch import Tensor

from .base import Codes, Encoder
from .gpu_launch import ceil_div, full_precision, launch, power_of_two
from .reference import Buffers

ALL = 16
"""Latents per group when every positive entry is wanted."""
LARGEST_GROUP, SMALLEST_GROUP = 64, 4
WORTH_SCREENING = 0.125
"""Share of entries that screening may leave; above it the block is computed in float32 instead."""
GROUPS_PER_WANTED = 4
"""With 4 times as many groups as entries wanted, few entries are looked at in vain (about 15%)."""


@dataclass
class Screen:
    """Rows in bfloat16, their norms, and the norms of what rounding took from them."""

    rounded: BFloat16[Tensor, "row d"]
    norm: Float32[Tensor, " row"]
    lost: Float32[Tensor, " row"]

    @classmethod
    def like(cls, rows: Float[Tensor, "row d"]) -> "Screen":
        """Room for the screen of `rows`."""
        norm, lost = rows.new_empty(len(rows)), rows.new_empty(len(rows))
        return cls(torch.empty_like(rows, dtype=torch.bfloat16), norm, lost)

    def fill(self, rows: Float[Tensor, "row d"]) -> "Screen":
        from .triton_selection import round_rows

        d = rows.shape[1]
        launch(round_rows, (len(rows),), rows, self.rounded, self.norm, self.lost, d, D=power_of_two(d))
        return self

    def part(self, rows: slice) -> "Screen":
        return Screen(self.rounded[rows], self.norm[rows], self.lost[rows])


@dataclass
class Entries:
    """Entries of some rows: those of row i are begin[i]:begin[i + 1]."""

    latent: Int32[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    begin: Int64[Tensor, " row+1"]

    def where(self, kept: Tensor) -> "Entries":
        before = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept, 0, out=before[1:])
        return Entries(self.latent[kept], self.value[kept], before[self.begin])


@dataclass
class Wanted:
    """Which entries: those that reach `floor`; with `k`, all that can be among the k largest of their row; with
    `total`, all that can be among the `total` largest of the rows."""

    floor: float = 0.0
    k: int | None = None
    total: int | None = None


class Selection:
    """Finds entries; holds the buffer of products, of at most `product_bytes` (or one row, if that is more)."""

    def __init__(self, product_bytes: int) -> None:
        self.product_bytes = product_bytes
        self._buffers = Buffers()

    def blocks(
        self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], wanted: Wanted
    ) -> Iterator[Entries]:
        """The wanted entries of x · E_j + bias_j above 0 (or NaN) of successive blocks of rows, and some that are not
        wanted. `wanted` may be tightened between blocks."""
        short = encoder.precision != "float32"
        screen = Screen.like(x).fill(x) if short else None
        rows = self._rows(len(encoder.weight), 2 if short else 4)
        for first in range(0, len(x), rows):
            part = slice(first, min(first + rows, len(x)))
            if screen is None:
                yield self._exact(x[part], encoder, bias, wanted)
                continue
            product = self._short_product(screen.part(part), encoder)
            if encoder.precision == "bf16":
                yield self._find(_Product(product, bias), wanted)
                continue
            screened = _Product(product, bias, screen.part(part), encoder.screen, _slack(x.shape[1]))
            found = self._find(screened, wanted)
            if len(found.latent) <= WORTH_SCREENING * product.numel():
                yield _computed_again(found, x[part], encoder, bias)
                continue
            # screening rules out too little to be worth it (or there are rows of NaN)
            for block in x[part].split(self._rows(len(encoder.weight), 4)):
                yield self._exact(block, encoder, bias, wanted)

    def _rows(self, n_latents: int, size: int) -> int:
        rows = max(1, self.product_bytes // (n_latents * size))
        return rows // 128 * 128 if rows >= 128 else rows

    def _exact(self, x: Tensor, encoder: Encoder, bias: Tensor, wanted: Wanted) -> Entries:
        weight = encoder.weight
        product = self._buffers.get("product", (len(x), len(weight)), torch.float32, x.device)
        with full_precision():
            torch.mm(x, weight.t(), out=product)
        return self._find(_Product(product, bias), wanted)

    def _short_product(self, x: Screen, encoder: Encoder) -> BFloat16[Tensor, "row latent"]:
        weight: Screen = encoder.screen
        shape = (len(x.rounded), len(weight.rounded))
        product = self._buffers.get("short product", shape, torch.bfloat16, x.rounded.device)
        with full_precision():
            return torch.mm(x.rounded, weight.rounded.t(), out=product)

    def _find(self, product: "_Product", wanted: Wanted) -> Entries:
        """Entries of a product that can reach their floors. Values of screened ones are left open."""
        from .triton_selection import group_maxima

        rows, n = product.table.shape
        size = _group_size(n, wanted, rows)
        n_groups = ceil_div(n, size)
        highest = self._buffers.get("highest", (rows, n_groups), torch.float32, product.bias.device)
        lowest = highest
        if product.screened:
            lowest = self._buffers.get("lowest", (rows, n_groups), torch.float32, product.bias.device)
        groups = 1024 // size
        grid = (ceil_div(n_groups, groups), ceil_div(rows, 16))
        numbers = (rows, n, n_groups, product.slack)
        constants = {"SCREENED": product.screened, "SIZE": size, "GROUPS": groups}
        launch(group_maxima, grid, *product.arguments, lowest, highest, *numbers, **constants, ROWS=16)
        floor, found = _floors(lowest, highest, wanted)
        return _collect(product, floor, found, n_groups, constants)


@dataclass
class _Product:
    """x · E_j of a block of rows; screened, with what bounds its error."""

    table: Float[Tensor, "row latent"]
    bias: Float[Tensor, " latent"]
    x: Screen | None = None
    weight: Screen | None = None
    slack: float = 0.0

    @property
    def screened(self) -> bool:
        return self.x is not None

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """What `triton_selection` takes of a product; where nothing is needed, the bias stands in."""
        if self.x is None or self.weight is None:
            return (self.table, *[self.bias] * 5)
        return (self.table, self.bias, self.x.norm, self.x.lost, self.weight.norm, self.weight.lost)


def _collect(
    product: _Product,
    floor: Float[Tensor, " row"],
    found: Int64[Tensor, " group"],
    n_groups: int,
    constants: dict[str, Any],
) -> Entries:
    """Entries that can reach their floors, in the groups `found`: counted first, then written."""
    from .triton_selection import pick

    rows, n = product.table.shape
    place = torch.zeros(len(found) + 1, dtype=torch.int64, device=floor.device)
    latent, value = place, floor
    grid = (ceil_div(len(found), constants["GROUPS"]),)
    numbers = (n, n_groups, len(found), product.slack)
    launch(pick, grid, *product.arguments, floor, found, place, latent, value, *numbers, **constants, WRITE=False)
    place = place.roll(1).cumsum(0)  # the last was 0
    count = int(place[-1])
    latent, value = torch.empty(count, dtype=torch.int32, device=floor.device), floor.new_empty(count)
    launch(pick, grid, *product.arguments, floor, found, place, latent, value, *numbers, **constants, WRITE=True)
    starts = torch.arange(rows + 1, device=floor.device) * n_groups
    return Entries(latent, value, place[torch.searchsorted(found, starts)])


def _floors(
    lowest: Float[Tensor, "row group"], highest: Float[Tensor, "row group"], wanted: Wanted
) -> tuple[Float[Tensor, " row"], Int64[Tensor, " group"]]:
    """The floor of each row, and the groups with entries that can reach it: row · number of groups + group."""
    rows, n_groups = lowest.shape
    if wanted.k is None:
        floor = lowest.new_full((rows,), wanted.floor)
    else:
        from .triton_selection import row_floors

        floor = lowest.new_empty(rows)
        launch(row_floors, (ceil_div(rows, 4),), lowest, floor, rows, n_groups, wanted.k, ROWS=4, BLOCK=1024)
    found = _groups(highest, floor)
    if wanted.total is not None and len(found) > 2 * wanted.total:
        # that many groups hold an entry that reaches this value, so that no smaller one is among the largest
        value = lowest.reshape(-1).sort().values[-wanted.total]
        floor = floor.clamp_min(value)
        found = _groups(highest, floor)
    return floor, found


def _groups(highest: Tensor, floor: Tensor) -> Int64[Tensor, " group"]:
    return ((highest >= floor[:, None]) & (highest > 0)).view(-1).nonzero().squeeze(1)


def _group_size(n: int, wanted: Wanted, rows: int) -> int:
    """How many neighbouring latents make a group: a power of two."""
    if wanted.k is None and wanted.total is None:
        return ALL
    each = wanted.k if wanted.k is not None else ceil_div(wanted.total or 0, rows)
    size = LARGEST_GROUP
    while size > SMALLEST_GROUP and n < size * max(GROUPS_PER_WANTED * each, 256):
        size //= 2
    return size


def _slack(d: int) -> float:
    """Error of summing d products in float32, relative to the product of the norms: (d + 64) · 2⁻²².

    d · 2⁻²⁴ is for the re-computation (Higham 2002, section 3.1). Three times as much is left for tensor cores, which
    align some b ≥ 4 products to the largest and truncate, and so lose less than (b + 1) · 2⁻²³ in each of d / b
    additions (Fasi, Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores").
    """
    return (d + 64) * 2.0**-22


def _computed_again(found: Entries, x: Float[Tensor, "row d"], encoder: Encoder, bias: Tensor) -> Entries:
    """Entries with their pre-activations in float32, without those that are not above 0 after all."""
    from .triton_kernels import dots

    d = x.shape[1]
    block = min(512, power_of_two(d))
    slots = min(32, max(1, 2048 // block))
    grid = (len(x), 4 if x.is_cuda else 1)
    out, begin = found.value, found.begin
    arguments = (found.latent, begin, begin, encoder.weight, x, bias, begin, out, len(x), d, 0)
    launch(dots, grid, *arguments, TABULAR=False, BIAS=True, LEVELS=1, SLOTS=slots, D=block)
    return found.where(~(out <= 0))


def join(parts: list[Entries]) -> Entries:
    """Entries of successive blocks of rows as one."""
    if len(parts) == 1:
        return parts[0]
    begins, before = [], 0
    for part in parts:
        begins.append(part.begin[:-1] + before)
        before += len(part.latent)
    begins.append(parts[0].begin.new_tensor([before]))
    return Entries(torch.cat([p.latent for p in parts]), torch.cat([p.value for p in parts]), torch.cat(begins))


def table(entries: Entries, codes: Codes, k: int | None) -> None:
    """Write entries side by side into `codes`; with `k`, the k largest of each row."""
    from .triton_selection import tabulate

    rows, slots = codes.latent.shape
    out = (codes.latent, codes.value, codes.count)
    arguments = (entries.latent, entries.value, entries.begin, *out, rows, slots, k or 0)
    launch(tabulate, (ceil_div(rows, 8),), *arguments, LIMITED=k is not None, ROWS=8, BLOCK=128)


def empty_codes(rows: int, slots: int, like: Tensor) -> Codes:
    latent = torch.empty(rows, slots, dtype=torch.int32, device=like.device)
    return Codes(latent, like.new_empty(rows, slots), latent.new_empty(rows))


def largest_total(entries: Entries, total: int) -> tuple[Entries, float]:
    """The `total` largest entries, and the smallest of them; all, and 0, where there are fewer. NaN is largest, and
    of equal values the first are kept."""
    value = entries.value.nan_to_num(nan=torch.inf, posinf=torch.inf)
    if len(value) < total:
        return entries, 0.0
    threshold = value.sort().values[-total]
    above, equal = value > threshold, value == threshold
    room = total - above.sum()
    return entries.where(above | (equal & (equal.cumsum(0) <= room))), float(threshold)
