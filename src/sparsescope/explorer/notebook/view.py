"""What a notebook shows of a value: HTML that depends on nothing around it, and text for a plain terminal."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

WRAPPER = "ssnb"
"""The class of the element around everything: every style rule begins with it."""
_JOINERS = "\u200c\u200d"  # within emoji and within words of some languages


@dataclass(frozen=True)
class View:
    """Something to be shown. A notebook takes `_repr_html_`, a terminal the text."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def whole(body: str) -> str:
    """HTML that can stand anywhere: the styles it needs are in it and reach nothing else. No script, no request."""
    return f'<div class="{WRAPPER}"><style>{_styles()}</style>{body}</div>'


def plain(text: str, longest: int = 200) -> str:
    """Text for a terminal: one line, what cannot be printed written as a code, and no longer than `longest`.

    >>> plain("a\\x1b[31m\\n b")
    'a\\\\x1b[31m\\\\n b'
    """
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(each if each.isprintable() or each in _JOINERS else ascii(each)[1:-1] for each in shown)


@cache
def _styles() -> str:
    return " ".join((Path(__file__).parent / "notebook.css").read_text(encoding="utf-8").split())
