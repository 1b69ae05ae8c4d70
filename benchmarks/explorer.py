"""First paint, time of queries and pages, memory, and 50 visitors at once: the explorer on a run of 100,000 latents.

    python benchmarks/explorer.py [--quick] [--run DIR] [--json-out FILE]

Needs Chromium and playwright for first paint. About ten minutes on two cores, most of it to make the run: --run DIR
keeps it there, and takes it from there the next time. Exit code 1 when a target is missed.
"""

import argparse
import json
import sys
from pathlib import Path

from sparsescope.bench.explored_run import make_run
from sparsescope.bench.explorer import CLIENTS, LATENTS, SECONDS, measure_explorer
from sparsescope.errors import SparsescopeError


def show(stage: str, done: int, total: int) -> None:
    if done % max(1, total // 10) < 1000:
        print(f"{stage}: {done:,} of {total:,}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=LATENTS, help="of each of two dictionaries")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that they browse")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-paint", action="store_true", help="leave out what needs a browser")
    parser.add_argument("--quick", action="store_true", help="2,000 latents, 10 clients, 5 seconds")
    parser.add_argument("--run", type=Path, help="keep the run here, or take it from here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json-out", type=Path, help="write every number to this file")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.latents, chosen.clients, chosen.seconds, chosen.repeats = 2_000, 10, 5.0, 3
    try:
        if chosen.run is not None and not chosen.run.exists():
            make_run(chosen.run, latents=chosen.latents, seed=chosen.seed, progress=show)
        result = measure_explorer(
            latents=chosen.latents,
            clients=chosen.clients,
            seconds=chosen.seconds,
            repeats=chosen.repeats,
            paint=not chosen.no_paint,
            run=chosen.run,
            seed=chosen.seed,
            progress=show,
        )
    except SparsescopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report(result)
    if chosen.json_out:
        chosen.json_out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if any(target["met"] is False for target in result["targets"]) else 0


def report(result: dict) -> None:
    """Everything as text."""
    print(f"{result['bytes'] / 1e6:,.0f} MB of database; others took {result['disturbed']:.2f} of a core meanwhile")
    print(f"{'query':40}  median ms  worst ms")
    for row in sorted(result["queries"], key=lambda row: -row["median"]):
        print(f"{row['query']:40}  {row['median']:9.1f}  {row['worst']:8.1f}")
    print(f"{'page over HTTP':40}  median ms  worst ms  kB")
    for row in result["answers"]:
        print(f"{row['page']:40}  {row['median']:9.1f}  {row['worst']:8.1f}  {row['bytes'] / 1000:.0f}")
    if result["paint"]:
        print(f"{'first paint':40}  cold median  worst  warm median  worst")
        for row in result["paint"]:
            cold, warm = row["cold"], row["warm"]
            numbers = f"{cold['median']:11.0f}  {cold['worst']:5.0f}  {warm['median']:11.0f}  {warm['worst']:5.0f}"
            print(f"{row['page']:40}  {numbers}")
    seen = result["visitors"]
    print(
        f"{seen['clients']} visitors for {seen['seconds']:g} s: {seen['requests']:,} pages, {seen['errors']} errors, "
        f"median {seen['median']:.0f} ms, 99% within {seen['p99']:.0f} ms, worst {seen['worst']:.0f} ms"
    )
    for error in seen["what"]:
        print(f"  {error}")
    for target in result["targets"]:
        verdict = {True: "met", False: "missed", None: "not measured at this size"}[target["met"]]
        measured = "unknown" if target["measured"] is None else f"{target['measured']:,.0f}"
        print(f"{target['name']}: {measured}, target {target['target']:,.0f}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
