"""Text cut into pieces of one document each: what explanations are made from and scored on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64

from ..activations.base import Activations
from ..errors import ConfigurationError
from ..metrics.evaluate import draw_contexts
from ..text import Tokens

LENGTH = 64
SHORTEST = 16
"""Tokens in a fragment: the most, as in Bills et al. 2023, and the fewest that are worth judging."""


@dataclass(frozen=True, eq=False)
class Fragments:
    """Pieces of at most `LENGTH` consecutive tokens, each of one document inside one context of a split.

    `ids` are token ids, 0 behind the end of a fragment; `real` says where there is a token, and `known`
    where there is a token whose activation the store has: only those are scored. `context` is the number
    of the fragment's context in `tokens`, `start` the position there of its first token, `length` how many
    tokens it has, `document` the number of its document. Pieces shorter than `SHORTEST` were left out;
    `coverage` is the share that remains of the activations of the contexts that were cut. `tokens` are
    the contexts of the whole split, for what lies further left than a fragment.
    """

    tokens: Tokens
    split: str
    ids: Int32[np.ndarray, "fragment position"]
    real: Bool[np.ndarray, "fragment position"]
    known: Bool[np.ndarray, "fragment position"]
    context: Int64[np.ndarray, " fragment"]
    start: Int64[np.ndarray, " fragment"]
    length: Int64[np.ndarray, " fragment"]
    document: Int64[np.ndarray, " fragment"]
    coverage: float

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, tokenizer: Any, numbers: Sequence[int] | Int64[np.ndarray, " n"]) -> list[list[str]]:
        """The text of each token of the fragments `numbers`, such that a fragment's together are its text."""
        single: dict[int, str] = {}
        found = []
        for number in numbers:
            ids = self.ids[number, : self.length[number]].tolist()
            for token in ids:
                if token not in single:
                    single[token] = _decode(tokenizer, [token])
            # Decoding each token by itself is right for most text, and quick; `pieces` is always right.
            texts, whole = [single[token] for token in ids], _decode(tokenizer, ids)
            alone = "".join(texts) == whole and "\ufffd" not in whole
            found.append(texts if alone else pieces(tokenizer, ids))
        return found


def cut(
    store: Activations,
    split: str,
    *,
    max_tokens: int | None = None,
    seed: int = 0,
    length: int = LENGTH,
    shortest: int = SHORTEST,
) -> Fragments:
    """Cut the contexts of a split into fragments, in the order of the text.

    With `max_tokens`, whole contexts are drawn until there are as many tokens, as `evaluate` draws them:
    with one seed, a smaller draw is part of a larger one. Each stretch of one document is cut from its
    beginning into pieces of `length`; a rest shorter than `shortest` is left out, as is a piece without
    any activation.

    Raises `ConfigurationError` for lengths that cannot be meant, or when no fragment remains.
    """
    if not 1 <= shortest <= length:
        raise ConfigurationError(
            f"fragments of {shortest} to {length} tokens were asked for: expected 1 ≤ shortest ≤ length."
        )
    tokens = store.contexts(split)
    numbers = draw_contexts(tokens, max_tokens, seed)
    kept = store.kept(split).numpy()
    context, start, size = _stretches(tokens.document.numpy()[numbers], length)
    context, start, size = (column[size >= shortest] for column in (numbers[context], start, size))
    offset = np.arange(length)
    real = offset < size[:, None]
    # Behind the end, position 0 stands in: it always exists, and is masked.
    place = (context[:, None], np.where(real, start[:, None] + offset, 0))
    known = kept[place] & real
    useful = known.any(1)
    if not useful.any():
        raise ConfigurationError(
            f"the chosen contexts of the {split} split hold no stretch of {shortest} tokens of one document: "
            "allow more tokens, or harvest longer contexts."
        )
    ids = np.where(real, tokens.ids.numpy()[place], 0).astype(np.int32)
    return Fragments(
        tokens=tokens,
        split=split,
        ids=ids[useful],
        real=real[useful],
        known=known[useful],
        context=context[useful].astype(np.int64),
        start=start[useful].astype(np.int64),
        length=size[useful].astype(np.int64),
        document=tokens.document.numpy()[context, start][useful].astype(np.int64),
        coverage=float(known.sum() / max(kept[numbers].sum(), 1)),
    )


def _stretches(
    document: Int64[np.ndarray, "context position"], length: int
) -> tuple[Int64[np.ndarray, " piece"], Int64[np.ndarray, " piece"], Int64[np.ndarray, " piece"]]:
    """Row, first position and size of the pieces of at most `length` that each run of one document is cut into."""
    first = np.ones(document.shape, bool)
    first[:, 1:] = document[:, 1:] != document[:, :-1]
    begin = np.flatnonzero(first)
    size = np.diff(np.append(begin, document.size))
    inside = document.ravel()[begin] >= 0  # -1 is padding
    begin, size = begin[inside], size[inside]
    count = -(-size // length)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    rest = np.repeat(size, count) - number * length
    row, position = np.divmod(np.repeat(begin, count) + number * length, document.shape[1])
    return row, position, np.minimum(rest, length)


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, such that all of them together are the text of `ids`.

    Decoding tokens one by one loses what depends on the neighbours: leading spaces (SentencePiece), and
    characters of several tokens (byte-level BPE), whose earlier tokens get an empty text here.
    """
    texts, done = [], ""
    for end in range(1, len(ids) + 1):
        text = _decode(tokenizer, ids[:end])
        if text.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(done) :] if text.startswith(done) else _decode(tokenizer, ids[end - 1 : end]))
        done = text
    return texts


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
