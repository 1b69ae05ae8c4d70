"""What a page is asked for: its query checked, and the two ways to refuse it."""

import math
from collections.abc import Mapping, Sequence

from ..errors import suggest

Query = Mapping[str, str]
LONGEST = 1_000
"""Characters that a parameter may have, unless a page says otherwise."""
_LARGEST = 2**31 - 1


class NotThere(Exception):
    """There is no such thing: a page with status 404 says so in these words."""


class BadRequest(Exception):
    """The request makes no sense: a page with status 400 says why."""


def text(query: Query, name: str, default: str = "", longest: int = LONGEST) -> str:
    """A parameter as it is. Raises `BadRequest` when it is longer than that."""
    value = query.get(name, default)
    if len(value) > longest:
        raise BadRequest(f"{name} has {len(value):,} characters: at most {longest:,} are read.")
    return value


def integer(query: Query, name: str, default: int, least: int = 0, most: int = _LARGEST) -> int:
    """A whole number in decimal digits; the default where it is absent or empty. Raises `BadRequest`.

    >>> integer({"page": "3"}, "page", 1)
    3
    """
    given = text(query, name).strip()
    if not given:
        return default
    value = digits(given)
    if value is None or not least <= value <= most:
        raise BadRequest(f"{name}={_short(given)} is not a whole number from {least:,} to {most:,}.")
    return value


def number(query: Query, name: str, default: float | None = None) -> float | None:
    """A finite number; the default where it is absent or empty. Raises `BadRequest`."""
    given = text(query, name).strip()
    if not given:
        return default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{name}={_short(given)} is not a number.")
    return value


def choice(query: Query, name: str, choices: Sequence[str], default: str) -> str:
    """One of some words; the default where it is absent or empty. Raises `BadRequest`, which lists them."""
    given = text(query, name).strip()
    if not given:
        return default
    if given not in choices:
        raise BadRequest(
            f"{name}={_short(given)} is unknown: expected one of {', '.join(choices)}.{suggest(given, choices)}"
        )
    return given


def digits(given: str) -> int | None:
    """The whole number that ASCII digits spell, None for anything else and for what no database can count.

    >>> digits("12"), digits("-1"), digits("٣"), digits("9" * 5000)
    (12, None, None, None)
    """
    if not (given.isascii() and given.isdigit() and len(given) <= 10):
        return None
    value = int(given)
    return value if value <= _LARGEST else None


def _short(given: str) -> str:
    return repr(given if len(given) <= 40 else given[:40] + "…")
