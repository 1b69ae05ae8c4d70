"""A short part of a text around what was looked for in it."""

import re
from dataclasses import dataclass

_BEFORE, _AFTER = 90, 160  # characters

_LINES = re.compile(r"\n+")


@dataclass(frozen=True)
class Quotation:
    """Parts of a text in their order: what was looked for (marked), and what is around it."""

    parts: tuple[tuple[str, bool], ...]


def quotation(text: str, looked_for: str) -> Quotation:
    """The text around the first place of what was looked for, in any case: the whole of it, or else its words.

    Line ends are signs, so that a quotation is a few lines high whatever the text is.

    >>> quotation("one Two three", "two").parts
    (('one ', False), ('Two', True), (' three', False))
    """
    places = _places(text, looked_for)
    begin = max(0, places[0][0] - _BEFORE) if places else 0
    end = min(len(text), begin + _BEFORE + _AFTER)
    parts: list[tuple[str, bool]] = [("…", False)] if begin else []
    at = begin
    for start, stop in places:
        if start < at or start >= end:
            continue
        parts += [(text[at:start], False), (text[start : min(stop, end)], True)]
        at = min(stop, end)
    parts.append((text[at:end] + ("…" if end < len(text) else ""), False))
    return Quotation(tuple((_LINES.sub(_shown, part), marked) for part, marked in parts if part))


def _shown(ends: "re.Match[str]") -> str:
    """One sign for each of a few line ends; the space after them lets the line break there."""
    return "⏎" * min(len(ends.group()), 3) + " "


def _places(text: str, looked_for: str) -> list[tuple[int, int]]:
    whole = looked_for.strip() or looked_for
    for pattern in (re.escape(whole), "|".join(rf"\b{re.escape(word)}\b" for word in whole.split())):
        found = (
            [match.span() for match in re.finditer(pattern, text, re.IGNORECASE) if match.group()] if pattern else []
        )
        if found:
            return found
    return []
