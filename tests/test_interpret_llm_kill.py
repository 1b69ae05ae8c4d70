"""A run that is killed, at any request, is taken up again without asking twice for what was answered."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from fault_server import Asked, FaultServer, Say, excerpt, listing, text, wait_until
from interpret_llm_world import level

from sparsescope.interpret.llm.cache import Cache
from sparsescope.interpret.llm.prompts import list_messages

SCRIPT = '''
"""Forks children that explain and simulate until one of them gets to the end; prints how many were killed."""
import os, sys
from pathlib import Path

import numpy as np
sys.path.insert(0, sys.argv[1])
from interpret_llm_world import Words, make_evidence, make_fragments
from sparsescope.interpret.llm import Client, LLMExplainer, LLMSimulator

folder, url, concurrency = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def work():
    words = Words()
    fragments = make_fragments(words)
    client = Client(url, "model", folder / "answers.sqlite", concurrency=concurrency, first_wait=0.01, longest_wait=1)
    explanations = LLMExplainer(client, words).explain([make_evidence(words, fragments)])
    simulator = LLMSimulator(client, words, mode="list", samples=2)
    values = simulator.simulate(explanations, fragments, [np.arange(4)])
    np.save(folder / "values.npy", values[0])


killed = 0
while True:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            (folder / "pid").write_text(str(os.getpid()))
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status >= 0:
        print(killed)
        sys.exit(status)
    killed += 1
'''


def answer(asked: Asked) -> Say:
    return listing(asked, level) if "response_format" in asked.body else text("Animals.")


def run(folder: Path, url: str, concurrency: int) -> int:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder), url, str(concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def kill(folder: Path) -> None:
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def check(server: FaultServer, folder: Path) -> None:
    answered = Counter(str(asked.body) for asked in server.answered)
    assert len(answered) == 9  # one explanation, four fragments twice
    assert set(answered.values()) == {1}
    assert len(Cache(folder / "answers.sqlite")) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
def test_killed_at_every_request_nothing_is_asked_twice(tmp_path: Path) -> None:
    """One request at a time: whatever was answered is on disk before the next request arrives."""

    def script(asked: Asked) -> Say:
        if asked.times == 0:
            kill(tmp_path)
            return Say(None, 500)
        return answer(asked)

    with FaultServer(script) as server:
        assert run(tmp_path, server.url, 1) == 9
        check(server, tmp_path)
        assert len(server.asked) == 18


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
def test_killed_with_many_under_way_only_those_are_asked_again(tmp_path: Path) -> None:
    """From the fifth request on nothing is answered; killed once the four before are on disk."""
    killed = threading.Event()

    def script(asked: Asked) -> Say:
        if asked.number >= 4 and not killed.is_set():
            killed.wait(30)
            return Say(None, 500)
        return answer(asked)

    def watch() -> None:
        wait_until(lambda: len(server.asked) >= 8)
        wait_until(lambda: len(Cache(tmp_path / "answers.sqlite")) == 4)
        kill(tmp_path)
        killed.set()

    with FaultServer(script) as server:
        watcher = threading.Thread(target=watch)
        watcher.start()
        assert run(tmp_path, server.url, 4) == 1
        watcher.join()
        check(server, tmp_path)
        assert len(server.asked) == 9 + 4


def test_the_list_prompt_shows_every_token() -> None:
    """So that the server above answers from the prompt alone."""
    tokens = ("The", " cat", "\t", "", "\n\n")
    asked = Asked("", {"messages": list_messages("anything", tokens)}, {}, 0, 0)
    assert excerpt(asked) == [(0, "The"), (1, " cat"), (2, "\\t"), (3, ""), (4, "\\n\\n")]
