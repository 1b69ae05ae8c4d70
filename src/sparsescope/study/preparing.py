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

import numpy as np

from ..dictionaries import Dictionary
from ..features.browsing import FeatureBrowser
from ..features.cards import mark_prepared, put_cards, put_matches, put_overview, put_simulations, put_vocabulary
from ..features.database import KINDS, FeatureDatabase
from ..features.renewing import context_numbers, forget_simulations, renew_rankings
from ..features.stored_fragments import stored_fragments
from ..interpret.base import LEVELS
from ..interpret.material import EXPLAINING, SCORING, Material, prepare
from ..interpret.rules import Rules
from ..metrics.geometry import match
from .directory import open_run
from .means import Means
from .members import Trained
from .prepared import DATABASE, SEED, chosen, needs, settings_of, unprepared, words_of
from .survey import survey
from .survey_cards import Said, best_said, cards_of, renewed
from .workshop import Workshop

__all__ = ["prepare_run", "unprepared"]

Progress = Callable[[str, int, int], None]
FULL_MATCH = 4096
FLOOR = 0.5
"""Dictionaries of more latents are matched by cosines of at least this alone: a full matching takes minutes."""


def prepare_run(
    run: str | Path,
    dictionaries: Sequence[str] = (),
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> None:
    """Put every latent of a run's dictionaries (of those named, else all) into `RUN/features.sqlite`.

    Contexts, statistics, histograms, the effect of ablating each on its strongest contexts, truth labels where the
    text has any, predictions of explanations by rules, cards, and matches between the autoencoders of a site. What is
    there and up to date is left alone, unless `again`. A run that was explained keeps the text it was explained on; in
    another, what `explain` would use by default is put, so that explaining it later changes nothing here.

    Raises `ArtifactError` for what is no whole run or is damaged, `ConfigurationError` for an unknown dictionary,
    `ModelError` where the model cannot be loaded, `StorageError` where nothing can be written.

        prepare_run("runs/demo")
    """
    home = Path(run)
    stale = chosen(home, dictionaries) if again else unprepared(home, dictionaries)
    if stale:
        _Preparation(home, progress).carry_out(stale, again)


class _Preparation:
    """A run that is being prepared."""

    def __init__(self, run: Path, progress: Progress | None) -> None:
        open_run(run)  # every file is compared with its checksum
        self.workshop = Workshop(run, run, Means())
        self.path, self.progress = run / DATABASE, progress or (lambda stage, done, total: None)
        self.contents = self.workshop.contents
        self.rules: Rules | None = None

    def carry_out(self, names: Sequence[str], again: bool) -> None:
        """Prepare dictionaries one after the other, and match them."""
        sizes = [self.contents.dictionaries[name].n_latents for name in names]
        with FeatureDatabase.create(self.path) as database:
            material = self.put_text(database)
            settings = settings_of(database, self.contents.run.fingerprint)
            for place, name in enumerate(names):
                tell = partial(self.tell, sum(sizes[:place]), sum(sizes))
                tell("", 0, 0)
                self.put(database, name, material, settings, again, tell)
            self.tell(sum(sizes), sum(sizes), "", 0, 0)
            self.put_matches(database)

    def tell(self, before: int, total: int, stage: str, done: int, of: int) -> None:
        """Progress in latents: `done` of a dictionary, after those of others."""
        self.progress("preparing latents", before + done, total)

    def put_text(self, database: FeatureDatabase) -> Material:
        """The fragments that the database has, or else those that are explained by default, put into it."""
        store, model = self.contents.store, self.workshop.model
        there = [stored_fragments(database, store, split) for split in (EXPLAINING, SCORING)]
        explaining, scoring = there
        material = prepare(
            store,
            model.tokenizer,
            text=self.workshop.text,
            fragments=None if explaining is None or scoring is None else (explaining, scoring),
            resamples=2,
            seed=SEED,
        )
        with database.transaction():
            for fragments in (material.explaining, material.scoring):
                database.put_corpus(fragments, material.tokenizer)
            put_vocabulary(database, material.vocabulary)
        return material

    def put(
        self,
        database: FeatureDatabase,
        name: str,
        material: Material,
        settings: dict[str, Any],
        again: bool,
        progress: Progress,
    ) -> None:
        """One dictionary, all of it or the cards alone."""
        dictionary = self.contents.dictionaries[name]
        stored = next((each.id for each in database.dictionaries() if each.name == name), None)
        if stored is not None and not again and needs(database, stored, settings) == "words":
            with database.transaction():
                said = best_said(database, stored)
                self.finish(database, stored, said, renewed(database, self.path, stored, said), material, settings)
            return
        found = survey(dictionary, material, self.workshop.model, progress)
        facts = {"kind": "dictionary", "run": self.contents.run.fingerprint}
        with database.transaction():
            site = str(dictionary.provenance.site)
            number = database.put_dictionary(name, dictionary.method, site, facts, keep=True)
            database.put_latents(number, found.gathered, found.statistics, keep=True)
            renew_rankings(database, number, found.gathered, found.statistics)
            said = best_said(database, number)
            made = cards_of(number, found, said, material.vocabulary)
            self.finish(database, number, said, made, material, settings)

    def finish(
        self,
        database: FeatureDatabase,
        number: int,
        said: dict[int, Said],
        made: tuple[list[Any], list[Any]],
        material: Material,
        settings: dict[str, Any],
    ) -> None:
        """The cards of a dictionary, and all that is made from them and from what was said of its latents."""
        put_cards(database, number, *made)
        self.put_predictions(database, number, said, material)
        put_overview(database, number)
        mark_prepared(database, number, settings, {"words": words_of(database, number)})

    def put_predictions(
        self, database: FeatureDatabase, number: int, said: dict[int, Said], material: Material
    ) -> None:
        """What the explanations predict on the contexts that are kept; those by rules alone, which ask no model."""
        forget_simulations(database, number)
        rules = self.rules = self.rules or Rules(material.vocabulary)
        by_rules = {latent: each for latent, each in said.items() if each.explanation.explainer == rules.name}
        maximum = {each.latent: each.maximum for each in database.latents(number)}
        for kind in KINDS:
            numbers = [context_numbers(database, number, latent, kind) for latent in by_rules]
            levels = rules.simulate([each.explanation for each in by_rules.values()], material.scoring, numbers)
            predicted = {
                latent: each * np.float32(maximum[latent] / LEVELS)
                for latent, each in zip(by_rules, levels, strict=True)
                if len(each)
            }
            put_simulations(database, number, kind, predicted)

    def put_matches(self, database: FeatureDatabase) -> None:
        """The best one-to-one match of every two autoencoders of a site, where it is not there yet."""
        browser = FeatureBrowser(self.path, database.connection)
        ready = {shelf.name: shelf.id for shelf in browser.shelves() if shelf.prepared and shelf.kind == "dictionary"}
        left = [
            (first, second)
            for first, second in self.pairs()
            if first in ready and second in ready and browser.matched(ready[first], ready[second]) is None
        ]
        for done, (first, second) in enumerate(left):
            self.progress("matching dictionaries", done, len(left))
            one, other = (self.contents.dictionaries[name] for name in (first, second))
            large = max(one.n_latents, other.n_latents) > FULL_MATCH
            rows = match(one.directions, other.directions, floor=FLOOR if large else None)
            pairs = zip(*(column.tolist() for column in rows), strict=True)
            put_matches(database, ready[first], ready[second], pairs)
        if left:
            self.progress("matching dictionaries", len(left), len(left))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The autoencoders of the run, two by two, that read and write the same sites."""
        found: dict[Any, list[str]] = {}
        for name, each in self.contents.dictionaries.items():
            if each.method in get_args(Trained):
                found.setdefault(_sites(each), []).append(name)
        for names in found.values():
            yield from combinations(names, 2)


def _sites(dictionary: Dictionary) -> tuple[str | None, str | None]:
    return dictionary.provenance.site, dictionary.provenance.output_site
