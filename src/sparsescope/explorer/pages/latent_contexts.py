"""Contexts as short markup: only tokens that are active, or foretold to be, have an element of their own.

    plain text<b class="a7 p4" data-v=1.23 data-p=0.8>token</b>plain text

`a1` to `a20` is the activation in twentieths of the latent's largest, `p1` to `p20` the one that its explanation
predicts; `data-v` and `data-p` are the values. Text that is the same for every latent is never repeated, so that a
page with thirty contexts stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from ...features.browsing import Shown
from ...report.words import escape_token
from ..rendering import HEAT, TOKEN, level


@dataclass(frozen=True)
class Window:
    """How much is shown of a context: tokens before and after its strongest one."""

    before: int
    after: int


@dataclass(frozen=True)
class Line:
    """A context as it is shown: `marked` is HTML, `code` its largest activation.

    `predicted` says whether it has what an explanation predicts beside what is.
    """

    marked: Markup
    code: float
    fragment: int
    document: int
    predicted: bool


@dataclass(frozen=True)
class _Token:
    """A visible token: its text, and the largest of its own values and those of hidden pieces before it."""

    text: str
    code: float
    predicted: float | None


def line(shown: Shown, maximum: float, window: Window) -> Line:
    """A context around its strongest token; around its middle where the latent is silent.

    Activations are shaded relative to `maximum`, the latent's largest.
    """
    codes = np.asarray(shown.codes, dtype=np.float64)
    active = bool((codes > 0).any())
    peak = int(codes.argmax()) if active else min(window.before, len(codes) - 1)
    begin, end = _bounds(shown.pieces, peak, window)
    simulated = None if shown.simulated is None else shown.simulated[begin:end]
    marked = marked_text(shown.pieces[begin:end], codes[begin:end], simulated, maximum)
    head, tail = ("…" if begin else ""), ("…" if end < len(shown.pieces) else "")
    code, predicted = float(codes.max(initial=0.0)), simulated is not None
    return Line(Markup(f"{head}{marked}{tail}"), code, shown.fragment, shown.document, predicted)


def marked_text(
    pieces: Sequence[str],
    codes: Float[np.ndarray, " token"],
    simulated: Float[np.ndarray, " token"] | None,
    maximum: float,
) -> Markup:
    """Tokens as HTML, of which only those above 0 are marked.

    A piece without text (the beginning of a character that several tokens make up) is not shown: its values go
    to the token that shows the character.

    >>> str(marked_text([" a", "<b", "c"], np.array([0.0, 2.0, 0.0]), None, 4.0))
    ' a<b class=a10 data-v=2>&lt;b</b>c'
    """
    parts: list[str] = []
    for token in _visible(pieces, codes, simulated):
        shade, foretold = level(token.code, maximum), _foretold(token.predicted, maximum)
        text = _cut(token.text)
        if not shade and not foretold:
            parts.append(escape_token(text))
            continue
        parts.append(f"<b{_marks(token, shade, foretold)}>{escape_token(_solid(text))}</b>")
    return Markup("".join(parts))


def _foretold(predicted: float | None, maximum: float) -> int:
    """The shade of a prediction: 0, unlike that of an activation, for what is as good as nothing."""
    return 0 if predicted is None or maximum <= 0 else max(0, min(HEAT, round(HEAT * predicted / maximum)))


def _marks(token: _Token, shade: int, foretold: int) -> str:
    """Attributes of a marked token. Without quotes where HTML needs none."""
    classes = " ".join(f"{kind}{place}" for kind, place in (("a", shade), ("p", foretold)) if place)
    quoted = f'"{classes}"' if " " in classes else classes
    value = f" data-v={_short(token.code)}" if shade else ""
    predicted = "" if token.predicted is None or not foretold else f" data-p={_short(token.predicted)}"
    return f" class={quoted}{value}{predicted}"


def _visible(
    pieces: Sequence[str], codes: Float[np.ndarray, " token"], simulated: Float[np.ndarray, " token"] | None
) -> list[_Token]:
    found: list[_Token] = []
    code, predicted = 0.0, 0.0
    for place, text in enumerate(pieces):
        code = max(code, float(codes[place]))
        if simulated is not None and math.isfinite(simulated[place]):
            predicted = max(predicted, float(simulated[place]))
        if text:
            found.append(_Token(text, code, None if simulated is None else predicted))
            code, predicted = 0.0, 0.0
    return found


def _bounds(pieces: Sequence[str], peak: int, window: Window) -> tuple[int, int]:
    """First and last + 1 token of a window, which never ends inside a character."""
    begin, end = max(0, peak - window.before), min(len(pieces), peak + window.after + 1)
    while end < len(pieces) and not pieces[end - 1]:
        end += 1
    while begin > 0 and not pieces[begin - 1]:
        begin -= 1
    return begin, end


def _cut(text: str) -> str:
    return text if len(text) <= TOKEN else f"{text[:TOKEN]}…"


def _solid(text: str) -> str:
    """White space that would be all there is to see of a marked token, made visible."""
    return text.replace(" ", "␣") if not text.strip(" ") else text


def _short(value: float) -> str:
    """A number in three digits, without an exponent that HTML would need quotes for.

    >>> _short(1.2345), _short(12345.0), _short(0.00012)
    ('1.23', '12345', '0.00012')
    """
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")
