"""`sparsescope export` and `sparsescope import`: features to and from the tools of others."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .options import Common
from .parse import option

if TYPE_CHECKING:
    from .console import Console


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Common):
    """`sparsescope export`."""

    run: str = option("directory of the run, prepared by 'explore'", metavar="RUN", positional=True)
    format: Literal["neuronpedia", "saedashboard"] = option("neuronpedia or saedashboard", metavar="NAME")
    dictionary: tuple[str, ...] = option("name of a dictionary", metavar="NAME")
    out: str = option("new directory, with a folder for each dictionary", metavar="DIR")
    model_id: str | None = option("what Neuronpedia calls the model", None, metavar="NAME")
    model: bool = option("load the model, for the logits of tokens", True)
    seed: int = option("taken by every command; nothing here is drawn at random", 0, metavar="N", least=0)


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Common):
    """`sparsescope import`."""

    run: str = option("directory of the run, prepared by 'explore'", metavar="RUN", positional=True)
    files: tuple[str, ...] = option("explanations that Neuronpedia exported", metavar="FILE", positional=True)
    dictionary: str | None = option(
        "which dictionary they are of (default: the run's only one, or that of the same name)", None, metavar="NAME"
    )
    model_id: str | None = option("what Neuronpedia calls the model", None, metavar="NAME")
    out: str | None = option("also write what was stored, in numbers, to the file DIR/import.json", None, metavar="DIR")
    seed: int = option("taken by every command; nothing here is drawn at random", 0, metavar="N", least=0)


def run_the_export(options: ExportOptions, console: "Console", command: str) -> None:
    """Write dashboards, and say what is in them."""
    from ..study.exchanging import export_features
    from .console import table

    written = export_features(
        options.run,
        options.out,
        format=options.format,
        dictionaries=options.dictionary,
        model_id=options.model_id,
        model=options.model,
        progress=console.progress,
    )
    rows = [
        [name, f"{each['latents']:,}", str(each["files"]), "yes" if each["logits"] else "no"]
        for name, each in written.items()
    ]
    result = {"path": options.out, "format": options.format, "dictionaries": written}
    console.result(result, table(["dictionary", "latents", "files", "logits"], rows), f"\nwritten: {Path(options.out)}")


def run_the_import(options: ImportOptions, console: "Console", command: str) -> None:
    """Store explanations, and say how many by which method."""
    from ..artifact import write_json
    from ..study.exchanging import import_explanations
    from .console import table

    stored = import_explanations(options.run, options.files, dictionary=options.dictionary, model_id=options.model_id)
    if options.out:
        write_json(Path(options.out) / "import.json", {"run": options.run, **stored})
    rows = [[ascii(name)[1:-1], f"{count:,}"] for name, count in stored["explainers"].items()]
    left = f"\n{stored['empty']:,} without a text were left out" if stored["empty"] else ""
    console.result(
        {"run": options.run, **stored},
        f"explanations of {ascii(stored['of'])[1:-1]}, stored for {stored['dictionary']}:",
        table(["explainer", "latents"], rows),
        left,
    )
