"""A made-up world in which every latent's code follows in closed form: the truth of a made-up run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ..features.fragments import LENGTH, SHORTEST

STRENGTHS = (1.0, 0.6, 0.3, 0.15)
"""Of a latent's favourite tokens, strongest first."""
_APART = (0, 17, 41, 97)

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\u202e\u2066reversed\u2069",
    "a\x00b",
    "\ud800",
    "x" * 100_000,
    "שלום",
    "👩‍👩‍👧‍👦",
    "'; DROP TABLE cards;--",
    '" onmouseover="alert(3)',
    "{{ 7 * 7 }}",
    "\x1b[31mred",
    "\u2028",
    "&amp;&lt;",
)
"""Texts that no page may take for anything but text."""
WORDS = (
    *(")", "(", "]", "[", "}", "{", ".", ",", ":", "\n", "\n\n", "  ", "\t", "the", " the", " and", "of", "ing", "1"),
    *("2024", " def", " return", " Paris", " London", "日本", "é", "🙂", " not", " never", "'s", '"', "`", "=", " =="),
)
FEWEST = 120
"""Tokens in the smallest vocabulary: a latent's favourites are different ones."""


class Vocabulary:
    """The tokens of the world, `texts` by id; decodes as a tokenizer does."""

    def __init__(self, size: int, hostile: bool = False) -> None:
        first = (*HOSTILE, *WORDS) if hostile else WORDS
        self.texts = [*first, *(f" word{number}" for number in range(len(first), size))][:size]

    def __len__(self) -> int:
        return len(self.texts)

    def decode(self, ids: Any, **settings: Any) -> str:
        return "".join(self.texts[int(number)] for number in ids)


@dataclass(frozen=True, eq=False)
class World:
    """Text in fragments, and the codes of every latent of every dictionary (counted from 0) on it.

    A latent fires on its favourite tokens alone: its code there is its amplitude, times the strength of that
    token for it, times a factor between 1/2 and 1 that belongs to the place in the text. One of twenty latents
    has no favourite, and one of fifty likes every seventh token.
    """

    vocabulary: Vocabulary
    fragments: int
    seed: int = 0
    ids: Int64[np.ndarray, "fragment position"] = field(init=False)
    lengths: Int64[np.ndarray, " fragment"] = field(init=False)
    factor: Float32[np.ndarray, "fragment position"] = field(init=False)
    places: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        source = np.random.default_rng(self.seed)
        shape, size = (self.fragments, LENGTH), len(self.vocabulary)
        share = 1 / (np.arange(size) + 3.0)
        common = source.choice(size, shape, p=share / share.sum())
        ids = np.where(source.random(shape) < 0.5, common, source.integers(0, size, shape))
        lengths = np.where(
            source.random(self.fragments) < 0.8, LENGTH, source.integers(SHORTEST, LENGTH, self.fragments)
        )
        ids[np.arange(LENGTH) >= lengths[:, None]] = -1
        order = np.argsort(ids, axis=None, kind="stable")
        begin = np.searchsorted(ids.ravel()[order], np.arange(size + 1))
        found = {"ids": ids, "lengths": lengths, "factor": 0.5 + 0.5 * source.random(shape, np.float32)}
        for name, value in {**found, "places": (order, begin)}.items():
            object.__setattr__(self, name, value)

    @property
    def rows(self) -> int:
        """Tokens in the text."""
        return int(self.lengths.sum())

    def favourites(
        self, dictionary: int, latent: int
    ) -> tuple[Int64[np.ndarray, " token"], Float64[np.ndarray, " token"]]:
        """The token ids that a latent fires on, and how strongly."""
        size, start = len(self.vocabulary), latent + 11 * dictionary
        if latent % 20 == 19:
            return np.zeros(0, np.int64), np.zeros(0)
        if latent % 50 == 7:
            ids = np.arange(latent % 7, size, 7)
            return ids, np.full(len(ids), 0.5)
        return (start + np.array(_APART)) % size, np.array(STRENGTHS)

    def amplitude(self, latent: int) -> float:
        """What a latent's largest code would be on a favourite place."""
        return 1.0 + latent % 10

    def active(self, dictionary: int, latent: int) -> tuple[Int64[np.ndarray, " row"], Float32[np.ndarray, " row"]]:
        """Where in the text (fragment · LENGTH + position) a latent is active, ascending, and its codes there."""
        order, begin = self.places
        ids, strengths = self.favourites(dictionary, latent)
        if not len(ids):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        rows = np.concatenate([order[begin[token] : begin[token + 1]] for token in ids])
        strength = np.repeat(strengths, [begin[token + 1] - begin[token] for token in ids])
        codes = (self.amplitude(latent) * strength * self.factor.ravel()[rows]).astype(np.float32)
        sort = np.argsort(rows)
        return rows[sort], codes[sort]

    def explanation(self, dictionary: int, latent: int) -> str | None:
        """Two of three latents that ever fire have one."""
        ids, _ = self.favourites(dictionary, latent)
        if latent % 3 == 2 or not len(ids):
            return None
        texts = [self.vocabulary.texts[token] for token in ids[:2]]
        return (
            f"the token {texts[0]!r} or {texts[1]!r}: latent number{latent}" if latent % 2 else f"{texts[0]} and more"
        )
