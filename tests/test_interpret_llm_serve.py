"""Against a packaged OpenAI-compatible server, `transformers serve`, with the builtin model behind it."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from interpret_llm_world import Words, make_evidence, make_fragments

from sparsescope.errors import ClientError
from sparsescope.interpret.base import Explanation
from sparsescope.interpret.llm import Client, LLMExplainer, LLMSimulator, LocalExplainer
from sparsescope.models import load_model

COMMAND = Path(sys.executable).with_name("transformers")
ABSENT = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(ABSENT) or not COMMAND.exists(),
    reason=f"`transformers serve` lacks {', '.join(ABSENT) or 'its command'}: pip install 'transformers[serving]'",
)

WORDS = Words()
FRAGMENTS = make_fragments(WORDS)
EVIDENCE = make_evidence(WORDS, FRAGMENTS)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}The unit responds to"


@dataclass(frozen=True)
class Server:
    url: str
    model: str
    log: Path

    def posts(self) -> list[str]:
        """The requests that the server has noted, in order: path and status."""
        return [line.split('"POST ')[1] for line in self.log.read_text().splitlines() if '"POST ' in line]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The builtin model with a chat template, and told that it may read more than it was trained on."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    lm = load_model("builtin:tiny", device="cpu")
    lm.module.config.max_position_embeddings = 4096
    lm.tokenizer.chat_template, lm.tokenizer.model_max_length = TEMPLATE, 4096
    lm.module.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    log = model.with_name("log")
    command = [str(COMMAND), "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **settings})
    try:
        end = time.monotonic() + 240
        while "Uvicorn running" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{port}/v1", str(model), log)
    finally:
        process.terminate()
        process.wait(30)


def test_an_explanation_is_what_the_model_says_when_it_is_asked_here(server: Server, model: Path) -> None:
    asked = LLMExplainer(Client(server.url, server.model), WORDS, max_tokens=6).explain([EVIDENCE])[0]
    here = LocalExplainer(load_model(model, device="cpu"), WORDS, max_tokens=6).explain([EVIDENCE])[0]
    assert isinstance(asked, Explanation)
    assert isinstance(here, Explanation)
    assert here.text
    # The local one ends at the first line, the server after six tokens.
    assert asked.text.startswith(here.text)


def test_it_gives_no_log_probabilities_and_what_it_writes_is_missing_not_zero(server: Server, tmp_path: Path) -> None:
    """The model is far too small to list tokens as JSON. Interrupted half way, nothing is asked for twice."""
    explanation, numbers = Explanation("cats", "someone", {}), [np.arange(3)]
    before = len(server.posts())

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "simulations" and done == 2:
            raise KeyboardInterrupt

    for progress in (interrupt, None):
        client = Client(server.url, server.model, tmp_path / "answers.sqlite", concurrency=2, progress=progress)
        simulator = LLMSimulator(client, WORDS, samples=1, max_tokens=4)
        if progress is not None:
            with pytest.raises(KeyboardInterrupt):
                simulator.simulate([explanation], FRAGMENTS, numbers)
    values = simulator.simulate([explanation], FRAGMENTS, numbers)[0]
    assert simulator.mode == "list"
    assert np.isnan(values).all()
    assert simulator.missing == {"unparseable answer": 3}
    posts = server.posts()[before:]
    # Asked once each: for log-probabilities in either form, and for three lists, and twice more for each in vain.
    assert sum("chat/completions" in post for post in posts) == 9
    assert [post.rsplit("HTTP/1.1")[1][2:5] for post in posts if " /v1/completions" in f" {post}"] == ["200", "422"]


def test_a_model_that_it_does_not_have_is_a_failed_request(server: Server) -> None:
    client = Client(server.url, "another-model", tries=2, first_wait=0.01)
    evidences = [make_evidence(WORDS, FRAGMENTS, scale=1.0 + n) for n in range(2)]
    found = LLMExplainer(client, WORDS).explain(evidences)
    assert {str(answer) for answer in found} == {"Skipped(reason='request failed')"}
    assert "Server is pinned" in str(client.failures)
    with pytest.raises(ClientError, match="gives no log-probabilities"):
        LLMSimulator(client, WORDS, mode="logprobs").simulate(
            [Explanation("cats", "someone", {})], FRAGMENTS, [np.arange(1)]
        )
