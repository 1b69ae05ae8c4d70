"""Explaining a run: every dictionary and control scored alike, compared, and written beside the run's other results.

RUN/interpretation/NAME/         one for each explainer
  summary.json                   what `summarise` says: dictionaries, controls, excess, truth
  DICTIONARY.json, .safetensors  explanations and scores of each latent: see `interpret.records`
RUN/features.sqlite              contexts, explanations and scores of the dictionaries on the run's own text
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..artifact import Artifact, drafting, open_artifact, partial_path, read_json, start, write_json
from ..bench.machine import cores
from ..errors import ArtifactError, ConfigurationError, suggest
from ..interpret.llm import Cost, LLMExplainer, LLMSimulator
from ..interpret.records import file_stem, read_record
from ..interpret.subject import evidence
from .contents import Contents, read_run
from .crowd import Crowd
from .directory import EVALUATION, INTERPRETATION
from .means import Means
from .presentation import NUMBERS, SUMMARY, typical
from .summary import summarise
from .workshop import Task, Workshop

Progress = Callable[[str, int, int], None]


def explain_run(
    run: str | Path,
    means: Means | None = None,
    *,
    jobs: int | None = None,
    resume: bool = False,
    again: bool = False,
    progress: Progress | None = None,
    foretell: Callable[[Cost], None] | None = None,
) -> Artifact:
    """Explain and score latents of every dictionary and control of a run. Returns `RUN/interpretation/NAME`.

    Rules work on `jobs` dictionaries at a time (default: one per core). Before the first request to a server,
    `foretell` is called with what all of them will cost, and may raise to stop. What is finished is kept: an
    interrupted command goes on with `resume`; `again` throws away what the same explainer said before.

    Raises `ArtifactError` for what is no whole run or already explained, `ConfigurationError` for unknown
    dictionaries, `ClientError` when a server cannot be used.

        found = explain_run("runs/demo")
    """
    means = means or Means()
    contents = read_run(run)
    asked = tasks(contents, means.dictionaries)
    inputs = {"run": contents.run.fingerprint}
    out = contents.path / INTERPRETATION / means.name
    if out.exists() and not (resume or again):
        raise ArtifactError(
            f"{contents.path} was already explained by {means.name}: pass --resume to see that, or --again to do it "
            "again (answers of a server are kept and not asked for twice)."
        )
    workshop = Workshop(contents.path, partial_path(out), means, progress)
    tell_cost = foretell if means.explainer == "llm" else None
    if again:
        workshop.hired(contents.store)  # what cannot be had is said before anything is thrown away
        if tell_cost:
            tell_cost(preview(workshop, asked))
            tell_cost = None
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(partial_path(out), ignore_errors=True)
    draft = start(out, INTERPRETATION, means.settings(), means.seed, inputs, resume, remedy="pass --again instead")
    if draft.done:
        return open_artifact(out, INTERPRETATION)
    with drafting(draft):
        left = [task for task in asked if not (draft.path / f"{file_stem(task.name)}.json").is_file()]
        if left and tell_cost:
            tell_cost(preview(workshop, left))
        if left:
            workshop.put_corpora()
        _carry_out(workshop, left, jobs, progress)
        records = [read_record(draft.path, task.name) for task in asked]
        summary = summarise(records, absent=contents.absent, seed=means.seed)
        unlabelled = workshop.material(contents.store).unlabelled if summary["truth"] is None else ""
        write_json(draft.path / SUMMARY, {**summary, "unlabelled": unlabelled})
        return draft.finish()


def tasks(contents: Contents, names: Sequence[str] = ()) -> list[Task]:
    """What there is to explain: dictionaries (those of `names`, else all), controls, and a second corpus at the end.

    The second corpus takes the explanations of the most typical dictionary of each trained method. Raises
    `ConfigurationError` for a name that the run does not have.
    """
    for name in names:
        if name not in contents.dictionaries:
            raise ConfigurationError(
                f"{contents.path} has no dictionary {name!r}.{suggest(name, contents.dictionaries)} "
                f"It has: {', '.join(contents.dictionaries)}."
            )
    chosen = [name for name in contents.dictionaries if not names or name in names]
    found = [Task(name, "dictionary", name) for name in chosen]
    for control in contents.controls:
        if control.kind != "second corpus":
            found += [Task(f"{name} ({control.kind})", control.kind, name) for name in control.dictionaries]
    if any(control.kind == "second corpus" for control in contents.controls):
        entries = read_json(contents.path / EVALUATION / NUMBERS)["dictionaries"]
        known = [list(contents.dictionaries)[place] for place in typical(entries)]
        known = [name for name in known if name in chosen]
        found += [Task(f"{name} (second corpus)", "second corpus", name) for name in known]
    return found


def preview(workshop: Workshop, left: Sequence[Task]) -> Cost:
    """What a server will be asked for all tasks together. Sends nothing.

    Predictions are asked for twice, once with each latent's own explanation and once with another's.
    """
    total = Cost(0, 0, 0, 0, 0.0 if workshop.means.input_price is not None else None)
    effort = workshop.means.effort
    for task in left:
        subject = workshop.subject(task)
        if subject is None:
            continue
        store = workshop.opened(task)[1]
        material = workshop.material(store)
        explainer, simulator = workshop.hired(store)
        assert isinstance(explainer, LLMExplainer)
        assert isinstance(simulator, LLMSimulator)
        if task.kind != "second corpus":  # which takes the explanations that there are by then
            total += explainer.cost(evidence(subject, material, silent=effort.silent, seed=workshop.means.seed))
        numbers = [subject.scoring.sample(place, silent=effort.silent).numbers for place in range(len(subject.latents))]
        once = simulator.cost([None] * len(numbers), material.scoring, numbers)
        total += once + once
    return total


def _carry_out(workshop: Workshop, left: Sequence[Task], jobs: int | None, progress: Progress | None) -> None:
    """All tasks: those of a second corpus after the others, whose explanations they take."""
    tell = progress or (lambda stage, done, total: None)
    alone = workshop.means.explainer != "rules" or (jobs or cores()) < 2 or len(left) < 2
    done = 0
    groups = [t for t in left if t.kind != "second corpus"], [t for t in left if t.kind == "second corpus"]
    for group in filter(None, groups):
        work = _one_by_one(workshop, group) if alone else _together(workshop, group, jobs or cores())
        for _ in work:
            done += 1
            tell("explaining", done, len(left))


def _one_by_one(workshop: Workshop, group: Sequence[Task]) -> Iterator[Task]:
    for task in group:
        workshop.work(task)
        yield task


def _together(workshop: Workshop, group: Sequence[Task], jobs: int) -> Iterator[Task]:
    with Crowd(workshop, min(jobs, len(group))) as crowd:
        yield from crowd.work(group)
