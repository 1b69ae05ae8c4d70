"""`sparsescope explore`: what it refuses, the files it writes, and that serving needs no torch and ends quietly."""

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from explorer_browser import explored_run  # noqa: F401

from sparsescope.cli import preparing
from sparsescope.cli.console import Console
from sparsescope.cli.explore import ExploreOptions, run_the_explorer
from sparsescope.cli.parse import Command, parse
from sparsescope.errors import ArtifactError, ConfigurationError, ModelError, SparsescopeError

COMMAND = Command("explore", "", "", ExploreOptions, "explore:run_the_explorer", example="")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def explore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on arguments, for runs that need no preparing; its result."""

    def run(*words: object) -> dict[str, Any]:
        monkeypatch.setattr("sparsescope.cli.preparing.unprepared", lambda run, dictionaries: [])
        run_the_explorer(parse(COMMAND, [*map(str, words), "--json"]), Console(json=True), "")
        return json.loads(capsys.readouterr().out)

    return run


def test_one_latent_as_a_file(explore: Run, explored_run: Path, tmp_path: Path) -> None:  # noqa: F811
    done = explore(explored_run, "--latent", "topk-k_16-x4:3", "--out", tmp_path / "three.html")
    text = (tmp_path / "three.html").read_text("utf-8")
    assert done == {"path": str(tmp_path / "three.html"), "bytes": len(text.encode())}
    assert "Latent 3" in text
    for wrong, words in (
        ("topk", "as in topk:7"),
        ("topk-k_16-x4:60", "60 latents"),
        ("topk-k_16-x5:1", "Did you mean"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            explore(explored_run, "--latent", wrong)


def test_what_cannot_be_done_is_refused(
    explore: Run,
    explored_run: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = {
        "--token": ["--host", "0.0.0.0"],
        "only one of them": ["--static", "a", "--latent", "b:1"],
        "--out is the file": ["--out", "a.html"],
        "no dictionary 'topk'": ["--dictionary", "topk"],
    }
    for words, arguments in wrong.items():
        with pytest.raises(ConfigurationError, match=words):
            explore(explored_run, *arguments)
    with pytest.raises(ArtifactError, match="is not a run"):
        explore(tmp_path / "nothing")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sparsescope\[explore\]'"):
        explore(explored_run)


def test_what_was_prepared_is_shown_though_it_cannot_be_prepared_again(
    explored_run: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise ModelError("the model is gone")

    monkeypatch.setattr("sparsescope.cli.preparing.Preparing.wait", fail)
    monkeypatch.setattr("sparsescope.cli.preparing.unprepared", lambda run, dictionaries: [])
    words = [str(explored_run), "--latent", "topk-k_16-x4:3", "--out", str(tmp_path / "three.html"), "--json"]
    run_the_explorer(parse(COMMAND, words), Console(json=True), "")
    assert "the model is gone" in capsys.readouterr().err
    with pytest.raises(ModelError):
        run_the_explorer(parse(COMMAND, [str(tmp_path), "--json"]), Console(json=True), "")


def test_preparing_tells_how_far_it_is_and_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of the other process, done in this one."""

    def fail(run: str, dictionaries: tuple[str, ...], *, progress: Callable[[str, int, int], None]) -> None:
        progress(run, 1, len(dictionaries))
        raise ModelError("the model is gone")

    monkeypatch.setattr("sparsescope.study.preparing.prepare_run", fail)
    told: list[tuple[Any, ...]] = []
    console: Any = SimpleNamespace(progress=lambda *words: told.append(words))
    receiving, sending = multiprocessing.Pipe(duplex=False)
    preparing._work(sending, "run", ("a", "b"))
    with pytest.raises(SparsescopeError, match="the model is gone") as raised:
        preparing._follow(receiving, console)
    assert (told, raised.value.exit_code) == ([("run", 1, 2)], ModelError.exit_code)
    sending.close()
    with pytest.raises(SparsescopeError, match="out of memory"):
        preparing._follow(receiving, console)
    receiving.close()


SERVE = """
import sys
from sparsescope.cli import preparing
from sparsescope.cli.console import Console
from sparsescope.cli.explore import ExploreOptions, run_the_explorer
preparing.unprepared = lambda run, dictionaries: []
run_the_explorer(ExploreOptions(run=sys.argv[1]), Console(), "")
from pathlib import Path
high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print("torch" in sys.modules, high.split()[1])
"""


def test_serving_needs_no_torch_and_ends_quietly(explored_run: Path) -> None:  # noqa: F811
    """Every page is asked for; then Ctrl-C."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", SERVE, str(explored_run)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, bufsize=1
    )
    try:
        assert process.stderr is not None
        url = next(word for word in process.stderr.readline().split() if word.startswith("http"))
        paths = ["", "search?q=the", "compare", "circuit", "prompt", "dictionary/topk-k_16-x4"]
        paths += ["dictionary/topk-k_16-x4/latent/3", "compare/topk-k_16-x4/tied_l1-l0_16-x4", "api/status"]
        for path in paths:
            with urllib.request.urlopen(url + path, timeout=30) as answer:
                assert answer.status == 200, path
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, "Traceback" in err) == (0, False), err
    torch, kilobytes = out.split()[-2:]
    assert torch == "False"
    assert int(kilobytes) < 300_000
