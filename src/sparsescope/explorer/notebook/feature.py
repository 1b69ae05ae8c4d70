"""One feature, and one context of it."""

import math
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32

from ...features.browsing import FeatureBrowser, Shelf, Shown
from ...features.card import Card, Detail
from ...features.reading import StoredExplanation, StoredLatent
from . import feature_card
from .drawing import passage
from .view import View, plain, whole

QUANTILES = 5


class Feature:
    """What one latent responds to and does. None stands for what was not measured or is undefined.

    `density` is the share of held-out tokens where it is active, `maximum` its largest code; `explanation`
    and `explainer` are what its card shows, `scores` how well that predicts it; `label` the truth label that
    it predicts best, with `f1`; `effect` the mean KL in nats that ablating it makes where it is strongest.
    """

    def __init__(self, browser: FeatureBrowser, shelf: Shelf, card: Card) -> None:
        self.browser, self.shelf, self.card = browser, shelf, card
        self.latent, self.dictionary = card.latent, shelf.name
        self.explanation, self.explainer, self.tokens = card.explanation, card.explainer, card.tokens
        self.density, self.maximum, self.entropy = card.density, card.maximum, card.entropy
        self.label, self.f1, self.effect = card.label, card.f1, card.effect

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """How well the explanation predicts the latent, by score; None where that could not be measured."""
        found = self.browser.scores_of(self.shelf.id, self.latent)
        return {each.score: each.value for each in found if each.explainer == self.explainer}

    @cached_property
    def explanations(self) -> list[StoredExplanation]:
        """What every explainer said."""
        return self.browser.explanations_of(self.shelf.id, self.latent)

    @cached_property
    def contexts(self) -> list["Context"]:
        """The fragments of held-out text where it is strongest, strongest first."""
        return [Context(each, self.maximum) for each in self.browser.shown(self.shelf.id, self.latent, "top")]

    @cached_property
    def quantiles(self) -> list[list["Context"]]:
        """Fragments drawn from those where it is active, in five equal parts, the strongest part first."""
        found = self.browser.shown_quantiles(self.shelf.id, self.latent, QUANTILES)
        return [[Context(each, self.maximum) for each in part] for part in found]

    @cached_property
    def detail(self) -> Detail:
        """Histogram, where it is active, and the measured effect of ablating it."""
        return self.browser.detail(self.shelf.id, self.latent)

    @cached_property
    def statistics(self) -> StoredLatent | None:
        """Moments of its codes, and its rankings of tokens and neighbours; None for a latent never active."""
        return self.browser.statistics(self.shelf.id, self.latent)

    @property
    def raised(self) -> list[tuple[str, float]]:
        """Tokens whose logits it raises most directly, and by how much per unit of its code."""
        return self._logits("raised")

    @property
    def lowered(self) -> list[tuple[str, float]]:
        """Tokens whose logits it lowers most directly."""
        return self._logits("lowered")

    @property
    def alike(self) -> list[tuple["Feature", float]]:
        """Features of the dictionary with the closest directions, and the cosine."""
        numbers, values = self._ranked("alike")
        cards = [self.browser.card(self.shelf.id, number) for number in numbers]
        return [(Feature(self.browser, self.shelf, card), v) for card, v in zip(cards, values, strict=True) if card]

    def show(self) -> View:
        """All about the feature: as a card in a notebook, as text in a terminal."""
        return View(feature_card.text(self), whole(feature_card.body(self)))

    def _ranked(self, name: str) -> tuple[list[int], list[float]]:
        return ([], []) if self.statistics is None else self.statistics.rankings.get(name, ([], []))

    def _logits(self, name: str) -> list[tuple[str, float]]:
        numbers, values = self._ranked(name)
        return list(zip(self.browser.texts(numbers), values, strict=True))

    def __repr__(self) -> str:
        said = "never active" if not self.density else plain(self.explanation or self._on(), 90)
        return f"Feature {self.latent} of {plain(self.dictionary)}: {said}"

    def _on(self) -> str:
        return "on " + ", ".join(repr(text[:20]) for text, _ in self.tokens[:3]) if self.tokens else "not explained"

    def _repr_html_(self) -> str:
        return whole(feature_card.brief(self))


class Context:
    """A fragment of text with the codes of one latent on its tokens."""

    def __init__(self, shown: Shown, maximum: float) -> None:
        self.tokens: list[str] = list(shown.pieces)
        self.codes: Float32[np.ndarray, " token"] = shown.codes
        self.simulated: Float32[np.ndarray, " token"] | None = shown.simulated
        self.document, self.fragment, self.maximum = shown.document, shown.fragment, maximum

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def peak(self) -> int:
        """Which token it is strongest on."""
        return int(self.codes.argmax())

    def body(self) -> str:
        """Its HTML, without the styles."""
        return passage(self.tokens, self.codes, self.maximum)

    def __repr__(self) -> str:
        before, after = "".join(self.tokens[: self.peak])[-60:], "".join(self.tokens[self.peak + 1 :])[:40]
        return f"{plain(before)}[{plain(self.tokens[self.peak], 60)}]{plain(after)}  ({_short(self.codes.max())})"

    def _repr_html_(self) -> str:
        return whole(self.body())


def _short(value: Any) -> str:
    return f"{float(value):.3g}" if math.isfinite(value) else "–"
