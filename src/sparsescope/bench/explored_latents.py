"""All that a feature database holds about some latents of a made-up world, computed from the world alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from ..features.cards import BINS, Card, Detail, Histogram
from ..features.fragments import LENGTH, Fragments
from ..features.gathering import Gathered
from ..features.sampling import Drawn
from ..features.statistics import Ranked, Statistics
from ..features.token_sums import TokenSums
from ..metrics.statistics import moments_from_sums
from .explored_files import SITE
from .explored_world import World

SLOTS = {"top": 20, "active": 20, "random": 5}
"""Contexts stored for each latent."""
LABELS = ("closing bracket = 1", "opening bracket = 1", "digit = 1", "capital letter = 1", "bracket depth >= 2")
TOKENS = 10


@dataclass(frozen=True, eq=False)
class _Facts:
    """One latent on the whole text."""

    rows: Int64[np.ndarray, " row"]
    codes: Float32[np.ndarray, " row"]
    tokens: list[int]
    shares: list[float]
    entropy: float
    firing: np.ndarray


@dataclass(frozen=True, eq=False)
class Block:
    """Latents `latents` of the dictionary at place `dictionary`, which has `total` of them."""

    world: World
    fragments: Fragments
    dictionary: int
    latents: range
    total: int

    @cached_property
    def facts(self) -> list[_Facts]:
        return [self._fact(latent) for latent in self.latents]

    def _fact(self, latent: int) -> _Facts:
        rows, codes = self.world.active(self.dictionary, latent)
        ids, inverse = np.unique(self.world.ids.ravel()[rows], return_inverse=True)
        sums = np.bincount(inverse, weights=codes, minlength=len(ids))
        share = sums / max(sums.sum(), 1e-12)
        order = np.lexsort((ids, -share))[:TOKENS]
        firing = np.zeros(len(self.fragments), bool)
        firing[rows // LENGTH] = True
        entropy = float(-(share * np.log(np.maximum(share, 1e-12))).sum()) if len(ids) else float("nan")
        return _Facts(rows, codes, ids[order].tolist(), share[order].tolist(), entropy, firing)

    @cached_property
    def drawn(self) -> dict[str, Drawn]:
        """The contexts of each kind: the strongest, others where active evenly over the text, and some fixed ones."""
        numbers = {kind: np.full((len(self.latents), slots), -1, np.int64) for kind, slots in SLOTS.items()}
        codes = {kind: np.zeros((len(self.latents), slots, LENGTH), np.float16) for kind, slots in SLOTS.items()}
        text = np.zeros(len(self.fragments) * LENGTH, np.float32)
        for place, (latent, fact) in enumerate(zip(self.latents, self.facts, strict=True)):
            text[fact.rows] = fact.codes
            table = text.reshape(-1, LENGTH)
            for kind, chosen in self._chosen(latent, fact).items():
                numbers[kind][place, : len(chosen)] = chosen
                codes[kind][place, : len(chosen)] = table[chosen]
            text[fact.rows] = 0
        return {kind: Drawn(numbers[kind], codes[kind]) for kind in SLOTS}

    def _chosen(self, latent: int, fact: _Facts) -> dict[str, np.ndarray]:
        """Fragments by kind."""
        order = np.argsort(-fact.codes, kind="stable")
        fragments, first = np.unique((fact.rows // LENGTH)[order], return_index=True)
        top = fragments[np.argsort(first)][: SLOTS["top"]]
        others = np.setdiff1d(fragments, top)
        step = max(1, len(others) // SLOTS["active"])
        random = (latent * 7 + np.arange(SLOTS["random"]) * 13) % len(self.fragments)
        return {"top": top, "active": others[::step][: SLOTS["active"]], "random": np.unique(random)}

    def gathered(self, name: str, method: str) -> Gathered:
        """As if these latents had been gathered."""
        rows = self.world.rows
        sums = [[float((fact.codes.astype(np.float64) ** p).sum()) for fact in self.facts] for p in (1, 2, 3, 4)]
        nothing = np.zeros(0, np.int64)
        return Gathered(
            name=name,
            method=method,
            site=SITE,
            latents=np.arange(self.latents.start, self.latents.stop),
            fragments=self.fragments,
            maximum=np.array([fact.codes.max(initial=0) for fact in self.facts], np.float32),
            density=np.array([len(fact.rows) / rows for fact in self.facts]),
            moments=moments_from_sums([torch.tensor(power, dtype=torch.float64) for power in sums], rows),
            tokens=rows,
            token_sum=TokenSums(np.zeros(len(self.facts) + 1, np.int64), nothing, nothing.astype(float), nothing, 0),
            token_count=nothing,
            firing=np.packbits([fact.firing for fact in self.facts], axis=1),
            **self.drawn,
        )

    def statistics(self) -> Statistics:
        """Tokens from the codes; the other rankings are planted by number."""
        size, steps = len(self.world.vocabulary), np.arange(1, TOKENS + 1)
        latents = np.arange(self.latents.start, self.latents.stop)[:, None]
        value = np.broadcast_to((1 - 0.05 * steps).astype(np.float32), (len(latents), TOKENS))
        tokens = [fact.tokens + [-1] * (TOKENS - len(fact.tokens)) for fact in self.facts]
        shares = [fact.shares + [0.0] * (TOKENS - len(fact.shares)) for fact in self.facts]
        neighbours = min(TOKENS, self.total - 1)
        return Statistics(
            entropy=np.array([fact.entropy for fact in self.facts]),
            tokens=Ranked(np.array(tokens), np.array(shares, np.float32)),
            raised=Ranked((latents + steps) % size, value),
            lowered=Ranked((latents - steps) % size, -value),
            alike=Ranked(((latents + steps) % self.total)[:, :neighbours], value[:, :neighbours]),
            together=Ranked(((latents + 2 * steps) % self.total)[:, :neighbours], value[:, :neighbours] ** 2),
        )

    def explanations(self) -> dict[int, tuple[str, Mapping[str, Any]]]:
        found = {latent: self.world.explanation(self.dictionary, latent) for latent in self.latents}
        return {latent: (text, {}) for latent, text in found.items() if text is not None}

    def scores(self) -> dict[str, dict[int, float]]:
        """Every explained latent's scores, by name."""
        explained = self.explanations()
        rho = {latent: corpus_rho(latent) for latent in explained}
        return {
            "corpus_rho": rho,
            "bills_rho": {latent: value**0.5 for latent, value in rho.items()},
            "detection": {latent: 0.5 + value / 2 for latent, value in rho.items()},
            "fuzzing": {latent: 0.5 + value / 3 for latent, value in rho.items()},
        }

    def simulations(self, kind: str) -> dict[int, Float32[np.ndarray, "n position"]]:
        """What explanations predict: the true code to the nearest tenth of the maximum."""
        found = {}
        explained = self.explanations()
        for place, latent in enumerate(self.latents):
            if latent in explained:
                maximum = float(self.facts[place].codes.max(initial=0))
                _, codes = self.drawn[kind].of(place)
                found[latent] = np.rint(codes / max(maximum, 1e-12) * 10) / 10 * maximum
        return found

    def cards(self, number: int) -> list[Card]:
        """The cards, of the dictionary with this number in the database."""
        return [self._card(number, latent, fact) for latent, fact in zip(self.latents, self.facts, strict=True)]

    def _card(self, number: int, latent: int, fact: _Facts) -> Card:
        explanation = self.world.explanation(self.dictionary, latent)
        labelled = latent % 4 == 0 and len(fact.rows) > 0
        texts = self.world.vocabulary.texts
        return Card(
            dictionary=number,
            latent=latent,
            density=len(fact.rows) / self.world.rows,
            maximum=float(fact.codes.max(initial=0)),
            entropy=fact.entropy if len(fact.rows) else None,
            explainer=None if explanation is None else "rules",
            explanation=explanation,
            score=None if explanation is None else corpus_rho(latent),
            label=LABELS[latent // 4 % len(LABELS)] if labelled else None,
            f1=latent * 53 % 100 / 100 if labelled else None,
            effect=effect(latent) if len(fact.rows) else None,
            tokens=tuple((texts[token], share) for token, share in zip(fact.tokens, fact.shares, strict=True)),
        )

    def details(self) -> list[Detail]:
        return [self._detail(latent, fact) for latent, fact in zip(self.latents, self.facts, strict=True)]

    def _detail(self, latent: int, fact: _Facts) -> Detail:
        if not len(fact.rows):
            return Detail(Histogram(np.zeros(BINS, np.int64), 0, self.world.rows), fact.firing, None)
        counts, _ = np.histogram(fact.codes, BINS, (0, float(fact.codes.max())))
        texts = self.world.vocabulary.texts
        changes = [[texts[(latent + step) % len(texts)], round(0.5 / step, 4)] for step in range(1, TOKENS + 1)]
        measured = {
            "kl": estimate(effect(latent)),
            "contexts": 5,
            "raised": changes,
            "lowered": [[texts[(latent - step) % len(texts)], round(-0.5 / step, 4)] for step in range(1, TOKENS + 1)],
            "control": estimate(effect(latent) / 10),
        }
        return Detail(Histogram(counts.astype(np.int64), len(fact.rows), self.world.rows), fact.firing, measured)


def corpus_rho(latent: int) -> float:
    """The planted score of a latent that has an explanation."""
    return latent * 37 % 101 / 100


def effect(latent: int) -> float:
    """The planted effect of a latent that is alive, in nats."""
    return (latent * 29 % 997 + 1) / 1000


def estimate(value: float, n: int = 5, unit: str = "context") -> dict[str, Any]:
    """A number with an interval."""
    return {"value": value, "low": 0.8 * value, "high": 1.2 * value, "n": n, "unit": unit}
