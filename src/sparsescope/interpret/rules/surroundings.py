"""Where every token of a text stands: what came before it in its document, and what is open around it.

Everything is computed once for the contexts of a split, from left to right, and never looks beyond the
beginning of the document or of the context: the model did not see further either, except into earlier
documents of the same context, which have nothing to do with it.
"""

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, UInt8
from numpy import ndarray

from ...text import Tokens
from .spelling import Spelling

ORDER = 4
"""Tokens in the longest pattern, the token itself included."""

NEVER = 9999
"""Stands for a distance to something that has not been there."""


class Surroundings:
    """Attributes of each position of the contexts of a split, laid end to end.

    `earlier[k]` is the id of the token k places before (k = 0: the token itself), -1 where that is
    another document. `numbers` are attributes that can be compared, by name.
    """

    def __init__(self, tokens: Tokens, spelling: Spelling) -> None:
        self.spelling = spelling
        self._among: dict[tuple[int, int], UInt8[ndarray, " byte"]] = {}
        self.shape = tuple(tokens.ids.shape)
        ids = tokens.ids.numpy().astype(np.int32)
        document = tokens.document.numpy()
        first = np.ones(self.shape, bool)
        first[:, 1:] = document[:, 1:] != document[:, :-1]
        self.ids: Int32[ndarray, " position"] = ids.ravel()
        self.stretch: Int64[ndarray, " position"] = np.cumsum(first.ravel()) - 1
        """The number of the stretch of one document inside one context."""
        self.document: Int64[ndarray, " position"] = document.ravel().astype(np.int64)
        begin = np.flatnonzero(first.ravel())
        since = (np.arange(len(self.ids)) - begin[self.stretch]).astype(np.int16)
        self.earlier: Int32[ndarray, "back position"] = np.full((ORDER, len(self.ids)), -1, np.int32)
        for back in range(ORDER):
            there = np.flatnonzero(since >= back)
            self.earlier[back, there] = self.ids[there - back]
        self.numbers: dict[str, Int16[ndarray, " position"]] = {
            "place in the context": np.tile(np.arange(self.shape[1], dtype=np.int16), self.shape[0]),
            "place in the document": since,
            **_scan(ids, first, spelling),
            **self._repeats(),
        }

    def _repeats(self) -> dict[str, Int16[ndarray, " position"]]:
        """About the last time that the same token stood in the same document and context."""
        size = len(self.ids)
        order = np.argsort(self.stretch * (int(self.ids.max(initial=0)) + 1) + self.ids, kind="stable")
        same = np.zeros(size, bool)
        same[1:] = (self.ids[order[1:]] == self.ids[order[:-1]]) & (self.stretch[order[1:]] == self.stretch[order[:-1]])
        last = np.full(size, -1)
        last[order[1:][same[1:]]] = order[:-1][same[1:]]
        run = np.maximum.accumulate(np.where(same, 0, np.arange(size)))
        count = np.empty(size, np.int64)
        count[order] = np.arange(size) - run
        distance = np.where(last >= 0, np.arange(size) - last, NEVER)
        # Does the token follow as it followed the last time that the token before it was there?
        induced = np.zeros(size, bool)
        inside = np.flatnonzero(self.earlier[1] >= 0)
        then = last[inside - 1]
        induced[inside] = (then >= 0) & (self.ids[then + 1] == self.ids[inside])
        return {
            "earlier occurrences": np.minimum(count, NEVER).astype(np.int16),
            "distance to the last occurrence": np.minimum(distance, NEVER).astype(np.int16),
            "repeats what followed before": induced.astype(np.int16),
        }

    def among(self, token: int, window: int) -> Bool[ndarray, " position"]:
        """Where `token` is one of the `window` tokens before, in the same document."""
        size = len(self.ids)
        if (token, window) not in self._among:
            there = np.flatnonzero(self.ids == token)
            last = np.zeros(size, np.int64)  # where it was last, at or before each position, counted from 1
            last[there] = there + 1
            last = np.maximum.accumulate(last)
            behind = np.append(0, last[:-1])  # before each position
            begin = np.arange(size) - self.numbers["place in the document"]
            near = (behind > begin) & (behind > np.arange(size) - window)
            self._among[token, window] = np.packbits(near)
        return np.unpackbits(self._among[token, window], count=size).astype(bool)


def _scan(
    ids: Int32[ndarray, "context position"], first: Bool[ndarray, "context position"], spelling: Spelling
) -> dict[str, Int16[ndarray, " position"]]:
    """What has to be followed token by token: sentences, lines, words, quotations and brackets.

    Straight quotation marks open and close in turn; a blank line closes a quotation that was left open.
    """
    names = (
        *("place in the sentence", "place in the line", "place in the word"),
        *(
            "quotation open before",
            "quotation open after",
            "quotation around",
            "distance to the opening quotation mark",
        ),
        *("brackets open before", "brackets open after", "brackets around", "distance to the opening bracket"),
    )
    count, width = ids.shape
    found = np.zeros((len(names), width, count), np.int16)
    sentence, line, word, depth = (np.zeros(count, np.int16) for _ in range(4))
    quoted, after_sentence, after_line, after_word = (np.zeros(count, bool) for _ in range(4))
    mark, bracket = (np.full(count, NEVER, np.int16) for _ in range(2))
    for place in range(width):
        token, new = ids[:, place], first[:, place]
        sentence = np.where(new | after_sentence, 0, sentence + 1)
        line = np.where(new | after_line, 0, line + 1)
        word = np.where(~new & after_word & spelling.continues[token], word + 1, 0)
        blank = spelling.paragraph[token] | (spelling.line[token] & after_line)
        quoted, depth = quoted & ~new, np.where(new, 0, depth)
        mark, bracket = (np.where(new, NEVER, np.minimum(distance + 1, NEVER)) for distance in (mark, bracket))
        before = quoted, depth
        quoted = ((quoted ^ spelling.quotes[token]) | spelling.quote_opens[token]) & ~spelling.quote_closes[token]
        quoted = quoted & ~blank
        depth = np.maximum(depth + spelling.opens[token] - spelling.closes[token], 0)
        mark = np.where(quoted & ~before[0], 0, mark)
        bracket = np.where(depth > before[1], 0, bracket)
        quotation = before[0], quoted, before[0] & quoted, mark
        found[:, place] = (sentence, line, word, *quotation, before[1], depth, np.minimum(before[1], depth), bracket)
        after_sentence = spelling.sentence[token] | blank
        after_line, after_word = spelling.line[token], spelling.wordlike[token]
    return {name: np.ascontiguousarray(values.T).ravel() for name, values in zip(names, found, strict=True)}
