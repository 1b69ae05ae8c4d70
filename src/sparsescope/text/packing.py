"""Documents to fixed contexts of token ids, with every boundary kept.

Documents are tokenised, cut at paragraph ends where they are long, given to a split, and laid end to
end into contexts. A context holds documents of one split only, so nothing of a held-out document is
ever seen, not even through attention. Attention does cross document boundaries inside a context, as
it did when models of this kind were trained.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import ConfigurationError, ModelError
from .document import Document, Text

SPLITS = ("train", "validation", "test")
BOS_POLICIES = ("auto", "document", "context", "none")
_SPLIT_BLOCK = (0,) * 8 + (1, 2)  # of every ten documents in a row: eight train, one validation, one test


@dataclass(frozen=True)
class Tokens:
    """Packed contexts. `n` contexts of `context` positions each.

    `document` counts pieces of text after cutting (-1 at padding); `source` is the index, in the Text,
    of the document that the piece was cut from, and `start`, `end` are character offsets in *that*, so
    that truth labels can be joined. `bos` marks inserted begin-of-sequence tokens (whose `start` equals
    `end`). `split` indexes `SPLITS`.
    """

    ids: Int[Tensor, "n context"]
    document: Int[Tensor, "n context"]
    source: Int[Tensor, "n context"]
    start: Int[Tensor, "n context"]
    end: Int[Tensor, "n context"]
    bos: Bool[Tensor, "n context"]
    split: Int[Tensor, " n"]

    def __len__(self) -> int:
        return self.ids.shape[0]

    @classmethod
    def join(cls, parts: "Iterable[Tokens]") -> "Tokens":
        """One table of all contexts of `parts`, in order."""
        items = list(parts)
        return cls(*(torch.cat([getattr(item, field.name) for item in items]) for field in fields(cls)))


def bos_policy(tokenizer: Any, asked: str = "auto") -> str:
    """Where a begin-of-sequence token goes: before each "document", each "context", or "none".

    "auto" puts one before each context when the tokenizer itself adds it to every text (Llama, Gemma),
    before each document when it merely has one (GPT-2, Pythia: their id may well be 0), and none when
    it has none. Raises `ConfigurationError` for an unknown policy or one that the tokenizer cannot do.
    """
    if asked not in BOS_POLICIES:
        raise ConfigurationError(f"unknown BOS policy {asked!r}: expected one of {', '.join(BOS_POLICIES)}.")
    bos = tokenizer.bos_token_id
    if asked == "auto":
        if bos is None:
            return "none"
        return "context" if tokenizer("a").input_ids[:1] == [bos] else "document"
    if asked != "none" and bos is None:
        raise ConfigurationError(
            f"BOS policy {asked!r} needs a tokenizer with a BOS token; this one has none. Use 'none'."
        )
    return asked


def pack(
    text: Text,
    tokenizer: Any,
    *,
    context: int = 128,
    bos: str = "auto",
    tokens: int | None = None,
    seed: int = 0,
    max_document_tokens: int = 2048,
) -> Iterator[Tokens]:
    """Contexts of `text`, one at a time (n = 1), until `tokens` token positions have been given.

    The last incomplete context of each split is dropped. The result is deterministic in its arguments.

    Raises `ConfigurationError` when the text has no documents, does not fill one context of every
    split, or ends before `tokens` were reached.
    """
    if tokenizer is None:
        raise ModelError("this model has no tokenizer, so text cannot be turned into tokens: use one that has.")
    if context < 2:
        raise ConfigurationError(f"context is {context}: expected at least 2 tokens.")
    policy = bos_policy(tokenizer, bos)
    open_contexts = [
        _Filler(context, split, tokenizer.bos_token_id if policy == "context" else None) for split in range(3)
    ]
    given, seen = 0, 0
    for number, piece in enumerate(_pieces(text, tokenizer, max_document_tokens)):
        seen += len(piece.ids)
        filler = open_contexts[_split_of(number, seed)]
        if policy == "document":
            filler.add(tokenizer.bos_token_id, number, piece.source, 0, 0, True)
        for index in range(len(piece.ids)):
            filler.add(piece.ids[index], number, piece.source, *piece.offsets[index], False)
        for full in filler.take():
            yield full
            given += context
            if tokens is not None and given >= tokens:
                _check_splits(text, context, tokens, open_contexts)
                return
    _check_enough(text, context, tokens, given, seen, [filler.filled for filler in open_contexts])


def _check_splits(text: Text, context: int, tokens: int, open_contexts: "list[_Filler]") -> None:
    lacking = [SPLITS[filler.split] for filler in open_contexts if not filler.filled]
    if lacking:
        raise ConfigurationError(
            f"the first {tokens:,} tokens of {text.name} do not fill one context of {context} tokens for "
            f"{' and '.join(lacking)}: ask for more tokens, or a smaller context. Of every ten documents in a row "
            "eight go to train and one each to validation and test."
        )


def _check_enough(text: Text, context: int, tokens: int | None, given: int, seen: int, filled: list[int]) -> None:
    if not seen:
        raise ConfigurationError(f"{text.name} contains no text: expected at least one document that is not empty.")
    if not all(filled):
        lacking = ", ".join(split for split, contexts in zip(SPLITS, filled, strict=True) if not contexts)
        raise ConfigurationError(
            f"{text.name} is too short: its {seen:,} tokens do not fill one context of {context} tokens for {lacking}. "
            "Of every ten documents in a row eight go to train and one each to validation and test: "
            "give more text, or a smaller context."
        )
    if tokens is not None and given < tokens:
        raise ConfigurationError(
            f"{text.name} has {given:,} tokens in whole contexts, asked for {tokens:,}: "
            f"ask for at most {given:,}, or give more text."
        )


@dataclass(frozen=True)
class _Piece:
    ids: list[int]
    offsets: list[tuple[int, int]]
    source: int


def _pieces(text: Text, tokenizer: Any, longest: int) -> Iterator[_Piece]:
    """Tokenised documents, long ones cut at paragraph ends."""
    numbered = enumerate(text)
    while chunk := list(islice(numbered, 64)):
        encoded = tokenizer(
            [document.text for _, document in chunk],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for (source, document), ids, offsets in zip(
            chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            for begin, end in _cuts(document, offsets, longest):
                yield _Piece(ids[begin:end], offsets[begin:end], source)


def _cuts(document: Document, offsets: list[tuple[int, int]], longest: int) -> Iterator[tuple[int, int]]:
    """Token ranges of at most `longest`, each ending after a paragraph, else a line, else anywhere."""
    starts = np.array([start for start, _ in offsets])
    begin = 0
    while begin < len(offsets):
        end = min(begin + longest, len(offsets))
        if end < len(offsets):
            low, high = offsets[begin][1], offsets[end][0]
            for separator in ("\n\n", "\n"):
                found = document.text.rfind(separator, low, high)
                if found >= 0:
                    end = max(int(np.searchsorted(starts, found + len(separator))), begin + 1)
                    break
        yield begin, end
        begin = end


def _split_of(number: int, seed: int) -> int:
    """Split of document `number`: exact shares in every ten documents, shuffled by seed."""
    block, place = divmod(number, len(_SPLIT_BLOCK))
    order = list(_SPLIT_BLOCK)
    random.Random(f"sparsescope split {seed} {block}").shuffle(order)
    return order[place]


class _Filler:
    """One split's open context."""

    def __init__(self, context: int, split: int, first: int | None) -> None:
        self.context, self.split, self.first = context, split, first
        self.rows: list[tuple[int, int, int, int, int, bool]] = []
        self.filled = 0

    def add(self, token: int, document: int, source: int, start: int, end: int, bos: bool) -> None:
        if self.first is not None and len(self.rows) % self.context == 0:
            self.rows.append((self.first, document, source, start, start, True))
        self.rows.append((token, document, source, start, end, bos))

    def take(self) -> Iterator[Tokens]:
        """The contexts that are full by now."""
        while len(self.rows) >= self.context:
            rows, self.rows = self.rows[: self.context], self.rows[self.context :]
            self.filled += 1
            ids, document, source, start, end, bos = (torch.tensor([column]) for column in zip(*rows, strict=True))
            yield Tokens(ids, document, source, start, end, bos, torch.tensor([self.split]))
