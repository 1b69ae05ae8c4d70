"""How a run is to be explained: by whom, with how much effort, and what that will cost."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError
from ..interpret.base import Explainer, Simulator
from ..interpret.material import Material
from ..interpret.rules import Rules
from ..interpret.subject import FRUGAL, USUAL, Effort
from .strict import check_least

Kind = Literal["rules", "llm", "local"]
Progress = Callable[[str, int, int], None]
ANSWERS = "answers.sqlite"
"""Where the answers of a paid server are kept, in the run: a second run asks for none of them again."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """Settings of `explain_run`.

    `explainer` is "rules" (no model, no network), "llm" (`model` behind the OpenAI-compatible endpoint
    `base_url`; its key in the environment variable `key_variable`) or "local" (`model` as `load_model`
    takes it). `latents` per dictionary; `dictionaries` only those named. `max_tokens` limits each split.
    `input_price` and `output_price` are those of a million tokens, for the preview.
    """

    explainer: Kind = "rules"
    base_url: str | None = None
    model: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    input_price: float | None = None
    output_price: float | None = None
    dictionaries: Sequence[str] = ()
    latents: int | None = None
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dictionaries", tuple(self.dictionaries))
        for key in ("latents", "max_tokens"):
            if getattr(self, key) is not None:
                check_least(getattr(self, key), 1, key)
        check_least(self.seed, 0, "seed")
        if (self.model is None) != (self.explainer == "rules"):
            need = "needs no model" if self.explainer == "rules" else "needs a model"
            raise ConfigurationError(f"the explainer {self.explainer!r} {need}: got model = {self.model!r}.")
        if (self.base_url is None) != (self.explainer != "llm"):
            need = "needs the address of a server" if self.explainer == "llm" else "asks no server"
            raise ConfigurationError(f"the explainer {self.explainer!r} {need}: got base_url = {self.base_url!r}.")
        if (self.input_price is None) != (self.output_price is None):
            raise ConfigurationError("one price was given without the other: give those of tokens read and written.")

    @property
    def name(self) -> str:
        """The directory of the results below `interpretation/`."""
        return name_of(self.explainer, self.model)

    @property
    def effort(self) -> Effort:
        """Fewer latents and fragments where predictions cost money or minutes."""
        usual = USUAL if self.explainer == "rules" else FRUGAL
        return usual if self.latents is None else Effort(**{**asdict(usual), "latents": self.latents})

    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON: neither prices nor where the server and its key are."""
        kept = ("explainer", "model", "dictionaries", "max_tokens")
        return {
            **{key: getattr(self, key) for key in kept},
            "dictionaries": list(self.dictionaries),
            **asdict(self.effort),
        }

    def hire(self, material: Material, run: Path, progress: Progress | None = None) -> tuple[Explainer, Simulator]:
        """The explainer and the simulator. Raises `ClientError` or `ModelError` where they cannot be had."""
        if self.explainer == "rules":
            rules = Rules(material.vocabulary)
            return rules, rules
        from ..interpret import llm

        assert self.model is not None
        if self.explainer == "local":
            from ..models import load_model

            model = load_model(self.model)
            return llm.LocalExplainer(model, material.tokenizer), llm.LocalSimulator(model, material.tokenizer)
        prices = None
        if self.input_price is not None and self.output_price is not None:
            prices = llm.Prices(self.input_price, self.output_price)
        client = llm.Client(
            self.base_url, self.model, run / ANSWERS, key_variable=self.key_variable, prices=prices, progress=progress
        )
        return (
            llm.LLMExplainer(client, material.tokenizer, seed=self.seed),
            llm.LLMSimulator(client, material.tokenizer, seed=self.seed),
        )


def name_of(explainer: str, model: str | None) -> str:
    """What the results of an explainer are called, on disk and in the database.

    >>> name_of("rules", None), name_of("llm", "org/model-8b")
    ('rules', 'llm org%2Fmodel-8b')
    """
    from ..interpret.records import file_stem

    return explainer if model is None else file_stem(f"{explainer} {model}")
