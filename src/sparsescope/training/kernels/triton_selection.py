"""Triton functions that find the entries of a batch in a table of products, without sorting it.

A table of products (a block of rows × latents) is read once for the maxima of groups of neighbouring
latents. Only groups whose maximum reaches the floor of their row are looked at again. With screening,
each product stands for an interval that is certain to hold the float32 pre-activation: floors are made
of lower ends, entries are chosen by upper ends, and what is chosen is computed again in float32.

This module imports Triton: only `Gpu` loads it. Offsets into tables are 64 bits wide throughout. Numbers that
change from call to call are not specialised on: Triton would compile anew for 1 and for multiples of 16.
"""

import triton
import triton.language as tl


@triton.jit
def order(value):
    """Integers in the order of the values: 0 for what is not above 0, that of infinity for NaN."""
    bits = tl.where(value == value, value, float("inf")).to(tl.int32, bitcast=True)
    return tl.maximum(bits, 0)


@triton.jit
def orders_at(values, begin, count, at, BLOCK: tl.constexpr):
    """Orders of BLOCK values of each row from its position `at` on; 0 beyond its last."""
    place = at + tl.arange(0, BLOCK)[None, :]
    return order(tl.load(values + begin[:, None] + place, mask=place < count[:, None], other=0.0))


@triton.jit
def kth_order(values, begin, count, k, LOWEST: tl.constexpr, BLOCK: tl.constexpr):
    """For each row the largest integer that at least `k` of the orders of its `count` values from `begin` on reach,
    found bit by bit; bits below LOWEST stay 0. It is 0 when fewer than `k` values are above 0."""
    best = (count * 0).to(tl.int32)
    step = tl.full((), 1 << 30, tl.int32)
    longest = tl.max(count)
    if longest <= BLOCK:
        orders = orders_at(values, begin, count, 0, BLOCK)
        for _ in range(31 - LOWEST):
            trial = best + step
            best = tl.where(tl.sum((orders >= trial[:, None]).to(tl.int32), axis=1) >= k, trial, best)
            step = step >> 1
    else:
        for _ in range(31 - LOWEST):
            trial = best + step
            reached = best * 0
            for at in range(0, longest, BLOCK):
                orders = orders_at(values, begin, count, at, BLOCK)
                reached += tl.sum((orders >= trial[:, None]).to(tl.int32), axis=1)
            best = tl.where(reached >= k, trial, best)
            step = step >> 1
    return best


@triton.jit
def store_rounded(row, at, inside, value, rounded, norm, lost):
    """A row in bfloat16, its norm, and the norm of what rounding took from it."""
    # to the nearest, ties to even, by hand: a cast rounds so on a device, and truncates in the interpreter
    bits = value.to(tl.int32, bitcast=True)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    short = tl.where(value == value, nearest, value).to(tl.bfloat16)
    tl.store(rounded + at, short, mask=inside)
    gap = value - short.to(tl.float32)
    tl.store(norm + row, tl.sqrt_rn(tl.sum(value * value)))
    tl.store(lost + row, tl.sqrt_rn(tl.sum(gap * gap)))


@triton.jit
def round_rows(source, rounded, norm, lost, d, D: tl.constexpr):
    """`store_rounded` of each row. Grid: rows."""
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, D)
    value = tl.load(source + row * d + dims, mask=dims < d, other=0.0)
    store_rounded(row, row * d + dims, dims < d, value, rounded, norm, lost)


@triton.jit
def interval(product, bias, x_norm, x_lost, w_norm, w_lost, slack):
    """An interval that holds the float32 pre-activation, given the product of the rounded factors.

    With x̃ = x − δx and w̃ = w − δw, x·w − x̃·w̃ = δx·w + x̃·δw, at most |δx||w| + (|x| + |δx|)|δw| (Cauchy and
    Schwarz). `slack` · |x̃||w̃| covers summing in float32, there and in the re-computation; the product is itself
    rounded to 8 bits, and adding the bias rounds twice. The factor 1.01 covers rounding in this bound.
    """
    value = product + bias
    error = x_lost * w_norm + (x_norm + x_lost) * (w_lost + slack * (w_norm + w_lost)) + 0.00390625 * tl.abs(product)
    # a bias of minus infinity switches a latent off, and is added without rounding
    rounding = tl.where(tl.abs(value) < float("inf"), 2.4e-7 * tl.abs(value), 0.0)
    error = 1.01 * error + rounding + 1e-30
    low, high = value - error, value + error
    return tl.where(low == low, low, float("-inf")), tl.where(high == high, high, float("inf"))


