"""What a training step costs, ours and other libraries', as multiples of the encoder product.

    python benchmarks/training.py [--quick] [--json-out FILE] [...]

The same as `sparsescope bench --what speed`, with the same options. About twenty minutes on two cores with
all libraries installed, five with --quick.
"""

import sys

from sparsescope.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--what", "speed", *sys.argv[1:]]))
