"""The kernels in C++, for processors: see `base` for what they compute and cpu.cpp for how.

Screening multiplies 8-bit integers where the processor can (AVX512-VNNI), else bfloat16 where it can; where it
can do neither, "screened" is computed in float32, whose answers it has.
"""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from . import calls
from .base import Adam, ByLatent, Codes, Decoded, Encoder, Kernels, Matrix, Precision, Term
from .build import load_library
from .calls import address, threads_for
from .reference import Buffers
from .screens import LARGEST_D, Halves, Integers
from .tiles import Tiles, output, problem

INTEGERS, HALVES = 2, 1
"""What the library says that the processor multiplies faster than float32."""
SAMPLED_ROWS = 64
"""Rows from which the threshold of a batch is guessed."""
byref = ctypes.byref


class Compiled(Kernels):
    """See `Kernels`. Results do not depend on the number of threads, which is torch's.

    >>> kernels = Compiled()
    >>> x, weight = torch.randn(8, 16), torch.randn(32, 16)
    >>> codes = kernels.largest(x, kernels.encoder(weight, "screened"), torch.zeros(32), k=4, use="example")
    >>> bool(torch.allclose(codes.value.sort(descending=True).values, (x @ weight.T).topk(4).values, atol=1e-4))
    True

    Raises `ConfigurationError` where `available` says no.
    """

    name = "compiled"

    def __init__(self) -> None:
        self._library = calls.library()
        self._format = self._library.screening()
        self._buffers = Buffers()
        self._tiles = Tiles(self._library, self._buffers)
        self._slots: dict[str, int] = {}

    @staticmethod
    def available() -> bool:
        """Whether the library can be had here: builds it if need be, once. `build.why_not` says why not."""
        return load_library() is not None

    def encoder(self, weight: Float[Tensor, "latent d"], precision: Precision) -> Encoder:
        encoder = Encoder(weight, precision)
        if precision == "screened" and self._format == INTEGERS and weight.shape[1] <= LARGEST_D:
            encoder.screen = Integers(*weight.shape)
        elif precision == "bf16" or (precision == "screened" and self._format != 0):
            encoder.screen = Halves(*weight.shape)
        self.refresh(encoder)
        return encoder

    def refresh(self, encoder: Encoder) -> None:
        if encoder.screen is not None:
            encoder.screen.refresh(encoder.weight, threads_for(encoder.weight.numel()))

    def positive(self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], use: str) -> Codes:
        return self._above(x, encoder, bias, 0.0, f"positive-{use}")

    def largest(
        self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], k: int, use: str
    ) -> Codes:
        n, threads = len(encoder.weight), threads_for(len(x) * encoder.weight.numel())
        k = min(k, n)
        codes = self._codes(f"largest-{use}", len(x), k)
        groups, capacity = max(128, -(-4 * k // 16) * 16), 8 * k + 512 + n // 8
        if isinstance(encoder.screen, Integers):
            encoder.screen.prepare(x, encoder.weight, threads)
            given, screen, out = problem(x, encoder, bias), encoder.screen.raw, output(codes)
            self._library.largest_screened(byref(given), byref(screen), k, groups, capacity, byref(out), threads)
        else:
            self._tiles.largest(x, encoder, bias, codes, k, groups, capacity)
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
        guess = _sampled(x, encoder, bias, total) if expected is None else expected
        for share in (0.97, 0.9, 0.6, 0.2, 0.0):
            codes = self._above(x, encoder, bias, max(share * guess, 0.0), f"batch-{use}")
            found = int(codes.count.sum())
            if found >= total:
                break
        smallest, out = ctypes.c_float(0), output(codes)
        keys = self._get("keys", (found,), torch.int32)
        self._library.keep_total(byref(out), len(x), total, byref(smallest), address(keys, torch.int32))
        return codes, smallest.value

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
        rows, d = target.shape
        levels, limits = len(bounds), torch.tensor(bounds)
        if bounds[-1] > len(directions) or d != directions.shape[1] or codes.latent.shape != value.shape:
            raise ValueError(
                f"Cannot decode {tuple(value.shape)} values of {tuple(codes.latent.shape)} codes up to latent "
                f"{bounds[-1]} by directions {tuple(directions.shape)} into {tuple(target.shape)}."
            )
        residual = self._get(f"residual-{use}", (levels, rows, d))
        slope = self._get(f"slope-{use}", tuple(value.shape))
        squares = self._get("squares", (levels, rows), torch.float64)
        table = _table(codes, value)
        to = calls.Decoding(
            *map(address, (directions, bias, target)),
            factor,
            address(limits, torch.int64),
            levels,
            d,
            address(residual),
            address(squares, torch.float64),
            address(slope),
        )
        self._library.decode(byref(to), byref(table), threads_for(value.numel() * d))
        return Decoded(residual, squares.sum(1).tolist(), slope)

    def by_latent(self, codes: Codes, n_latents: int, use: str) -> ByLatent:
        rows, slots = codes.latent.shape
        start = self._get(f"start-{use}", (n_latents + 1,), torch.int64)
        entry = self._get(f"entry-{use}", (rows * slots,), torch.int64)
        # Each part counts for itself: worth it while there are more entries than counters.
        parts = max(1, min(threads_for(8 * rows * slots), 8, rows * slots // (n_latents + 1)))
        places = self._get("places", (parts, n_latents), torch.int64)
        table = _table(codes, codes.value)
        known = self._library.by_latent(
            byref(table), n_latents, *(address(t, torch.int64) for t in (start, entry, places)), parts
        )
        if not known:
            raise ValueError(f"The codes hold latents that are not among the {n_latents} there are.")
        return ByLatent(start, entry[: int(start[-1])], slots)

    def sums(self, entries: ByLatent, factor: Float[Tensor, "row slot"]) -> Float[Tensor, " latent"]:
        n = len(entries.start) - 1
        found = torch.empty(n)
        self._library.sums(
            address(entries.start, torch.int64),
            address(entries.entry, torch.int64),
            address(factor),
            n,
            address(found),
            threads_for(len(entries.entry)),
        )
        return found

    def gradient(self, terms: Sequence[Term], n_latents: int) -> Float[Tensor, "latent d"]:
        d = terms[0].table.shape[2]
        found, parts = torch.empty(n_latents, d), _Terms(terms, n_latents, d)
        inside = self._library.gradient(
            parts.array, len(terms), n_latents, d, address(found), threads_for(n_latents * d)
        )
        parts.check(inside)
        return found

    def update(
        self,
        matrix: Matrix,
        adam: Adam,
        terms: Sequence[Term] = (),
        gradient: Float[Tensor, "latent d"] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        n, d = matrix.weight.shape
        if gradient is not None and gradient.shape != matrix.weight.shape:
            raise ValueError(f"A gradient of shape {tuple(gradient.shape)} for a matrix of {n} × {d}.")
        raw = calls.Matrix(*map(address, (matrix.weight, matrix.mean, matrix.square)), n, d, matrix.unit)
        step = calls.AdamStep(adam.step_size, adam.beta1, adam.beta2, adam.epsilon, adam.root_correction)
        parts = _Terms(terms, n, d)
        screen = encoder.screen.raw if encoder is not None and encoder.screen is not None else None
        inside = self._library.update(
            byref(raw),
            byref(step),
            parts.array,
            len(terms),
            address(gradient),
            byref(screen) if screen else None,
            threads_for(n * d),
        )
        parts.check(inside)

    def _above(self, x: Tensor, encoder: Encoder, bias: Tensor, floor: float, use: str) -> Codes:
        """Entries above 0 and not below `floor`. A table too narrow for a row is widened and filled again."""
        n, threads = len(encoder.weight), threads_for(len(x) * encoder.weight.numel())
        slots = min(n, self._slots.get(use, 64))
        if isinstance(encoder.screen, Integers):
            encoder.screen.prepare(x, encoder.weight, threads)
        while True:
            codes = self._codes(use, len(x), slots)
            out = output(codes)
            if isinstance(encoder.screen, Integers):
                given = problem(x, encoder, bias)
                self._library.above_screened(byref(given), byref(encoder.screen.raw), floor, byref(out), threads)
            else:
                self._tiles.above(x, encoder, bias, codes, floor)
            most = self._library.finish_above(byref(out), len(x), threads)
            self._slots[use] = min(n, (most + most // 4) // 16 * 16 + 16)
            if most <= slots:
                return codes
            slots = self._slots[use]

    def _codes(self, use: str, rows: int, slots: int) -> Codes:
        return Codes(
            self._get(f"latent-{use}", (rows, slots), torch.int32),
            self._get(f"value-{use}", (rows, slots)),
            self._get(f"count-{use}", (rows,), torch.int32),
        )

    def _get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._buffers.get(name, shape, dtype, torch.device("cpu"))


class _Terms:
    """Terms of a gradient as the library takes them; keeps alive what they point to."""

    def __init__(self, terms: Sequence[Term], n: int, d: int) -> None:
        self._bounds = [torch.tensor(term.bounds) for term in terms]
        self.array = (calls.Term * len(terms))()
        for number, (term, bounds) in enumerate(zip(terms, self._bounds, strict=True)):
            levels, rows, width = term.table.shape
            slots = term.entries.slots
            if term.factor.shape != (rows, slots) or len(term.entries.start) != n + 1 or width != d:
                raise ValueError(
                    f"A term with factors {tuple(term.factor.shape)}, a table {tuple(term.table.shape)}, {slots} slots "
                    f"and {len(term.entries.start) - 1} latents does not fit a gradient of {n} × {d}."
                )
            self.array[number] = calls.Term(
                address(term.entries.start, torch.int64),
                address(term.entries.entry, torch.int64),
                address(term.factor),
                address(term.table),
                address(bounds, torch.int64),
                slots,
                rows,
                min(levels, len(bounds)),
            )

    def check(self, inside: bool) -> None:
        if not inside:
            raise ValueError("Entries of a term lie outside of its tables, or belong to latents beyond its bounds.")


def _table(codes: Codes, value: Tensor) -> calls.Table:
    rows, slots = codes.latent.shape
    return calls.Table(
        address(codes.latent, torch.int32), address(value), address(codes.count, torch.int32), rows, slots
    )


def _sampled(x: Tensor, encoder: Encoder, bias: Tensor, total: int) -> float:
    """A guess at the `total`-th largest pre-activation of a batch, from some of its rows."""
    some = x[:: max(1, len(x) // SAMPLED_ROWS)]
    scores = torch.addmm(bias, some, encoder.weight.t()).view(-1)
    wanted = min(len(scores), max(1, round(total * len(some) / len(x))))
    return float(scores.topk(wanted).values[-1])
