"""`python -m sparsescope` is the command `sparsescope`."""

from .cli import main

raise SystemExit(main())
