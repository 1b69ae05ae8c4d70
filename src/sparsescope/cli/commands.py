"""What each command does: call the library, and show what came out."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from ..activations import ActivationStore, harvest, load_store
from ..artifact import Artifact, drafting, open_artifact, partial_path, read_json, start, write_json
from ..errors import ArtifactError, ConfigurationError
from ..metrics import Evaluation, evaluate_all
from ..models import LanguageModel, load_model
from ..study.directory import dictionary_paths, load_dictionaries, open_run
from ..study.estimate import Cost, harvest_cost, training_cost
from ..study.making import make_dictionaries
from ..study.members import SCHEDULE, any_methods, check_output_site, check_schedule
from ..study.presentation import make_report
from ..study.stages import run_study
from ..text import SPLITS, load_text
from ..training.records import FILE as RECORDS
from .console import Console, duration, size, table
from .options import DemoOptions, EvaluateOptions, HarvestOptions, ReportOptions, StudyOptions, TrainOptions

EVALUATION = "evaluation"


def run_the_study(options: StudyOptions, console: Console, command: str) -> None:
    """`sparsescope study`."""
    run = run_study(
        options.config or "builtin:demo",
        out=options.out,
        activations=options.activations,
        dictionaries=options.dictionaries or (),
        device=options.device,
        command=command,
        resume=options.resume,
        progress=console.progress,
        foretell=lambda cost: _foretell(cost, console),
        model=options.model,
        revision=options.revision,
        text=options.text,
        site=options.site,
        tokens=options.tokens,
        context=options.context,
        seed=options.seed,
    )
    report = read_json(run.path / "report.json")
    page = run.path / "report.html"
    console.result({"path": str(run.path), **report}, _measures(report["dictionaries"]), f"\nreport: {page}")


def run_the_demo(options: DemoOptions, console: Console, command: str) -> None:
    """`sparsescope demo`: the study of the shipped recipe."""
    run_the_study(StudyOptions(**asdict(options) | {"config": "builtin:demo"}), console, command)


def run_the_harvest(options: HarvestOptions, console: Console, command: str) -> None:
    """`sparsescope harvest`."""
    model = load_model(
        options.model,
        revision=options.revision,
        dtype=options.model_dtype,
        device=options.device,
        seed=options.seed,
    )
    sites = [str(model.check(site)) for site in options.site]
    text = load_text(list(options.text), seed=options.seed)
    if _is_new(options.out):
        _foretell(harvest_cost(model, sites, options.tokens, options.context, options.batch, options.dtype), console)
    settings = {key: getattr(options, key) for key in ("context", "batch", "dtype", "bos", "massive", "include_bos")}
    store = harvest(
        model,
        text,
        sites,
        tokens=options.tokens,
        out=options.out,
        seed=options.seed,
        resume=options.resume,
        progress=console.progress,
        **settings,
    )
    rows = {split: store.rows(split) for split in SPLITS}
    told = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    console.result(
        {"path": str(store.path), "fingerprint": store.fingerprint, "rows": rows, "summary": store.summary},
        f"activations: {store.path}",
        f"rows: {told} at {', '.join(store.sites)}",
    )


def run_the_training(options: TrainOptions, console: Console, command: str) -> None:
    """`sparsescope train`: autoencoders and baselines into one container."""
    keys = ("l1", "l0", "target_l0", "k", "ratio", "n_latents", "member_seed")
    check_output_site(options.method, options.output_site)
    trained, fitted = any_methods(options.method, skip=options.skip, **{key: getattr(options, key) for key in keys})
    schedule = {key: getattr(options, key) for key in SCHEDULE}
    if trained:
        _check_training(options, schedule, bool(fitted))
    else:
        _refuse_unused(options, schedule, "autoencoders")
    store = load_store(options.activations)
    site = _only_site(store, options.site, options.output_site)
    if trained and options.tokens and _is_new(options.out):
        _foretell(training_cost(store.width(site), trained, options.tokens, options.batch), console)
    made = make_dictionaries(
        store,
        site if options.output_site is None else (site, options.output_site),
        trained,
        fitted,
        out=Path(options.out),
        schedule=schedule,
        rows=options.rows,
        seed=options.seed,
        resume=options.resume,
        progress=console.progress,
    )
    _show_made(made, console)


def _check_training(options: TrainOptions, schedule: Mapping[str, Any], with_baselines: bool) -> None:
    if options.tokens is None:
        raise ConfigurationError("--tokens is missing: give the number of rows to train the autoencoders on.")
    check_schedule(schedule)
    if not with_baselines:
        _refuse_unused(options, ["rows"], "baselines")


def _refuse_unused(options: TrainOptions, keys: Collection[str], kind: str) -> None:
    """Refuse what was set and would have no effect, since no method asked for is of the kind it is for."""
    for field in fields(options):
        if field.name in keys and getattr(options, field.name) != field.default:
            flag = "--no-scale" if field.name == "scale" else f"--{field.name}"
            raise ConfigurationError(f"{flag} is for {kind}, not for {', '.join(options.method)}: leave it out.")


def _only_site(store: ActivationStore, asked: str | None, output: str | None) -> str:
    """The site to read: the one asked for, or the only one that is not the `output` site of a transcoder."""
    others = [site for site in store.sites if site != output]
    if asked is None and len(others) != 1:
        raise ConfigurationError(f"{store} have several sites: choose one with --site ({', '.join(store.sites)}).")
    site = others[0] if asked is None else asked
    for each in (site, output):
        if each is not None:
            store.width(each)  # an unknown site is refused here
    return site


def _show_made(made: Artifact, console: Console) -> None:
    """What training ended at, member by member."""
    ends = _ends(made.path / RECORDS)
    found = []
    for path in dictionary_paths(made.path):
        facts = open_artifact(path, verify=False).manifest["dictionary"]
        origin = facts["provenance"]
        end = ends.get(origin["name"], {})
        entry = {"path": str(path), "name": origin["name"], "method": facts["method"], "k": origin["k"]}
        found.append(
            {**entry, "l1": origin["l1"], **{key: end.get(key) for key in ("l0", "fvu", "dead", "target_l0_met")}}
        )
    rows = [
        [each["path"], each["name"], _number(each["l0"], 1), _number(each["fvu"], 4), _plain(each["dead"])]
        for each in found
    ]
    console.result(
        {"path": str(made.path), "dictionaries": found},
        table(["path", "name", "L0", "FVU", "dead"], rows),
        "\nL0 and FVU are of the validation split; `sparsescope evaluate` measures all of it, with intervals.",
    )


def _ends(path: Path) -> dict[str, Mapping[str, Any]]:
    """The last line about each member in `metrics.jsonl`, by name."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {line["name"]: line for line in map(json.loads, lines) if line.get("event") == "finished"}


