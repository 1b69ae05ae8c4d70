"""Any causal language model that `load_model` loads, as explainer or as simulator: no server, no key."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor

from ...errors import ModelError
from ...features.fragments import Fragments
from ...models import LanguageModel
from ...models.architectures import find_architecture
from ..base import LEVELS, Evidence, Explanation, Skipped
from .parsing import sentence
from .prompts import SLOT, Lines, explain_messages, explain_text, score_prompt, short_score_prompt
from .showing import SHOWN, strongest

_MAX_TOKENS = 40
_FEWEST = 4  # tokens that must fit beside the explanation


@final
class LocalExplainer:
    """Lets a model continue the strongest fragments of a latent with what the latent responds to, greedily.

    `tokenizer` is that of the model whose latents are explained. A model with a chat template is asked as
    a chat model is. What is too long for the model is shortened: less around each peak, then fewer fragments.

    Raises `ModelError` for a model that does not predict the next token, or has no tokenizer.
    """

    def __init__(self, lm: LanguageModel, tokenizer: Any, *, shown: int = SHOWN, max_tokens: int = _MAX_TOKENS) -> None:
        _check(lm)
        self.name = f"local:{lm.name}"
        self._lm, self._tokenizer, self._shown, self._max_tokens = lm, tokenizer, shown, max_tokens

    def explain(self, evidences: Sequence[Evidence]) -> list[Explanation | Skipped]:
        """One sentence for each latent, or why there is none, in order."""
        return [self._explained(evidence) for evidence in evidences]

    def _explained(self, evidence: Evidence) -> Explanation | Skipped:
        fragments = strongest(evidence, self._tokenizer, self._shown)
        if isinstance(fragments, Skipped):
            return fragments
        text = sentence(self._continued(self._fitting(fragments)))
        if text is None:
            return Skipped("unparseable answer")
        return Explanation(text, self.name, {"model": self._lm.name, "fingerprint": self._lm.fingerprint})

    def _prompt(self, fragments: Sequence[Lines]) -> list[int]:
        tokenizer: Any = self._lm.tokenizer
        if not tokenizer.chat_template:
            return tokenizer(explain_text(fragments), verbose=False)["input_ids"]
        text = tokenizer.apply_chat_template(explain_messages(fragments), add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _fitting(self, fragments: list[Lines]) -> list[int]:
        """The prompt, shortened until it leaves room for the answer."""
        reach = max(map(len, fragments))
        while True:
            ids = self._prompt([_around_peak(lines, reach) for lines in fragments])
            if self._lm.context_limit is None or len(ids) + self._max_tokens <= self._lm.context_limit:
                return ids
            if reach > 2:
                reach //= 2
            elif len(fragments) > 1:
                fragments, reach = fragments[:-1], max(map(len, fragments))
            else:
                raise ModelError(
                    f"{self._lm.name} reads only {self._lm.context_limit:,} tokens at once, too few for a single "
                    "fragment and an answer: choose a model with a longer context."
                )

    def _continued(self, ids: list[int]) -> str:
        tokenizer: Any = self._lm.tokenizer
        begin = len(ids)
        with torch.no_grad():
            while len(ids) < begin + self._max_tokens:
                token = int(self._lm.logits(torch.tensor([ids]))[0, -1].argmax())
                if token == tokenizer.eos_token_id:
                    break
                ids = [*ids, token]
                if "\n" in tokenizer.decode(ids[begin:]).lstrip():
                    break
        return tokenizer.decode(ids[begin:], skip_special_tokens=True)


@final
class LocalSimulator:
    """Scores each fragment once, with a slot for every number: expected value over the numbers from 0 to 10.

    As `LLMSimulator` in its mode "logprobs", but over all numbers and not only the likeliest. Where the model's
    tokenizer writes '10' as two tokens, numbers go to 9 and are stretched. A fragment that is too long for the
    model is cut, and each part is scored by itself, with the explanation before it.

    Raises `ModelError` for a model that does not predict the next token, or whose tokenizer cannot tell slots.
    """

    def __init__(self, lm: LanguageModel, tokenizer: Any) -> None:
        _check(lm)
        self.name = f"local:{lm.name}"
        self._lm, self._tokenizer = lm, tokenizer
        self._digits = _digit_ids(lm)
        self._top = len(self._digits) - 1

    def simulate(
        self, explanations: Sequence[Explanation], fragments: Fragments, numbers: Sequence[Int64[ndarray, " piece"]]
    ) -> list[Float32[ndarray, "piece position"]]:
        """Expected activation of each token, 0 behind a fragment's end; NaN at logits that are not finite."""
        found = []
        for explanation, each in zip(explanations, numbers, strict=True):
            values = np.zeros((len(each), fragments.ids.shape[1]), np.float32)
            for row, tokens in zip(values, fragments.texts(self._tokenizer, each), strict=True):
                row[: len(tokens)] = self._expected(explanation.text, tokens)
            found.append(values)
        return found

    def _expected(self, explanation: str, tokens: list[str]) -> Float32[ndarray, " token"]:
        for prompt in (score_prompt, short_score_prompt):
            ids, slots = self._slots(prompt(explanation, tokens, self._top), len(tokens))
            if self._fits(ids):
                return self._scored(ids, slots)
        if len(tokens) < 2 * _FEWEST:
            raise ModelError(
                f"{self._lm.name} reads only {self._lm.context_limit:,} tokens at once, too few for the explanation "
                f"{explanation[:60]!r} and {len(tokens)} tokens: choose a model with a longer context."
            )
        half = len(tokens) // 2
        parts = [self._expected(explanation, part) for part in (tokens[:half], tokens[half:])]
        return np.concatenate(parts)

    def _fits(self, ids: list[int]) -> bool:
        return self._lm.context_limit is None or len(ids) <= self._lm.context_limit

    def _slots(self, text: str, count: int) -> tuple[list[int], list[int]]:
        """The prompt's token ids, and which of them stand in the last `count` slots."""
        tokenizer: Any = self._lm.tokenizer
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        begins = {begin: place for place, (begin, end) in enumerate(encoded["offset_mapping"]) if end > begin}
        places = [place + 1 for place, mark in enumerate(text) if mark == "\t" and text[place + 1] == SLOT][-count:]
        missing = [place for place in places if place not in begins]
        if missing:
            raise ModelError(f"the tokenizer of {self._lm.name} merges a tab with what follows: choose another model.")
        return encoded["input_ids"], [begins[place] for place in places]

    def _scored(self, ids: list[int], slots: list[int]) -> Float32[ndarray, " token"]:
        with torch.no_grad():
            logits = self._lm.logits(torch.tensor([ids]))[0, torch.tensor(slots) - 1]
        return expectation(logits[:, self._digits].float()).cpu().numpy() * np.float32(LEVELS / self._top)


