"""Triton functions over the entries of a batch: decoding, sampled dot products, and gradients with Adam.

Every sum runs in an order that depends on its operands alone (no atomic additions), so that a resumed
run repeats to the bit. This module imports Triton: only `Gpu` loads it. Offsets are 64 bits wide.
"""

import triton
import triton.language as tl

from .triton_selection import store_rounded


@triton.jit
def level_of(latent, bounds, LEVELS: tl.constexpr):
    """How many of the bounds, the last aside, a latent is not below."""
    level = latent * 0
    for l in tl.static_range(LEVELS - 1):  # noqa: E741
        level += (latent >= tl.load(bounds + l)).to(level.dtype)
    return level


@triton.jit(do_not_specialize=["rows", "slots", "n_blocks"])
def decode(
    latents, values, counts, directions, bias, target, bounds, residual, errors, rows, d, slots, n_blocks, factor,
    LEVELS: tl.constexpr, BIAS: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """factor · (x̂_l − target) and its squared length before `factor`, for each level l. Grid: rows × blocks of D."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    dims = block * D + tl.arange(0, D)
    inside = dims < d
    count = tl.load(counts + row)
    offset = tl.load(target + row * d + dims, mask=inside, other=0.0)
    if BIAS:
        offset -= tl.load(bias + dims, mask=inside, other=0.0)
    total = tl.full((SLOTS, D), 0.0, tl.float32)
    below = tl.full((), 0, tl.int64)
    for level in range(LEVELS):
        bound = tl.load(bounds + level)
        for first in range(0, count, SLOTS):
            slot = first + tl.arange(0, SLOTS)
            latent = tl.load(latents + row * slots + slot, mask=slot < count, other=-1)
            wanted = (latent >= below) & (latent < bound)
            value = tl.load(values + row * slots + slot, mask=wanted, other=0.0)
            at = latent.to(tl.int64)[:, None] * d + dims[None, :]
            total += value[:, None] * tl.load(directions + at, mask=wanted[:, None] & inside[None, :], other=0.0)
        found = tl.sum(total, axis=0) - offset
        found = tl.where(inside, found, 0.0)
        at = (tl.cast(level, tl.int64) * rows + row) * d + dims
        tl.store(residual + at, factor * found, mask=inside)
        tl.store(errors + (tl.cast(level, tl.int64) * rows + row) * n_blocks + block, tl.sum(found * found))
        below = bound


@triton.jit(do_not_specialize=["rows", "slots"])
def dots(
    latents, begin, counts, matrix, table, bias, bounds, out, rows, d, slots,
    TABULAR: tl.constexpr, BIAS: tl.constexpr, LEVELS: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """table[level of latent, row] · matrix[latent] (+ bias) of every entry. Grid: rows × a share of their slots.

    TABULAR entries lie in rows of `slots`, of which `counts` are in use (the others get 0); else
    those of a row are begin[row]:begin[row + 1].
    """
    row = tl.program_id(0).to(tl.int64)
    if TABULAR:
        first, last = row * slots, (row + 1) * slots
        used = first + tl.load(counts + row)
    else:
        first, last = tl.load(begin + row), tl.load(begin + row + 1)
        used = last
    for at in range(first + tl.program_id(1) * SLOTS, last, SLOTS * tl.num_programs(1)):
        entry = at + tl.arange(0, SLOTS)
        latent = tl.load(latents + entry, mask=entry < used, other=0).to(tl.int64)
        total = tl.full((SLOTS, D), 0.0, tl.float32)
        for dim in range(0, d, D):
            dims = dim + tl.arange(0, D)
            wanted = (entry < used)[:, None] & (dims < d)[None, :]
            if LEVELS == 1:
                other = tl.load(table + row * d + dims, mask=dims < d, other=0.0)[None, :]
            else:
                place = (level_of(latent, bounds, LEVELS) * rows + row) * d
                other = tl.load(table + place[:, None] + dims[None, :], mask=wanted, other=0.0)
            total += tl.load(matrix + latent[:, None] * d + dims[None, :], mask=wanted, other=0.0) * other
        found = tl.sum(total, axis=1)
        if BIAS:
            found += tl.load(bias + latent)
        tl.store(out + entry, tl.where(entry < used, found, 0.0), mask=entry < last)


@triton.jit
def sum_by_latent(start, entries, factor, out, n, LATENTS: tl.constexpr, BLOCK: tl.constexpr):
    """Of each latent the sum of `factor` over its entries. Grid: blocks of LATENTS."""
    latent = tl.program_id(0).to(tl.int64) * LATENTS + tl.arange(0, LATENTS)
    first = tl.load(start + latent, mask=latent < n, other=0)
    last = tl.load(start + latent + 1, mask=latent < n, other=0)
    total = tl.full((LATENTS, BLOCK), 0.0, tl.float32)
    for at in range(0, tl.max(last - first), BLOCK):
        place = first[:, None] + at + tl.arange(0, BLOCK)[None, :]
        entry = tl.load(entries + place, mask=place < last[:, None], other=0)
        total += tl.load(factor + entry, mask=place < last[:, None], other=0.0)
    tl.store(out + latent, tl.sum(total, axis=1), mask=latent < n)


@triton.jit
def add_entries(total, first, last, entries, factor, table, slots, d, dims, ENTRIES: tl.constexpr):
    """Add factor · row of `table` for the entries at positions first:last, ENTRIES at a time."""
    for at in range(first, last, ENTRIES):
        place = at + tl.arange(0, ENTRIES)
        entry = tl.load(entries + place, mask=place < last, other=0)
        weight = tl.load(factor + entry, mask=place < last, other=0.0)
        wanted = (place < last)[:, None] & (dims < d)[None, :]
        row = tl.load(table + (entry // slots)[:, None] * d + dims[None, :], mask=wanted, other=0.0)
        total += weight[:, None] * row
    return total


@triton.jit(do_not_specialize=["slots"])
def sum_pieces(
    owner, entries, factor, table, bounds, out, size, slots, d,
    LEVELS: tl.constexpr, PIECE: tl.constexpr, ENTRIES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The term of every PIECE entries that belong to one latent (`owner`, −1 where they do not).

    A latent active in every row is so summed by many programs. `size` is that of a level of the table.
    Grid: pieces × blocks of D.
    """
    piece = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * D + tl.arange(0, D)
    latent = tl.load(owner + piece)
    if latent >= 0:
        level = table + level_of(latent, bounds, LEVELS) * size
        total = tl.full((ENTRIES, D), 0.0, tl.float32)
        total = add_entries(total, piece * PIECE, (piece + 1) * PIECE, entries, factor, level, slots, d, dims, ENTRIES)
        tl.store(out + piece * d + dims, tl.sum(total, axis=0), mask=dims < d)


@triton.jit
def term_row(
    latent, start, entries, factor, table, bounds, pieces, size, slots, d, dims,
    LEVELS: tl.constexpr, PIECE: tl.constexpr, ENTRIES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One latent's row of a term: entries before the first whole piece, whole pieces, entries after the last."""
    first, last = tl.load(start + latent), tl.load(start + latent + 1)
    begin, end = (first + PIECE - 1) // PIECE, last // PIECE
    whole = end > begin
    level = table + level_of(latent, bounds, LEVELS) * size
    total = tl.full((ENTRIES, D), 0.0, tl.float32)
    head = tl.where(whole, begin * PIECE, last)
    tail = tl.where(whole, end * PIECE, last)
    total = add_entries(total, first, head, entries, factor, level, slots, d, dims, ENTRIES)
    total = add_entries(total, tail, last, entries, factor, level, slots, d, dims, ENTRIES)
    found = tl.sum(total, axis=0)
    for piece in range(begin, end):
        found += tl.load(pieces + piece * d + dims, mask=dims < d, other=0.0)
    return found


@triton.jit(do_not_specialize=["slots_a", "slots_b"])
def matrix_rows(
    weight, mean, square, gradient, out, rounded, norm, lost,
    start_a, entries_a, factor_a, table_a, bounds_a, pieces_a, size_a, slots_a,
    start_b, entries_b, factor_b, table_b, bounds_b, pieces_b, size_b, slots_b,
    d, step_size, root_correction, beta1, rest1, beta2, rest2, epsilon,
    TERMS: tl.constexpr, LEVELS_A: tl.constexpr, LEVELS_B: tl.constexpr, GRADIENT: tl.constexpr,
    STEP: tl.constexpr, UNIT: tl.constexpr, SCREENED: tl.constexpr,
    PIECE: tl.constexpr, ENTRIES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """A row of the gradient: up to two terms (a, b) and `gradient`. With STEP it goes through projection, Adam and
    renormalisation into the weight and never reaches memory; else it is stored to `out`. Grid: latents.

    `rest` is 1 − beta, taken in double precision.
    """
    latent = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, D)
    inside = dims < d
    at = latent * d + dims
    found = tl.full((D,), 0.0, tl.float32)
    if GRADIENT:
        found += tl.load(gradient + at, mask=inside, other=0.0)
    if TERMS > 0:
        found += term_row(
            latent, start_a, entries_a, factor_a, table_a, bounds_a, pieces_a, size_a, slots_a, d, dims,
            LEVELS_A, PIECE, ENTRIES, D,
        )  # fmt: skip
    if TERMS > 1:
        found += term_row(
            latent, start_b, entries_b, factor_b, table_b, bounds_b, pieces_b, size_b, slots_b, d, dims,
            LEVELS_B, PIECE, ENTRIES, D,
        )  # fmt: skip
    if STEP:
        value = tl.load(weight + at, mask=inside, other=0.0)
        if UNIT:
            found -= tl.sum(found * value) * value
        average = beta1 * tl.load(mean + at, mask=inside, other=0.0) + rest1 * found
        power = beta2 * tl.load(square + at, mask=inside, other=0.0) + rest2 * found * found
        tl.store(mean + at, average, mask=inside)
        tl.store(square + at, power, mask=inside)
        value -= step_size * tl.div_rn(average, tl.div_rn(tl.sqrt_rn(power), root_correction) + epsilon)
        value = tl.where(inside, value, 0.0)
        if UNIT:
            length = tl.sqrt_rn(tl.sum(value * value))
            value = tl.div_rn(value, tl.where(length < 1e-8, 1e-8, length))
        tl.store(weight + at, value, mask=inside)
        if SCREENED:
            store_rounded(latent, at, inside, value, rounded, norm, lost)
    else:
        tl.store(out + at, found, mask=inside)