def run_the_evaluation(options: EvaluateOptions, console: Console, command: str) -> None:
    """`sparsescope evaluate`."""
    store = load_store(options.activations)
    dictionaries = load_dictionaries(options.dictionaries)
    settings = {key: getattr(options, key) for key in ("split", "max_tokens", "splice_tokens", "elsewhere")}
    model = _model_of(store, options) if options.splice else None
    draft = None
    if options.out is not None:
        names = [str(path) for given in options.dictionaries for path in dictionary_paths(given)]
        inputs = {name: open_artifact(name, verify=False).fingerprint for name in names}
        config = {**settings, "splice": options.splice, "dictionaries": names}
        draft = start(
            options.out, EVALUATION, config, options.seed, {"activations": store.fingerprint} | inputs, options.resume
        )
        if draft.done:
            _show_entries(read_json(draft.out / f"{EVALUATION}.json"), [], console)
            return
    with nullcontext() if draft is None else drafting(draft):
        found = evaluate_all(dictionaries, store, model=model, seed=options.seed, progress=console.progress, **settings)
        result = {"dictionaries": [each.to_dict() for each in found]}
        if draft is not None:
            write_json(draft.path / f"{EVALUATION}.json", result)
            draft.finish()
    _show_entries(result, found, console)


def _model_of(store: ActivationStore, options: EvaluateOptions) -> LanguageModel:
    """The model that the activations come from, or the one given in its place if it is the same."""
    made = store.config
    revision = made["revision"] if options.model is None else None
    model = load_model(
        options.model or made["model"],
        revision=revision,
        dtype=made["model_dtype"],
        device=options.device,
        seed=store.seed,
    )
    store.check_model(model)
    return model


def _show_entries(result: dict[str, Any], found: Sequence[Evaluation], console: Console) -> None:
    one = str(found[0]) if len(found) == 1 else None
    console.result(result, one or _measures(result["dictionaries"]))


def run_the_report(options: ReportOptions, console: Console, command: str) -> None:
    """`sparsescope report`: write it again from what the run holds."""
    run = open_run(options.run)
    out = run.path if options.out is None else Path(options.out)
    if out != run.path and out.exists() and any(out.iterdir()):
        raise ArtifactError(
            f"{out} exists and is not empty: choose another --out, or leave it out to write into the run."
        )
    out.mkdir(parents=True, exist_ok=True)
    page = make_report(run.path, run.manifest["run"], out)
    report = read_json(out / "report.json")
    console.result({"path": str(out), **report}, f"report: {page}")


def _is_new(out: str) -> bool:
    """Whether nothing is there yet, finished or unfinished."""
    return not Path(out).exists() and not partial_path(Path(out)).exists()


def _foretell(cost: Cost, console: Console) -> None:
    """The line before long work."""
    console.say(
        f"expected: about {duration(cost.seconds)}, {size(cost.memory)} of memory, {size(cost.disk)} on disk",
        style="dim",
    )


def _measures(entries: Sequence[Mapping[str, Any]]) -> Table:
    """The main numbers of evaluated dictionaries, with intervals."""
    rows = [
        [
            str(entry["name"]),
            f"{entry['n_latents']:,}",
            _number(entry["l0"]["value"], 1),
            _interval(entry["fvu"]),
            _interval(entry["ce_recovered"]),
            f"{entry['alive']:,}",
        ]
        for entry in entries
    ]
    return table(["dictionary", "latents", "L0", "FVU (95% interval)", "CE recovered (95% interval)", "alive"], rows)


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.3f} (no interval)"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _plain(value: Any) -> str:
    return "–" if value is None else str(value)