def expectation(logits: Tensor) -> Tensor:
    """Σ k·p(k), with p the softmax of the last dimension over the numbers k = 0, 1, ...

    >>> expectation(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 100.0]])).tolist()
    [1.0, 2.0]
    """
    return logits.softmax(-1) @ torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)


def _around_peak(lines: Lines, reach: int) -> Lines:
    """At most `reach` lines, mostly before the strongest one."""
    values = [int(value) if value != "-" else 0 for _, value in lines]
    peak = values.index(max(values))
    begin = max(0, min(peak - reach * 2 // 3, len(lines) - reach))
    return lines[begin : begin + reach]


def _check(lm: LanguageModel) -> None:
    row = find_architecture(lm.module.config) if isinstance(lm, LanguageModel) else None
    if not isinstance(lm, LanguageModel) or lm.tokenizer is None or (row is not None and row.masked):
        name = getattr(lm, "name", type(lm).__name__)
        raise ModelError(
            f"{name} cannot write or score text: expected a causal language model with its tokenizer, from load_model."
        )


def _digit_ids(lm: LanguageModel) -> list[int]:
    """Token ids of 0 to 10 behind a tab; to 9 where '10' is not one token."""
    tokenizer: Any = lm.tokenizer

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    before = ids("x\t")
    behind = [ids(f"x\t{number}") for number in range(LEVELS + 1)]
    single = [numbers[-1] for numbers in behind if numbers[:-1] == before]
    if len(single) < LEVELS or len(set(single)) < len(single):
        raise ModelError(
            f"the tokenizer of {lm.name} has no tokens for single digits behind a tab, which the expected activations "
            "are computed from: choose another model."
        )
    return single
