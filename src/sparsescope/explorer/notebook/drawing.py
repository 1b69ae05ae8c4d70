"""Pieces of HTML that the cards of a notebook are made of. All text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from ...features.card import Card, Histogram
from ...report.words import escape, escape_token, interval, number, percent

LONGEST = 60
"""Characters of a token that are shown."""
SENTENCE = 600
"""Characters of an explanation that are shown."""
_WIDTH, _HEIGHT, _AXIS = 320, 84, 16  # of a histogram


def token(text: str) -> str:
    """A token for running text: line ends and tabs are visible, and it is cut where it is very long."""
    return escape_token(text if len(text) <= LONGEST else text[:LONGEST] + "…")


def marked(text: str) -> str:
    """A token by itself: its spaces are visible too.

    >>> marked(" def\\n")
    '␣def⏎\\u200b'
    """
    return token(text.replace(" ", "␣"))


def sentence(text: str | None) -> str:
    """An explanation, cut where it is very long; '–' where there is none."""
    if not text:
        return "–"
    return escape(text if len(text) <= SENTENCE else text[:SENTENCE] + "…")


def passage(pieces: Sequence[str], codes: Float32[np.ndarray, " token"], maximum: float) -> str:
    """A context: active tokens are shaded by their share of the maximum, the strongest is underlined."""
    peak = int(codes.argmax()) if len(codes) else -1
    parts = []
    for place, (piece, code) in enumerate(zip(pieces, codes.tolist(), strict=True)):
        if code <= 0:
            parts.append(token(piece))
            continue
        share = min(code / maximum, 1) if maximum > 0 else 0
        kind = "t peak" if place == peak else "t"
        shown = token(piece) if piece.strip(" ") else marked(piece)  # a shade on nothing would not be seen
        parts.append(f'<span class="{kind}" style="--a:{share:.2f}" title="{number(code)}">{shown}</span>')
    return f'<p class="context" dir="auto">{"".join(parts)}</p>'


def facts(entries: Iterable[tuple[str, str]]) -> str:
    """Names and values side by side; the values are HTML."""
    return '<dl class="facts">' + "".join(f"<div><dt>{escape(n)}</dt><dd>{v}</dd></div>" for n, v in entries) + "</dl>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose cells are HTML; the last `numbers` columns are numbers."""
    first = len(heads) - numbers

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if place >= first else ''}>{cell}</{tag}>" for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    head = f"<thead><tr>{row([*map(escape, heads)], 'th')}</tr></thead>" if any(heads) else ""
    kind = ' class="wide"' if any(heads) else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table></div>'


def chips(tokens: Iterable[tuple[str, float]]) -> str:
    """Tokens with the share of the activation that falls on each."""
    shown = (f'<span class="chip">{marked(text)} <small>{percent(share)}</small></span>' for text, share in tokens)
    return "".join(shown) or '<span class="note">none</span>'


def moved(title: str, tokens: Iterable[tuple[str, float]]) -> str:
    """Tokens and by how much each is moved."""
    rows = [(f'<span class="chip">{marked(text)}</span>', number(value)) for text, value in tokens]
    return f'<div><p class="part">{escape(title)}</p>{table(("", ""), rows, 1)}</div>' if rows else ""


def bars(histogram: Histogram, maximum: float) -> str:
    """How often the latent is how active, as a picture."""
    counts = histogram.counts.tolist()
    tallest, width = max([*counts, 1]), _WIDTH / max(len(counts), 1)
    shapes = "".join(
        f'<rect x="{place * width:.1f}" y="{_HEIGHT - size:.1f}" width="{width - 1:.1f}" height="{size:.1f}">'
        f"<title>{number(place / len(counts) * maximum)} to {number((place + 1) / len(counts) * maximum)}: "
        f"{count:,}</title></rect>"
        for place, count in enumerate(counts)
        if (size := _HEIGHT * count / tallest)
    )
    base, below = _HEIGHT + 0.5, _HEIGHT + _AXIS - 4
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _AXIS}" role="img" aria-label="How often the latent is how active">'
        f'{shapes}<line x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/><text x="0" y="{below}">0</text>'
        f'<text x="{_WIDTH}" y="{below}" text-anchor="end">{number(maximum)}</text></svg>'
    )


def estimate(value: Mapping[str, Any] | None) -> str:
    """A number with its interval, and over how many of what."""
    if value is None or value.get("value") is None:
        return "–"
    over = f"n = {value['n']:,} {escape(value.get('unit', 'unit'))}s" if value.get("n") else ""
    about = (interval({"low": None, "high": None, **value}), over)
    return f"{number(value['value'])} <small>{', '.join(each for each in about if each)}</small>"


CARD_HEADS = ("latent", "explanation", "tokens", "density", "score", "F1", "effect")
CARD_NUMBERS = 4


def card_row(card: Card) -> list[str]:
    """A latent as a row of a table."""
    return [
        f'<span class="name">{card.latent:,}</span>',
        sentence(card.explanation) if card.density else '<span class="note">never active</span>',
        chips(card.tokens[:3]) if card.tokens else "–",
        percent(card.density),
        number(card.score),
        number(card.f1),
        number(card.effect),
    ]
