"""What is asked of an OpenAI-compatible server, and what is kept of its answer.

Two endpoints are used: `chat/completions` for text, and `completions` to have a prompt scored, that is, to
get the log-probabilities of what might have stood at some of its places. Servers give those in two forms:
`echo` with `logprobs` (OpenAI's older models, vLLM), or `prompt_logprobs` (vLLM).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from ...artifact import digest
from ..base import LEVELS

Way = Literal["echo", "prompt_logprobs"]
_TOP = 15  # likeliest tokens asked for at each place, as in Bills et al. 2023
_DIGITS = frozenset(str(level) for level in range(LEVELS + 1))


@dataclass(frozen=True)
class Request:
    """A request without the model's name. `sample` tells apart requests for several answers to one prompt."""

    path: Literal["chat/completions", "completions"]
    body: Mapping[str, Any]
    sample: int = 0

    def key(self, base_url: str, model: str) -> str:
        """SHA-256 over everything that decides the answer: the whole prompt and settings, endpoint and model."""
        return digest([1, base_url, model, self.path, self.body, self.sample])

    @property
    def prompt(self) -> str:
        """All text that is sent, for counting tokens."""
        if self.path == "completions":
            return self.body["prompt"]
        return "\n".join(message["content"] for message in self.body["messages"])


@dataclass(frozen=True)
class Slot:
    """A place of the prompt behind a tab: the token that stands there, and probabilities of numbers there.

    Only the likeliest tokens are known; a number that is not among them is absent.
    """

    token: str
    digits: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer: its text, or the slots of the prompt that it scored (None: it gave none)."""

    text: str | None = None
    slots: Sequence[Slot] | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the cache."""
        slots = None if self.slots is None else [[slot.token, dict(slot.digits)] for slot in self.slots]
        return {"text": self.text, "slots": slots, "input": self.input_tokens, "output": self.output_tokens}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Answer":
        """What `to_json` gave."""
        slots = None if value["slots"] is None else [Slot(token, digits) for token, digits in value["slots"]]
        return cls(value["text"], slots, value["input"], value["output"])


def chat(
    messages: Sequence[Mapping[str, str]],
    *,
    max_tokens: int,
    temperature: float,
    seed: int = 0,
    sample: int = 0,
    schema: Mapping[str, Any] | None = None,
) -> Request:
    """Ask for text; with a JSON schema, for text that follows it (servers that cannot are asked without)."""
    body: dict[str, Any] = {
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed + sample,
    }
    if schema is not None:
        wrapped = {"name": "answer", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": wrapped}
    return Request("chat/completions", body, sample)


def scoring(prompt: str, way: Way) -> Request:
    """Ask for the log-probabilities at the places of a prompt, in one of the two forms."""
    form = {"echo": True, "logprobs": _TOP} if way == "echo" else {"prompt_logprobs": _TOP}
    # One new token, which is thrown away: some servers refuse to write none.
    return Request("completions", {"prompt": prompt, "max_tokens": 1, "temperature": 0, **form})


def read(request: Request, data: bytes) -> Answer:
    """The part of a server's answer that is kept. Raises `ValueError` when it is no answer at all."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise ValueError("the answer is not JSON with choices in it") from None
    if not isinstance(choice, dict):
        raise ValueError("the first choice is not an object")
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [n if isinstance(n := usage.get(f"{kind}_tokens"), int) else 0 for kind in ("prompt", "completion")]
    if request.path == "completions":
        return Answer(None, _slots(choice), *counts)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    return Answer(text if isinstance(text, str) else None, None, *counts)


def _slots(choice: Mapping[str, Any]) -> list[Slot] | None:
    """The places behind a tab, or None where the server sent no log-probabilities of the prompt."""
    try:
        places = _echoed(choice["logprobs"]) if choice.get("logprobs") else _prompted(choice["prompt_logprobs"])
        pairs = pairwise(places)
        return [Slot(token, _numbers(likely)) for (before, _), (token, likely) in pairs if before.endswith("\t")]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


_Place = tuple[str, list[tuple[str, float]]]


def _numbers(likely: list[tuple[str, float]]) -> dict[str, float]:
    """Probability of each number, with and without space around it."""
    found: dict[str, float] = {}
    for text, logprob in likely:
        if (number := text.strip()) in _DIGITS:
            found[number] = found.get(number, 0.0) + math.exp(min(float(logprob), 0.0))
    return found


def _echoed(logprobs: Mapping[str, Any]) -> list[_Place]:
    top = logprobs["top_logprobs"]
    return [(token, list((top[i] or {}).items())) for i, token in enumerate(logprobs["tokens"])]


def _prompted(entries: Sequence[Mapping[str, Mapping[str, Any]] | None]) -> list[_Place]:
    """vLLM: of each place an object by token id, in which the token that stands there comes first."""
    found: list[_Place] = []
    for entry in entries:
        likely = [(value["decoded_token"] or "", value["logprob"]) for value in (entry or {}).values()]
        found.append((likely[0][0] if likely else "", likely))
    return found
