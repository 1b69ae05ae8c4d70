"""The default explainer and simulator: rules found by counting, without a model, a network or chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from ...errors import ConfigurationError
from ...features.fragments import Fragments
from ...text import Tokens
from ..base import LEVELS, Evidence, Explanation, Skipped
from . import lookup
from .fitting import fit
from .ground import Ground
from .questions import Question
from .sentence import about_rules, about_tokens
from .spelling import Spelling
from .surroundings import Surroundings
from .tree import Tree
from .trie import Trie

FEWEST = 5
"""Fragments on which a latent must be active to be explained."""

ACTIVE_FROM = 1.0
"""A token expected at this level or above counts as predicted active."""

_KEPT = 4  # texts whose surroundings are remembered


class _Simulator:
    """What the two share: `vocabulary`, and the surroundings of the texts seen last."""

    name = ""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.spelling = Spelling(vocabulary)
        self._seen: list[tuple[Tokens, Surroundings]] = []
        self._grounds: list[tuple[Fragments, Ground]] = []

    def simulate(
        self, explanations: Sequence[Explanation], fragments: Fragments, numbers: Sequence[Int64[ndarray, " piece"]]
    ) -> list[Float32[ndarray, "piece position"]]:
        """Expected activation from 0 to 10 of each token of the fragments `numbers[i]`; 0 behind their end.

        Raises `ConfigurationError` for an explanation of another explainer.
        """
        if len(explanations) != len(numbers):
            raise ConfigurationError(
                f"{len(explanations)} explanations and fragments for {len(numbers)}: expected as many of both."
            )
        place = self.ground(fragments).positions
        found = []
        for explanation, chosen in zip(explanations, numbers, strict=True):
            real = fragments.real[chosen]
            values = np.zeros(real.shape, np.float32)
            values[real] = self.expect(explanation, fragments, place[chosen][real])
            found.append(values)
        return found

    def predicts(self, explanation: Explanation, fragments: Fragments) -> Bool[ndarray, " fragment"]:
        """Which fragments have a token with a known activation that is expected at `ACTIVE_FROM` or above."""
        ground = self.ground(fragments)
        active = np.zeros(fragments.known.shape, bool)
        active[fragments.known] = self.expect(explanation, fragments, ground.all_rows) >= ACTIVE_FROM
        return np.logical_or.reduce(active, axis=1)

    def expect(
        self, explanation: Explanation, fragments: Fragments, rows: Int64[ndarray, " row"]
    ) -> Float64[ndarray, " row"]:
        """Expected activation at positions of the contexts that the fragments were cut from, laid end to end."""
        if explanation.explainer != self.name:
            raise ConfigurationError(
                f"this explanation was made by {explanation.explainer!r}, expected {self.name!r}: "
                "use the simulator of the same name."
            )
        return expected(explanation.body, self.around(fragments.tokens), rows)

    def around(self, tokens: Tokens) -> Surroundings:
        """The surroundings of a text, computed once."""
        for known, around in self._seen:
            if known is tokens:
                return around
        if int(tokens.ids.max()) >= len(self.spelling):
            raise ConfigurationError(
                f"the text has token ids up to {int(tokens.ids.max())}, but the vocabulary has {len(self.spelling)} "
                "tokens: give the text of every token id of the model's tokenizer."
            )
        around = Surroundings(tokens, self.spelling)
        self._seen = [*self._seen[-_KEPT + 1 :], (tokens, around)]
        return around

    def ground(self, fragments: Fragments) -> Ground:
        """What all latents share on these fragments, computed once."""
        for known, ground in self._grounds:
            if known is fragments:
                return ground
        ground = Ground(fragments, self.around(fragments.tokens))
        self._grounds = [*self._grounds[-_KEPT + 1 :], (fragments, ground)]
        return ground


class Lookup(_Simulator):
    """The best that can be said of single tokens: the first stage of `Rules` alone.

    `vocabulary` is the text of every token id by itself.
    """

    name = "lookup"

    def explain(self, evidences: Sequence[Evidence]) -> list[Explanation | Skipped]:
        """One answer for each latent, in order."""
        return [reason(evidence) or self._explained(evidence) for evidence in evidences]

    def _explained(self, evidence: Evidence) -> Explanation:
        found = lookup.shrunken(evidence, len(self.spelling))
        text = about_tokens(found, evidence.token_sum, evidence.token_count, self.spelling)
        return Explanation(text, self.name, {"lookup": found.to_json()})


class Rules(_Simulator):
    """All stages: token lookup, patterns of up to four tokens, a shallow tree. Each is used only where it helps
    on documents of the explaining split that it was not fitted on.

    `vocabulary` is the text of every token id by itself. The body of an explanation holds the stages, and
    under "left out" the correlation that each reached on left-out documents.
    """

    name = "rules"

    def explain(self, evidences: Sequence[Evidence]) -> list[Explanation | Skipped]:
        """One answer for each latent, in order."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # The matrices are small: several threads would wait for each other rather than work.
        with threadpool_limits(1, user_api="blas"):
            return [reason(evidence) or self._explained(evidence) for evidence in evidences]

    def _explained(self, evidence: Evidence) -> Explanation:
        ground = self.ground(evidence.fragments)
        found = fit(evidence, ground)
        body: dict[str, Any] = {"lookup": found.lookup.to_json()}
        if found.trie.patterns:
            body["trie"] = {
                "patterns": found.trie.patterns,
                "values": found.trie.values,
                "tokens": list(found.rest),
                "rest": list(found.rest.values()),
            }
        if found.tree is not None:
            body["tree"] = {
                "splits": [[node, list(question)] for node, question in found.tree.splits],
                "lines": [list(line) for line in found.tree.lines],
            }
        body["left out"] = {name: round(value, 4) for name, value in found.correlation.items()}
        more = found.trie.patterns or found.tree is not None
        text = about_rules(found, ground.around) if more else ""
        text = text or about_tokens(found.lookup, evidence.token_sum, evidence.token_count, self.spelling)
        return Explanation(text, self.name, body)

    def stage(self, explanation: Explanation, last: str) -> Explanation:
        """The same rules up to the stage `last` ("lookup", "trie" or "tree"), to simulate with."""
        if last not in ("lookup", "trie", "tree"):
            raise ConfigurationError(f"unknown stage {last!r}: expected 'lookup', 'trie' or 'tree'.")
        dropped = {"lookup": ("trie", "tree"), "trie": ("tree",), "tree": ()}[last]
        body = {key: value for key, value in explanation.body.items() if key not in dropped}
        return Explanation(explanation.text, explanation.explainer, body)


