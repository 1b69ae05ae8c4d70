"""The manifest and the report of a made-up run: as much of them as the explorer shows."""

from pathlib import Path
from typing import Any

from .. import __version__
from ..artifact import FORMAT_VERSION, SEAL, digest, write_json
from ..features.database import FeatureDatabase
from ..features.reading import FeatureReader

SITE = "resid_post.2"
DICTIONARIES = (
    ("topk-k_16-x4", "topk", "dictionary"),
    ("tied_l1-l0_16-x4", "tied_l1", "dictionary"),
    ("topk-k_16-x4 (seed 1)", "topk", "dictionary"),
    ("topk-k_16-x4-frozen (frozen decoder)", "topk", "frozen decoder"),
)
"""Name, method and kind of the dictionaries that can be made."""


def write_files(path: Path, database: FeatureDatabase, names: list[str], latents: int, hostile: bool) -> None:
    """Write manifest.json and report.json, with numbers that agree with the feature database."""
    run = {
        "title": "made up" + (" <script>alert(5)</script>\u202e" if hostile else ""),
        "command": "python benchmarks/explorer.py",
        "model": "builtin:tiny",
        "text": "builtin:docs",
        "sites": [SITE],
        "context": 128,
        "tokens": 128_000,
        "split": "test",
        "seed": 0,
        "sparsescope": __version__,
        "machine": "unknown",
        "device": "cpu",
        "recipe": {},
    }
    manifest: dict[str, Any] = {
        "kind": "run",
        "format_version": FORMAT_VERSION,
        "sparsescope": __version__,
        "config": {"model": "builtin:tiny", "text": ["builtin:docs"], "site": [SITE], "name": "made up"},
        "seed": 0,
        "inputs": {},
        "run": run,
        "files": {},
    }
    write_json(path / "manifest.json", {**manifest, SEAL: digest(manifest)})
    rows = [_evaluated(place, name, latents) for place, name in enumerate(names)]
    judged = [_interpreted(database, place, name, latents) for place, name in enumerate(names)]
    report = {
        "run": run,
        "stages": {"evaluate": {"seconds": 1.0, "peak_rss_bytes": 1 << 28, "finished": True}},
        "dictionaries": rows,
        "features": [],
        "interpretation": {"explainer": "rules", "headline": "corpus_rho", "dictionaries": judged},
    }
    write_json(path / "report.json", report)


def _evaluated(place: int, name: str, latents: int) -> dict[str, Any]:
    """A dictionary's row of the evaluation."""
    _, method, _ = DICTIONARIES[place]
    return {
        "name": name,
        "method": method,
        "site": SITE,
        "output_site": None,
        "n_latents": latents,
        "seed": 0,
        "l1": None,
        "k": 16,
        "target_l0": None,
        "fvu": _estimate(0.2 + 0.05 * place, 174, "document"),
        "l0": _estimate(16.0 + place, 174, "document"),
        "alive": latents - latents // 20,
        "ce_clean": 2.07,
        "ce_spliced": 2.3,
        "ce_zero": 42.6,
        "ce_mean": 8.5,
        "ce_recovered": _estimate(0.98, 163, "document"),
        "split": "test",
        "tokens": 38_400,
        "predictions": 32_369,
        "path": f"dictionaries/{place}",
    }


def _interpreted(database: FeatureReader, place: int, name: str, latents: int) -> dict[str, Any]:
    """A dictionary's row of the interpretation: the mean of the stored scores."""
    _, method, kind = DICTIONARIES[place]
    number = database.dictionary(name).id
    means = database.connection.execute(
        "SELECT score, avg(value), count(*) FROM scores WHERE dictionary = ? GROUP BY score", (number,)
    )
    found = {score: _estimate(mean, n, "latent") for score, mean, n in means}
    asked = max((each["n"] for each in found.values()), default=0)
    row = {"name": name, "kind": kind, "method": method, "site": SITE, "n_latents": latents, "asked": asked}
    return {**row, **found, "skipped": {}}


def _estimate(value: float, n: int, unit: str) -> dict[str, Any]:
    return {"value": value, "low": 0.97 * value, "high": 1.03 * value, "n": n, "unit": unit}
