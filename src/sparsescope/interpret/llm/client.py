"""Sends requests to an OpenAI-compatible server: many at once, again where it helps, never one that was answered."""

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

from ...errors import ClientError, ConfigurationError
from .adapting import Adaptation, refused_setting, without
from .backoff import Pause, retry_after, wait_before
from .cache import Cache
from .cost import Cost, Prices, cost_of
from .post import Reply, Unreachable, post
from .request import Answer, Request, read

Progress = Callable[[str, int, int], None]
KEY_VARIABLE = "OPENAI_API_KEY"
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_EXPECTED = "the endpoint is {!r}, expected a URL such as http://localhost:8000/v1."
_PATIENCE = 12  # requests in a row that may fail, each after all its tries, before all of them stop


@dataclass(frozen=True)
class Failed:
    """A request without an answer, and why. `refused`: the server will not have it, however often it is sent."""

    why: str
    refused: bool = False


@final
class Client:
    """One model behind one endpoint.

    `base_url` is what the server's documentation calls so, mostly ending in `/v1`. `cache` is the file that
    keeps the answers (None: only as long as the client lives); what is in it is never asked for again.
    The key is read from the environment variable `key_variable`, when the first request is sent; where it is
    not set, none is sent. At most `concurrency` requests are under way at a time. Each may take `timeout`
    seconds and is sent up to `tries` times, with waits that double from `first_wait` to `longest_wait`; a
    server that says how long to wait is obeyed, up to `longest_wait`. `prices` are for `cost` alone.

    Raises `ClientError` without a base URL, `ConfigurationError` for settings that cannot be used.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        cache: str | Path | None = None,
        *,
        key_variable: str = KEY_VARIABLE,
        concurrency: int = 8,
        timeout: float = 120.0,
        tries: int = 6,
        first_wait: float = 1.0,
        longest_wait: float = 60.0,
        prices: Prices | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.base_url = _checked_url(base_url)
        self.model = model
        self.prices = prices
        self.counts: Counter[str] = Counter()
        """Requests "sent" (with repetitions), "answered", "cached", "failed"; "input_tokens", "output_tokens"."""
        self.failures: Counter[str] = Counter()
        """Why requests failed, and how many."""
        if concurrency < 1 or tries < 1 or timeout <= 0 or first_wait < 0 or longest_wait < first_wait or not model:
            raise ConfigurationError(
                f"model={model!r}, concurrency={concurrency}, tries={tries}, timeout={timeout}, first_wait="
                f"{first_wait}, longest_wait={longest_wait}: expected a model's name, at least one request at a time "
                "and one try, a timeout above 0 and waits that do not shrink."
            )
        self._key_variable, self._concurrency, self._timeout, self._tries = key_variable, concurrency, timeout, tries
        self._first_wait, self._longest_wait = first_wait, longest_wait
        self._cache = Cache(cache)
        self._progress = progress or (lambda stage, done, total: None)
        self._adaptation = Adaptation()
        self._lock = threading.Lock()
        self._failed_in_a_row = 0

    def cost(self, requests: Sequence[Request]) -> Cost:
        """What `answer` would send for these requests. Sends nothing."""
        unique = {self._key(request): request for request in requests}
        missing = [request for key, request in unique.items() if key not in self._cache]
        return cost_of(missing, len(unique) - len(missing), self.prices)

    def answer(self, requests: Sequence[Request], stage: str = "requests") -> list[Answer | Failed]:
        """The answers, in order. Equal requests are sent once; each answer is on disk before this returns it.

        Raises `ClientError`, after the requests under way have ended, when going on is pointless: a wrong key,
        no money left, no such model, no server at all, or failure after failure.
        """
        keys = [self._key(request) for request in requests]
        found: dict[str, Answer | Failed] = {}
        waiting: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in found or key in waiting:
                continue
            kept = self._cache.get(key)
            if kept is None:
                waiting[key] = request
            else:
                found[key] = Failed(kept["refused"], True) if "refused" in kept else Answer.from_json(kept)
                self._count(cached=1)
        if waiting:
            self._send_all(waiting, found, stage)
        return [found[key] for key in keys]

    def _send_all(self, waiting: dict[str, Request], found: dict[str, Answer | Failed], stage: str) -> None:
        headers, pause, cached = self._headers(), Pause(), len(found)
        self._progress(stage, cached, cached + len(waiting))
        futures: dict[Future[Answer | Failed], str] = {}
        with ThreadPoolExecutor(self._concurrency, "request") as pool:
            try:
                for key, request in waiting.items():
                    futures[pool.submit(self._send, key, request, headers, pause)] = key
                left = set(futures)
                while left:
                    done, left = wait(left, return_when=FIRST_COMPLETED)
                    for future in done:
                        found[futures[future]] = future.result()
                    self._progress(stage, len(found), cached + len(waiting))
            finally:
                # Also after an error or Ctrl-C: what is under way is paid for, so it is waited for and kept.
                pause.stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _send(self, key: str, request: Request, headers: dict[str, str], pause: Pause) -> Answer | Failed:
        """One request, as often as it takes."""
        outcome = Failed("stopped")
        for attempt in range(self._tries):
            if not pause.wait():
                return Failed("stopped")
            result, asked = self._try(request, headers)
            if isinstance(result, Answer):
                self._cache.put(key, result.to_json())
                self._failed_in_a_row = 0
                self._count(answered=1, input_tokens=result.input_tokens, output_tokens=result.output_tokens)
                return result
            outcome = result
            if outcome.refused:
                break
            if asked is not None and asked > self._longest_wait:
                outcome = Failed(f"{outcome.why}, and not to be asked again for {asked:,.0f} seconds")
                break
            if attempt + 1 < self._tries:
                if asked is not None:
                    pause.extend(asked)
                pause.wait(wait_before(attempt, self._first_wait, self._longest_wait, key))
        return self._given_up(key, request, outcome)

    def _try(self, request: Request, headers: dict[str, str]) -> tuple[Answer | Failed, float | None]:
        """Send once (again at once without a setting that the server refuses), and how long it asks to wait."""
        body, refused = self._adaptation.apply({"model": self.model, **request.body}), set[str]()
        while True:
            reply = self._post(request, body, headers)
            if isinstance(reply, Failed):
                return reply, None
            if reply.status == 200:
                self._adaptation.learn(refused)
                try:
                    return read(request, reply.body), None
                except ValueError as error:
                    return Failed(str(error)), None
            setting = refused_setting(body, reply.body) if reply.status in (400, 422) else None
            if setting is None or request.path == "completions":
                return self._judged(reply, request), retry_after(reply.headers)
            body = without(body, setting)
            refused.add(setting)

    def _post(self, request: Request, body: dict[str, Any], headers: dict[str, str]) -> Reply | Failed:
        self._count(sent=1)
        try:
            return post(f"{self.base_url}/{request.path}", json.dumps(body).encode(), headers, self._timeout)
        except Unreachable as error:
            if self.counts["answered"]:
                return Failed(str(error))
            raise ClientError(
                f"no server answers at {self.base_url} ({error}): start one there, or give the base URL of "
                "another. What was answered before is kept."
            ) from None
        except OSError as error:
            return Failed(str(error))

    def _judged(self, reply: Reply, request: Request) -> Failed:
        """What an answer other than 200 means. Raises `ClientError` when no other request will fare better."""
        said = f"status {reply.status}: {self._quoted(reply.body)}"
        if reply.status in (401, 403):
            key = "is not accepted" if os.environ.get(self._key_variable) else "is not set"
            raise ClientError(
                f"{self.base_url} refuses access (status {reply.status}), and the environment variable "
                f"{self._key_variable} {key}: put a valid key for this server and model there. "
                "What was answered before is kept."
            )
        if reply.status == 402 or (reply.status == 429 and b"insufficient_quota" in reply.body):
            raise ClientError(f"{self.base_url} wants to be paid ({said}). What was answered before is kept.")
        if 300 <= reply.status < 400:
            where = self._quoted(reply.headers.get("location", "").encode("latin-1", "replace"))
            raise ClientError(f"{self.base_url} has moved (status {reply.status}, to {where}): give the new base URL.")
        if reply.status == 404 and request.path == "chat/completions":
            raise ClientError(
                f"{self.base_url} has no model {self.model!r}, or no chat/completions ({said}): check both names."
            )
        return Failed(said, refused=(reply.status < 500 and reply.status not in _AGAIN) or reply.status == 501)

    def _given_up(self, key: str, request: Request, outcome: Failed) -> Failed:
        self._count(failed=1)
        with self._lock:
            self.failures[outcome.why] += 1
            self._failed_in_a_row += 1
            many = self._failed_in_a_row
        if outcome.refused and request.path == "completions":
            # What a server is able to do decides how everything is asked: a resumed run must decide alike.
            self._cache.put(key, {"refused": outcome.why})
        elif many >= _PATIENCE:
            raise ClientError(
                f"{many} requests to {self.base_url} in a row failed, the last with {outcome.why}. What was answered "
                "before is kept: run the same command again when the server is well."
            )
        return outcome

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "sparsescope"}
        key = os.environ.get(self._key_variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise ClientError(
                f"the key in the environment variable {self._key_variable} holds characters that no key has (spaces, "
                "line ends, accents): set it again."
            )
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers

    def _quoted(self, text: bytes) -> str:
        """The beginning of what a server says, fit for a terminal and without the key."""
        key = os.environ.get(self._key_variable, "").strip()
        plain = text[:4000].decode("utf-8", "replace")
        shown = ascii(plain.replace(key, "***") if key else plain)
        return shown if len(shown) <= 200 else f"{shown[:200]}…"

    def _key(self, request: Request) -> str:
        return request.key(self.base_url, self.model)

    def _count(self, **more: int) -> None:
        with self._lock:
            self.counts.update(more)


def _checked_url(given: str | None) -> str:
    if not given:
        raise ClientError(
            "no endpoint was given: expected the base URL of an OpenAI-compatible server, such as "
            "http://localhost:8000/v1 for vLLM, llama.cpp or `transformers serve`."
        )
    try:
        parts = urlsplit(given)
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0) and not parts.query + parts.fragment
    except ValueError:
        raise ConfigurationError(_EXPECTED.format(given)) from None
    if parts.username or parts.password:
        raise ConfigurationError("the endpoint's URL holds a user name or password: put the key in the environment.")
    if parts.scheme not in ("http", "https") or not whole or not re.fullmatch(r"[!-~]+", given):
        raise ConfigurationError(_EXPECTED.format(given))
    return given.rstrip("/")
