"""An OpenAI-compatible server that does what a script says: answers by a known rule, or any fault."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = re.compile(r"\t|\n|10|\d| ?[^\W\d]+|.", re.DOTALL)


@dataclass(frozen=True)
class Say:
    """What a server sends. `cut` announces more bytes than it sends; `slowly` sends one byte in that many seconds."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: float = 0.0
    slowly: float = 0.0


@dataclass(frozen=True)
class Asked:
    """A request that arrived: `number` counts from 0, `times` how often the same one came before."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    number: int
    times: int


Script = Callable[[Asked], Say]


class FaultServer:
    """Its address, and every request that it got."""

    def __init__(self, script: Script) -> None:
        self.asked: list[Asked] = []
        self.answered: list[Asked] = []
        self.most_at_once = 0
        self._script, self._lock, self._now = script, threading.Lock(), 0
        self._closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    owner._serve(self, data)
                except OSError:
                    self.close_connection = True  # the client went away, as some tests want it to

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _serve(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        body = json.loads(data)
        with self._lock:
            times = sum(other.body == body and other.path == handler.path for other in self.asked)
            asked = Asked(handler.path, body, dict(handler.headers), len(self.asked), times)
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            say = self._script(asked)
            self._closing.wait(say.hang)
        finally:  # before the answer goes out: whoever has it may ask again at once
            with self._lock:
                self._now -= 1
        self._send(handler, say)
        if say.status == 200 and not say.cut:
            self.answered.append(asked)

    def _send(self, handler: BaseHTTPRequestHandler, say: Say) -> None:
        data = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
        handler.send_response(say.status)
        for name, value in say.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for byte in data if say.slowly else b"":
            if self._closing.wait(say.slowly):
                return
            handler.wfile.write(bytes([byte]))
        if not say.slowly:
            handler.wfile.write(data[: len(data) // 2] if say.cut else data)
        handler.close_connection = say.cut

    def __enter__(self) -> "FaultServer":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def text(content: str | None, **usage: int) -> Say:
    """A chat answer."""
    return Say({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage})


def excerpt(asked: Asked) -> list[tuple[int, str]]:
    """Index and text of the tokens in the last excerpt of a prompt for a list."""
    lines = asked.body["messages"][-1]["content"].split("Excerpt:\n")[1].split("\n")
    return [(int(index), token) for index, _, token in (line.partition("\t") for line in lines)]


def listing(asked: Asked, level: Callable[[str], int]) -> Say:
    """The list that a perfect simulator gives."""
    active = [
        {"index": index, "token": token, "activation": level(token)} for index, token in excerpt(asked) if level(token)
    ]
    return text(json.dumps({"active": active}))


def tokens_of(prompt: str, digits_apart: bool = False) -> list[str]:
    """How this server cuts a prompt."""
    found = TOKEN.findall(prompt)
    return [part for token in found for part in (token if digits_apart and token == "10" else [token])]


Distribution = Callable[[str], Mapping[str, float]]


def echo(asked: Asked, likely: Distribution, digits_apart: bool = False) -> Say:
    """A scored prompt in OpenAI's form: `likely` gives log-probabilities behind the tab of a token's line."""
    tokens = tokens_of(asked.body["prompt"], digits_apart)
    top = list(_places(tokens, likely))
    return Say({"choices": [{"text": "", "logprobs": {"tokens": tokens, "top_logprobs": top}}]})


def prompt_logprobs(asked: Asked, likely: Distribution) -> Say:
    """A scored prompt in vLLM's form."""
    tokens = ["<s>", *tokens_of(asked.body["prompt"])]
    entries: list[dict[str, Any] | None] = [None]
    for token, top in zip(tokens[1:], list(_places(tokens[1:], likely)), strict=True):
        pairs = {token: -9.0, **(top or {})}
        entries.append({str(n): {"logprob": p, "decoded_token": t} for n, (t, p) in enumerate(pairs.items())})
    return Say({"choices": [{"text": "", "prompt_logprobs": entries}]})


def _places(tokens: Sequence[str], likely: Distribution) -> Iterator[dict[str, float] | None]:
    line = ""
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else ""
        yield dict(likely(line)) if before == "\t" else ({token: -0.1} if place else None)
        line = "" if token == "\n" else line + ("" if token == "\t" else token)


@contextmanager
def never_answering() -> Iterator[str]:
    """The address of a port that nobody listens to."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return as soon as something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.01)
