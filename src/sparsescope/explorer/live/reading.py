"""A text as the model and a dictionary see it: its tokens, the latents active at each, and what is predicted there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...causal.interventions import place_in
from ...errors import ConfigurationError, ModelError
from ...features.fragments import pieces
from ...text.packing import bos_policy
from .lab import Loaded

if TYPE_CHECKING:
    from ...dictionaries import Dictionary

MOST_TOKENS = 256
"""Tokens of a text, with what stands before it. More could not be looked at, and would make everybody else wait."""
MOST_LATENTS = 200
"""Latents given for one token: the strongest ones. Dictionaries that are not sparse have more."""
PREDICTED = 10
"""Likeliest next tokens that are given."""


@dataclass(frozen=True, eq=False)
class Prompted:
    """A text as token ids, and the text of each token: together they are the text.

    `added` is how many tokens stand before the text itself: 1 where the run begins documents with a special token.
    """

    ids: Int[Tensor, "1 seq"]
    pieces: list[str]
    added: int

    def __len__(self) -> int:
        return len(self.pieces)


@dataclass(frozen=True)
class Active:
    """A latent that is active at a token, with its code in the units of the activation."""

    latent: int
    code: float


@dataclass(frozen=True)
class Likely:
    """A token that may come next, with its probability."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class Next:
    """What the model expects after a token: the likeliest tokens, and how likely the one is that really comes.

    `actual` and its `rank` (1: the likeliest) are None behind the last token.
    """

    likely: list[Likely]
    actual: Likely | None
    rank: int | None


@dataclass(frozen=True, eq=False)
class Reading:
    """A text read: for each token the latents active there, strongest first, how many there are, what is expected."""

    prompted: Prompted
    active: list[list[Active]]
    counts: list[int]
    expected: list[Next]


def prompted(loaded: Loaded, text: str) -> Prompted:
    """A text as tokens, as the run reads its texts.

    Raises `ConfigurationError` for a text that is empty, too long or cannot be encoded, `ModelError` for a model
    without a tokenizer.
    """
    model = loaded.model
    if model.tokenizer is None:
        raise ModelError(f"{model.name} has no tokenizer, so no text can be typed for it: use a model that has one.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"character {error.start + 1} of the text is half a character (a lone surrogate): leave it out."
        ) from None
    found = model.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    if not found:
        raise ConfigurationError("the text is empty: type something to read.")
    before = [] if bos_policy(model.tokenizer, loaded.bos) == "none" else [model.tokenizer.bos_token_id]
    most = min(MOST_TOKENS, model.context_limit or MOST_TOKENS) - len(before)
    if len(found) > most:
        raise ConfigurationError(f"the text has {len(found):,} tokens, at most {most:,} are read here: shorten it.")
    ids = before + found
    return Prompted(torch.tensor([ids]), pieces(model.tokenizer, ids), len(before))


@torch.no_grad()
def read(loaded: Loaded, name: str, text: str) -> Reading:
    """Which latents of a dictionary are active on a text, and what the model expects after each of its tokens.

    Active is a latent whose code is not 0; of more than `MOST_LATENTS` at a token the strongest are given. Raises
    `ConfigurationError` as `prompted`, and for a dictionary that is not of this model.
    """
    dictionary = loaded.dictionary(name)
    typed = prompted(loaded, text)
    site = place_in(loaded.model, dictionary).reads
    passed = loaded.model.run(typed.ids, read=[site])
    assert passed.logits is not None
    codes = codes_of(dictionary, passed.values[site])
    rows = [strongest(row) for row in codes]
    counts = (codes != 0).sum(-1).tolist()
    return Reading(typed, rows, counts, expectations(loaded, typed, passed.logits[0]))


def codes_of(dictionary: "Dictionary", x: Float[Tensor, "1 seq d"]) -> Float[Tensor, "seq latent"]:
    """The codes of one text."""
    return dictionary.encode(x.to(dictionary.device, dictionary.dtype))[0]


def strongest(codes: Float[Tensor, " latent"], most: int = MOST_LATENTS) -> list[Active]:
    """The latents that are active, by the size of their code, at most so many; ties by number.

    >>> [each.latent for each in strongest(torch.tensor([0.0, 1.0, -3.0, 1.0]))]
    [2, 1, 3]
    """
    active = codes.nonzero()[:, 0]
    order = codes[active].abs().sort(descending=True, stable=True).indices[:most]
    return [Active(latent, float(codes[latent])) for latent in active[order].tolist()]


def expectations(loaded: Loaded, typed: Prompted, logits: Float[Tensor, "seq vocabulary"]) -> list[Next]:
    """What is expected after each token."""
    probabilities = logits.double().cpu().softmax(-1)
    values, indices = probabilities.topk(min(PREDICTED, probabilities.shape[-1]), dim=-1)
    texts = token_texts(loaded.model.tokenizer, indices.flatten().tolist() + typed.ids[0].tolist())
    following = [*typed.ids[0, 1:].tolist(), None]
    found = []
    for row, tokens, likely, actual in zip(probabilities, indices.tolist(), values.tolist(), following, strict=True):
        best = [Likely(token, texts[token], p) for token, p in zip(tokens, likely, strict=True)]
        comes = None if actual is None else Likely(actual, texts[actual], float(row[actual]))
        rank = None if actual is None else 1 + int((row > row[actual]).sum())
        found.append(Next(best, comes, rank))
    return found


def token_texts(tokenizer: Any, ids: list[int]) -> dict[int, str]:
    """The text of each token by itself."""
    return {token: pieces(tokenizer, [token])[0] for token in set(ids)}


@dataclass(frozen=True)
class Most:
    """The largest code that a latent has on a text, where it has it, and at how many tokens it is positive."""

    dictionary: str
    latent: int
    code: float
    position: int
    token: str
    active: int


@torch.no_grad()
def most_active(loaded: Loaded, names: Sequence[str], text: str) -> list[Most]:
    """Every latent of some dictionaries with a positive code on a text, special tokens aside. In no particular order.

    Raises `ConfigurationError` as `read`.
    """
    typed, found = prompted(loaded, text), []
    for name in names:
        dictionary = loaded.dictionary(name)
        site = place_in(loaded.model, dictionary).reads
        codes = codes_of(dictionary, loaded.model.read(typed.ids, [site])[site])[typed.added :]
        places = codes.argmax(0)
        counts = (codes > 0).sum(0)
        for latent in counts.nonzero()[:, 0].tolist():
            place = int(places[latent])
            code, position = float(codes[place, latent]), place + typed.added
            found.append(Most(name, latent, code, position, typed.pieces[position], int(counts[latent])))
    return found
