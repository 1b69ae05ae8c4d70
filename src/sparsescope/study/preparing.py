"""Preparing a run for the explorer: everything its pages show of every latent, into the run's feature database.

Nothing is asked of anybody but the run itself and its model. A dictionary is put in one transaction with all that
belongs to it, so that whoever reads meanwhile sees it whole or not at all, and what was finished is kept when the work
is interrupted. It is done again only where what it was made from has changed; where only explanations have, the cards
alone are.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from ..bench.machine import cores
from ..dictionaries import Dictionary
from ..features.browsing import FeatureBrowser
from ..features.cards import put_matches
from ..features.database import FeatureDatabase
from ..features.renewing import forget_preparation
from ..metrics.geometry import match
from .contents import Contents
from .crowd import Crowd, Trade
from .directory import open_run
from .members import Trained
from .prepared import chosen, unprepared
from .preparer import Preparer
from .workshop import Task

__all__ = ["prepare_run", "unprepared"]

Progress = Callable[[str, int, int], None]
FULL_MATCH = 4096
FLOOR = 0.5
"""Dictionaries of more latents are matched by cosines of at least this alone: a full matching takes minutes."""
_WORTH = 2000  # latents: for fewer, starting processes takes longer than the work
_MOST = 4  # processes: each holds the model
_PREPARING = Trade("sparsescope.study.preparer", "prepared", "run the same command again, or name fewer dictionaries")


def prepare_run(
    run: str | Path,
    dictionaries: Sequence[str] = (),
    *,
    again: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Put every latent of a run's dictionaries (of those named, else all) into `RUN/features.sqlite`.

    Contexts, statistics, histograms, the effect of ablating each on its strongest contexts, truth labels where the
    text has any, predictions of explanations by rules, cards, and matches between the autoencoders of a site. What is
    there and up to date is left alone, unless `again`. A run that was explained keeps the text it was explained on; in
    another, what `explain` would use by default is put, so that explaining it later changes nothing here. `jobs`
    dictionaries are worked on at a time (default: one per core, four at most, where there is much to do).

    Raises `ArtifactError` for what is no whole run or is damaged, `ConfigurationError` for an unknown dictionary,
    `ModelError` where the model cannot be loaded, `StorageError` where nothing can be written.

        prepare_run("runs/demo")
    """
    home, tell = Path(run), progress or (lambda stage, done, total: None)
    stale = chosen(home, dictionaries) if again else unprepared(home, dictionaries)
    if not stale:
        return
    open_run(home)  # every file is compared with its checksum
    preparer = Preparer(home)
    preparer.put_text()
    with FeatureDatabase.open(preparer.path) as database:
        if again:
            for stored in database.dictionaries():
                if stored.name in stale:
                    forget_preparation(database, stored.id)
        _put(preparer, stale, jobs, tell)
        _put_matches(database, preparer.contents, tell)


def _put(preparer: Preparer, names: Sequence[str], jobs: int | None, tell: Progress) -> None:
    """All dictionaries; progress is told in latents."""
    sizes = {name: preparer.dictionary(name)[0].n_latents for name in names}
    total, done = sum(sizes.values()), 0
    size = min(jobs or (min(cores(), _MOST) if total >= _WORTH else 1), len(names))
    tell("preparing latents", 0, total)
    # The largest first, so that no process is left alone with it at the end.
    tasks = [Task(name, "dictionary", name) for name in sorted(names, key=lambda name: -sizes[name] if size > 1 else 0)]
    if size > 1:
        with Crowd(preparer.workshop, size, _PREPARING) as crowd:
            for task in crowd.work(tasks):
                done += sizes[task.name]
                tell("preparing latents", done, total)
        return
    for task in tasks:
        preparer.work(task, partial(_after, tell, done, total))
        done += sizes[task.name]
        tell("preparing latents", done, total)


def _after(tell: Progress, before: int, total: int, stage: str, done: int, of: int) -> None:
    """Progress within a dictionary that comes after others."""
    tell("preparing latents", before + done, total)


def _put_matches(database: FeatureDatabase, contents: Contents, tell: Progress) -> None:
    """The best one-to-one match of every two autoencoders of a site, where it is not there yet."""
    browser = FeatureBrowser(database.path, database.connection)
    ready = {shelf.name: shelf.id for shelf in browser.shelves() if shelf.prepared and shelf.kind == "dictionary"}
    left = [
        (first, second)
        for first, second in _pairs(contents)
        if first in ready and second in ready and browser.matched(ready[first], ready[second]) is None
    ]
    for done, (first, second) in enumerate(left):
        tell("matching dictionaries", done, len(left))
        one, other = (contents.dictionaries[name] for name in (first, second))
        large = max(one.n_latents, other.n_latents) > FULL_MATCH
        rows = match(one.directions, other.directions, floor=FLOOR if large else None)
        pairs = zip(*(column.tolist() for column in rows), strict=True)
        put_matches(database, ready[first], ready[second], pairs)
    if left:
        tell("matching dictionaries", len(left), len(left))


def _pairs(contents: Contents) -> Iterator[tuple[str, str]]:
    """The autoencoders of the run, two by two, that read and write the same sites."""
    found: dict[Any, list[str]] = {}
    for name, each in contents.dictionaries.items():
        if each.method in get_args(Trained):
            found.setdefault(_sites(each), []).append(name)
    for names in found.values():
        yield from combinations(names, 2)


def _sites(dictionary: Dictionary) -> tuple[str | None, str | None]:
    return dictionary.provenance.site, dictionary.provenance.output_site
