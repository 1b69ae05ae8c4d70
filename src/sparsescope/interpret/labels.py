"""The truth labels of a text, joined to tokens.

Builtin stories say of every character what it is. A token has the labels of the spans it overlaps, each by
name and value ("name", "Anna") and by name alone ("name", whatever its value).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..activations.base import Activations
from ..errors import ArtifactError, ConfigurationError
from ..features.fragments import Fragments
from ..text import Document, Label, Text

FEWEST = 10
"""Labels on fewer tokens, in either split, are no candidates."""

LabelName = tuple[str, str | None]
"""A label's name, and its value or None for whatever value."""


@dataclass(frozen=True, eq=False)
class LabelledTokens:
    """The labels of the tokens of some fragments, in the order of the text.

    `row` numbers the tokens of labelled documents and is -1 elsewhere; `document` is each such token's
    document. `at[i]` is a token's row which has the label `names[label[i]]`, each pair once.
    """

    fragments: Fragments
    row: Int64[np.ndarray, "fragment position"]
    document: Int64[np.ndarray, " row"]
    names: list[LabelName]
    at: Int64[np.ndarray, " pair"]
    label: Int64[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.document)

    def table(self, names: Sequence[LabelName]) -> Any:
        """scipy CSR, row × name: where each of `names` is."""
        from scipy.sparse import csr_matrix

        column = {name: place for place, name in enumerate(names)}
        wanted = np.array([column.get(name, -1) for name in self.names], np.int64)[self.label]
        kept = wanted >= 0
        shape = (len(self), len(names))
        return csr_matrix((np.ones(kept.sum(), np.float32), (self.at[kept], wanted[kept])), shape=shape)


def label_tokens(text: Text, fragments: Fragments) -> LabelledTokens:
    """Join the labels of a text's documents to the tokens of fragments, by character offsets.

    Raises `ConfigurationError` when none of these documents has a label.
    """
    tokens = fragments.tokens
    offset = np.arange(fragments.ids.shape[1])
    place = (fragments.context[:, None], np.where(fragments.real, fragments.start[:, None] + offset, 0))
    source, start, end = (getattr(tokens, name).numpy()[place] for name in ("source", "start", "end"))
    written = fragments.known & (end > start)  # inserted begin-of-sequence tokens stand for no character
    joined = _Joined()
    labelled = np.zeros_like(written)
    for flat, document in _documents(text, source, written):
        if document.labels:
            labelled.reshape(-1)[flat] = True
            joined.add(document.labels, flat, start.reshape(-1)[flat], end.reshape(-1)[flat])
    if not joined.at:
        raise ConfigurationError(
            f"no document of {text.name} in the {fragments.split} split has truth labels: "
            "give the text that was harvested, builtin:stories or builtin:docs."
        )
    row = np.full(labelled.shape, -1, np.int64)
    row[labelled] = np.arange(labelled.sum())
    pairs = np.unique(np.stack([np.concatenate(joined.at), np.concatenate(joined.label)], 1), axis=0)
    document = np.broadcast_to(fragments.document[:, None], row.shape)[labelled]
    return LabelledTokens(fragments, row, document, list(joined.names), row.reshape(-1)[pairs[:, 0]], pairs[:, 1])


class _Joined:
    """Pairs of token and label found so far."""

    def __init__(self) -> None:
        self.names: dict[LabelName, int] = {}
        self.at: list[np.ndarray] = []
        self.label: list[np.ndarray] = []

    def add(self, labels: Sequence[Label], flat: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        for label in labels:
            # Offsets never decrease within a document, so the tokens that overlap a span are a range.
            first = np.searchsorted(end, label.start, side="right")
            last = np.searchsorted(start, label.end, side="left")
            if last <= first:
                continue
            names: tuple[LabelName, ...] = ((label.name, label.value), (label.name, None))
            for name in names:
                self.at.append(flat[first:last])
                self.label.append(np.full(last - first, self.names.setdefault(name, len(self.names))))


def _documents(text: Text, source: np.ndarray, written: np.ndarray) -> Iterator[tuple[np.ndarray, Document]]:
    """The documents of the text that have tokens here, with the flat places of those tokens in order."""
    flat = np.flatnonzero(written)
    of = source.reshape(-1)[flat]
    order = np.argsort(of, kind="stable")
    numbers, begins = np.unique(of[order], return_index=True)
    members = dict(zip(numbers.tolist(), np.split(flat[order], begins[1:]), strict=True))
    for number, document in enumerate(islice(text, int(numbers[-1]) + 1 if len(numbers) else 0)):
        if number in members:
            yield members[number], document


def check_text(text: Text, store: Activations) -> None:
    """Raise `ArtifactError` unless `store` was harvested from this very text."""
    if text.fingerprint != store.inputs["text"]:
        raise ArtifactError(
            f"{store} were made from another text than {text.name} as it is now (fingerprint {text.fingerprint[:12]}, "
            f"expected {str(store.inputs['text'])[:12]}): its labels would fall on the wrong tokens. "
            "Give the text and seed that were harvested, under the Python that harvested it."
        )


def candidates(explaining: LabelledTokens, scoring: LabelledTokens) -> list[LabelName]:
    """Labels on at least `FEWEST` tokens of both splits, in the order in which the text first has them.

    Of labels that always stand together ("name", "mention" and "person" by name alone) the first is chosen.
    """
    frequent = []
    for tokens in (explaining, scoring):
        counts = np.bincount(tokens.label, minlength=len(tokens.names))
        frequent.append({name for name, count in zip(tokens.names, counts, strict=True) if count >= FEWEST})
    both = [name for name in explaining.names if name in frequent[0] & frequent[1]]
    if not both:
        raise ConfigurationError(
            f"no label is on {FEWEST} tokens of both splits: harvest more text, or raise the limit of tokens."
        )
    return both
