"""The kernels in Triton, for CUDA devices. The Triton functions are beside this file, `triton_*`.

All sums are made in a fixed order, so that a resumed run repeats to the bit on the same kind of device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...errors import ConfigurationError
from .base import Adam, ByLatent, Codes, Decoded, Encoder, Kernels, Matrix, Precision, Term
from .gpu_launch import ceil_div, check_device, launch, power_of_two
from .gpu_selection import Entries, Screen, Selection, Wanted, empty_codes, join, largest_total, table
from .reference import Buffers

PRODUCT_BYTES = 1 << 29
"""Size of the buffer of products: 128 rows of a million float32 pre-activations."""
PIECE = 256
"""Entries of one latent that one program sums at most at its ends; whole pieces between are summed apart."""


@dataclass
class _Pieces:
    """A term and the sums of its whole pieces."""

    term: Term
    bounds: Int64[Tensor, " level"]
    sums: Float[Tensor, "piece d"]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What `triton_kernels.matrix_rows` takes of a term."""
        entries, table = self.term.entries, self.term.table
        sizes = (table[0].numel(), entries.slots)
        return (entries.start, entries.entry, self.term.factor, table, self.bounds, self.sums, *sizes)


class Gpu(Kernels):
    """See `Kernels`. `device` must be a CUDA device; a CPU only serves tests in Triton's interpreter.

    Raises `ConfigurationError` where Triton or the device is missing. Example (on a machine with a GPU):

    >>> kernels = Gpu("cuda")                                                           # doctest: +SKIP
    >>> codes = kernels.largest(x, kernels.encoder(weight, "screened"), bias, k=32, use="main")  # doctest: +SKIP
    """

    name = "gpu"

    def __init__(self, device: torch.device | str = "cuda", product_bytes: int = PRODUCT_BYTES) -> None:
        self.device = torch.device(device)
        check_device(self.device)
        self._selection = Selection(product_bytes)
        self.product_bytes = product_bytes * 3 // 2  # in float32, and rounded
        self._buffers = Buffers()
        self._bounds: dict[tuple[int, ...], Tensor] = {}

    def encoder(self, weight: Float[Tensor, "latent d"], precision: Precision) -> Encoder:
        if precision == "float32":
            return Encoder(weight, precision)
        if weight.is_cuda and torch.cuda.get_device_capability(weight.device) < (8, 0) and not torch.version.hip:
            name = torch.cuda.get_device_name(weight.device)
            raise ConfigurationError(
                f"precision={precision!r} needs bfloat16 products, which {name} lacks (it takes compute capability "
                "8.0 or newer). Choose precision='float32'."
            )
        return Encoder(weight, precision, Screen.like(weight).fill(weight))

    def refresh(self, encoder: Encoder) -> None:
        if encoder.screen is not None:
            encoder.screen.fill(encoder.weight)

    def positive(self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], use: str) -> Codes:
        entries = join(list(self._selection.blocks(x, encoder, bias, Wanted())))
        codes = empty_codes(len(x), max(1, int(entries.begin.diff().max())), x)
        table(entries, codes, None)
        return codes

    def largest(
        self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], k: int, use: str
    ) -> Codes:
        codes, first = empty_codes(len(x), k, x), 0
        for entries in self._selection.blocks(x, encoder, bias, Wanted(k=k)):
            rows = slice(first, first + len(entries.begin) - 1)
            table(entries, Codes(codes.latent[rows], codes.value[rows], codes.count[rows]), k)
            first = rows.stop
        return codes

    def largest_of_batch(
        self,
        x: Float[Tensor, "row d"],
        encoder: Encoder,
        bias: Float[Tensor, " latent"],
        total: int,
        expected: float | None,
        use: str,
    ) -> tuple[Codes, float]:
        guess = max(0.0, 0.9 * expected) if expected is not None else 0.0
        entries = self._candidates(x, encoder, bias, total, guess)
        if guess > 0 and int((~(entries.value < guess)).sum()) < total:
            entries = self._candidates(x, encoder, bias, total, 0.0)
        entries, smallest = largest_total(entries, total)
        codes = empty_codes(len(x), max(1, int(entries.begin.diff().max())), x)
        table(entries, codes, None)
        return codes, smallest

    def _candidates(self, x: Tensor, encoder: Encoder, bias: Tensor, total: int, floor: float) -> Entries:
        """All entries that reach `floor`, without some that are certainly not among the `total` largest."""
        wanted = Wanted(floor=floor, total=total)
        parts = []
        for part in self._selection.blocks(x, encoder, bias, wanted):
            parts.append(part)
            if sum(len(part.latent) for part in parts) > 4 * total:
                kept, wanted.floor = largest_total(join(parts), total)
                parts = [kept]
        return join(parts)

    def decode(
        self,
        codes: Codes,
        value: Float[Tensor, "row slot"],
        directions: Float[Tensor, "latent d"],
        bias: Float[Tensor, " d"] | None,
        target: Float[Tensor, "row d"],
        factor: float,
        bounds: Sequence[int],
        use: str,
    ) -> Decoded:
        from .triton_kernels import decode, dots

        (rows, d), (_, slots), levels = target.shape, value.shape, len(bounds)
        limits = self._limits(bounds)
        residual = self._buffers.get(f"residual-{use}", (levels, rows, d), torch.float32, target.device)
        block = min(1024, power_of_two(d))
        n_blocks = ceil_div(d, block)
        errors = target.new_empty(levels, rows, n_blocks)
        given = (codes.latent, value, codes.count, directions, target if bias is None else bias, target, limits)
        numbers = (rows, d, slots, n_blocks, factor)
        constants = {"LEVELS": levels, "BIAS": bias is not None, "SLOTS": min(32, max(1, 4096 // block)), "D": block}
        launch(decode, (rows, n_blocks), *given, residual, errors, *numbers, **constants)
        for level in range(levels - 2, -1, -1):
            residual[level] += residual[level + 1]
        slope = torch.empty_like(value)
        block = min(512, power_of_two(d))
        constants = {
            "TABULAR": True,
            "BIAS": False,
            "LEVELS": levels,
            "SLOTS": min(32, max(1, 2048 // block)),
            "D": block,
        }
        tables = (directions, residual, directions, limits, slope)
        launch(dots, (rows, 1), codes.latent, codes.count, codes.count, *tables, rows, d, slots, **constants)
        return Decoded(residual, errors.sum((1, 2), dtype=torch.float64).tolist(), slope)

    def by_latent(self, codes: Codes, n_latents: int, use: str) -> ByLatent:
        slots = codes.latent.shape[1]
        used = torch.arange(slots, device=codes.latent.device) < codes.count[:, None]
        place = used.view(-1).nonzero().squeeze(1)
        latent, order = codes.latent.view(-1)[place].sort(stable=True)
        numbers = torch.arange(n_latents + 1, dtype=latent.dtype, device=latent.device)
        return ByLatent(torch.searchsorted(latent, numbers), place[order], slots)

    def sums(self, entries: ByLatent, factor: Float[Tensor, "row slot"]) -> Float[Tensor, " latent"]:
        from .triton_kernels import sum_by_latent

        n = len(entries.start) - 1
        out = factor.new_empty(n)
        launch(sum_by_latent, (ceil_div(n, 4),), entries.start, entries.entry, factor, out, n, LATENTS=4, BLOCK=256)
        return out

    def gradient(self, terms: Sequence[Term], n_latents: int) -> Float[Tensor, "latent d"]:
        like = terms[0].table
        return self._add(terms, None, like.new_empty(n_latents, like.shape[2]))

    def update(
        self,
        matrix: Matrix,
        adam: Adam,
        terms: Sequence[Term] = (),
        gradient: Float[Tensor, "latent d"] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        if len(terms) > 2:  # the last two never reach memory
            gradient = self._add(terms[:-2], gradient, torch.empty_like(matrix.weight))
        screen = encoder.screen if encoder is not None else None
        self._rows(terms[-2:], gradient, matrix=matrix, adam=adam, screen=screen)

    def _add(self, terms: Sequence[Term], gradient: Tensor | None, out: Tensor) -> Float[Tensor, "latent d"]:
        for first in range(0, len(terms), 2):
            self._rows(terms[first : first + 2], gradient, out=out)
            gradient = out
        return out

    def _rows(
        self,
        terms: Sequence[Term],
        gradient: Tensor | None,
        *,
        out: Tensor | None = None,
        matrix: Matrix | None = None,
        adam: Adam | None = None,
        screen: Screen | None = None,
    ) -> None:
        """Up to two terms + `gradient`, stored to `out` or put through Adam into `matrix`."""
        from .triton_kernels import matrix_rows

        whole = matrix.weight if matrix is not None else out
        assert whole is not None
        n, d = whole.shape
        held = [whole] * 3 if matrix is None else [matrix.weight, matrix.mean, matrix.square]
        kept = [whole] * 3 if screen is None else [screen.rounded, screen.norm, screen.lost]
        parts = [self._pieces(term) for term in terms]
        given = [part.arguments for part in parts] + [(whole,) * 6 + (1, 1)] * (2 - len(parts))
        step = adam or Adam(lr=0.0, count=1)
        numbers = (step.step_size, step.root_correction, step.beta1, 1 - step.beta1, step.beta2, 1 - step.beta2)
        block = power_of_two(d)
        launch(
            matrix_rows,
            (n,),
            *held,
            whole if gradient is None else gradient,
            whole if out is None else out,
            *kept,
            *given[0],
            *given[1],
            d,
            *numbers,
            step.epsilon,
            TERMS=len(parts),
            LEVELS_A=len(parts[0].bounds) if parts else 1,
            LEVELS_B=len(parts[1].bounds) if len(parts) > 1 else 1,
            GRADIENT=gradient is not None,
            STEP=matrix is not None,
            UNIT=matrix is not None and matrix.unit,
            SCREENED=screen is not None,
            PIECE=PIECE,
            ENTRIES=min(32, max(1, 4096 // block)),
            D=block,
            num_warps=min(32, max(4, block // 256)),
        )

    def _pieces(self, term: Term) -> _Pieces:
        """Sums over whole pieces of long segments, so that no program has more than two pieces to go through."""
        from .triton_kernels import sum_pieces

        entries, (_, rows, d) = term.entries, term.table.shape
        limits = self._limits(term.bounds)
        begin = torch.arange(len(entries.entry) // PIECE, device=entries.start.device) * PIECE
        owner = torch.searchsorted(entries.start, begin, right=True) - 1
        owner = torch.where(entries.start[owner + 1] >= begin + PIECE, owner, -1)
        sums = term.table.new_empty(len(begin), d)
        block = min(1024, power_of_two(d))
        launch(
            sum_pieces,
            (len(begin), ceil_div(d, block)),
            *(owner, entries.entry, term.factor, term.table, limits, sums, rows * d, entries.slots, d),
            LEVELS=len(term.bounds),
            PIECE=PIECE,
            ENTRIES=min(32, max(1, 4096 // block)),
            D=block,
        )
        return _Pieces(term, limits, sums)

    def _limits(self, bounds: Sequence[int]) -> Int64[Tensor, " level"]:
        """Bounds of levels on the device, made once."""
        key = tuple(bounds)
        if key not in self._bounds:
            self._bounds[key] = torch.tensor(key, dtype=torch.int64, device=self.device)
        return self._bounds[key]
