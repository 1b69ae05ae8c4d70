"""The command `sparsescope`: which commands there are, and what becomes of errors."""

import contextlib
import importlib
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from .. import __version__
from ..errors import ConfigurationError, SparsescopeError, suggest
from . import explaining, options, rating
from .console import Console
from .parse import Command, parse

COMMANDS = (
    Command(
        "demo",
        "the whole thing on the model that ships with the package: a few minutes, no network",
        "Run the study of the shipped recipe: harvest activations of builtin:tiny, train sparse autoencoders,\n"
        "fit baselines, measure all of them on held-out text, and write report.html.",
        options.DemoOptions,
        "commands:run_the_demo",
        example="sparsescope demo --resume",
    ),
    Command(
        "study",
        "all stages from one recipe, into one directory with a report",
        "Run harvest, train, fit, evaluate and report from one recipe. Flags replace the keys at its top.\n"
        "With --activations (and --dictionaries) the study is made of pieces made before.",
        options.StudyOptions,
        "commands:run_the_study",
        own_config=True,
        example="sparsescope study --model ./my-model --text book.txt --tokens 100000 --out runs/mine",
    ),
    Command(
        "harvest",
        "write a model's activations on a text to disk",
        "Run a model over a text and keep its activations, split by document into train, validation and test.",
        options.HarvestOptions,
        "commands:run_the_harvest",
        example="sparsescope harvest --model builtin:tiny --text builtin:docs --site resid_post.2 \\\n"
        "                          --tokens 500000 --out acts",
    ),
    Command(
        "train",
        "make dictionaries: sparse autoencoders and baselines",
        "Train sparse autoencoders on one pass over the activations, and fit baselines. Options that repeat\n"
        "multiply: every sparsity at every size is one dictionary. A baseline comes in full and, for every\n"
        "--k, in top-k form.",
        options.TrainOptions,
        "commands:run_the_training",
        example="sparsescope train --activations acts --method tied_l1 --target-l0 16 --target-l0 32 \\\n"
        "                        --ratio 4 --tokens 2000000 --out saes",
    ),
    Command(
        "evaluate",
        "measure dictionaries on held-out text",
        "Measure dictionaries: FVU, L0, and the loss of the model when it reads their reconstruction, each\n"
        "with a 95% interval over documents.",
        options.EvaluateOptions,
        "commands:run_the_evaluation",
        example="sparsescope evaluate saes --activations acts --json",
    ),
    Command(
        "explain",
        "say what latents respond to, and how far that can be believed",
        "Explain latents of every dictionary of a run on one part of its text, predict their activations on\n"
        "another from the explanations alone, and score the predictions; the same for controls which ought\n"
        "to fail. By rules, without a model or a network, unless a server or a model is named.",
        explaining.ExplainOptions,
        "explaining:run_the_explaining",
        example="sparsescope explain runs/demo",
    ),
    Command(
        "report",
        "write the report of a run again",
        "Write report.html and report.json of a run from the numbers it holds. Nothing is measured again.",
        options.ReportOptions,
        "commands:run_the_report",
        example="sparsescope report runs/demo",
    ),
    Command(
        "inspect",
        "what is in this artifact, and is it whole?",
        "Say what an artifact holds, what it was made from, and whether every file is as it was written.",
        options.InspectOptions,
        "inspect:run_the_inspection",
        example="sparsescope inspect runs/demo",
    ),
    Command(
        "rate",
        "people rate latents, blind, on a local page",
        "Serve a page on 127.0.0.1 where people find the intruder among contexts of a latent, write what it\n"
        "responds to and grade how well one meaning explains it. The dictionary is hidden. Every answer goes\n"
        "into the run at once; a rater who comes back goes on where they stopped.",
        rating.RateOptions,
        "rating:run_the_rating",
        example="sparsescope rate runs/demo",
    ),
    Command(
        "bench",
        "how fast and how well training works here, beside other libraries",
        "Time one training step of every method beside SAELens, dictionary_learning, sparsify and\n"
        "overcomplete (where installed: pip install 'sparsescope[bench]'), as multiples of the one matrix\n"
        "product that cannot be avoided; then train planted dictionaries with all of them and compare what\n"
        "they find. Close everything else: samples that other processes disturbed are counted.",
        options.BenchOptions,
        "bench:run_the_bench",
        example="sparsescope bench --quick --json-out bench.json",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned. `argv` defaults to the process's own arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    wants_json, debug = "--json" in words, "--debug" in words
    console = Console(json=wants_json)
    try:
        with _terminable(), contextlib.redirect_stdout(sys.stderr) if wants_json else contextlib.nullcontext():
            return _run(words, console)
    except SystemExit as leaving:  # argparse, after --help
        return int(leaving.code or 0)
    except SparsescopeError as error:
        return _failed(console, str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _failed(console, _interrupted(words), 1, debug)
    except BrokenPipeError:  # the reader of stdout has gone, as in `sparsescope inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last line of defence: anything else is a fault of ours
        text = f"unexpected {type(error).__name__}: {error}. This is a fault in sparsescope: run again with --debug."
        return _failed(console, text, 1, debug)
    finally:
        console.close()


def _run(words: Sequence[str], console: Console) -> int:
    """Find the command and run it."""
    names = [command.name for command in COMMANDS]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"sparsescope {__version__}")
        return 0
    if words[0] not in names:
        what = "option" if words[0].startswith("-") else "command"
        raise ConfigurationError(
            f"unknown {what} {words[0]!r}.{suggest(words[0], [*names, '--help', '--version'])} "
            f"Commands: {', '.join(names)}. See 'sparsescope --help'."
        )
    command = COMMANDS[names.index(words[0])]
    given = parse(command, words[1:])
    module, function = command.run.split(":")
    # Only now: what the commands need takes a second or two to load.
    getattr(importlib.import_module(f".{module}", __package__), function)(given, console, _spelled(words))
    return 0


def _overview() -> str:
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: sparsescope COMMAND [options]",
            "",
            "Find the features inside a transformer, and show what each one means and causes.",
            "",
            "commands:",
            *lines,
            "",
            "start with:   sparsescope demo",
            "more about:   sparsescope COMMAND --help",
            "version:      sparsescope --version",
        ]
    )


def _spelled(words: Sequence[str]) -> str:
    """The command line as one could type it, without flags that do not change the result."""
    return shlex.join(["sparsescope", *(word for word in words if word not in ("--resume", "--json", "--debug"))])


def _interrupted(words: Sequence[str]) -> str:
    command = next((each for each in COMMANDS if words[:1] == [each.name]), None)
    if command is None or not issubclass(command.options, options.Long):
        return "interrupted: nothing was changed."
    return f"interrupted: what was finished is kept. Go on with: {_spelled(words)} --resume"


def _failed(console: Console, text: str, code: int, debug: bool) -> int:
    """Tell what went wrong, on stderr; with --json also as an object on stdout."""
    console.close()
    if debug:
        traceback.print_exc()
    console.say(text if text.startswith("interrupted") else f"error: {text}", style="red")
    if console.json:
        console.result({"error": text, "exit_code": code})
    return code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the work the way Ctrl-C does, so that it can be resumed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals are the business of whoever called us
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
