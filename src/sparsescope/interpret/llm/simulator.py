"""Activations predicted by a model behind an OpenAI-compatible endpoint, from an explanation and text alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, final

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from ...errors import ClientError, ConfigurationError
from ...features.fragments import Fragments
from ..base import LEVELS, Explanation, Reason
from .client import Client, Failed
from .cost import Cost
from .parsing import active_tokens
from .prompts import ACTIVE_SCHEMA, list_messages, score_prompt
from .request import Answer, Request, Way, chat, scoring
from .slots import Scale, expected, scale_of

Mode = Literal["auto", "logprobs", "list"]
_EXTRA = 2  # more answers asked for where some of the samples cannot be read
_MAX_TOKENS = 1200
_LONGEST = "x" * 5 * 40  # stands for an explanation that is not written yet, in a cost: 40 tokens

_Piece = tuple[str, tuple[str, ...]]  # an explanation and the tokens of a fragment
_Predicted = Float32[ndarray, " token"] | Reason


@final
class LLMSimulator:
    """Predicts activations in one of two ways.

    "logprobs": the whole fragment is scored once, with a slot in the place of every number, and the expected
    value is Σ k·p(k) / Σ p(k) over the numbers k among the 15 likeliest tokens of the slot (Bills et al. 2023,
    all at once). It needs a server that gives log-probabilities of a prompt. "list": a chat model lists the
    active tokens, `samples` times, and the lists are averaged. "auto" finds out with the first prompt which of
    them the server can do, and keeps to it.

    A prediction that is missing is NaN. `missing` counts the fragments that have none, by reason; `reasons`
    says of each explanation of the last `simulate` why it has none at all, None where it has some.
    Raises `ConfigurationError` for settings that cannot be used, `ClientError` as `Client.answer`.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Any,
        *,
        mode: Mode = "auto",
        samples: int = 3,
        temperature: float = 1.0,
        max_tokens: int = _MAX_TOKENS,
        seed: int = 0,
    ) -> None:
        if mode not in ("auto", "logprobs", "list") or samples < 1:
            raise ConfigurationError(
                f"mode={mode!r}, samples={samples}: expected 'auto', 'logprobs' or 'list', and at least one sample."
            )
        self.name = f"llm:{client.model}"
        self.missing: Counter[Reason] = Counter()
        self.reasons: list[Reason | None] = []
        self._client, self._tokenizer, self._mode = client, tokenizer, mode
        self._samples, self._temperature, self._max_tokens, self._seed = samples, temperature, max_tokens, seed
        self._scale: Scale | None = None
        self._found_out = mode == "list"

    @property
    def mode(self) -> Mode:
        """How predictions are made; "auto" until that is known."""
        if not self._found_out:
            return "auto"
        return "list" if self._scale is None else "logprobs"

    def cost(
        self,
        explanations: Sequence[Explanation | None],
        fragments: Fragments,
        numbers: Sequence[Int64[ndarray, " piece"]],
    ) -> Cost:
        """What `simulate` would send; None stands for an explanation that is not written yet. Sends nothing.

        As long as the mode is not known, the dearer one is assumed: the list.
        """
        texts = [_LONGEST if explanation is None else explanation.text for explanation in explanations]
        pieces = [piece for each in self._pieces(texts, fragments, numbers) for piece in each]
        if self._scale is not None or (self._mode == "logprobs" and not self._found_out):
            scale = self._scale or Scale("echo", LEVELS)
            return self._client.cost([_score(piece, scale) for piece in pieces])
        return self._client.cost([self._ask(piece, sample) for piece in pieces for sample in range(self._samples)])

    def simulate(
        self, explanations: Sequence[Explanation], fragments: Fragments, numbers: Sequence[Int64[ndarray, " piece"]]
    ) -> list[Float32[ndarray, "piece position"]]:
        """Expected activation from 0 to 10 of each token; NaN where missing, 0 behind a fragment's end.

        A fragment without any answer is NaN throughout.
        """
        pieces = self._pieces([explanation.text for explanation in explanations], fragments, numbers)
        flat = list(dict.fromkeys(piece for each in pieces for piece in each))
        if flat and not self._found_out:
            self._find_out(flat[0])
        predicted = self._listed(flat) if self._scale is None else self._scored(flat, self._scale)
        width = fragments.ids.shape[1]
        found = dict(zip(flat, predicted, strict=True))
        self.missing.update(values for values in predicted if isinstance(values, str))
        self.reasons = [_reason([found[piece] for piece in each]) for each in pieces]
        rows = {piece: _row(values, width) for piece, values in found.items()}
        return [
            np.stack([rows[piece] for piece in each]) if each else np.zeros((0, width), np.float32) for each in pieces
        ]

    def _pieces(
        self, texts: Sequence[str], fragments: Fragments, numbers: Sequence[Int64[ndarray, " piece"]]
    ) -> list[list[_Piece]]:
        every = sorted({int(number) for each in numbers for number in each})
        tokens = dict(zip(every, map(tuple, fragments.texts(self._tokenizer, every)), strict=True))
        return [[(text, tokens[int(number)]) for number in each] for text, each in zip(texts, numbers, strict=True)]

    def _find_out(self, piece: _Piece) -> None:
        """Decide between the modes: does the server score a prompt, and do its places tell numbers apart?"""
        ways: tuple[Way, ...] = ("echo", "prompt_logprobs")
        for way in ways:
            answer = self._client.answer([_score(piece, Scale(way, LEVELS))], "finding out what the server can do")[0]
            if isinstance(answer, Failed) and not answer.refused:
                raise ClientError(
                    f"could not find out whether the server gives log-probabilities of a prompt: {answer.why}. "
                    'Run the same command again, or set the mode to "list".'
                )
            self._scale = None if isinstance(answer, Failed) else scale_of(answer.slots, way, len(piece[1]))
            if self._scale is not None:
                break
        if self._scale is None and self._mode == "logprobs":
            raise ClientError(
                f"the model {self._client.model!r} gives no log-probabilities of a prompt that could be used, which "
                'the mode "logprobs" needs: set it to "auto" or "list", or use a server that gives them (vLLM).'
            )
        self._found_out = True

    def _scored(self, pieces: Sequence[_Piece], scale: Scale) -> list[_Predicted]:
        answers = self._client.answer([_score(piece, scale) for piece in pieces], "simulations")
        found: list[_Predicted] = []
        for (_, tokens), answer in zip(pieces, answers, strict=True):
            if isinstance(answer, Failed):
                found.append("request failed")
            else:
                values = expected(answer.slots, len(tokens), scale)
                found.append("unparseable answer" if values is None else values)
        return found

    def _listed(self, pieces: Sequence[_Piece]) -> list[_Predicted]:
        """The mean of `samples` lists. Where some cannot be read, a few more are asked for."""
        read: list[list[Float32[ndarray, " token"]]] = [[] for _ in pieces]
        answered = [False] * len(pieces)
        batches = [range(self._samples), *(range(n, n + 1) for n in range(self._samples, self._samples + _EXTRA))]
        for samples in batches:
            asked = [(place, n) for place in range(len(pieces)) if len(read[place]) < self._samples for n in samples]
            answers = self._client.answer([self._ask(pieces[place], n) for place, n in asked], "simulations")
            for (place, _), answer in zip(asked, answers, strict=True):
                if isinstance(answer, Answer):
                    answered[place] = True
                    values = active_tokens(answer.text, pieces[place][1])
                    read[place] += [] if values is None else [values]
        reasons: list[Reason] = ["unparseable answer" if any_answer else "request failed" for any_answer in answered]
        return [
            np.mean(np.stack(lists), axis=0) if lists else reason for lists, reason in zip(read, reasons, strict=True)
        ]

    def _ask(self, piece: _Piece, sample: int) -> Request:
        return chat(
            list_messages(*piece),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed,
            sample=sample,
            schema=ACTIVE_SCHEMA,
        )


def _score(piece: _Piece, scale: Scale) -> Request:
    return scoring(score_prompt(*piece, scale.top), scale.way)


def _reason(predicted: Sequence[_Predicted]) -> Reason | None:
    """Why there is no prediction at all, or None where there is one."""
    reasons = [values for values in predicted if isinstance(values, str)]
    return Counter(reasons).most_common(1)[0][0] if reasons and len(reasons) == len(predicted) else None


def _row(values: _Predicted, width: int) -> Float32[ndarray, " position"]:
    if isinstance(values, str):
        return np.full(width, np.nan, np.float32)
    row = np.zeros(width, np.float32)
    row[: len(values)] = values
    return row
