"""Progress where there is no terminal, and how numbers are shown to people."""

import pytest

from sparsescope.cli import console as module
from sparsescope.cli.console import Console, duration, size, table


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))  # one second a call
    console = Console()
    for done in range(0, 101):
        console.progress("harvest", done, 100)
    for _ in range(2):
        console.progress("a note", 7, 7)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "harvest: 0 of 100 (0%)"
    assert lines[1] == "harvest: 10 of 100 (10%), about 90 s left"
    assert lines[-2:] == ["harvest: 100 of 100 (100%)", "a note"]
    assert len(lines) == 12


def test_a_stage_that_begins_again_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for done in (0, 5, 5, 0, 5):
        console.progress("pass", done, 5)
    assert capsys.readouterr().err.splitlines() == ["pass: 0 of 5 (0%)", "pass: 5 of 5 (100%)"] * 2


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(json=True) as console:
        console.say("for people [not markup] /a/very/long/path" * 5)
        console.result({"x": 1, "ü": None}, "shown to people only")
    ended = capsys.readouterr()
    assert ended.out == '{"x": 1, "ü": null}\n'
    assert ended.err.count("\n") == 1


def test_tables_keep_every_character_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.result({}, table(["name", "n"], [["x" * 150, "1.5"], ["[b]", "10.25"]]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 150 + "    1.5"
    assert lines[2].split() == ["[b]", "10.25"]


@pytest.mark.parametrize(("seconds", "text"), [(0.1, "1 s"), (99, "99 s"), (130, "2 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [(4e3, "4 kB"), (2.5e6, "2.5 MB"), (1.234e9, "1.23 GB"), (5e12, "5 TB")])
def test_sizes(amount: float, text: str) -> None:
    assert size(amount) == text
