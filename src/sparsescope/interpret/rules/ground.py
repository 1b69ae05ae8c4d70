"""What the latents explained from one split have in common: its text, seen as rules see it."""

from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray

from ...features.fragments import Fragments
from .patterns import Patterns
from .questions import Question, packed, standing
from .rows import MOST_ROWS
from .surroundings import Surroundings
from .tree import MOST_OWN


class Ground:
    """What all latents of an explaining split have in common, computed when it is first needed."""

    def __init__(self, fragments: Fragments, around: Surroundings) -> None:
        self.fragments, self.around = fragments, around

    @cached_property
    def patterns(self) -> Patterns:
        return Patterns(self.around)

    @cached_property
    def questions(self) -> list[Question]:
        return standing(self.around)

    @cached_property
    def bits(self) -> UInt8[ndarray, "position byte"]:
        return packed(self.questions, self.around)

    @cached_property
    def _answers(self) -> Float64[ndarray, "row question"]:
        return np.zeros((MOST_ROWS, len(self.questions) + MOST_OWN))

    def answers(self, rows: Int64[ndarray, " row"]) -> Float64[ndarray, "row question"]:
        """1 where a standing question is answered yes, and room for a latent's own; overwritten by the next call."""
        found = self._answers[: len(rows)]
        found[:, : len(self.questions)] = np.unpackbits(self.bits[rows], axis=1, count=len(self.questions))
        return found

    @cached_property
    def positions(self) -> Int64[ndarray, "fragment position"]:
        return positions(self.fragments)

    @cached_property
    def all_rows(self) -> Int64[ndarray, " row"]:
        return self.positions[self.fragments.known]


def positions(fragments: Fragments) -> Int64[ndarray, "fragment position"]:
    """Where each token of the fragments stands in the contexts laid end to end; 0 behind the end of a fragment."""
    place = fragments.context * fragments.tokens.ids.shape[1] + fragments.start
    return np.where(fragments.real, place[:, None] + np.arange(fragments.ids.shape[1]), 0)
