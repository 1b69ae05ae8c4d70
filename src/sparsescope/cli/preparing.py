"""Preparing a run for the explorer, in a process of its own: it takes memory that serving does not need."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ..errors import SparsescopeError
from ..study.prepared import unprepared

if TYPE_CHECKING:
    from .console import Console


class _Failed(SparsescopeError):
    """What went wrong in the other process, in its words."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def prepare(run: str, dictionaries: Sequence[str], console: "Console") -> None:
    """Make what the pages of a run show, where that was not done yet, or for something that has changed since.

    `dictionaries` are names, default all. Raises what preparing raises; nothing that was finished is lost then.
    """
    names = unprepared(run, dictionaries)
    if not names:
        return
    many = "a dictionary" if len(names) == 1 else f"{len(names)} dictionaries"
    console.say(f"preparing {many} for looking at; this is done once", style="dim")
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, run, tuple(dictionaries)))
    process.start()
    sending.close()
    try:
        _follow(receiving, console)
    finally:
        process.terminate()  # it has ended, or we were interrupted: a database survives that
        process.join()
        receiving.close()
        console.close()


def _follow(receiving: Connection, console: "Console") -> None:
    """Show the progress of the other process, until it has ended."""
    while True:
        try:
            kind, *told = receiving.recv()
        except EOFError:
            raise _Failed(
                "preparing the run ended unexpectedly (out of memory?): run the same command again.", 1
            ) from None
        if kind == "progress":
            console.progress(*told)
        elif kind == "failed":
            raise _Failed(*told)
        else:
            return


def _work(sending: Connection, run: str, dictionaries: tuple[str, ...]) -> None:
    """What the other process does."""
    from ..study.preparing import prepare_run

    def progress(*told: Any) -> None:
        sending.send(("progress", *told))

    try:
        prepare_run(run, dictionaries, progress=progress)
        sending.send(("done",))
    except SparsescopeError as error:
        sending.send(("failed", str(error), error.exit_code))
    except KeyboardInterrupt:
        return
    except Exception as error:  # the other side tells it
        text = f"unexpected {type(error).__name__}: {error}. This is a fault in sparsescope: please report it."
        sending.send(("failed", text, 1))
