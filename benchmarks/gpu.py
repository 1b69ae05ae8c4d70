"""Tokens per second of TopK training steps on one CUDA device. Not yet measured on any.

    python benchmarks/gpu.py [--d-in 512] [--n-latents 16384] [--rounds 5] [--json-out FILE]

By default d = 512, 2304 and 4096 with 16k, 65k and 1M latents, in float32 and with screened selection. Sizes that
do not fit into the device's memory are listed with what they need. Exit code 2 without a CUDA device.
"""

import argparse
import json
import sys
from pathlib import Path

from sparsescope.bench.gpu import BATCH, LATENTS, PRECISIONS, WIDTHS, K, measure_gpu
from sparsescope.errors import SparsescopeError


def show(stage: str, done: int, total: int) -> None:
    print(f"[{done + 1}/{total}] {stage}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, action="append", help="width of the activations; may be repeated")
    parser.add_argument("--n-latents", type=int, action="append", help="may be repeated")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="may be repeated")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--k", type=int, default=K)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json-out", type=Path, help="write every number to this file")
    chosen = parser.parse_args()
    try:
        result = measure_gpu(
            widths=tuple(chosen.d_in or WIDTHS),
            n_latents=tuple(chosen.n_latents or LATENTS),
            precisions=tuple(chosen.precision or PRECISIONS),
            batch=chosen.batch,
            k=chosen.k,
            rounds=chosen.rounds,
            device=chosen.device,
            progress=show,
        )
    except SparsescopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{result['machine']['device']}, batch {chosen.batch}, k {chosen.k}")
    print(f"{'d':>5}  {'latents':>9}  {'precision':9}  {'':15}  {'tokens/s':>11}  {'/ product':>9}  {'peak GB':>7}")
    for row in result["rows"]:
        head = f"{row['d_in']:>5}  {row['n_latents']:>9,}  {row['precision']:9}  {row['name']:15}"
        if row["tokens_per_second"] is None:
            print(f"{head}  {row['note']}")
            continue
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:7.1f}"
        print(f"{head}  {row['tokens_per_second']['median']:11,.0f}  {row['ratio']:9.2f}  {peak}")
    if chosen.json_out:
        chosen.json_out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
