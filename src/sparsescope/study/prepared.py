"""What of a run is ready to be explored. Needs neither torch nor the activations."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ConfigurationError, suggest
from ..features.browsing import FeatureBrowser
from ..features.cards import preparation
from ..features.reading import FeatureReader
from ..features.schema import FORMAT, check, damaged, open_to_read

DATABASE = "features.sqlite"
VERSION = 2
"""Of what is prepared: another one is prepared anew."""
TOP, ACTIVE, RANDOM = 20, 40, 20
"""Fragments kept of each latent, as many as `explain` keeps by default."""
CONTEXTS = 5
"""Windows in which each latent is ablated."""
SEED = 0
FROZEN = " (frozen decoder)"
"""What follows the name of a dictionary of that control."""


def unprepared(run: str | Path, dictionaries: Sequence[str] = ()) -> list[str]:
    """The dictionaries of a run (of those named, else all) that `prepare_run` has work with, by name.

    Reads no activations and compares no checksums. Raises `ArtifactError` for what is no whole run or has a damaged
    feature database, `ConfigurationError` for a dictionary that the run does not have.
    """
    home = Path(run)
    names = chosen(home, dictionaries)
    if not (home / DATABASE).is_file():
        return names
    if _format(home / DATABASE) < FORMAT:  # of before there was anything to prepare
        return names
    with FeatureBrowser.open(home / DATABASE) as database:
        settings = settings_of(database, fingerprint_of(home))
        stored = {each.name: each.id for each in database.dictionaries()}
        return [name for name in names if name not in stored or needs(database, stored[name], settings)]


def needs(database: FeatureReader, dictionary: int, settings: dict[str, Any]) -> str | None:
    """What is to be done with a stored dictionary: "all", "words" (only its explanations changed), or nothing."""
    found = preparation(database, dictionary)
    if found is None or found[0] != settings:
        return "all"
    return None if found[1].get("words") == words_of(database, dictionary) else "words"


def settings_of(database: FeatureReader, fingerprint: str) -> dict[str, Any]:
    """What decides how a dictionary is prepared: the run, the text, and how much is looked at."""
    corpora = dict(database.connection.execute("SELECT split, fingerprint FROM corpora").fetchall())
    numbers = {"version": VERSION, "top": TOP, "active": ACTIVE, "random": RANDOM, "contexts": CONTEXTS, "seed": SEED}
    return {**numbers, "run": fingerprint, "texts": corpora}


def words_of(database: FeatureReader, dictionary: int) -> str:
    """A checksum of what was said of a dictionary's latents, and of how well it predicts."""
    state = hashlib.sha256()
    for query in (
        "SELECT latent, explainer, text, body, skipped FROM explanations WHERE dictionary = ? "
        "ORDER BY latent, explainer",
        "SELECT latent, explainer, value FROM scores WHERE dictionary = ? AND score = 'corpus_rho' "
        "ORDER BY latent, explainer",
    ):
        for row in database.connection.execute(query, (dictionary,)):
            state.update(json.dumps(row).encode())
        state.update(b"\n")
    return state.hexdigest()


def fingerprint_of(run: Path) -> str:
    """The fingerprint of a run, as `Artifact.fingerprint` gives it."""
    return hashlib.sha256(json.dumps(_read(run / "manifest.json"), sort_keys=True).encode()).hexdigest()


def chosen(run: Path, dictionaries: Sequence[str] = ()) -> list[str]:
    """The names of a run's dictionaries, those of `dictionaries` where any are named.

    The controls whose directions stayed random are among them, at the end: they are of the model that was studied.
    """
    if _read(run / "manifest.json").get("kind") != "run":
        raise ArtifactError(f"{run} is no run: expected what 'sparsescope study' wrote.")
    entries = _read(run / "evaluation" / "evaluation.json")["dictionaries"]
    places = [entry["path"].removeprefix("dictionaries/") for entry in entries]
    plain = [entry["name"] or place for entry, place in zip(entries, places, strict=True)]
    names = _told_apart(plain, places) + [name + FROZEN for name in _frozen(run / "controls" / "frozen-decoder")]
    for name in dictionaries:
        if name not in names:
            raise ConfigurationError(
                f"{run} has no dictionary {name!r}.{suggest(name, names)} It has: {', '.join(names)}."
            )
    return [name for name in names if not dictionaries or name in dictionaries]


def _frozen(control: Path) -> list[str]:
    """The names of the dictionaries in a control."""
    home = control / "dictionaries"
    found = [
        (file.parent, _read(file)) for file in sorted([*home.glob("*/manifest.json"), *home.glob("*/*/manifest.json")])
    ]
    made = [(path.relative_to(home).as_posix(), each["dictionary"]) for path, each in found if "dictionary" in each]
    return _told_apart([each["provenance"]["name"] or place for place, each in made], [place for place, _ in made])


def _told_apart(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """Names, those that several have with the place of each."""
    return [name if names.count(name) == 1 else f"{name} ({place})" for name, place in zip(names, places, strict=True)]


def _format(path: Path) -> int:
    """The format of a feature database."""
    with closing(open_to_read(path)) as connection:
        try:
            return check(connection, path)
        except sqlite3.DatabaseError as error:
            raise damaged(path, error) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read {path}: {error}. Expected the directory of a finished run, as 'sparsescope study' writes it."
        ) from None
