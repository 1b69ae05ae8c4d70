"""What the pages ask of the model: JSON objects, checked field by field. Nothing here needs the model."""

import json
from collections.abc import Sequence
from typing import Any

from ...errors import ConfigurationError, suggest

LONGEST_TEXT = 4_000
"""Characters of a text. How many tokens these are is known only with the model."""
MOST_EDITS = 32
LARGEST_VALUE = 1e6
MOST_NEW_TOKENS = 100
_LARGEST_NUMBER = 2**31 - 1


class Fields:
    """The fields of a JSON object, each taken once; `end` complains of those that nobody took.

    Every method raises `ConfigurationError` for what is missing or cannot be meant.

    >>> fields = Fields(b'{"latent": 3}')
    >>> fields.whole("latent")
    3
    >>> fields.end()
    """

    def __init__(self, body: bytes | dict[str, Any], what: str = "the request") -> None:
        self._what = what
        self._given = _object(body, what)
        self._known: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        self._known.append(name)
        return self._given.get(name) is not None

    def text(self, name: str, longest: int = LONGEST_TEXT) -> str:
        """A string of at most so many characters."""
        value = self._taken(name)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        if len(value) > longest:
            raise ConfigurationError(f"{name} has {len(value):,} characters, at most {longest:,} are read: shorten it.")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of some words."""
        value = self._taken(name)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(name, value, f"one of {', '.join(choices)}")
        return value

    def whole(self, name: str, least: int = 0, most: int = _LARGEST_NUMBER) -> int:
        """A whole number in a range."""
        value = self._taken(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, value, f"a whole number from {least:,} to {most:,}")
        return value

    def number(self, name: str, least: float = -LARGEST_VALUE, most: float = LARGEST_VALUE) -> float:
        """A finite number in a range."""
        value = self._taken(name)
        # No NaN lies in a range, and a whole number of any length can be compared with its ends.
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, value, f"a number from {least:,g} to {most:,g}")
        return float(value)

    def place(self, name: str) -> int | None:
        """ "all" (None) or the number of a token, counted from 0."""
        return None if self._given.get(name) == "all" and self.has(name) else self.whole(name)

    def objects(self, name: str, most: int) -> "list[Fields]":
        """A list of at most so many objects."""
        value = self._taken(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, value, f"a list of at most {most} objects")
        return [Fields(each, f"{name}[{number}]") for number, each in enumerate(value)]

    def end(self) -> None:
        """Complain of fields that were not asked for."""
        for name in self._given:
            if name not in self._known:
                known = ", ".join(dict.fromkeys(self._known))
                raise ConfigurationError(
                    f"{self._what} has an unknown field {_short(name)}: expected {known}.{suggest(name, self._known)}"
                )

    def _taken(self, name: str) -> Any:
        if not self.has(name):
            raise ConfigurationError(f"{self._what} has no {name!r}: give it.")
        return self._given[name]

    def _wrong(self, name: str, value: object, expected: str) -> ConfigurationError:
        return ConfigurationError(f"{name} of {self._what} is {_short(value)}: expected {expected}.")


def _object(body: bytes | dict[str, Any], what: str) -> dict[str, Any]:
    value: Any = body
    if isinstance(body, bytes):
        try:
            value = json.loads(body.decode("utf-8"), parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{what} is not JSON in UTF-8 ({error}): send one object.") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{what} is {_short(value)}: expected a JSON object.")
    return value


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _short(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_NUMBER:
        return "too large a number"  # Python refuses to spell the largest ones
    try:
        shown = json.dumps(value)
    except (ValueError, RecursionError):
        return "something too large to show"
    return shown if len(shown) <= 60 else shown[:60] + "…"
