"""Latents per second and bytes per latent of gathering contexts, beside SAEDashboard where there is one.

    python benchmarks/contexts.py [--tokens 1000000] [--latents 2048] [--peer-python PATH] [--json-out FILE]

About five minutes on two cores. Exit code 1 when a target is missed.
"""

import argparse
import json
import sys
from pathlib import Path

from sparsescope.bench.contexts import TARGET_TOKENS, measure_contexts
from sparsescope.errors import SparsescopeError


def show(stage: str, done: int, total: int) -> None:
    if done % max(1, total // 10) < 1000:
        print(f"{stage}: {done:,} of {total:,}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TARGET_TOKENS)
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--training", type=int, default=400_000, help="rows that the autoencoder is trained on")
    parser.add_argument("--threads", type=int, help="of torch; as many as it chooses unless given")
    parser.add_argument("--peer-python", help="an interpreter that has SAEDashboard")
    parser.add_argument("--peer-latents", type=int, default=64)
    parser.add_argument("--peer-tokens", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json-out", type=Path, help="write every number to this file")
    chosen = parser.parse_args()
    try:
        result = measure_contexts(
            tokens=chosen.tokens,
            n_latents=chosen.latents,
            k=chosen.k,
            training=chosen.training,
            threads=chosen.threads,
            peer_python=chosen.peer_python,
            peer_latents=chosen.peer_latents,
            peer_tokens=chosen.peer_tokens,
            seed=chosen.seed,
            progress=show,
        )
    except SparsescopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    ours, peer = result["beside"]["ours"], result["beside"]["peer"]
    print(
        f"{'':10}  {'latents':>7}  {'tokens':>9}  {'seconds':>7}  {'cpu s':>7}  {'latents/s':>9}  "
        f"{'bytes/latent':>12}  disturbed"
    )
    for row in (*result["rows"], ours):
        print(
            f"{row['name']:10}  {row['n_latents']:7,}  {row['tokens']:9,}  {row['total_seconds']:7.1f}  "
            f"{row['processor_seconds']:7.1f}  {row['latents_per_second']:9.1f}  "
            f"{row['bytes_per_latent']:12,.0f}  {row['disturbed']:9.2f}"
        )
    if peer["seconds"] is None:
        print(f"{peer['name']}: {peer['note']}")
    else:
        seconds = sum(peer["seconds"].values())
        print(
            f"{peer['name']}  {peer['n_latents']:7,}  {peer['tokens']:7,}  {seconds:7.1f}  {'':7}  "
            f"{peer['n_latents'] / seconds:9.1f}  {peer['compressed_bytes_per_latent']:12,.0f}  (compressed by gzip)"
        )
    for target in result["targets"]:
        verdict = {True: "met", False: "missed", None: "not measured at this size"}[target["met"]]
        print(f"{target['name']}: {target['measured']:,.0f}, target {target['target']:,.0f}: {verdict}")
    if chosen.json_out:
        chosen.json_out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if any(target["met"] is False for target in result["targets"]) else 0


if __name__ == "__main__":
    sys.exit(main())
