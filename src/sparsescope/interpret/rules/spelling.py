"""What the text of one token says by itself: its kind, its ends, and the marks in it that open or close something."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int16
from numpy import ndarray

KINDS = (
    "lower-case letters",
    "a capitalised word",
    "capital letters",
    "mixed letters",
    "a number",
    "punctuation",
    "blank space",
    "a line break",
    "mixed characters",
)
ENDINGS, BEGINNINGS = 24, 12
"""How many of the vocabulary's most frequent word endings and beginnings are asked about."""

_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")
_CLOSERS = "\"')]}”’»"


def kind(piece: str) -> int:
    """Which of `KINDS` the text of a token is; white space around it does not count.

    >>> [KINDS[kind(piece)] for piece in (" Mary", "12.5", "USA", "),", "<|end|>")]
    ['a capitalised word', 'a number', 'capital letters', 'punctuation', 'mixed characters']
    """
    text = piece.strip()
    if not text:
        return 7 if "\n" in piece else 6
    if text.isalpha():
        if text.islower():
            return 0
        if text[0].isupper() and (len(text) == 1 or text[1:].islower()):
            return 1
        return 2 if text.isupper() else 3
    if any(letter.isdigit() for letter in text) and all(letter.isdigit() or letter in ".,:-%/" for letter in text):
        return 4
    return 5 if not any(letter.isalnum() for letter in text) else 8


class Spelling:
    """Properties of every token of a vocabulary, by token id. `pieces` is the text of each token by itself."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = list(pieces)
        self.kind: Int16[ndarray, " vocabulary"] = np.array([kind(piece) for piece in self.pieces], np.int16)
        self.size: Int16[ndarray, " vocabulary"] = np.array(
            [min(len(piece.strip()), 99) for piece in self.pieces]
        ).astype(np.int16)
        self.spaced = self._where(lambda piece: piece[:1].isspace())
        self.line = self._where(lambda piece: "\n" in piece)
        self.paragraph = self._where(lambda piece: "\n\n" in piece)
        self.sentence = self._where(lambda piece: piece.strip().rstrip(_CLOSERS).endswith(_SENTENCE_ENDS))
        self.continues = self._where(lambda piece: piece[:1].isalnum())
        self.wordlike = self._where(lambda piece: piece[-1:].isalnum())
        self.quotes = self._count('"') % 2 == 1
        self.quote_opens, self.quote_closes = self._count("“«") > 0, self._count("”»") > 0
        self.opens, self.closes = self._count("([{"), self._count(")]}")
        self._affixes: dict[tuple[str, str], Bool[ndarray, " vocabulary"]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def endings(self) -> list[str]:
        """The `ENDINGS` most frequent last one to three letters, of words at least two letters longer."""
        return self._frequent(lambda word, n: word[-n:], ENDINGS)

    @cached_property
    def beginnings(self) -> list[str]:
        """The `BEGINNINGS` most frequent first two or three letters of tokens at least two letters longer."""
        return self._frequent(lambda word, n: word[:n], BEGINNINGS, shortest=2)

    def affixed(self, end: str, affix: str) -> Bool[ndarray, " vocabulary"]:
        """Which tokens "ends" or "begins" with `affix`, and have at least two letters more."""
        if (end, affix) not in self._affixes:

            def has(piece: str) -> bool:
                word = piece.strip()
                matches = word.endswith(affix) if end == "ends" else word.startswith(affix)
                return matches and len(word) >= len(affix) + 2

            self._affixes[end, affix] = self._where(has)
        return self._affixes[end, affix]

    def _frequent(self, part: Callable[[str, int], str], wanted: int, shortest: int = 1) -> list[str]:
        words = [word for word in (piece.strip() for piece in self.pieces) if word.isalpha()]
        found = Counter(part(word, n) for n in range(shortest, 4) for word in words if len(word) >= n + 2)
        return sorted(found, key=lambda affix: (-found[affix], affix))[:wanted]

    def _where(self, holds: Callable[[str], bool]) -> Bool[ndarray, " vocabulary"]:
        return np.array([holds(piece) for piece in self.pieces], bool)

    def _count(self, marks: str) -> Int16[ndarray, " vocabulary"]:
        return np.array([sum(piece.count(mark) for mark in marks) for piece in self.pieces], np.int16)
