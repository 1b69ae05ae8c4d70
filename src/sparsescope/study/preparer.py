"""One dictionary after the other prepared for the explorer, by a process that has the run open."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..dictionaries import Dictionary
from ..features.cards import mark_prepared, put_cards, put_overview, put_simulations, put_vocabulary
from ..features.database import KINDS, FeatureDatabase
from ..features.renewing import context_numbers, forget_simulations, renew_rankings
from ..features.stored_fragments import stored_fragments
from ..interpret.base import LEVELS
from ..interpret.material import EXPLAINING, SCORING, Material, prepare
from ..interpret.rules import Rules
from .contents import ControlKind
from .means import Means
from .prepared import DATABASE, FROZEN, SEED, needs, settings_of, words_of
from .survey import survey
from .survey_cards import Said, best_said, cards_of, renewed
from .workshop import Task, Workshop, answer

Progress = Callable[[str, int, int], None]


class Preparer:
    """A run, opened once, whose dictionaries are put into its feature database whole."""

    def __init__(self, run: Path) -> None:
        self.workshop = Workshop(run, run, Means())
        self.contents, self.path = self.workshop.contents, run / DATABASE

    @cached_property
    def material(self) -> Material:
        """The fragments that the database has, or else those that are explained by default."""
        store = self.contents.store
        with FeatureDatabase.create(self.path) as database:
            explaining, scoring = (stored_fragments(database, store, split) for split in (EXPLAINING, SCORING))
        return prepare(
            store,
            self.workshop.model.tokenizer,
            text=self.workshop.text,
            fragments=None if explaining is None or scoring is None else (explaining, scoring),
            resamples=2,
            seed=SEED,
        )

    @cached_property
    def rules(self) -> Rules:
        return Rules(self.material.vocabulary)

    def dictionary(self, name: str) -> tuple[Dictionary, str]:
        """The dictionary of that name, and its kind: one of the run's own, or of its control with frozen decoders."""
        kind: ControlKind = "frozen decoder"
        if name in self.contents.dictionaries or not name.endswith(FROZEN):
            return self.contents.dictionaries[name], "dictionary"
        return self.contents.control(kind).dictionaries[name.removesuffix(FROZEN)], kind

    def put_text(self) -> None:
        """The fragments and the vocabulary, into the database."""
        with FeatureDatabase.create(self.path) as database, database.transaction():
            for fragments in (self.material.explaining, self.material.scoring):
                database.put_corpus(fragments, self.material.tokenizer)
            put_vocabulary(database, self.material.vocabulary)

    def work(self, task: Task, progress: Progress | None = None) -> None:
        """Prepare one dictionary: all of it, its cards alone, or nothing; when this returns, it is on disk."""
        with FeatureDatabase.create(self.path) as database:
            stored = next((each.id for each in database.dictionaries() if each.name == task.source), None)
            settings = settings_of(database, self.contents.run.fingerprint)
            need = "all" if stored is None else needs(database, stored, settings)
            if need == "all":
                self._put(database, task.source, settings, progress)
            elif need == "words":
                assert stored is not None
                with database.transaction():
                    said = best_said(database, stored)
                    self._finish(database, stored, said, renewed(database, self.path, stored, said), settings)

    def _put(self, database: FeatureDatabase, name: str, settings: dict[str, Any], progress: Progress | None) -> None:
        dictionary, kind = self.dictionary(name)
        found = survey(dictionary, self.material, self.workshop.model, progress)
        facts = {"kind": kind, "run": self.contents.run.fingerprint}
        with database.transaction():
            site = str(dictionary.provenance.site)
            number = database.put_dictionary(name, dictionary.method, site, facts, keep=True)
            database.put_latents(number, found.gathered, found.statistics, keep=True)
            renew_rankings(database, number, found.gathered, found.statistics)
            said = best_said(database, number)
            self._finish(database, number, said, cards_of(number, found, said, self.material.vocabulary), settings)

    def _finish(
        self,
        database: FeatureDatabase,
        number: int,
        said: dict[int, Said],
        made: tuple[list[Any], list[Any]],
        settings: dict[str, Any],
    ) -> None:
        """The cards of a dictionary, and all that is made from them and from what was said of its latents."""
        put_cards(database, number, *made)
        self._put_predictions(database, number, said)
        put_overview(database, number)
        mark_prepared(database, number, settings, {"words": words_of(database, number)})

    def _put_predictions(self, database: FeatureDatabase, number: int, said: dict[int, Said]) -> None:
        """What the explanations predict on the contexts that are kept; those by rules alone, which ask no model."""
        forget_simulations(database, number)
        by_rules = {latent: each for latent, each in said.items() if each.explanation.explainer == self.rules.name}
        maximum = {each.latent: each.maximum for each in database.latents(number)}
        for kind in KINDS:
            numbers = [context_numbers(database, number, latent, kind) for latent in by_rules]
            levels = self.rules.simulate(
                [each.explanation for each in by_rules.values()], self.material.scoring, numbers
            )
            predicted = {
                latent: each * np.float32(maximum[latent] / LEVELS)
                for latent, each in zip(by_rules, levels, strict=True)
                if len(each)
            }
            put_simulations(database, number, kind, predicted)


def serve() -> None:
    """What a worker process does that prepares: its tasks come on stdin."""
    answer(lambda first: Preparer(Path(first["run"])).work)
