"""The dictionary to begin with, the same wherever none is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...features.browsing import Shelf
from .brief import precedence


def recommended(shelves: Sequence[Shelf], report: Mapping[str, Any]) -> Shelf | None:
    """The autoencoder whose explanations score best (corpus ρ); where none is explained, the first autoencoder.

    Baselines and controls only where there is no autoencoder; None where there is nothing.
    """
    scored = {
        each["name"]: each["corpus_rho"]["value"] or 0.0
        for each in (report.get("interpretation") or {}).get("dictionaries", ())
    }
    able = [shelf for shelf in shelves if shelf.explained and shelf.prepared] or shelves
    return min(able, key=lambda each: (precedence(each), -scored.get(each.name, 0.0), each.id), default=None)
