"""Tokens, patterns and questions in words. Text of the corpus is always quoted, its control characters escaped."""

from collections.abc import Sequence

from .patterns import ANY
from .questions import WINDOW, Question
from .spelling import KINDS, Spelling
from .surroundings import NEVER

SHOWN = 4
"""Tokens listed before "or n others"."""

_LONGEST = 40


def quoted(text: str) -> str:
    r"""As a Python literal, shortened: line breaks, escape sequences and writing-direction marks cannot act.

    >>> print(quoted("don't\x1b[2J"), quoted("\u202eab\n"))
    "don't\x1b[2J" '\u202eab\n'
    """
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def listed(texts: Sequence[str]) -> str:
    """One quoted text as it is, several in braces; beyond `SHOWN`, their number.

    >>> listed(["a"]), listed([" a", "b", "c", "d", "e", "f"])
    ("'a'", "{' a', 'b', 'c', 'd' or 2 others}")
    """
    if len(texts) == 1:
        return quoted(texts[0])
    shown = ", ".join(quoted(text) for text in texts[:SHOWN])
    more = len(texts) - SHOWN
    together = shown + (f" or {more} other{'s' if more > 1 else ''}" if more > 0 else "")
    return "{" + together + "}"


def before(pattern: Sequence[int], spelling: Spelling) -> str:
    """The text that a pattern asks for to the left of its token, with … for any token.

    >>> before((3, 0, -1, 1), Spelling([" b", "a", "?", "x"]))
    'a… b'
    """
    last = max(back for back, token in enumerate(pattern) if token != ANY)
    return "".join("…" if pattern[back] == ANY else spelling.pieces[pattern[back]] for back in range(last, 0, -1))


def condition(question: Question, yes: bool, spelling: Spelling) -> str:
    """What holds of a token for which the question is answered so; empty for questions without words."""
    what = question[0]
    if what == "at least":
        return _compared(question[1], question[2], yes)
    if what == "value":
        return ""
    if what == "among":
        return f"{'with' if yes else 'without'} {quoted(spelling.pieces[question[1]])} in the {WINDOW} tokens before"
    no = "" if yes else "not "
    if what == "size":
        return f"of {question[1]} characters or more" if yes else f"of fewer than {question[1]} characters"
    if what == "token":
        return f"{no}{_after(question[1])}{listed([spelling.pieces[token] for token in question[2]])}"
    if what == "kind":
        after = _after(question[1])
        return f"{no}{after}{KINDS[question[2]]}" if after else f"that is {no}{KINDS[question[2]]}"
    if what == "spaced":
        after = _after(question[1])
        return f"{no}{after}a token that begins with white space" if after else f"{no}beginning with white space"
    verb = {"ends": "ending", "begins": "beginning"}[what]
    after = _after(question[1])
    return f"{no}{after}{'a token ' if after else ''}{verb} in {quoted(question[2])}"


def _after(back: int) -> str:
    return ("", "right after ", "two after ", "three after ")[back]


_PLACES = {
    "place in the context": "the context",
    "place in the document": "its document",
    "place in the sentence": "its sentence",
    "place in the line": "its line",
    "place in the word": "its word",
}
_FLAGS = {
    "quotation around": ("inside a quotation", "not inside a quotation"),
    "quotation open before": ("inside or closing a quotation", "outside or opening a quotation"),
    "quotation open after": ("inside or opening a quotation", "outside or closing a quotation"),
    "brackets around": ("inside brackets", "not inside brackets"),
    "brackets open before": ("inside or closing brackets", "outside or opening brackets"),
    "brackets open after": ("inside or opening brackets", "outside or closing brackets"),
    "earlier occurrences": ("seen before in its document", "not seen before in its document"),
    "repeats what followed before": (
        "that followed the token before it the last time, too",
        "that did not follow the token before it the last time",
    ),
}
_MARKS = {
    "distance to the opening quotation mark": "an opening quotation mark",
    "distance to the opening bracket": "an opening bracket",
}


def _compared(name: str, bound: int, yes: bool) -> str:
    """A number at least as large as `bound`, or smaller."""
    if name in _PLACES:
        if bound == 1:
            return f"{'not ' if yes else ''}first in {_PLACES[name]}"
        return f"{'after' if yes else 'among'} the first {bound} tokens of {_PLACES[name]}"
    if name in _MARKS:
        if bound == NEVER:
            return f"{'with no' if yes else 'somewhere after'} {_MARKS[name].removeprefix('an ' if yes else '')}" + (
                " before it" if yes else ""
            )
        if bound == 1:
            return f"{'not ' if yes else ''}{_MARKS[name]}"
        return f"{'not ' if yes else ''}within {bound - 1} token{'s' if bound > 2 else ''} of {_MARKS[name]}"
    if bound == 1:
        return _FLAGS[name][0 if yes else 1]
    if name == "distance to the last occurrence":
        return f"{'not ' if yes else ''}seen in the {bound - 1} token{'s' if bound > 2 else ''} before"
    if name == "earlier occurrences":
        return f"seen {'at least' if yes else 'fewer than'} {bound} times before in its document"
    return f"inside {'at least' if yes else 'fewer than'} {bound} brackets"
