"""Explanations written by a chat model behind an OpenAI-compatible endpoint."""

from collections.abc import Sequence
from typing import Any, final

from ..base import Evidence, Explanation, Skipped
from .client import Client, Failed
from .cost import Cost
from .parsing import sentence
from .prompts import explain_messages
from .request import Request, chat
from .showing import SHOWN, strongest

_TRIES = 3  # answers asked for until one can be read
_MAX_TOKENS = 100


@final
class LLMExplainer:
    """Shows a chat model the strongest fragments of each latent and asks for one sentence.

    `tokenizer` is that of the model whose latents are explained; `shown` the number of fragments.
    An answer that is empty is asked for again, and is 'unparseable answer' if it stays so.

    Raises `ClientError` as `Client.answer`.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Any,
        *,
        shown: int = SHOWN,
        temperature: float = 0.0,
        max_tokens: int = _MAX_TOKENS,
        seed: int = 0,
    ) -> None:
        self.name = f"llm:{client.model}"
        self._client, self._tokenizer, self._shown = client, tokenizer, shown
        self._temperature, self._max_tokens, self._seed = temperature, max_tokens, seed

    def cost(self, evidences: Sequence[Evidence]) -> Cost:
        """What `explain` would send. Sends nothing."""
        requests = [self._request(evidence, 0) for evidence in evidences]
        return self._client.cost([request for request in requests if not isinstance(request, Skipped)])

    def explain(self, evidences: Sequence[Evidence]) -> list[Explanation | Skipped]:
        """One sentence for each latent, or why there is none, in order."""
        found: dict[int, Explanation | Skipped] = {}
        for sample in range(_TRIES):
            asked: dict[int, Request] = {}
            for place, evidence in enumerate(evidences):
                if place in found and found[place] != Skipped("unparseable answer"):
                    continue
                request = self._request(evidence, sample)
                if isinstance(request, Skipped):
                    found[place] = request
                else:
                    asked[place] = request
            answers = self._client.answer(list(asked.values()), "explanations") if asked else []
            for place, answer in zip(asked, answers, strict=True):
                text = None if isinstance(answer, Failed) else sentence(answer.text)
                if text is not None:
                    found[place] = Explanation(text, self.name, {"model": self._client.model})
                else:
                    found[place] = Skipped("request failed" if isinstance(answer, Failed) else "unparseable answer")
        return [found[place] for place in range(len(evidences))]

    def _request(self, evidence: Evidence, sample: int) -> Request | Skipped:
        fragments = strongest(evidence, self._tokenizer, self._shown)
        if isinstance(fragments, Skipped):
            return fragments
        # What could not be read once would, at temperature 0, come again.
        temperature = self._temperature if sample == 0 else max(self._temperature, 0.7)
        return chat(
            explain_messages(fragments),
            max_tokens=self._max_tokens,
            temperature=temperature,
            seed=self._seed,
            sample=sample,
        )
