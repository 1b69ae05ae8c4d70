"""From a run's artifacts to its report: the facts, the stages, the numbers, and what excites a few latents."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from .. import __version__
from ..activations import ActivationStore
from ..artifact import MANIFEST, open_artifact, read_json
from ..dictionaries import Dictionary
from ..models import LanguageModel
from ..report.contexts import top_contexts
from ..report.write import write_report
from .cost import Stages, total_memory
from .directory import ACTIVATIONS, CAUSAL, CIRCUITS, EVALUATION, INTERPRETATION
from .members import Trained
from .recipe import Recipe

Progress = Callable[[str, int, int], None]
NUMBERS, CONTEXTS, SUMMARY, CIRCUIT = "evaluation.json", "contexts.json", "summary.json", "circuit.json"


def facts_of(recipe: Recipe, model: LanguageModel, store: ActivationStore, command: str | None) -> dict[str, Any]:
    """What was run, on what, with what: the "run" of `report.json`."""
    return {
        "title": recipe.name,
        "command": command,
        "model": model.name,
        "model_revision": model.revision,
        "model_fingerprint": store.model_fingerprint,
        "tokenizer_fingerprint": store.tokenizer_fingerprint,
        "text": store.config["text"],
        "text_fingerprint": store.inputs["text"],
        "store": ACTIVATIONS,
        "store_fingerprint": store.fingerprint,
        "sites": list(store.sites),
        "context": store.context,
        "tokens": sum(store.rows(split) for split in ("train", "validation", "test")),
        "split": recipe.evaluate.split,
        "seed": recipe.seed,
        "sparsescope": __version__,
        "versions": {"python": platform.python_version(), **_versions("torch", "transformers", "scikit-learn")},
        "machine": f"{os.cpu_count()} cores, {total_memory() / 2**30:.1f} GiB",
        "device": str(model.device),
        "recipe": recipe.to_dict(),
    }


def shown_contexts(
    recipe: Recipe,
    dictionaries: Sequence[Dictionary],
    entries: Sequence[Mapping[str, Any]],
    store: ActivationStore,
    model: LanguageModel,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """What excites some latents of `report.dictionaries` dictionaries: the report's "features"."""
    settings = recipe.report
    return [
        top_contexts(
            dictionaries[place],
            store,
            model.tokenizer,
            latents=settings.latents,
            contexts=settings.contexts,
            split=recipe.evaluate.split,
            seed=recipe.seed,
            progress=progress,
        )
        for place in typical(entries)[: settings.dictionaries]
    ]


def typical(entries: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the most typical dictionaries: of each method that is trained, the one nearest to the median L0.

    Where nothing was trained, of each method that was fitted. The larger dictionary wins a tie.
    """
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    trained = [method for method in methods if method in get_args(Trained)]
    found = []
    for method in trained or methods:
        places = [place for place, entry in enumerate(entries) if entry["method"] == method]
        middle = statistics.median_low(entries[place]["l0"]["value"] for place in places)
        found.append(
            min(places, key=lambda place: (abs(entries[place]["l0"]["value"] - middle), -entries[place]["n_latents"]))
        )
    return found


def make_report(run: Path, facts: Mapping[str, Any], out: Path | None = None, *, explainer: str = "rules") -> Path:
    """Write `report.html` and `report.json` of a run into `out` (default: the run itself); returns the page.

    Of several explainers `explainer` is shown, or else the first there is.
    Everything comes from what the run holds: no model is loaded. Raises `ArtifactError` when that is damaged.
    """
    out = run if out is None else out
    stages = Stages(run)
    with stages.measured("report"):
        found = open_artifact(run / EVALUATION, "evaluation").path
        numbers = {
            **read_json(found / NUMBERS),
            "features": read_json(found / CONTEXTS),
            **_interpretation(run, explainer),
            **_causal(run),
        }
        write_report(out, {"run": dict(facts), "stages": stages.report(), **numbers})
    # Once more, because how long the report itself takes is known only now.
    return write_report(out, {"run": dict(facts), "stages": stages.report(), **numbers})


def _interpretation(run: Path, explainer: str) -> dict[str, Any]:
    """The summary of the run's explanations by an explainer, or else the first there are."""
    made = sorted(run.glob(f"{INTERPRETATION}/*/{MANIFEST}"), key=lambda file: (file.parent.name != explainer, file))
    if not made:
        return {}
    found = open_artifact(made[0].parent, INTERPRETATION).path
    return {"interpretation": {"explainer": found.name, **read_json(found / SUMMARY)}}


def _causal(run: Path) -> dict[str, Any]:
    """What patching found, and the circuits of tasks, where they were looked for."""
    found: dict[str, Any] = {}
    for file in sorted(run.glob(f"{CAUSAL}/*/{MANIFEST}")):
        found["patching"] = read_json(open_artifact(file.parent, CAUSAL).path / SUMMARY)
    circuits = [open_artifact(file.parent) for file in sorted(run.glob(f"{CIRCUITS}/*/{MANIFEST}"))]
    return {**found, "circuits": [read_json(each.path / CIRCUIT) for each in circuits]} if circuits else found


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # imported from a source tree without metadata
            found[package] = "unknown"
    return found
