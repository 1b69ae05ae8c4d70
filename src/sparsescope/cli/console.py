"""What the command line shows: lines and progress on stderr, results on stdout."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200  # columns of a table that is written to a file or a pipe
PLAIN_EVERY = 10.0  # seconds between two progress lines where there is no terminal


class Console:
    """Everything printed goes through here.

    With `json` stdout carries the result as one JSON object and nothing else. Use it as a context
    manager, so that a progress bar is taken down before anything else is printed.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self._stdout = sys.stdout  # as it is now: with --json it is about to be redirected
        self._out = RichConsole(file=sys.stdout, highlight=False)
        if not self._out.is_terminal:
            self._out.width = PLAIN_WIDTH
        self._err = RichConsole(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._lines: dict[str, _Line] = {}

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take down the progress bars. They come back with the next call of `progress`."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}

    def say(self, text: str, style: str = "") -> None:
        """A line for people, on stderr."""
        self._err.print(Text(text, style=style), soft_wrap=True)

    def result(self, value: dict[str, Any], *shown: Table | str) -> None:
        """The command's result: JSON on stdout, or `shown` for people."""
        self.close()
        if self.json:
            print(json.dumps(value, ensure_ascii=False, allow_nan=False), file=self._stdout, flush=True)
            return
        for part in shown:
            self._out.print(part if isinstance(part, Table) else Text(part), soft_wrap=not isinstance(part, Table))

    def progress(self, stage: str, done: int, total: int) -> None:
        """How far a stage is. A bar on a terminal; elsewhere a line every ten seconds and one at the end."""
        if self._err.is_terminal:
            self._draw(stage, done, total)
        else:
            self._line(stage, done, total)

    def _draw(self, stage: str, done: int, total: int) -> None:
        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._bars = Progress(SpinnerColumn(finished_text=" "), *columns, console=self._err)
            self._bars.start()
        if stage not in self._tasks and done >= total:  # it is over before it was seen: a note rather than a stage
            self._bars.console.print(Text(f"  {stage}", style="dim"))
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def _line(self, stage: str, done: int, total: int) -> None:
        now, finished = time.monotonic(), done >= total
        line = self._lines.get(stage)
        if line is None or (line.finished and not finished):
            line = self._lines[stage] = _Line(now, now)
            self.say(f"{stage}: {_share(done, total)}" if not finished else stage)
        elif finished and not line.finished:
            self.say(f"{stage}: {_share(done, total)}")
        elif not finished and now - line.printed >= PLAIN_EVERY:
            left = (now - line.started) * (total - done) / max(done, 1)
            self.say(f"{stage}: {_share(done, total)}, about {duration(left)} left")
            line.printed = now
        line.finished = finished


@dataclass
class _Line:
    """What is known of a stage that is told in lines: when it began, and when it was last told."""

    started: float
    printed: float
    finished: bool = False


def _share(done: int, total: int) -> str:
    return f"{done:,} of {total:,} ({100 * done // max(total, 1)}%)"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A plain table; columns after the first are aligned right when they hold numbers."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        numeric = rows and all(row[place][:1] in "0123456789.-–" for row in rows)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def duration(seconds: float) -> str:
    """Seconds for people: '8 s', '3 min', '2.5 h'."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def size(amount: float) -> str:
    """Bytes for people: '40 kB', '1.2 GB' (powers of ten)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= scale:
            return f"{amount / scale:.3g} {unit}"
    return f"{amount / 1e3:.0f} kB"
