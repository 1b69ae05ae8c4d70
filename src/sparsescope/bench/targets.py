"""What was asked of a step, and what was measured: on two cores, d_in 512, batches of 4,096, k = 32."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .contenders import OURS

Row = Mapping[str, Any]
SHAPE = {"d_in": 512, "batch": 4096}
FLOORS: tuple[tuple[str, dict[str, Any], dict[int, float]], ...] = (
    ("TopK, screened", {"method": "topk", "precision": "bf16"}, {2048: 1.2, 16384: 0.65}),
    ("TopK, float32 products", {"method": "topk", "precision": "float32", "choice": None}, {2048: 2.0, 16384: 1.35}),
    ("TopK without a compiler", {"method": "topk", "choice": "reference"}, {2048: 2.3, 16384: 1.5}),
    ("tied L1, screened", {"name": "tied L1", "method": "l1", "precision": "bf16"}, {2048: 1.3, 16384: 0.7}),
    ("tied L1, first dense phase", {"name": "tied L1, first dense phase"}, {2048: 6.2, 16384: 6.2}),
)
"""Most that a step may cost as a multiple of the encoder product, by number of latents."""
ENSEMBLE = (("bf16", 1.3), ("float32", 1.6))
SPEEDUPS: tuple[tuple[str, str, float], ...] = (
    ("sparsify", "tuned", 2.5),
    ("sparsify", "default", 3.0),
    ("SAELens", "default", 6.0),
    ("dictionary_learning", "default", 6.0),
)
"""How many times faster screened TopK shall be than the library's, whose memory is so allocated."""
SMALLER = 2.0
"""How many times less memory than SAELens, at 16,384 latents."""


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every target with what was measured; `measured` and `met` are None where a row of it is missing."""
    sizes = sorted({row["n_latents"] for row in rows if row["d_in"] == SHAPE["d_in"]} & {2048, 16384})
    return [target for size in sizes for target in _of(rows, size)]


def _of(rows: Sequence[Row], size: int) -> Iterator[dict[str, Any]]:
    here = [row for row in rows if row["n_latents"] == size and row["d_in"] == SHAPE["d_in"]]
    full = [row for row in here if row["batch"] == SHAPE["batch"] and row["data"] == "plain"]
    ours = [row for row in full if row["library"] == OURS and row["memory"] == "default"]
    for name, wanted, most in FLOORS:
        found = _where(ours, **wanted)
        for row in found:
            l0 = f" at L0 {row['l0']:.0f}" if wanted.get("method") == "l1" else ""
            yield _at_most(f"{name}{l0}, ratio", size, row["ratio"], most[size])
        if not found:
            yield _at_most(f"{name}, ratio", size, None, most[size])
    for precision in ("bf16", "float32"):
        topk, batch = (_ms(_where(ours, method=m, precision=precision, choice=None)) for m in ("topk", "batchtopk"))
        name = "screened" if precision == "bf16" else "float32"
        yield _at_most(f"BatchTopK / TopK, {name}", size, batch / topk if batch and topk else None, 1.1)
    if size == 2048:
        for precision, most_of_one in ENSEMBLE:
            of_one = [row["ratio"] for row in _where(here, library=OURS, members=16, precision=precision)]
            measured = of_one[0] if of_one else None
            yield _at_most(f"16 tied L1, per member, {precision}, ratio", size, measured, most_of_one)
    screened = _where(ours, method="topk", precision="bf16")
    mine = _ms(screened)
    for library, memory, least in SPEEDUPS:
        theirs = _ms(_where(full, library=library, method="topk", memory=memory))
        speedup = theirs / mine if theirs and mine else None
        yield _at_least(f"TopK, screened: times the speed of {library}, {memory} malloc", size, speedup, least)
    if size == 16384:
        lens = _where(full, library="SAELens", method="topk", memory="default")
        have = screened and lens and screened[0]["peak_bytes"] and lens[0]["peak_bytes"]
        smaller = lens[0]["peak_bytes"] / screened[0]["peak_bytes"] if have else None
        yield _at_least("TopK, screened: times less peak memory than SAELens", size, smaller, SMALLER)


def _where(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _ms(rows: Sequence[Row]) -> float | None:
    """The fastest of them: a library is compared by its best setting."""
    return min((row["ms"] for row in rows if row["ms"] is not None), default=None)


def _at_most(what: str, size: int, measured: float | None, bound: float) -> dict[str, Any]:
    met = None if measured is None else measured <= bound
    return {"what": what, "n_latents": size, "measured": measured, "at_most": bound, "met": met}


def _at_least(what: str, size: int, measured: float | None, bound: float) -> dict[str, Any]:
    met = None if measured is None else measured >= bound
    return {"what": what, "n_latents": size, "measured": measured, "at_least": bound, "met": met}
