"""Making dictionaries of any method: autoencoders on one pass, baselines one by one."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..activations import ActivationStore
from ..artifact import MANIFEST, Artifact, Draft, drafting, open_artifact, start
from ..dictionaries import Dictionary, fit, load_dictionary, save_dictionary
from ..errors import ConfigurationError
from ..training import train
from ..training.records import FILE as RECORDS
from .directory import bring

if TYPE_CHECKING:
    from ..dictionaries import FitMethod
    from ..training import Method

Progress = Callable[[str, int, int], None]


def fit_all(
    store: ActivationStore,
    site: str,
    methods: "Sequence[FitMethod]",
    outs: Sequence[Path],
    *,
    seed: int,
    rows: int | None = None,
    progress: Progress | None = None,
) -> list[Dictionary]:
    """Fit baselines, each into its place in `outs`; what is there already is kept.

    The top-k form of a method has the components of its full form, so where the full form came
    first nothing is fitted again.
    """
    full: dict[FitMethod, Dictionary] = {}
    made = []
    for method, out in zip(methods, outs, strict=True):
        whole = full.get(dataclasses.replace(method, k=None))
        if whole is None or method.method not in ("pca", "ica", "nmf"):
            found = fit(store, site, method, out=out, seed=seed, rows=rows, resume=True, progress=progress)
        else:
            changes = {"name": method.label(), "k": method.k, "path": None}
            short = dataclasses.replace(whole, k=method.k).with_provenance(**changes)  # type: ignore[call-arg]
            found = load_dictionary(save_dictionary(short, out, inputs={"activations": store.fingerprint}, resume=True))
        if method.k is None:
            full[method] = found
        made.append(found)
    return made


def make_dictionaries(
    store: ActivationStore,
    site: str | tuple[str, str],
    trained: "Sequence[Method]",
    fitted: "Sequence[FitMethod]",
    *,
    out: Path,
    schedule: Mapping[str, Any],
    rows: int | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """One container `out` of dictionaries: `out/0`, `out/1`, ... first the trained, then the fitted.

    `site` is a pair (input, output) for transcoders, which are made apart from all others. `schedule` is
    what `train` is told for all members. Raises as `train` and `fit` do.
    """
    if not fitted:
        train(store, site, trained, out=out, seed=seed, resume=resume, progress=progress, **schedule)
        return open_artifact(out, verify=False)
    if not isinstance(site, str):
        raise ConfigurationError(f"baselines are fitted at one site, not from one to another {site}: give one site.")
    config = {
        "site": site,
        "methods": [method.settings() for method in trained],
        "fitted": [{"method": method.method, **dataclasses.asdict(method)} for method in fitted],
        "rows": rows,
        **({key: value for key, value in schedule.items() if key not in ("device", "kernels")} if trained else {}),
    }
    draft = start(out, "dictionaries", config, seed, {"activations": store.fingerprint}, resume)
    if draft.done:
        return open_artifact(out, verify=False)
    with drafting(draft):
        if trained:
            _train_into(draft, store, site, trained, schedule, seed, progress)
        outs = [draft.path / str(len(trained) + place) for place in range(len(fitted))]
        fit_all(store, site, fitted, outs, seed=seed, rows=rows, progress=progress)
        return draft.finish()


def _train_into(
    draft: Draft,
    store: ActivationStore,
    site: str,
    methods: "Sequence[Method]",
    schedule: Mapping[str, Any],
    seed: int,
    progress: Progress | None,
) -> None:
    """Train a container inside the draft, then put its members where the draft's own are."""
    inner = draft.path / "trained"
    members = [draft.path / str(place) for place in range(len(methods))]
    if not all((member / MANIFEST).is_file() for member in members):
        train(store, site, methods, out=inner, seed=seed, resume=True, progress=progress, **schedule)
        for member in members:
            bring(inner / member.name, member)
    if (inner / RECORDS).exists():
        os.replace(inner / RECORDS, draft.path / RECORDS)
    shutil.rmtree(inner, ignore_errors=True)
