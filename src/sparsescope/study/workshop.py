"""One dictionary after the other explained and scored, by a process that has the run open."""

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ..activations import ActivationStore
from ..dictionaries import Dictionary
from ..errors import SparsescopeError
from ..features.choosing import count_active, draw_latents
from ..features.database import FeatureDatabase
from ..interpret.base import Explainer, Explanation, Simulator, Skipped
from ..interpret.judging import OWN, SCORES, Judged, judge
from ..interpret.material import Material, prepare
from ..interpret.records import STATISTICS, Record, file_stem, read_record, record_of, write_record
from ..interpret.scores.intervals import Score
from ..interpret.subject import Subject, examine
from ..interpret.truth import LatentTruth, truth
from ..models import LanguageModel
from ..text import Text, load_text
from .contents import Contents, load_control_model, load_run_model, read_run
from .means import Means

DATABASE = "features.sqlite"
RESAMPLES = 300
"""Bootstrap samples of the documents."""
RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out")
"""Sites whose activations are added up into what the logits are read from."""


@dataclass(frozen=True)
class Task:
    """A dictionary to be explained: `source` is its name in the run (kind "dictionary") or in its control.

    Of the kind "second corpus", the explanations of `source`, made on the run's own text, are scored on the
    other text.
    """

    name: str
    kind: str
    source: str


@dataclass(frozen=True)
class Workshop:
    """A run, opened once; results are written into `folder`, contexts and scores also into the run's database."""

    run: Path
    folder: Path
    means: Means
    progress: Callable[[str, int, int], None] | None = None
    _materials: dict[Path, Material] = field(default_factory=dict)
    _hired: dict[Path, tuple[Explainer, Simulator]] = field(default_factory=dict)

    @cached_property
    def contents(self) -> Contents:
        return read_run(self.run, verify=False)

    @cached_property
    def model(self) -> LanguageModel:
        return load_run_model(self.contents.run)

    @cached_property
    def text(self) -> Text | None:
        """What was harvested, where it is a text that may have truth labels."""
        recipe = self.contents.run.config
        names = list(recipe["text"])
        if len(names) != 1 or not names[0].startswith("builtin:"):
            return None
        return load_text(names[0], seed=self.contents.store.seed)

    def material(self, store: ActivationStore) -> Material:
        """The fragments of a store, made once."""
        if store.path not in self._materials:
            own = store.path == self.contents.store.path
            self._materials[store.path] = prepare(
                store,
                self.model.tokenizer,
                text=self.text if own else None,
                max_tokens=self.means.max_tokens,
                resamples=RESAMPLES,
                seed=self.means.seed,
            )
        return self._materials[store.path]

    def hired(self, store: ActivationStore) -> tuple[Explainer, Simulator]:
        """Explainer and simulator for the texts of a store, hired once; a model reads any of them."""
        path = store.path if self.means.explainer == "rules" else self.run
        if path not in self._hired:
            self._hired[path] = self.means.hire(self.material(store), self.run, self.progress)
        return self._hired[path]

    def put_corpora(self) -> None:
        """The fragments of the run's own text, into the database."""
        material = self.material(self.contents.store)
        with FeatureDatabase.create(self.run / DATABASE) as database:
            for fragments in (material.explaining, material.scoring):
                database.put_corpus(fragments, material.tokenizer)

    def work(self, task: Task) -> None:
        """Explain and score one dictionary; when this returns, it is on disk."""
        if task.kind == "second corpus":
            write_record(self.folder, self._elsewhere(task))
            return
        dictionary, store = self.opened(task)
        material = self.material(store)
        subject = self.subject(task)
        if subject is None:
            write_record(self.folder, _nothing(task, dictionary))
            return
        judged = judge(subject, material, *self.hired(store), effort=self.means.effort, seed=self.means.seed)
        found = self._truth(subject, material)
        if store.path == self.contents.store.path:
            self._store(judged, task.kind)
        write_record(self.folder, record_of(judged, kind=task.kind, truth=found))

    def subject(self, task: Task) -> Subject | None:
        """The latents that will be explained, gathered; None where none is alive.

        On a second corpus, those of which there are explanations, or will be.
        """
        dictionary, store = self.opened(task)
        site = str(dictionary.provenance.site)
        output = str(dictionary.provenance.output_site or site)
        written = output.partition(".")[0] in RESIDUAL
        return examine(
            task.name,
            dictionary,
            self.material(store),
            site=site,
            latents=self._explained(task) if task.kind == "second corpus" else None,
            effort=self.means.effort,
            unembedding=self._unembedding(task) if written else None,
            seed=self.means.seed,
        )

    def opened(self, task: Task) -> tuple[Dictionary, ActivationStore]:
        if task.kind == "dictionary":
            return self.contents.dictionaries[task.source], self.contents.store
        control = next(each for each in self.contents.controls if each.kind == task.kind)
        return control.dictionaries[task.source], control.store

    def _unembedding(self, task: Task) -> torch.Tensor | None:
        model = self.model
        if task.kind == "random model":
            control = self.contents.control("random model")
            model = load_control_model(control, self.model)
        return model.unembedding()

    def _elsewhere(self, task: Task) -> Record:
        """The explanations made on the run's own text, scored on another one."""
        dictionary, store = self.opened(task)
        subject = self.subject(task)
        if subject is None:
            return _nothing(task, dictionary)
        judged = judge(
            subject,
            self.material(store),
            *self.hired(store),
            effort=self.means.effort,
            explanations=read_record(self.folder, task.source).explanations,
            seed=self.means.seed,
        )
        return record_of(judged, kind=task.kind)

    def _explained(self, task: Task) -> Int64[np.ndarray, " latent"]:
        """The latents of a dictionary that are explained on the run's own text, from its record or as it will be."""
        if (self.folder / f"{file_stem(task.source)}.json").is_file():
            return np.array(read_record(self.folder, task.source).latents, np.int64)
        dictionary, store = self.contents.dictionaries[task.source], self.contents.store
        fragments, site = self.material(store).explaining, str(dictionary.provenance.site)
        counts, _ = count_active(dictionary, store, fragments, site=site)
        return draw_latents(counts, self.means.effort.latents, self.means.seed)

    def _truth(self, subject: Subject, material: Material) -> list[LatentTruth | Skipped] | None:
        if material.labels is None:
            return None
        return truth(
            subject.dictionary,
            material.store,
            subject.latents,
            *material.labels,
            site=subject.site,
            memory=subject.memory,
            seed=self.means.seed,
        )

    def _store(self, judged: Judged, kind: str) -> None:
        """Contexts, statistics, explanations and scores into the database: all at once or not at all."""
        subject = judged.subject
        latents = subject.latents.tolist()
        explained = {
            latent: (found.text, found.body)
            for latent, found in zip(latents, judged.explanations, strict=True)
            if isinstance(found, Explanation)
        }
        skipped = {
            latent: found.reason
            for latent, found in zip(latents, judged.explanations, strict=True)
            if isinstance(found, Skipped)
        }
        explainer = self.means.name
        facts = {"kind": kind, "run": self.contents.run.fingerprint}
        with FeatureDatabase.create(self.run / DATABASE) as database, database.transaction():
            # What other explainers said of the same dictionary stays, and so do the contexts it was said of.
            number = database.put_dictionary(subject.name, subject.dictionary.method, subject.site, facts, keep=True)
            database.forget(number, explainer)
            for gathered in (subject.explaining, subject.scoring):
                statistics = subject.statistics if gathered is subject.scoring else None
                database.put_latents(number, gathered, statistics, keep=True)
            database.put_explanations(number, explainer, explained, skipped)
            for score, values in getattr(judged, OWN).items():
                found = {
                    latent: value.value if isinstance(value, Score) else value.reason
                    for latent, value in zip(latents, values, strict=True)
                }
                database.put_scores(number, explainer, score, found)


