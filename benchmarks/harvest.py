"""Harvesting speed on a model of Pythia-70M's shape, beside TransformerLens and plain transformers.

    python benchmarks/harvest.py [--quick] [--json-out FILE]

About ten minutes on two cores. Close everything else: samples disturbed by other processes are counted.
"""

import argparse
import json
import sys
from pathlib import Path

from sparsescope.bench.harvest import measure_harvest
from sparsescope.errors import SparsescopeError


def show(stage: str, done: int, total: int) -> None:
    print(f"[{done + 1}/{total}] {stage}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of few tokens: does it run?")
    parser.add_argument("--json-out", type=Path, help="write every number to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=49_152, help="tokens harvested per sample")
    parser.add_argument("--context", type=int, action="append", help="context length; may be repeated")
    parser.add_argument("--dtype", action="append", help="float32, bfloat16 or float16; may be repeated")
    parser.add_argument("--tokenizer-of", default="builtin:tiny", help="model whose tokenizer is used")
    chosen = parser.parse_args()
    rounds, tokens = (1, 8_192) if chosen.quick else (chosen.rounds, chosen.tokens)
    try:
        result = measure_harvest(
            contexts=tuple(chosen.context or (128, 1024)),
            dtypes=tuple(chosen.dtype or ("float32", "bfloat16")),
            rounds=rounds,
            tokens=tokens,
            tokenizer_of=chosen.tokenizer_of,
            progress=show,
        )
    except SparsescopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{'context':>7}  {'dtype':8}  {'':30}  {'tokens/s':>9}  {'low':>8}  {'high':>8}  {'/ bare':>6}  disturbed")
    for row in result["rows"]:
        head = f"{row['context']:>7}  {row['dtype']:8}  {row['name']:30}"
        rate = row["tokens_per_second"]
        if rate is None:
            print(f"{head}  {row['note']}")
            continue
        numbers = f"{rate['median']:9,.0f}  {rate['low']:8,.0f}  {rate['high']:8,.0f}  {row['ratio_to_bare']:6.2f}"
        print(f"{head}  {numbers}  {rate['disturbed']}/{rate['n']}")
    for target in result["targets"]:
        measured = "not measured" if target["measured"] is None else f"{target['measured']:.2f}"
        print(f"{target['ratio']}: {measured}, target {target['target']}")
    products = ", ".join(f"{name} {rate:.0f}" for name, rate in result["machine"]["matmul_gflops"].items())
    print(f"matrix products on this machine, GFLOP/s: {products}")
    if chosen.json_out:
        chosen.json_out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
