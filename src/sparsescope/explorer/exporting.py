"""The pages as plain files, for any web host or for nothing but a browser.

    DIR/index.html  search.html  compare.html  circuit.html
    DIR/dictionary/SLUG/index.html  latent/N.html  ...
    DIR/compare/FIRST/SECOND.html  circuit/TASK.html
    DIR/asset/  data/SLUG.js                             styles and scripts; the rows of a dictionary for its table
    DIR/sparsescope-pages.json                           says that the folder is ours, so that it may be replaced

The functions that make pages are those of the server: the numbers are the same.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigurationError, StorageError
from .explored import Explored
from .files import asset_files
from .links import StaticLinks
from .pages.circuit import circuit_page
from .pages.compare import compare_page
from .pages.dictionary import dictionary_page
from .pages.latent import latent_page
from .pages.rows import rows_script
from .pages.run import run_page
from .pages.search import search_page
from .rendering import Page, render

MARK = "sparsescope-pages.json"
_OURS = {
    *(MARK, "index.html", "search.html", "compare.html", "circuit.html"),
    *("asset", "data", "dictionary", "compare", "circuit"),
}
"""All that an export has at its top: a folder with anything else in it is not replaced."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, its pages, how many of them are of latents, and bytes in all."""

    folder: Path
    pages: int
    latents: int
    size: int


@dataclass(frozen=True)
class _Wanted:
    """A page to be written: its file, what makes it, and of which parameters."""

    file: str
    function: Callable[..., Page]
    parameters: Mapping[str, Any]


def export_static(explored: Explored, folder: str | Path, *, progress: Progress | None = None) -> Exported:
    """Write every page of a run into `folder`, which is whole or absent; an earlier export there is replaced.

    For a part of the run give an `Explored` that shows only that part. Raises `ConfigurationError` where the
    folder holds something else, `StorageError` where the disk refuses, `ArtifactError` for a run that cannot be read.

        export_static(Explored("runs/demo", only=["topk-k_16-x4"]), "public/demo")
    """
    target = Path(folder).absolute()
    draft, old = (target.with_name(target.name + ending) for ending in (".partial", ".replaced"))
    for place in (target, draft, old):
        _check_free(place)
    made = {"sparsescope": __version__, "run": explored.title}
    try:
        _remove(draft)
        draft.mkdir(parents=True)
        (draft / MARK).write_text(json.dumps(made, indent=2) + "\n", "utf-8")
        done = _write(explored, draft, progress)
        _put_in_place(draft, target, old)
    except OSError as error:
        raise StorageError(
            f"could not write {error.filename or draft}: {error.strerror or error}. Free some space there, or make it "
            "writable, and export again."
        ) from None
    return Exported(target, *done)


def _write(explored: Explored, draft: Path, progress: Progress | None) -> tuple[int, int, int]:
    """All files of the export. Returns pages, pages of latents, and bytes."""
    size = sum(_put(draft / "asset" / file.name, file.body) for file in asset_files().values())
    slugs = [explored.slug(shelf.id) for shelf in explored.shelves()]
    size += sum(_put(draft / "data" / f"{slug}.js", rows_script(explored, slug).encode("ascii")) for slug in slugs)
    latents = sum(shelf.n_latents for shelf in explored.shelves())
    pages = 0
    for pages, wanted in enumerate(_pages(explored), 1):
        page = wanted.function(explored, StaticLinks(wanted.file), **wanted.parameters, query={})
        size += _put(draft / wanted.file, render(page, explored, StaticLinks(wanted.file)).encode("utf-8"))
        if progress is not None and pages % 20 == 0:
            progress("pages", min(pages, latents), latents)
    if progress is not None:
        progress("pages", latents, latents)
    return pages, latents, size


def _pages(explored: Explored) -> Iterator[_Wanted]:
    yield _Wanted("index.html", run_page, {})
    yield _Wanted("search.html", search_page, {})
    yield _Wanted("compare.html", compare_page, {})
    yield _Wanted("circuit.html", circuit_page, {})
    for task in explored.circuits():
        yield _Wanted(f"circuit/{task}.html", circuit_page, {"task": task})
    shelves = [(shelf, explored.slug(shelf.id)) for shelf in explored.shelves()]
    for (first, slug), (second, other) in permutations(shelves, 2):
        if explored.browser().matched(first.id, second.id) is not None:
            yield _Wanted(f"compare/{slug}/{other}.html", compare_page, {"first": slug, "second": other})
    for shelf, slug in shelves:
        yield _Wanted(f"dictionary/{slug}/index.html", dictionary_page, {"slug": slug})
        for latent in range(shelf.n_latents):
            yield _Wanted(f"dictionary/{slug}/latent/{latent}.html", latent_page, {"slug": slug, "latent": latent})


def _put(file: Path, body: bytes) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    return len(body)


def _check_free(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier export, whole or not."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigurationError(f"{folder} is not a folder: choose another for the pages.")
    held = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(held - _OURS) if MARK in held else sorted(held)
    if foreign:
        raise ConfigurationError(
            f"{folder} holds something else than pages of a run ({', '.join(foreign[:3])}): choose an empty or a new "
            "folder, or move that away."
        )


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def _put_in_place(draft: Path, target: Path, old: Path) -> None:
    """Rename the whole export to its place. What was there before goes last, by way of `old`."""
    _remove(old)
    if target.is_dir():
        os.rename(target, old)
    try:
        os.rename(draft, target)
    except OSError:
        with suppress(OSError):
            os.rename(old, target)
        raise
    _remove(old)
