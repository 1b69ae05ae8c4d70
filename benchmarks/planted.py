"""Recovery of a planted dictionary by tied L1: 256 directions in 64 dimensions, best of four l1.

    python benchmarks/planted.py [--tokens 2000000] [--world-seed 0] [--json-out FILE]

About a minute on two cores. Exit code 1 when fewer than 90% of the directions are found.
"""

import argparse
import json
import sys
from pathlib import Path

from sparsescope.bench.planted import L1, TARGET, THRESHOLD, measure_planted
from sparsescope.errors import SparsescopeError


def show(stage: str, done: int, total: int) -> None:
    if done % max(1, total // 10) == 0:
        print(f"{stage}: {done:,} of {total:,} steps", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="rows to train on")
    parser.add_argument("--l1", type=float, action="append", help="weight of the penalty; may be repeated")
    parser.add_argument("--n-latents", type=int, default=512)
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the rows")
    parser.add_argument("--json-out", type=Path, help="write every number to this file")
    chosen = parser.parse_args()
    try:
        result = measure_planted(
            tokens=chosen.tokens,
            l1=tuple(chosen.l1 or L1),
            n_latents=chosen.n_latents,
            world_seed=chosen.world_seed,
            seed=chosen.seed,
            progress=show,
        )
    except SparsescopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{'l1':>8}  {'recovery':>8}  {'mmcs':>5}  {'L0':>5}   (one to one, cosine ≥ {THRESHOLD})")
    for row in result["rows"]:
        print(f"{row['l1']:8g}  {row['recovery']:8.3f}  {row['mmcs']:5.3f}  {row['l0']:5.1f}")
    print(f"{'random':>8}  {result['random']['recovery']:8.3f}  {result['random']['mmcs']:5.3f}")
    verdict = "met" if result["met"] else "missed"
    print(f"best {result['best']['recovery']:.3f}, target {TARGET}: {verdict}, {result['seconds']:.0f} s")
    if chosen.json_out:
        chosen.json_out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
