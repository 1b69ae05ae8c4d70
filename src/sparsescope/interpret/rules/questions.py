"""Yes-or-no questions about a token where it stands. Trees are grown from them, and sentences made of them.

A question is a list that JSON can hold:

    ["at least", NAME, n]       a number of `Surroundings.numbers`
    ["kind", back, k]           the token `back` places before is of kind `KINDS[k]`; back 0 is the token itself
    ["spaced", back]            it begins with white space
    ["size", n]                 the token has at least n characters
    ["ends", back, affix]       likewise "begins"
    ["token", back, [id, ...]]  it is one of these tokens
    ["among", id]               this token is one of the `WINDOW` before
    ["value", t]                what the simpler rules expect here is at least t
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from numpy import ndarray

from .spelling import KINDS
from .surroundings import NEVER, Surroundings

Question = Sequence[Any]

WINDOW = 32
"""How far back the bag of words reaches."""
_BAG_TOKENS, _BAG_LEAST = 96, 8

_BOUNDS = {
    "place in the context": (1, 2, 4, 8, 16, 32, 64),
    "place in the document": (1, 2, 3, 4, 6, 8, 16, 32, 64),
    "place in the sentence": (1, 2, 3, 4, 6, 10, 16),
    "place in the line": (1, 2, 3, 4, 6, 10, 16),
    "place in the word": (1, 2, 3),
    "quotation around": (1,),
    "quotation open before": (1,),
    "quotation open after": (1,),
    "distance to the opening quotation mark": (1, 2, 3, 5, NEVER),
    "brackets around": (1, 2),
    "brackets open before": (1,),
    "brackets open after": (1,),
    "distance to the opening bracket": (1, 2, 3, 5, NEVER),
    "earlier occurrences": (1, 2, 3, 5),
    "distance to the last occurrence": (2, 3, 4, 6, 9, 17, 33),
    "repeats what followed before": (1,),
}


def standing(around: Surroundings) -> list[Question]:
    """All questions that are asked about every latent, for a text with these surroundings."""
    spelling = around.spelling
    asked: list[Question] = [["at least", name, bound] for name, bounds in _BOUNDS.items() for bound in bounds]
    asked += [["kind", back, k] for back in (0, 1, 2) for k in range(len(KINDS))]
    asked += [["spaced", back] for back in (0, 1)]
    asked += [["size", least] for least in (2, 3, 4, 6, 8)]
    asked += [["ends", 0, affix] for affix in spelling.endings]
    asked += [["begins", 0, affix] for affix in spelling.beginnings]
    return asked + [["among", token] for token in _bag(around)]


def _bag(around: Surroundings) -> list[int]:
    """Tokens for the bag of words: not so rare, nor so frequent, that a window says nothing by having one."""
    count = np.bincount(around.ids, minlength=1)
    share = 1 - np.exp(-WINDOW * count / len(around.ids))
    order = np.argsort(-share * (1 - share), kind="stable")
    return [int(token) for token in order[:_BAG_TOKENS] if count[token] >= _BAG_LEAST]


def answer(
    question: Question,
    around: Surroundings,
    rows: Int64[ndarray, " row"] | slice,
    value: Float64[ndarray, " row"] | None = None,
) -> Bool[ndarray, " row"]:
    """The answers at some positions. `value` is what simpler rules expect there, for questions about that."""
    what, spelling = question[0], around.spelling
    if what == "at least":
        return around.numbers[question[1]][rows] >= question[2]
    if what == "value":
        assert value is not None
        return value >= question[1]
    if what == "among":
        return around.among(question[1], WINDOW)[rows]
    if what == "size":
        return spelling.size[around.ids[rows]] >= question[1]
    token = around.earlier[question[1]][rows]
    if what == "token":
        table = np.zeros(len(spelling) + 1, bool)
        table[np.asarray(question[2], np.int64)] = True
        return table[token]  # the last place, which is that of -1, stays empty
    if what == "kind":
        found = spelling.kind[token] == question[2]
    elif what == "spaced":
        found = spelling.spaced[token]
    else:
        found = spelling.affixed(what, question[2])[token]
    return found & (token >= 0)


def packed(questions: Sequence[Question], around: Surroundings) -> UInt8[ndarray, "position byte"]:
    """The answers to all questions at all positions, a bit each."""
    bits = np.zeros((len(around.ids), -(-len(questions) // 8)), np.uint8)
    for number, question in enumerate(questions):
        bits[:, number >> 3] |= answer(question, around, slice(None)).astype(np.uint8) << np.uint8(7 - (number & 7))
    return bits
