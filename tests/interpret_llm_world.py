"""A few sentences cut into fragments, with a latent that is planted in them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sparsescope.features.fragments import Fragments
from sparsescope.features.gathering import Sample
from sparsescope.interpret.base import Evidence
from sparsescope.text import Tokens

SENTENCES = (
    "The old cat sat on the mat and the cat slept",
    "A dog saw no cat in the big house by the river",
    "Nothing at all happened in the town that long night",
    "Rain fell on a tab\there and a line\nthere",
)
CAT = 6.0


class Words:
    """A tokenizer whose tokens are words with the space before them."""

    def __init__(self, sentences: Sequence[str] = SENTENCES) -> None:
        parts = [self.cut(sentence) for sentence in sentences]
        self.vocabulary = sorted({part for each in parts for part in each})
        self.rows = [[self.vocabulary.index(part) for part in each] for each in parts]

    @staticmethod
    def cut(sentence: str) -> list[str]:
        words = sentence.split(" ")
        return [words[0], *(f" {word}" for word in words[1:])]

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return "".join(self.vocabulary[number] for number in ids)


def make_fragments(words: Words, length: int = 16) -> Fragments:
    """One fragment for each sentence."""
    count = len(words.rows)
    ids = np.zeros((count, length), np.int32)
    real = np.zeros((count, length), bool)
    for row, tokens in enumerate(words.rows):
        ids[row, : len(tokens)] = tokens
        real[row, : len(tokens)] = True
    table = torch.from_numpy(ids.astype(np.int64))
    documents = torch.where(torch.from_numpy(real), torch.arange(count)[:, None], -1)
    tokens = Tokens(table, documents, documents, table, table, ~torch.from_numpy(real), torch.zeros(count).long())
    number = np.arange(count)
    return Fragments(
        *(tokens, "test", ids, real, real.copy(), number, np.zeros(count, np.int64)), real.sum(1), number, 1.0
    )


def level(token: str) -> int:
    """What the planted latent does: 10 at "cat", 3 at "dog", 0 elsewhere."""
    return {"cat": 10, "dog": 3}.get(token.strip(), 0)


def make_evidence(words: Words, fragments: Fragments, latent: int = 0, scale: float = CAT / 10) -> Evidence:
    """What an explainer sees of the planted latent."""
    values = np.array([level(piece) for piece in words.vocabulary], np.float32) * scale
    codes = np.where(fragments.real, values[fragments.ids], 0).astype(np.float32)
    active = codes.max(1) > 0
    sample = Sample(np.arange(len(fragments)), codes, np.where(active, 0, 3), np.ones(len(fragments)))
    counts = np.bincount(fragments.ids[fragments.real], minlength=len(words.vocabulary))
    return Evidence(
        *("dictionary", latent, fragments, sample, float(codes.max()), float((codes > 0).mean())),
        token_sum=(values * counts).astype(np.float64),
        token_count=counts,
        vocabulary=words.vocabulary,
    )
