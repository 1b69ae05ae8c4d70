"""`sparsescope explain`: explanations and scores of the latents of a run."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .options import Long
from .parse import option

if TYPE_CHECKING:
    from rich.table import Table

    from .console import Console

COLUMNS = {
    "corpus_rho": "corpus ρ (95% interval)",
    "context_gain": "context gain",
    "bills_rho": "bills ρ",
    "detection": "detection",
    "fuzzing": "fuzzing",
    "neighbours": "neighbours",
    "intruder": "intruder",
}


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Long):
    """`sparsescope explain`."""

    run: str = option("directory of the run", metavar="RUN", positional=True)
    dictionary: tuple[str, ...] = option("explain this dictionary alone (default: all)", (), metavar="NAME")
    latents: int | None = option(
        "latents of each dictionary (default: 150; 30 with a language model)", None, metavar="N", least=1
    )
    max_tokens: int | None = option("tokens of each split to look at (default: all)", None, metavar="N", least=1)
    explainer: Literal["rules", "llm", "local"] = option(
        "who explains and simulates: rules (no model), llm (a server) or local (a model loaded here)",
        "rules",
        metavar="WHO",
    )
    model: str | None = option("name of the server's model, or of one to load", None, metavar="NAME")
    base_url: str | None = option("address of an OpenAI-compatible server, such as http://host/v1", None, metavar="URL")
    key_variable: str = option("environment variable with the server's key", "OPENAI_API_KEY", metavar="NAME")
    input_price: float | None = option("price of a million tokens read, for the preview", None, metavar="X")
    output_price: float | None = option("price of a million tokens written", None, metavar="X")
    preview: bool = option("say what the server would be asked and what that costs, and end", False)
    again: bool = option("throw away what this explainer said of the run before", False)
    agreement: bool = option("compare the scores with what people said (see 'sparsescope rate')", False)
    jobs: int | None = option("dictionaries at a time, for rules (default: one per core)", None, metavar="N", least=1)
    seed: int = option("of which latents and fragments are drawn", 0, metavar="N", least=0)
    out: str | None = option("also write the summary to the file DIR/interpretation.json", None, metavar="DIR")


class _PreviewOnly(Exception):
    """Raised to stop before the first request."""


def run_the_explaining(options: ExplainOptions, console: "Console", command: str) -> None:
    """Explain and score, make the report anew, and show the comparison."""
    from ..artifact import read_json, write_json
    from ..errors import ConfigurationError
    from ..interpret.llm import Cost
    from ..study.directory import open_run
    from ..study.explaining import explain_run
    from ..study.means import Means, name_of
    from ..study.presentation import SUMMARY, make_report

    keys = ("explainer", "base_url", "model", "key_variable", "input_price", "output_price", "latents", "max_tokens")
    if options.preview and options.explainer != "llm":
        raise ConfigurationError(
            f"--preview says what a server would be asked, and the explainer {options.explainer!r} asks none: "
            "leave it out, or give --explainer llm."
        )
    if options.agreement:
        _show_agreement(options.run, name_of(options.explainer, options.model), console)
        return
    means = Means(**{key: getattr(options, key) for key in keys}, dictionaries=options.dictionary, seed=options.seed)

    def foretell(cost: Cost) -> None:
        console.say(f"expected: {cost}", style="dim")
        if options.preview:
            console.result({"expected": vars(cost)})
            raise _PreviewOnly

    try:
        found = explain_run(
            options.run,
            means,
            jobs=options.jobs,
            resume=options.resume,
            again=options.again,
            progress=console.progress,
            foretell=foretell,
        )
    except _PreviewOnly:
        return
    summary = read_json(found.path / SUMMARY)
    run = open_run(options.run, verify=False)
    page = make_report(run.path, run.manifest["run"], explainer=means.name)
    if options.out:
        write_json(Path(options.out) / "interpretation.json", summary)
    console.result({"path": str(found.path), **summary}, *tables(summary), f"\nreport: {page}")


def tables(summary: Mapping[str, Any]) -> list["Table | str"]:
    """What is shown on a terminal: dictionaries, then the control panel, then what tells the truth."""
    from .console import table

    rho, gain = (summary["excess"][score] for score in ("corpus_rho", "context_gain"))
    first, second, *others = COLUMNS.values()
    heads = ["dictionary", first, "over best control", second, "over best control", *others, "skipped"]
    rows = []
    for entry in summary["dictionaries"]:
        over = [_value(excess.get(entry["name"])) for excess in (rho, gain)]
        value, context, *rest = _row(entry)
        rows.append([entry["name"], value, over[0], context, over[1], *rest, str(sum(entry["skipped"].values()))])
    controls = [
        [entry["name"], *_row(entry), str(sum(entry["skipped"].values()))]
        for entry in summary["controls"]
        if entry["kind"] != "best token lookup"
    ]
    shown: list[Table | str] = [table(heads, rows)]
    if controls:
        shown += ["", table(["control", *COLUMNS.values(), "skipped"], controls)]
    if summary["seeds"]:
        pooled = [[entry["name"], str(entry["seeds"]), *_row(entry)] for entry in summary["seeds"]]
        shown += ["", table(["over training seeds", "seeds", *COLUMNS.values()], pooled)]
    if summary["absent"]:
        shown.append(f"\nnot in this run: {', '.join(summary['absent'])} (ask for them in [controls] of the recipe)")
    if summary.get("unlabelled"):
        shown.append(f"\nnot held against the truth: {summary['unlabelled']}")
    if summary["truth"]:
        ranked = [
            [entry["score"], _interval(entry), "does not know the truth" if entry["demoted"] else ""]
            for entry in summary["truth"]["scores"]
        ]
        shown += ["", table(["score", "rank correlation with truth (95% interval)", ""], ranked)]
    return shown


def _row(entry: Mapping[str, Any]) -> list[str]:
    first, *others = COLUMNS
    return [_interval(entry.get(first)), *(_value(entry.get(key)) for key in others)]


def _value(estimate: Mapping[str, Any] | None) -> str:
    return "–" if estimate is None or estimate["value"] is None else f"{estimate['value']:.3f}"


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.3f} (no interval)"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _show_agreement(run: str, explainer: str, console: "Console") -> None:
    """Rank correlation of every stored score with what people said, and of people with each other."""
    from ..errors import ArtifactError
    from ..features.database import FeatureDatabase
    from ..interpret.agreement import agreement, grades, intruders, intruders_found
    from ..study.directory import open_run
    from ..study.workshop import DATABASE
    from .rating import agreement_tables

    file = open_run(run, verify=False).path / DATABASE
    if not file.is_file():
        raise ArtifactError(
            f"{run} was not explained yet, so nobody can have rated it: run 'sparsescope explain {run}'."
        )
    scores: dict[str, dict[Hashable, float]] = {}
    with FeatureDatabase.open(file) as database:
        answers = database.ratings().all()
        for dictionary in database.dictionaries():
            for score in database.scores(dictionary.id):
                if score.explainer == explainer and score.value is not None:
                    scores.setdefault(score.score, {})[dictionary.name, score.latent] = score.value
    graded, found = grades(answers), intruders(answers)
    with_grades, with_intruders = agreement(scores, graded), agreement(scores, found)
    share = intruders_found(found)
    result = {"grades": with_grades.to_dict(), "intruders": with_intruders.to_dict(), "found": share.to_dict()}
    console.result(result, *agreement_tables(with_grades, with_intruders, share))
