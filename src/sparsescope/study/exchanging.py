"""Features of a run to and from other tools: dashboards for SAEDashboard and Neuronpedia, explanations from there.

DIR/NAME/batch-0.json, ...             one folder for each dictionary
DIR/NAME/...                           of Neuronpedia's also what `features.interchange.neuronpedia` lists
"""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ..artifact import partial_path, read_json, write_bytes, write_json
from ..dictionaries import Dictionary
from ..errors import ArtifactError, ConfigurationError, suggest
from ..features.browsing import FeatureBrowser, Shelf
from ..features.database import FeatureDatabase
from ..features.interchange import neuronpedia, saedashboard
from ..features.interchange.explanations import Export, check_fit, read_export
from ..features.interchange.portrait import SPLIT, Weights, cards, portraits
from ..interpret.records import file_stem
from ..sites import Site
from .contents import load_run_model, read_run
from .directory import DICTIONARIES
from .prepared import DATABASE
from .workshop import RESIDUAL

FORMATS = ("neuronpedia", "saedashboard")
Format = Literal["neuronpedia", "saedashboard"]
LATENTS_IN_FILE = 512
"""Latents in a file for SAEDashboard."""

Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")


def export_features(
    run: str | Path,
    out: str | Path,
    *,
    format: Format,
    dictionaries: Sequence[str],
    model_id: str | None = None,
    model: bool = True,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the dashboards of some dictionaries of a run into the new folder `out`; what was written, by name.

    `model_id` is what Neuronpedia calls the model (default: the last part of the run's name for it). Without
    `model` it is not loaded, and the logits of tokens are left out; without the run's weights, so are the
    directions. The folder appears when all of it is there. Raises `ConfigurationError` for an unknown
    dictionary or format, `ArtifactError` where a dictionary is not prepared or `out` holds something already,
    `ModelError` when the model cannot be loaded.

        export_features("runs/demo", "upload", format="neuronpedia", dictionaries=["topk-k_16-x4"])
    """
    if format not in FORMATS:
        raise ConfigurationError(
            f"unknown format {format!r}: expected {' or '.join(FORMATS)}.{suggest(format, FORMATS)}"
        )
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target} is there already: choose another folder, or delete it.")
    with _browsing(run) as browser:
        shelves = [_shelf(browser, name) for name in dictionaries]
        weights = _weights(run, shelves, model)
        draft = partial_path(target)
        shutil.rmtree(draft, ignore_errors=True)
        written = {}
        for shelf in shelves:
            folder = draft / file_stem(shelf.name)
            folder.mkdir(parents=True)
            source = _source(run, browser, shelf, model_id)
            write = _write_neuronpedia if format == "neuronpedia" else _write_saedashboard
            written[shelf.name] = write(folder, browser, shelf, source, weights.get(shelf.name), progress)
    if target.is_dir():
        target.rmdir()
    os.rename(draft, target)
    return written


def import_explanations(
    run: str | Path, files: Sequence[str | Path], *, dictionary: str | None = None, model_id: str | None = None
) -> dict[str, Any]:
    """Store explanations that Neuronpedia exported in the run, as those of 'neuronpedia:METHOD'; what was stored.

    Without `dictionary` it is the run's only one, or the one that would be exported under the same name.
    Earlier imports by the same method are replaced, latent by latent. Raises `ArtifactError` for files that
    cannot be read, `ConfigurationError` for explanations that do not fit the dictionary: nothing is stored then.
    """
    export = read_export(files)
    with _browsing(run) as browser:
        shelf = _shelf(browser, dictionary) if dictionary is not None else _meant(run, browser, export, model_id)
        source = _source(run, browser, shelf, model_id)
    check_fit(export, name=shelf.name, latents=shelf.n_latents, model=source.model, layer=Site.parse(shelf.site).layer)
    found = export.by_explainer()
    with FeatureDatabase.open(Path(run) / DATABASE) as database, database.transaction():
        for explainer, explanations in found.items():
            database.put_explanations(shelf.id, explainer, explanations)
    return {
        "dictionary": shelf.name,
        "of": f"{export.model}/{export.source}",
        "explainers": {name: len(explanations) for name, explanations in found.items()},
        "empty": export.empty,
    }


def _write_saedashboard(
    folder: Path,
    browser: FeatureBrowser,
    shelf: Shelf,
    source: neuronpedia.Source,
    weights: Weights | None,
    progress: Progress | None,
) -> dict[str, Any]:
    found, done, files = portraits(browser, shelf, parts=saedashboard.PARTS, weights=weights), 0, 0
    for files, group in enumerate(_grouped(found, LATENTS_IN_FILE), 1):
        write_bytes(folder / f"batch-{files - 1}.json", (part.encode() for part in saedashboard.batch_text(group)))
        done += len(group)
        _tell(progress, shelf, done)
    return {"latents": done, "files": files, "logits": weights is not None and weights.unembedding is not None}


def _write_neuronpedia(
    folder: Path,
    browser: FeatureBrowser,
    shelf: Shelf,
    source: neuronpedia.Source,
    weights: Weights | None,
    progress: Progress | None,
) -> dict[str, Any]:
    found, done, files = portraits(browser, shelf, parts=neuronpedia.PARTS, weights=weights), 0, 0
    for files, group in enumerate(_grouped(found, neuronpedia.LATENTS_IN_BATCH), 1):
        batch = neuronpedia.batch(group, source, browser.texts)
        write_bytes(folder / f"batch-{files - 1}.json", json.dumps(batch, allow_nan=False).encode())
        done += len(group)
        _tell(progress, shelf, done)
    dead = [card.latent for card in cards(browser, shelf, "dead")]
    write_json(folder / "skipped_indexes.json", neuronpedia.skipped(dead, source))
    write_json(folder / "run_settings.json", neuronpedia.settings(source, folder.name))
    explained = 0
    for number, rows in enumerate(_grouped(_rows(browser, shelf, source), neuronpedia.EXPLANATIONS_IN_BATCH)):
        (folder / "explanations").mkdir(exist_ok=True)
        body = gzip.compress(neuronpedia.lines(rows), mtime=0)
        write_bytes(folder / "explanations" / f"batch-{number}.jsonl.gz", body)
        explained += len(rows)
    logits = weights is not None and weights.unembedding is not None
    return {"source": source.id, "latents": done, "files": files, "explanations": explained, "logits": logits}


def _rows(browser: FeatureBrowser, shelf: Shelf, source: neuronpedia.Source) -> Iterator[dict[str, Any]]:
    """Every explanation of a dictionary, as a line of Neuronpedia's export; one of ours that came back, once."""
    written = set[str]()
    for each in browser.explanations(shelf.id):
        if each.skipped is None:
            row = neuronpedia.explanation_row(each, source)
            if row["id"] not in written:
                written.add(row["id"])
                yield row


def _grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def _tell(progress: Progress | None, shelf: Shelf, done: int) -> None:
    if progress is not None:
        progress(f"writing {shelf.name}", done, shelf.active)


def _browsing(run: str | Path) -> FeatureBrowser:
    return FeatureBrowser.open(Path(run) / DATABASE)


def _shelf(browser: FeatureBrowser, name: str) -> Shelf:
    found = {each.name: each for each in browser.shelves()}
    if name not in found:
        raise ConfigurationError(
            f"there is no dictionary {name!r} in the feature database: it has {', '.join(found) or 'none'}."
            f"{suggest(name, found)}"
        )
    if not found[name].prepared:
        raise ArtifactError(f"the dictionary {name!r} is not prepared: 'sparsescope explore RUN' does that.")
    return found[name]


def _meant(run: str | Path, browser: FeatureBrowser, export: Export, model_id: str | None) -> Shelf:
    """The dictionary that the explanations are named after, or the run's only one."""
    shelves = browser.shelves()
    same = [each for each in shelves if _source(run, browser, each, model_id).id == export.source]
    found = same or shelves
    if len(found) != 1:
        raise ConfigurationError(
            f"the explanations are of {export.model}/{export.source}: say which dictionary that is, with --dictionary "
            f"and one of {', '.join(each.name for each in found) or 'none'}."
        )
    return _shelf(browser, found[0].name)


def _source(run: str | Path, browser: FeatureBrowser, shelf: Shelf, model_id: str | None) -> neuronpedia.Source:
    """How Neuronpedia would name a dictionary, and the text that its contexts come from."""
    facts: Mapping[str, Any] = read_json(Path(run) / "manifest.json").get("run", {})
    corpus = browser.connection.execute("SELECT fragments, length FROM corpora WHERE split = ?", (SPLIT,)).fetchone()
    return neuronpedia.Source(
        model=model_id or neuronpedia.model_id(str(facts.get("model", "unknown"))),
        layer=neuronpedia.layer_of(shelf.site),
        set=neuronpedia.identifier(shelf.name),
        prompts=corpus[0] if corpus else 0,
        tokens=corpus[1] if corpus else 0,
        dataset=str(facts.get("text", "")),
    )


def _weights(run: str | Path, shelves: Sequence[Shelf], model: bool) -> dict[str, Weights]:
    """The weights of the run's own dictionaries by name, with the unembedding where they write to the stream.

    Those of controls, and of a run that was passed on without its dictionaries, are not there.
    """
    if not (Path(run) / DICTIONARIES).is_dir():
        return {}
    contents = read_run(run, verify=False)
    mine = {each.name: contents.dictionaries[each.name] for each in shelves if each.name in contents.dictionaries}
    head = load_run_model(contents.run).unembedding() if mine and model else None
    matrix = None if head is None else head.float().cpu().numpy()
    return {
        name: Weights(
            each.directions.detach().float().cpu().numpy(), matrix if _writes_to_stream(each, matrix) else None
        )
        for name, each in mine.items()
    }


def _writes_to_stream(dictionary: Dictionary, matrix: np.ndarray | None) -> bool:
    site = dictionary.provenance.output_site or dictionary.provenance.site
    stream = site is not None and Site.parse(site).quantity in RESIDUAL
    return stream and matrix is not None and matrix.shape[0] == dictionary.d_out