def reason(evidence: Evidence) -> Skipped | None:
    """Why a latent cannot be explained by rules, if it cannot."""
    active = (evidence.sample.codes > 0) & evidence.fragments.known[evidence.sample.numbers]
    if evidence.density <= 0 or evidence.maximum <= 0 or evidence.token_sum.sum() <= 0:
        return Skipped("never fires")
    if evidence.density >= 1:
        return Skipped("fires on every token")
    if active.any(1).sum() < FEWEST:
        return Skipped("too few contexts")
    return None


def expected(body: Mapping[str, Any], around: Surroundings, rows: Int64[ndarray, " row"]) -> Float64[ndarray, " row"]:
    """Expected activation, 0 to `LEVELS`, by the stages that an explanation has."""
    values = lookup.table(body["lookup"], len(around.spelling))
    if "trie" in body:
        values[np.asarray(body["trie"]["tokens"], np.int64)] = body["trie"]["rest"]
    found = values[around.ids[rows]]
    if "trie" in body:
        trie = Trie(body["trie"]["patterns"], body["trie"]["values"])
        found = trie.expect(around, rows, found)
    if "tree" in body:
        splits: list[tuple[int, Question]] = [(node, question) for node, question in body["tree"]["splits"]]
        found = Tree(splits, [(a, b) for a, b in body["tree"]["lines"]]).expect(around, rows, found)
    return np.clip(found, 0, LEVELS)
