"""Writing a report into a run's directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artifact import write_bytes, write_json
from ..errors import ConfigurationError, NumericalError
from ..metrics.evaluation import Evaluation
from .page import build

ENTRY_KEYS = (
    *("name", "method", "site", "n_latents", "seed", "l1", "k", "fvu", "l0", "alive"),
    *("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "ce_recovered", "path"),
)
_ESTIMATES = ("fvu", "l0", "ce_recovered")


def write_report(run_dir: str | Path, data: Mapping[str, Any]) -> Path:
    """Write `report.json` and `report.html` into `run_dir`; see the package's docstring for `data`.

    Each file is written whole or not at all. Returns the path of `report.html`. Raises
    `ConfigurationError` when an entry lacks something, `NumericalError` when a number is not finite,
    `StorageError` when the disk refuses.

    >>> import tempfile
    >>> path = write_report(tempfile.mkdtemp(), {"run": {"title": "empty"}, "stages": {}, "dictionaries": []})
    >>> path.name
    'report.html'
    """
    whole = checked(data)
    page = build(whole)
    out = Path(run_dir)
    write_json(out / "report.json", whole)
    write_bytes(out / "report.html", page.encode("utf-8", "replace"))
    return out / "report.html"


def checked(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as plain JSON with evaluations as entries, or the reason why it is none."""
    missing = {"run", "stages", "dictionaries"} - set(data)
    if missing:
        raise ConfigurationError(
            f"a report needs {', '.join(sorted(missing))}: given were {', '.join(data) or 'nothing'}."
        )
    entries = [e.to_dict() if isinstance(e, Evaluation) else dict(e) for e in data["dictionaries"]]
    for place, entry in enumerate(entries):
        lacking = [key for key in ENTRY_KEYS if key not in entry]
        if lacking:
            raise ConfigurationError(
                f"entry {place} of dictionaries lacks {', '.join(lacking)}: write what `evaluate` gives."
            )
        for key in _ESTIMATES:
            if entry[key] is not None and {"value", "low", "high", "n"} - set(entry[key]):
                raise ConfigurationError(
                    f"{key} of {entry['name']!r} is {entry[key]}: expected value, low, high and n."
                )
    whole = {**data, "dictionaries": entries}
    try:
        return json.loads(json.dumps(whole, allow_nan=False))
    except TypeError as error:
        raise ConfigurationError(f"the report holds something that is not JSON: {error}.") from None
    except ValueError:
        raise NumericalError(
            "the report holds a number that is not finite; JSON has none. Write null for unknown."
        ) from None
