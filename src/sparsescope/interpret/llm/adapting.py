"""Settings that a server refuses are left out: 'OpenAI-compatible' means another subset everywhere."""

import json
import re
import threading
from collections.abc import Mapping
from typing import Any

_OPTIONAL = ("response_format", "seed", "temperature", "max_tokens")
_COMPLAINT = re.compile(
    r"unsupported|not support|unexpected|unrecognized|unknown|not permitted|not allowed|not available|extra|"
    r"invalid schema|only the default",
    re.IGNORECASE,
)


class Adaptation:
    """What to leave out of chat requests, learnt from refusals that were followed by an answer.

    A schema, a seed or a temperature is left out; `max_tokens` is renamed as newer models want it.

    >>> adaptation = Adaptation()
    >>> refused_setting({"seed": 1}, b'{"error": {"message": "Unsupported parameter: seed"}}')
    'seed'
    >>> adaptation.learn({"seed"})
    >>> adaptation.apply({"messages": [], "seed": 1})
    {'messages': []}
    """

    def __init__(self) -> None:
        self._refused: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body as this server takes it."""
        adapted = dict(body)
        for name in self._refused if "messages" in body else ():
            adapted = without(adapted, name)
        return adapted

    def learn(self, names: set[str]) -> None:
        """The server answered once these were left out."""
        with self._lock:
            self._refused |= names


def without(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A body without one of its settings, or with that setting under its newer name."""
    rest = {key: value for key, value in body.items() if key != name}
    if name == "max_tokens" and name in body:
        rest["max_completion_tokens"] = body[name]
    return rest


def refused_setting(body: Mapping[str, Any], said: bytes) -> str | None:
    """The optional setting of `body` that a server complains of, if it is that."""
    present = [name for name in _OPTIONAL if name in body]
    try:
        error = json.loads(said)["error"]
        if error.get("param") in present and error.get("code") != "context_length_exceeded":
            return error["param"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # no such structure: the text decides
    text = said.decode("utf-8", "replace")
    if not _COMPLAINT.search(text):
        return None
    return next((name for name in present if re.search(rf"\b{name}\b", text)), None)
