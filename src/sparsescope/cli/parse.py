"""From argv to a dataclass of options: flags, a settings file, defaults, and strict refusal.

Each command declares its options as one frozen dataclass made with `option`. A field `target_l0`
is the flag `--target-l0` and the key `target_l0` (or `target-l0`) of a settings file. Precedence:
default < file < flag. A field that holds several things is a flag that repeats.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from ..errors import ConfigurationError, suggest
from ..study.strict import check_least, parse_word, read_keys, read_toml

FLAGS_ALONE = ("json", "config", "debug")
"""Options that are read from the command line before any file is: they are no keys of a settings file."""


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    metavar: str | None = None,
    positional: bool = False,
    least: int | None = None,
) -> Any:
    """Declare one option. Without a default it must be given, by flag or in the settings file.

    A number below `least` is refused.
    """
    metadata = {"help": help, "metavar": metavar, "positional": positional, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: what it takes, what does it, and how it introduces itself.

    `run` is "module:function" in this package, called with the options, the console and the command
    line. `own_config` means that `--config` names a recipe, which the command reads by itself.
    """

    name: str
    summary: str
    description: str
    options: type
    run: str
    example: str
    own_config: bool = False


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, so that every refusal looks the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}. See '{self.prog} --help'.")


def parse(command: Command, argv: Sequence[str]) -> Any:
    """The command's options from its arguments. `--help` prints and leaves with `SystemExit(0)`."""
    parser = build_parser(command)
    given, unknown = parser.parse_known_args(argv)
    flags = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(given).items()}
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        what = "option" if unknown[0].startswith("-") else "argument"
        hint = suggest(unknown[0].split("=")[0], known)
        raise ConfigurationError(f"unknown {what} {unknown[0]!r}.{hint} See '{parser.prog} --help'.")
    _check_numbers(command, flags, _flag)
    config: Any = flags.get("config")
    if config is None or command.own_config:
        return _build(command, flags, f"sparsescope {command.name}")
    return _build(command, {**_file_values(command, config), **flags}, f"sparsescope {command.name}")


def _file_values(command: Command, path: str) -> Mapping[str, Any]:
    """The keys of a settings file, checked against the options that the command has."""
    hints = get_type_hints(command.options)
    known = {key: hint for key, hint in hints.items() if key not in FLAGS_ALONE}
    table = read_toml(path)
    for key in FLAGS_ALONE:
        if key in table:
            raise ConfigurationError(f"{path}: unknown key {key!r}: give --{key} on the command line instead.")
    values = read_keys(known, table, path)
    _check_numbers(command, values, lambda field: f"{path}: {field.name}")
    return values


def _build(command: Command, values: Mapping[str, Any], where: str) -> Any:
    missing = [
        f for f in dataclasses.fields(command.options) if f.default is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        names = ", ".join(_flag(f) for f in missing)
        raise ConfigurationError(f"{where} needs {names}. See '{where} --help'.")
    return command.options(**values)


def _check_numbers(command: Command, values: Mapping[str, Any], name: Callable[[Any], str]) -> None:
    """Refuse numbers below what their option allows; `name` says what the user calls a field."""
    for f in dataclasses.fields(command.options):
        if f.metadata["least"] is not None and f.name in values:
            check_least(values[f.name], f.metadata["least"], name(f))


def build_parser(command: Command) -> argparse.ArgumentParser:
    """The argparse parser of one command, generated from its dataclass."""
    shown = [f"{f.metadata['metavar']}" for f in dataclasses.fields(command.options) if f.metadata["positional"]]
    parser = _Parser(
        prog=f"sparsescope {command.name}",
        usage=" ".join([f"sparsescope {command.name}", *shown, "[options]"]),
        description=command.description,
        epilog=f"example:\n  {command.example}",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    inputs = parser.add_argument_group("arguments")
    own, common = parser.add_argument_group("options"), parser.add_argument_group("options of every command")
    shared = {"out", "seed", "json", "resume", "config", "debug"}
    hints = get_type_hints(command.options)
    for field in sorted(dataclasses.fields(command.options), key=lambda f: f.default is not dataclasses.MISSING):
        positional = field.metadata["positional"]
        group = inputs if positional else common if field.name in shared else own
        _add(group, field, hints[field.name])
    common.add_argument("-h", "--help", action="help", help="show this help and leave")
    return parser


def _add(group: Any, field: Any, hint: Any) -> None:
    """Give one field to argparse."""
    help, metavar = field.metadata["help"], field.metadata["metavar"]
    name = field.name if field.metadata["positional"] else _flag(field)
    if hint is bool:
        action = "store_true" if not field.default else argparse.BooleanOptionalAction
        group.add_argument(name, action=action, help=help)
        return
    several = get_origin(hint) is tuple or any(get_origin(arm) is tuple for arm in get_args(hint))
    notes = ["repeat for several"] if several and not field.metadata["positional"] else []
    if field.default not in (dataclasses.MISSING, None, ()):
        shown = " ".join(map(str, field.default)) if several else field.default
        notes.append(f"default: {shown}")
    if field.default is dataclasses.MISSING and not field.metadata["positional"]:
        notes.append("required")
    text = f"{help} ({'; '.join(notes)})" if notes else help
    settings: dict[str, Any] = {"type": _word_reader(hint, name), "help": text.replace("%", "%%"), "metavar": metavar}
    if field.metadata["positional"]:
        settings["nargs"] = "*" if several else "?"  # may come from the settings file
    elif several:
        settings["action"] = "append"
    group.add_argument(name, **settings)


def _word_reader(hint: Any, where: str) -> Callable[[str], Any]:
    return lambda word: parse_word(word, hint, where)


def _flag(field: Any) -> str:
    return field.metadata["metavar"] if field.metadata["positional"] else "--" + field.name.replace("_", "-")
