"""Recovery of planted directions beside other libraries, paired over seeds.

    python benchmarks/planted_peers.py [--seeds 5] [--tokens 1000000] [--json-out FILE]
    python benchmarks/planted_peers.py --tune

The same as `sparsescope bench --what quality`, with the same options. With --tune it prints the learning
rate that suits each library and method best, on worlds that are not measured: what
`sparsescope.bench.quality.LRS` holds.
"""

import sys

from sparsescope.bench.quality import tune
from sparsescope.cli import main


def show(stage: str, done: int, total: int) -> None:
    print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--tune"]:
        for (library, method), lr in tune(progress=show).items():
            print(f"{library} {method}: {lr:g}")
        sys.exit()
    sys.exit(main(["bench", "--what", "quality", *sys.argv[1:]]))
