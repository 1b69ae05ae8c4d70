"""Texts with planted latents, for tests of explanations by rules: two splits of different documents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from sparsescope.activations.base import Activations
from sparsescope.features.fragments import Fragments, cut
from sparsescope.features.sampling import stratify
from sparsescope.interpret.base import LEVELS, Evidence, Explanation
from sparsescope.text import Tokens

Codes = np.ndarray  # [context, position]
Plant = Callable[[list[str], np.random.Generator], list[float]]
"""Codes of the tokens of one document stretch, given their texts."""

NAMES = ["Mary", "John", "Anne", "Paul", "Tom"]
WORDS = [
    *("the", "a", "cat", "dog", "house", "river", "stone", "gave", "took"),
    *("walked", "stopped", "to", "from", "with", "quiet", "old", "red", "green"),
    *("light", "running", "singing", "jumping", "seeing", "doing", "talked", "moved", "opened"),
    *("bright", "tall", "wide", "open", "shut"),
]
NUMBERS = [str(number) for number in range(1000, 3400)]
PIECES = [
    *("<|end|>", '"', " (", ")", ".", ",", "\n", " don't", " can't", " stop"),
    *(f" {word}" for word in WORDS),
    *(f" {name}" for name in NAMES),
    *(f" {number}" for number in NUMBERS),
]


@dataclass(frozen=True, eq=False)
class _Store:
    """As much of a store as cutting needs: contexts, and which positions have an activation."""

    tokens: Tokens

    def contexts(self, split: str) -> Tokens:
        return self.tokens

    def kept(self, split: str) -> torch.Tensor:
        return ~self.tokens.bos


def packed(documents: Sequence[Sequence[int]], context: int = 128) -> Tokens:
    """Documents laid end to end, each after token 0, which has no activation."""
    ids: list[int] = []
    document: list[int] = []
    for number, tokens in enumerate(documents):
        ids += [0, *tokens]
        document += [number] * (len(tokens) + 1)
    whole = len(ids) // context * context
    table = torch.tensor(ids[:whole]).view(-1, context)
    numbers = torch.tensor(document[:whole]).view(-1, context)
    zeros = torch.zeros_like(table)
    return Tokens(table, numbers, numbers, zeros, zeros, table == 0, torch.zeros(len(table), dtype=torch.long))


def sentences(count: int, seed: int, numbers: Sequence[int]) -> list[list[int]]:
    """Documents of made-up sentences with quotations, brackets, repeated names and numbers from `numbers`."""
    draw = np.random.default_rng(seed)
    at = {piece: index for index, piece in enumerate(PIECES)}
    found = []
    for _ in range(count):
        words: list[str] = []
        for _ in range(int(draw.integers(4, 9))):
            middle = [f" {draw.choice(WORDS)}" for _ in range(int(draw.integers(3, 8)))]
            if draw.random() < 0.5:
                middle.insert(int(draw.integers(len(middle))), PIECES[int(draw.choice(numbers))])
            if draw.random() < 0.5:
                middle.insert(0, f" {draw.choice(NAMES)}")
            if draw.random() < 0.4:
                middle += [str(draw.choice([" don't", " can't", " to", " the"])), " stop"]
            kind = draw.random()
            if kind < 0.25:
                middle = ['"', *middle, '"']
            elif kind < 0.45:
                place = int(draw.integers(1, len(middle)))
                middle = [
                    *middle[:place],
                    " (",
                    f" {draw.choice(WORDS)}",
                    f" {draw.choice(WORDS)}",
                    ")",
                    *middle[place:],
                ]
            words += [*middle, "."]
        found.append([at[word] for word in words])
    return found


def synthetic(seed: int = 0, documents: int = 220) -> tuple[Fragments, Fragments]:
    """Explaining and scoring fragments; the numbers in one are other numbers than in the other."""
    first = PIECES.index(" 1000")
    explaining = packed(sentences(documents, seed, range(first, first + 1200)))
    scoring = packed(sentences(documents, seed + 1, range(first + 1200, first + 2400)))
    return fragments_of(explaining), fragments_of(scoring)


def fragments_of(tokens: Tokens) -> Fragments:
    return cut(cast(Activations, _Store(tokens)), "test")


def planted(fragments: Fragments, pieces: Sequence[str], plant: Plant, seed: int = 0) -> Codes:
    """Codes of every position, made stretch by stretch."""
    draw = np.random.default_rng(seed)
    tokens = fragments.tokens
    codes = np.zeros(tuple(tokens.ids.shape))
    for context in range(len(tokens)):
        document = tokens.document[context].numpy()
        for number in np.unique(document):
            there = np.flatnonzero(document == number)
            codes[context, there] = plant([pieces[token] for token in tokens.ids[context, there].tolist()], draw)
    codes[tokens.bos.numpy()] = 0
    return codes


def on(fragments: Fragments, codes: Codes, numbers: Any = slice(None)) -> np.ndarray:
    """The codes of some fragments, 0 where there is no activation."""
    place = np.where(fragments.real, fragments.start[:, None] + np.arange(fragments.ids.shape[1]), 0)
    found = codes[fragments.context[:, None], place] * fragments.known
    return found[numbers].astype(np.float32)


def evidence_of(fragments: Fragments, codes: Codes, pieces: Sequence[str], silent: int = 40, seed: int = 0) -> Evidence:
    """What an explainer would be given."""
    values = on(fragments, codes)
    maxima = values.max(1)
    active = maxima > 0
    order = np.argsort(-maxima, kind="stable")
    top = order[:20][maxima[order[:20]] > 0]
    others = np.setdiff1d(np.flatnonzero(active), top)
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(others, min(40, len(others)), replace=False))
    sample = stratify((top, values[top]), (chosen, values[chosen]), active, silent=silent, seed=seed)
    rows = ~fragments.tokens.bos.numpy()
    ids = fragments.tokens.ids.numpy()[rows]
    return Evidence(
        dictionary="planted",
        latent=seed,
        fragments=fragments,
        sample=sample,
        maximum=float(codes[rows].max()),
        density=float((codes[rows] > 0).mean()),
        token_sum=np.bincount(ids, codes[rows], len(pieces)),
        token_count=np.bincount(ids, minlength=len(pieces)),
        vocabulary=pieces,
    )


def correlation(simulator: Any, explanation: Explanation, fragments: Fragments, codes: Codes) -> float:
    """Over every known token of all fragments."""
    numbers = np.arange(len(fragments))
    (expected,) = simulator.simulate([explanation], fragments, [numbers])
    assert expected.shape == fragments.ids.shape
    assert expected.min() >= 0
    assert expected.max() <= LEVELS
    known = fragments.known
    return float(np.corrcoef(expected[known], on(fragments, codes)[known])[0, 1])
