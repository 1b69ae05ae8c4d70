"""Preparing a run for the explorer, in a process of its own: it takes memory that serving does not need."""

import multiprocessing
import threading
from collections.abc import Callable, Sequence
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


class Preparing:
    """Making what the pages of a run show, where that was not done yet, or for something that has changed since.

    `dictionaries` are names, default all. The work begins at once, in the order in which it is most useful, and ends
    with the `with` block at the latest; nothing that was finished is lost then.

        with Preparing("runs/demo", (), console) as work:
            work.wait()
    """

    def __init__(self, run: str, dictionaries: Sequence[str], console: "Console") -> None:
        self._failure: SparsescopeError | None = None
        self._thread: threading.Thread | None = None
        self._awaited = True
        try:
            names = unprepared(run, dictionaries)
        except SparsescopeError as error:
            self._failure, names = error, []
        if not names:
            return
        many = "a dictionary" if len(names) == 1 else f"{len(names)} dictionaries"
        console.say(f"preparing {many} for looking at; this is done once", style="dim")
        context = multiprocessing.get_context("spawn")
        self._receiving, sending = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(sending, run, tuple(dictionaries)))
        self._process.start()
        sending.close()
        self._thread = threading.Thread(target=self._watch, args=(console,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Preparing":
        return self

    def __exit__(self, *_: object) -> None:
        self._awaited = True  # nobody is told of an end that was wanted
        if self._thread is not None:
            self._process.terminate()  # it has ended, or is not wanted any more: a database survives that
            self._process.join()
            self._thread.join()

    def wait(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Return when all is done, or `enough` says so. Raises what preparing raises."""
        while self._thread is not None and self._thread.is_alive() and not enough():
            self._thread.join(0.2)
        self._awaited = False
        if self._failure is not None:
            raise self._failure

    def _watch(self, console: "Console") -> None:
        try:
            _follow(self._receiving, console)
        except SparsescopeError as error:
            self._failure = error
            if not self._awaited:
                console.say(f"the other dictionaries could not be prepared: {error}", style="yellow")
        finally:
            self._receiving.close()
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
    from .main import terminable

    def progress(*told: Any) -> None:
        sending.send(("progress", *told))

    try:
        with terminable():  # so that the processes that it has started end with it
            prepare_run(run, dictionaries, progress=progress)
        sending.send(("done",))
    except SparsescopeError as error:
        sending.send(("failed", str(error), error.exit_code))
    except KeyboardInterrupt:
        return
    except Exception as error:  # the other side tells it
        text = f"unexpected {type(error).__name__}: {error}. This is a fault in sparsescope: please report it."
        sending.send(("failed", text, 1))
