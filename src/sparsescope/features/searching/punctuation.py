"""Tokens that have a name but no letters: what "closing bracket" or "comma" means to who looks for a token."""

from collections.abc import Iterable, Mapping
from itertools import product

_OPEN, _CLOSE = ("opening", "open", "left"), ("closing", "close", "closed", "right")
_PAIRS = {
    "()": ("bracket", "parenthesis", "paren", "round bracket"),
    "[]": ("square bracket",),
    "{}": ("curly bracket", "brace", "curly brace", "curly"),
    "<>": ("angle bracket",),
    "“”": ("curly quotation mark", "curly quote"),
}
_QUOTES = {
    '"“': tuple(f"{side} {noun}" for side, noun in product(_OPEN, ("quotation mark", "quote"))),
    '"”': tuple(f"{side} {noun}" for side, noun in product(_CLOSE, ("quotation mark", "quote"))),
    '"“”': ("quotation mark", "quote", "quotation", "double quote", "double quotation mark", "speech mark"),
    "'‘’": ("apostrophe", "single quote", "single quotation mark", "inverted comma"),
}
_MARKS = {
    ",": ("comma",),
    ".": ("full stop", "period", "dot", "decimal point", "stop"),
    ":": ("colon",),
    ";": ("semicolon", "semi colon"),
    "?": ("question mark",),
    "!": ("exclamation mark", "exclamation point"),
    "-": ("hyphen", "minus", "minus sign"),
    "-–—": ("dash",),
    "–": ("en dash",),
    "—": ("em dash",),
    "…": ("ellipsis",),
    "\n": ("new line", "newline", "line end", "end of line", "end of a line", "line break", "line feed"),
    " ": ("space", "blank", "white space", "whitespace"),
    "\t": ("tab", "tabulator"),
    "/": ("slash", "forward slash"),
    "\\": ("backslash", "back slash"),
    "|": ("vertical bar", "pipe"),
    "_": ("underscore", "underline"),
    "=": ("equals sign", "equal sign", "equals"),
    "+": ("plus", "plus sign"),
    "*": ("asterisk", "star"),
    "<": ("less than", "less than sign"),
    ">": ("greater than", "greater than sign"),
    "&": ("ampersand", "and sign"),
    "@": ("at sign",),
    "#": ("hash", "hash sign", "number sign"),
    "$": ("dollar", "dollar sign"),
    "%": ("percent", "percent sign", "per cent sign"),
    "^": ("caret",),
    "~": ("tilde",),
    "`": ("backtick", "back tick", "backquote", "grave accent"),
    "§": ("section sign",),
    "•": ("bullet", "bullet point"),
}
_SEVERAL = {"...": ("ellipsis",), "\n\n": ("blank line", "empty line", "paragraph break")}
_MANY = {"parentheses": "parenthesis", "ellipses": "ellipsis", "quotations": "quotation mark"}


def _names() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}

    def name(tokens: Iterable[str], names: Iterable[str]) -> None:
        for each in names:
            found.setdefault(each, []).extend(tokens)

    for pair, nouns in _PAIRS.items():
        name(pair, nouns)
        for side, ways in zip(pair, (_OPEN, _CLOSE), strict=True):
            name(side, (f"{way} {noun}" for way, noun in product(ways, nouns)))
    for tokens, names in (_QUOTES | _MARKS).items():
        name(tokens, names)
    for token, names in _SEVERAL.items():
        name([token], names)
    return {each: tuple(tokens) for each, tokens in found.items()}


NAMES = _names()
"""Tokens by what they are called, in lower case and one of them."""


def named(text: str) -> tuple[str, ...]:
    """The tokens of that name, in any case, of one or several; () where it names none.

    >>> named("closing brackets"), named("Full-stop"), named("parentheses"), named("house")
    ((')',), ('.',), ('(', ')'), ())
    """
    words = text.lower().replace("-", " ").split()
    if not words:
        return ()
    last = words[-1]
    for ending in (last, _MANY.get(last, last), last.removesuffix("s"), last.removesuffix("es")):
        tokens = NAMES.get(" ".join([*words[:-1], ending]))
        if tokens is not None:
            return tokens
    return ()
