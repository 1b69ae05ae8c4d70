"""The run that is explored: its feature database, and the files of its other stages, read as they are now."""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ArtifactError, ConfigurationError, suggest
from ..features.browsing import FeatureBrowser, Shelf
from .query import NotThere

DATABASE = "features.sqlite"
_MANIFEST, _REPORT, _UNFINISHED = "manifest.json", "report.json", "plan.json"
_SHAPES = {"run": dict, "dictionaries": list, "interpretation": dict, "patching": dict}
"""What a report holds, where it does."""
_SLUG = 80  # characters
_TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_Signature = tuple[tuple[int, int, int] | None, ...]


class Explored:
    """A run directory. Nothing is read before it is asked for, and files that changed are read again.

    With `only`, the run is shown as if it had the dictionaries of these names alone. Any method may raise
    `ArtifactError`, which says what is missing or damaged, and what to do; `shelves` also raises
    `ConfigurationError` for a name in `only` that the run does not have.

        found = Explored("runs/demo")
        [found.slug(shelf.id) for shelf in found.shelves()]
    """

    def __init__(self, path: str | Path, only: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.only = tuple(only)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._texts: dict[Path, tuple[_Signature, dict[str, Any]]] = {}
        self._shelved: tuple[_Signature, list[Shelf], dict[int, str]] | None = None

    @property
    def database(self) -> Path:
        """The feature database of the run."""
        return self.path / DATABASE

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The run's manifest. Raises `ArtifactError` for what is no whole run."""
        return self._checked()

    @property
    def report(self) -> Mapping[str, Any]:
        """Every number of the report; {} where it was not written."""
        file = self.path / _REPORT
        found = self._json(file) if file.is_file() else {}
        for key, kind in _SHAPES.items():
            if not isinstance(found.get(key), kind | None):
                raise ArtifactError(
                    f"{file} is no report: its {key!r} is no {kind.__name__}. 'sparsescope report RUN' writes it again."
                )
        return found

    @property
    def title(self) -> str:
        """What the run calls itself, else the name of its directory."""
        for facts in (self.report.get("run"), self.manifest.get("run")):
            if isinstance(facts, dict) and facts.get("title"):
                return str(facts["title"])
        return self.path.resolve().name

    def browser(self) -> FeatureBrowser:
        """The database, open for this thread alone; opened again when another file has taken its place."""
        self._checked()
        identity = _identity(self.database)
        held: _Held | None = getattr(self._local, "held", None)
        if held is None or held.identity != identity:
            self._local.held = held = _Held(FeatureBrowser.open(self.database), identity)
        return held.browser

    def close(self) -> None:
        """Close the database of this thread; asking for it again opens it again."""
        self._local.held = None

    def shelves(self) -> list[Shelf]:
        """The dictionaries of the run, in the order of the database."""
        return self._shelf_list()[0]

    def slug(self, dictionary: int) -> str:
        """What a dictionary is called in addresses: of a-z, 0-9, '.', '_' and '-'; different for each."""
        slugs = self._shelf_list()[1]
        if dictionary not in slugs:
            raise NotThere(f"The run has no dictionary number {dictionary}.")
        return slugs[dictionary]

    def by_slug(self, slug: str) -> Shelf:
        """The dictionary of that slug. Raises `NotThere`, which names a similar one."""
        shelves, slugs = self._shelf_list()
        for shelf in shelves:
            if slugs[shelf.id] == slug:
                return shelf
        known = suggest(slug, slugs.values())
        raise NotThere(f"The run has no dictionary {_shown(slug)}.{known} The run page lists all of them.")

    def circuits(self) -> list[str]:
        """The tasks that a circuit was found of, by name."""
        found = self.path.glob("circuits/*/circuit.json")
        return sorted(file.parent.name for file in found if _TASK.fullmatch(file.parent.name))

    def circuit(self, task: str) -> Mapping[str, Any]:
        """The circuit of a task: see `causal.circuits.Circuit`. Raises `NotThere`."""
        known = self.circuits()
        if task not in known:
            raise NotThere(
                f"The run has no circuit of the task {_shown(task)}. It has: {', '.join(known) or 'none'}. "
                "'sparsescope circuit RUN --task TASK' finds one."
            )
        return self._json(self.path / "circuits" / task / "circuit.json")

    def case(self, dictionary: str, latent: int) -> Mapping[str, Any] | None:
        """The case study of a latent, None where there is none. `dictionary` is a name that the database knows."""
        folder = quote(f"{dictionary}-{latent}", safe=" ()@,+=")  # as `interpret.records.file_stem`, which needs torch
        file = self.path / "cases" / folder / "feature.json"
        return self._json(file) if file.is_file() else None

    def _shelf_list(self) -> tuple[list[Shelf], dict[int, str]]:
        signature = _signature(self.database, self.database.with_name(DATABASE + "-wal"))
        kept = self._shelved
        if kept is None or kept[0] != signature:
            held = self.browser().shelves()
            kept = self._shelved = (signature, self._chosen(held), slugs_of(held))
        return kept[1], kept[2]

    def _chosen(self, shelves: list[Shelf]) -> list[Shelf]:
        names = [shelf.name for shelf in shelves]
        for name in self.only:
            if name not in names:
                raise ConfigurationError(
                    f"{self.path} has no dictionary {name!r}.{suggest(name, names)} It has: {', '.join(names)}."
                )
        return [shelf for shelf in shelves if not self.only or shelf.name in self.only]

    def _checked(self) -> dict[str, Any]:
        """The manifest of a whole run."""
        if (self.path / _MANIFEST).is_file():
            return self._json(self.path / _MANIFEST)
        partial = self.path.with_name(self.path.name + ".partial")
        if (self.path / _UNFINISHED).is_file() or partial.is_dir():
            raise ArtifactError(
                f"the run {self.path} is unfinished: run the command that makes it with --resume, then explore it."
            )
        raise ArtifactError(
            f"{self.path} is not a run: it has no {_MANIFEST}. 'sparsescope demo' and 'sparsescope study' make runs."
        )

    def _json(self, file: Path) -> dict[str, Any]:
        """A JSON object, read again when the file has changed."""
        with self._lock:
            signature = _signature(file)
            kept = self._texts.get(file)
            if kept is None or kept[0] != signature:
                kept = self._texts[file] = (signature, _read(file))
            return kept[1]


class _Held:
    """An open database. It belongs to one thread, and is closed when that has ended or asks for another."""

    def __init__(self, browser: FeatureBrowser, identity: tuple[int, int] | None) -> None:
        self.browser, self.identity, self._thread = browser, identity, threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:  # SQLite lets no other thread close it
            self.browser.close()


def slugs_of(shelves: list[Shelf]) -> dict[int, str]:
    """A slug for every dictionary, by its number: its name in lower case, other characters than ours replaced.

    Of names that would get the same one, later ones get a number too.
    """
    given: dict[int, str] = {}
    for shelf in sorted(shelves, key=lambda each: each.id):
        stem = re.sub(r"[^a-z0-9._-]+", "-", shelf.name.lower()).strip(".-")[:_SLUG].strip(".-") or "dictionary"
        slug, count = stem, 1
        while slug in given.values():
            count += 1
            slug = f"{stem}-{count}"
        given[shelf.id] = slug
    return given


def _read(file: Path) -> dict[str, Any]:
    again = "Make it again, or restore it from a copy."
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read {file}: {error}. {again}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{file} holds no JSON object. {again}")
    return value


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _signature(*files: Path) -> _Signature:
    """Changes when a file does."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _shown(given: str) -> str:
    return repr(given if len(given) <= 60 else given[:60] + "…")
