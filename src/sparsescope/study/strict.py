"""Strict reading of settings: from TOML tables and from the words of a command line.

A dataclass says what may be given: its field names are the keys, its annotations the types. An
unknown key, a value of another type or a missing one is a `ConfigurationError` that names the key.
Types understood: int, float, bool, str, Literal["a", "b"], X | None, tuple[X, ...] and dataclasses.
"""

import dataclasses
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigurationError, suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ConfigurationError` when it is missing or is no TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot read the settings {path}: {reason}. Give the path of a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}. Correct that line and try again.") from None


def read_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a table. `where` (a file, or a file and a table) opens every message.

    >>> @dataclasses.dataclass
    ... class Walk:
    ...     steps: int
    >>> read_table(Walk, {"steps": 3}, "walk.toml")
    Walk(steps=3)
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = read_keys(get_type_hints(cls), table, where)
    required = dataclasses.MISSING
    missing = [
        n for n, f in fields.items() if n not in values and f.default is required and f.default_factory is required
    ]
    if missing:
        raise ConfigurationError(
            f"{where}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Add it."
        )
    return cls(**values)


def read_keys(types: Mapping[str, Any], table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table by key ("-" counts as "_"), each as its type. A key without a type is refused."""
    values = {}
    for given, value in table.items():
        key = given.replace("-", "_")
        if key not in types:
            raise ConfigurationError(
                f"{where}: unknown key {given!r}.{suggest(key, types)} Known keys: {', '.join(types)}."
            )
        values[key] = convert(value, types[key], f"{where}: {given}")
    return values


def convert(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the type `hint`; a lone value stands for a list of one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return convert(value, next(arm for arm in arguments if arm is not type(None)), where)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        label = f"{where}[{{}}]" if len(items) > 1 else where
        return tuple(convert(item, arguments[0], label.format(place)) for place, item in enumerate(items))
    if origin is Literal:
        return _choice(value, arguments, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{where}: expected a table, got {value!r}.")
        return read_table(hint, value, where)  # type: ignore[arg-type]
    return _scalar(value, hint, where)


def parse_word(word: str, hint: Any, where: str) -> Any:
    """One word of a command line as the type `hint` (for a list, as one item of it)."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return parse_word(word, next(arm for arm in arguments if arm is not type(None)), where)
    if origin is tuple:
        return parse_word(word, arguments[0], where)
    if origin is Literal:
        return _choice(word, arguments, where)
    if hint not in (int, float):
        return word
    try:
        return _scalar(int(word), hint, where)
    except ValueError:
        pass
    try:
        return _scalar(float(word), hint, where)
    except ValueError:
        raise ConfigurationError(f"{where}: expected {_EXPECTED[hint]}, got {word!r}.") from None


def check_least(value: int, least: int, name: str) -> None:
    """Raise `ConfigurationError` for a number that is too small."""
    if value < least:
        raise ConfigurationError(f"{name} = {value}, expected a whole number of {least} or more.")


def _choice(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value in choices and not isinstance(value, bool):
        return value
    hint = suggest(str(value), map(str, choices))
    raise ConfigurationError(f"{where}: {value!r} is not one of {', '.join(map(str, choices))}.{hint}")


def _scalar(value: Any, kind: type, where: str) -> Any:
    """Check one plain value. `2e6` is a whole number too; nan and inf are no numbers."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is float and number:
        return float(value)
    if kind is int and number and value == int(value):
        return int(value)
    if kind not in (int, float) and isinstance(value, kind):
        return value
    raise ConfigurationError(f"{where}: expected {_EXPECTED[kind]}, got {value!r}.")
