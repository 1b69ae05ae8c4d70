"""What models wrote, read strictly: an answer that cannot be understood is missing, not a guess and not zero."""

import json
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from ..base import LEVELS
from .prompts import one_line, shown

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
_FENCE = re.compile(r"^```\w*\s*|\s*```$")


def sentence(text: str | None) -> str | None:
    """The first paragraph of an answer as one line, without quotation marks around it; None when there is none.

    >>> sentence('<think>well...</think>\\n"Names of rivers."\\n\\nI hope that helps!')
    'Names of rivers.'
    """
    rest = _answer(text)
    first = one_line(re.split(r"\n\s*\n", rest)[0]).strip("\"'“”` ") if rest else ""
    return first or None


def active_tokens(text: str | None, tokens: Sequence[str]) -> Float32[np.ndarray, " token"] | None:
    """Activations from a list of the active tokens; None when any part of it cannot be understood.

    Not understood are: text that is not the JSON asked for, or is cut short; an index outside the excerpt; an
    activation outside 0 to 10; two activations for one index; a token which is not the one at its index.

    >>> active_tokens('{"active": [{"index": 1, "token": "cat", "activation": 7}]}', ["The", " cat"])
    array([0., 7.], dtype=float32)
    >>> active_tokens('{"active": [{"index": 0, "token": "cat", "activation": 7}]}', ["The", " cat"]) is None
    True
    """
    entries = _entries(_answer(text))
    if entries is None:
        return None
    found: dict[int, float] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            return None
        index, value = entry.get("index"), entry.get("activation")
        if not isinstance(index, int) or not isinstance(value, int | float) or bool in (type(index), type(value)):
            return None
        if not 0 <= index < len(tokens) or not 0 <= value <= LEVELS or found.setdefault(index, value) != value:
            return None
        if not _copied(entry.get("token"), tokens[index]):
            return None
    expected = np.zeros(len(tokens), np.float32)
    for index, value in found.items():
        expected[index] = value
    return expected


def _answer(text: str | None) -> str:
    """Without what a reasoning model thought aloud; nothing when it was still thinking when it was cut."""
    rest = _THOUGHT.sub("", text or "").strip()
    return "" if rest.startswith("<think>") else rest


def _entries(text: str) -> list[object] | None:
    """The list in the first JSON value of the text."""
    plain = _FENCE.sub("", text)
    begin = re.search(r"[{\[]", plain)
    if begin is None:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(plain, begin.start())
    except (ValueError, RecursionError):
        return None
    entries = value.get("active") if isinstance(value, dict) else value
    return entries if isinstance(entries, list) else None


def _copied(given: object, token: str) -> bool:
    """Is this the token, but for white space, case and the way escapes are written? No token is no mistake."""
    if given is None or not token.strip():
        return True
    return isinstance(given, str) and any(
        form.strip().casefold() == shown(token).strip().casefold() for form in (given, shown(given))
    )
