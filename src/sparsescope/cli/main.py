"""The command `sparsescope`: finding the command that is meant, and what becomes of errors."""

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
from .catalogue import COMMANDS
from .console import Console
from .options import Long
from .parse import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned. `argv` defaults to the process's own arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    wants_json, debug = "--json" in words, "--debug" in words
    console = Console(json=wants_json)
    try:
        with terminable(), contextlib.redirect_stdout(sys.stderr) if wants_json else contextlib.nullcontext():
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
    if command is None or not issubclass(command.options, Long):
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
def terminable() -> Iterator[None]:
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