def _nothing(task: Task, dictionary: Dictionary) -> Record:
    """The record of a dictionary none of whose latents is alive."""
    empty: dict[str, list[Score | Skipped]] = {score: [] for score in SCORES}
    return Record(
        name=task.name,
        kind=task.kind,
        method=dictionary.method,
        site=str(dictionary.provenance.site),
        n_latents=dictionary.n_latents,
        latents=[],
        explanations=[],
        statistics={key: [] for key in STATISTICS},
        own=empty,
        lookup=empty,
        shuffled=empty,
        truth=None,
    )


def serve() -> None:
    """What a worker process does that explains: its tasks come on stdin."""

    def opened(first: dict[str, Any]) -> Callable[[Task], None]:
        return Workshop(Path(first["run"]), Path(first["folder"]), Means(**first["means"])).work

    answer(opened)


def answer(opened: Callable[[dict[str, Any]], Callable[[Task], None]]) -> None:
    """Do what comes on stdin, one JSON object a line: first what `opened` takes, then tasks for what it returns.

    An answer to each task goes to stdout.
    """
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    work = opened(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        try:
            work(Task(**json.loads(line)))
            said: dict[str, Any] = {}
        except SparsescopeError as error:
            said = {"error": str(error), "type": type(error).__name__}
        except Exception as error:  # a fault of ours: the traceback is for --debug alone
            traceback.print_exc()
            said = {"error": f"{type(error).__name__} in a worker process: {error}", "type": None}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def opening(run: Path, folder: Path, means: Means) -> dict[str, Any]:
    """What a worker process is told first."""
    return {"run": str(run), "folder": str(folder), "means": asdict(means)}
