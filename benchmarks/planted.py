"""Recovery of a planted dictionary by every method: 256 directions in 64 dimensions, without and with an offset.

    python benchmarks/planted.py [--tokens 2000000] [--method topk] [--world-seed 0] [--json-out FILE]

Some minutes on two cores. Exit code 1 when a method finds fewer than 90% of the directions at its best sparsity.
"""

import argparse
import json
import sys
from pathlib import Path

from sparsescope.bench.planted import TARGET, THRESHOLD, grid, measure_planted
from sparsescope.errors import SparsescopeError


def show(stage: str, done: int, total: int) -> None:
    if done % max(1, total // 10) == 0:
        print(f"{stage}: {done:,} of {total:,} steps", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="rows to train on")
    parser.add_argument("--method", action="append", choices=list(grid(False)), help="only this one; may be repeated")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the rows")
    parser.add_argument("--json-out", type=Path, help="write every number to this file")
    chosen = parser.parse_args()
    try:
        result = measure_planted(
            tokens=chosen.tokens,
            methods=chosen.method,
            world_seed=chosen.world_seed,
            seed=chosen.seed,
            progress=show,
        )
    except SparsescopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{'offset':>6}  {'dictionary':32}  {'recovery':>8}  {'mmcs':>5}   (one to one, cosine ≥ {THRESHOLD})")
    for row in result["rows"]:
        mark = "*" if row in result["best"] else " "
        print(f"{row['offset']:6g}  {row['name']:32}  {row['recovery']:8.3f}{mark} {row['mmcs']:5.3f}")
    print(f"{'':6}  {'random directions':32}  {result['random']['recovery']:8.3f}  {result['random']['mmcs']:5.3f}")
    verdict = "met" if result["met"] else "missed"
    print(f"target {TARGET} by every method at its best: {verdict}, {result['seconds']:.0f} s")
    if chosen.json_out:
        chosen.json_out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