@triton.jit(do_not_specialize=["rows", "n_groups"])
def group_maxima(
    product, bias, x_norm, x_lost, w_norm, w_lost, lowest, highest, rows, n, n_groups, slack,
    SCREENED: tl.constexpr, SIZE: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The maximum pre-activation of each group of SIZE latents; screened, of lower and of upper ends.

    Grid: blocks of GROUPS groups × blocks of ROWS rows. NaN counts as infinity (screened: as no lower end).
    """
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    latent = group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = latent < n
    b = tl.load(bias + latent, mask=inside, other=0.0)
    if SCREENED:
        norm = tl.load(w_norm + latent, mask=inside, other=0.0)
        gap = tl.load(w_lost + latent, mask=inside, other=0.0)
    first = tl.program_id(1) * ROWS
    for row in range(first, tl.minimum(first + ROWS, rows)):
        at = tl.cast(row, tl.int64)
        value = tl.load(product + at * n + latent, mask=inside, other=0.0).to(tl.float32)
        where = at * n_groups + group
        if SCREENED:
            low, high = interval(value, b, tl.load(x_norm + at), tl.load(x_lost + at), norm, gap, slack)
            low = tl.where(inside, low, float("-inf"))
            tl.store(lowest + where, tl.max(low, axis=1), mask=group < n_groups)
        else:
            value += b
            high = tl.where(value == value, value, float("inf"))
        high = tl.where(inside, high, float("-inf"))
        tl.store(highest + where, tl.max(high, axis=1), mask=group < n_groups)


@triton.jit(do_not_specialize=["rows", "n_groups", "k"])
def row_floors(maxima, floor, rows, n_groups, k, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """A value that at least k entries of each row reach (their groups' maxima do), close to the largest such; 0
    when fewer than k maxima are above 0. Bits that hardly matter are not searched for. Grid: blocks of ROWS rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    count = tl.where(row < rows, n_groups, 0)
    best = kth_order(maxima, row * n_groups, count, k, 12, BLOCK)
    tl.store(floor + row, best.to(tl.float32, bitcast=True), mask=row < rows)


@triton.jit(do_not_specialize=["n_groups", "n_found"])
def pick(
    product, bias, x_norm, x_lost, w_norm, w_lost, floor, found, place, latents, values, n, n_groups, n_found, slack,
    SCREENED: tl.constexpr, WRITE: tl.constexpr, SIZE: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Entries that can reach the floor of their row, in the groups `found` (row · n_groups + group, ascending).

    Without WRITE, `place` gets the number in each group; with it, `place` holds where those of a group go.
    Grid: blocks of GROUPS found groups.
    """
    number = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    real = number < n_found
    which = tl.load(found + number, mask=real, other=0)
    row = which // n_groups
    latent = (which - row * n_groups)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = real[:, None] & (latent < n)
    value = tl.load(product + row[:, None] * n + latent, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + latent, mask=inside, other=0.0)
    if SCREENED:
        norm = tl.load(w_norm + latent, mask=inside, other=0.0)
        gap = tl.load(w_lost + latent, mask=inside, other=0.0)
        x_length, x_gap = tl.load(x_norm + row)[:, None], tl.load(x_lost + row)[:, None]
        _, high = interval(value, b, x_length, x_gap, norm, gap, slack)
    else:
        value += b
        high = tl.where(value == value, value, float("inf"))
    kept = (inside & (high >= tl.load(floor + row)[:, None]) & (high > 0)).to(tl.int32)
    if WRITE:
        at = tl.load(place + number, mask=real, other=0)[:, None] + tl.cumsum(kept, axis=1) - kept
        tl.store(latents + at, latent.to(tl.int32), mask=kept > 0)
        if not SCREENED:
            tl.store(values + at, value, mask=kept > 0)
    else:
        tl.store(place + number, tl.sum(kept, axis=1).to(tl.int64), mask=real)


@triton.jit(do_not_specialize=["rows", "slots", "k"])
def tabulate(
    latents, values, begin, out_latent, out_value, out_count, rows, slots, k,
    LIMITED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Entries begin[row]:begin[row + 1] side by side: those above 0 or NaN; LIMITED, the k largest of them.

    Among equal values the first are kept. Unused slots become 0. Grid: blocks of ROWS rows.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    first = tl.load(begin + row, mask=real, other=0)
    count = tl.load(begin + row + 1, mask=real, other=0) - first
    longest = tl.max(count)
    threshold = (count * 0).to(tl.int32)
    room = threshold
    if LIMITED:
        threshold = kth_order(values, first, count, k, 0, BLOCK)
        room += k
        for at in range(0, longest, BLOCK):
            orders = orders_at(values, first, count, at, BLOCK)
            room -= tl.sum((orders > threshold[:, None]).to(tl.int32), axis=1)
    kept_before = room * 0
    equal_before = room * 0
    for at in range(0, longest, BLOCK):
        orders = orders_at(values, first, count, at, BLOCK)
        kept = (orders > threshold[:, None]).to(tl.int32)
        if LIMITED:
            equal = ((orders == threshold[:, None]) & (orders > 0)).to(tl.int32)
            number = equal_before[:, None] + tl.cumsum(equal, axis=1)
            kept += equal * (number <= room[:, None]).to(tl.int32)
            equal_before += tl.sum(equal, axis=1)
        slot = (row * slots + kept_before)[:, None] + tl.cumsum(kept, axis=1) - kept
        source = (first + at)[:, None] + tl.arange(0, BLOCK)[None, :]
        tl.store(out_latent + slot, tl.load(latents + source, mask=kept > 0, other=0), mask=kept > 0)
        tl.store(out_value + slot, tl.load(values + source, mask=kept > 0, other=0.0), mask=kept > 0)
        kept_before += tl.sum(kept, axis=1)
    tl.store(out_count + row, kept_before, mask=real)
    for at in range(0, slots, BLOCK):
        slot = at + tl.arange(0, BLOCK)[None, :]
        unused = (slot >= kept_before[:, None]) & (slot < slots) & real[:, None]
        tl.store(out_latent + row[:, None] * slots + slot, tl.full((ROWS, BLOCK), 0, tl.int32), mask=unused)
        tl.store(out_value + row[:, None] * slots + slot, tl.full((ROWS, BLOCK), 0.0, tl.float32), mask=unused)
