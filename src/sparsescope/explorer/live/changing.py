"""A text run as it is and with some latents changed, side by side; and what is written when a latent is pushed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...causal.interventions import Ablate, Add, Scale, Set, replacements
from ...causal.measures import kl
from ...causal.steering.continuing import Continued, Prompt, Sampling, Watched, continued
from ...causal.steering.pushes import random_push, steering_of
from ...errors import ConfigurationError
from ...features.fragments import pieces
from .effects import checked_position
from .lab import Loaded
from .reading import PREDICTED, Prompted, prompted, token_texts

if TYPE_CHECKING:
    from ...causal.interventions import Intervention
    from ...dictionaries import Dictionary

Kind = Literal["ablate", "scale", "set", "add"]


@dataclass(frozen=True)
class Edit:
    """What is done to a latent: at every token (`position` None) or at one. `value` means nothing when ablating."""

    latent: int
    kind: Kind
    value: float = 0.0
    position: int | None = None


@dataclass(frozen=True)
class Compared:
    """One token's probability to come next, before and after the change."""

    token: int
    text: str
    before: float
    after: float


@dataclass(frozen=True)
class Change:
    """What is expected after one token: the tokens likeliest before, those likeliest after, the one that really comes.

    `kl` is KL(before ‖ after) in nats; `actual` is None behind the last token.
    """

    before: list[Compared]
    after: list[Compared]
    actual: Compared | None
    kl: float


@dataclass(frozen=True)
class Written:
    """What was written after a text: the text of each new token.

    `kl` is what the push cost, KL(pushed ‖ plain) in nats, mean over new tokens; `active` the share of the new tokens
    at which the latent is active, as the model reads them unpushed.
    """

    pieces: list[str]
    kl: float
    active: float


@dataclass(frozen=True)
class Steered:
    """The same text gone on from: plainly, with the latent pushed, and with a random direction pushed as hard."""

    prompt: list[str]
    plain: Written
    steered: Written
    control: Written


@torch.no_grad()
def change(loaded: Loaded, name: str, text: str, edits: Sequence[Edit]) -> tuple[Prompted, list[Change]]:
    """What the model expects after each token, as it is and with the edits made, in the order given.

    What the dictionary does not explain is kept. Raises `ConfigurationError` for a latent or position that there
    is not and as `reading.read`, `NumericalError` for a change after which the output is not finite.
    """
    dictionary, typed = loaded.dictionary(name), prompted(loaded, text)
    acts = [_intervention(dictionary, typed, edit) for edit in edits]
    before, after = (
        loaded.model.run(typed.ids, replace=each).logits for each in ({}, replacements(loaded.model, acts))
    )
    assert before is not None
    assert after is not None
    return typed, _compared(loaded, typed, before[0], after[0])


def steer(
    loaded: Loaded, name: str, latent: int, text: str, amount: float, new_tokens: int, *, temperature: float = 0.0
) -> Steered:
    """Go on from a text with `amount` (in units of the code) of a latent's direction added at every token.

    All three continuations are drawn from the same random numbers. Raises `ConfigurationError` for a latent that
    there is not, a text that leaves no room, and as `reading.read`.
    """
    dictionary, typed = loaded.dictionary(name), prompted(loaded, text)
    push = steering_of(loaded.model, dictionary, [latent])
    limit = loaded.model.context_limit
    if limit is not None and len(typed) + new_tokens > limit:
        raise ConfigurationError(
            f"a text of {len(typed)} tokens and {new_tokens} new ones do not fit: {loaded.model.name} reads at most "
            f"{limit}. Shorten the text, or ask for fewer tokens."
        )
    sampling = Sampling(new_tokens, temperature=temperature)
    prompt, watched = Prompt(text, typed.ids.to(loaded.model.device)), Watched(dictionary, (latent,))
    # As long a push as the latent's own, wherever it points.
    control = random_push(push.site, len(push.direction), seed=latent).at(amount * float(push.direction.norm()))
    plain, steered, other = (
        _written(loaded, typed, continued(loaded.model, prompt, 0, sampling, push.site, made, watched))
        for made in (None, push.at(amount), control)
    )
    return Steered(typed.pieces, plain, steered, other)


def _intervention(dictionary: "Dictionary", typed: Prompted, edit: Edit) -> "Intervention":
    at = None if edit.position is None else checked_position(typed, edit.position)
    if edit.kind == "ablate":
        return Ablate(dictionary, edit.latent, positions=at)
    if edit.kind == "scale":
        return Scale(dictionary, edit.latent, edit.value, positions=at)
    if edit.kind == "set":
        return Set(dictionary, edit.latent, edit.value, positions=at)
    return Add(dictionary, edit.latent, edit.value, positions=at)


def _compared(
    loaded: Loaded, typed: Prompted, before: Float[Tensor, "seq vocabulary"], after: Float[Tensor, "seq vocabulary"]
) -> list[Change]:
    divergence = kl(before, after).tolist()
    one, other = (logits.double().cpu().softmax(-1) for logits in (before, after))
    most = min(PREDICTED, one.shape[-1])
    lists = [each.topk(most, dim=-1).indices.tolist() for each in (one, other)]
    following = typed.ids[0, 1:].tolist()
    everything = [token for rows in lists for row in rows for token in row] + following
    texts = token_texts(loaded.model.tokenizer, everything)

    def at(row: int, token: int) -> Compared:
        return Compared(token, texts[token], float(one[row, token]), float(other[row, token]))

    return [
        Change(
            [at(row, token) for token in lists[0][row]],
            [at(row, token) for token in lists[1][row]],
            at(row, following[row]) if row < len(following) else None,
            max(0.0, divergence[row]),
        )
        for row in range(len(typed))
    ]


def _written(loaded: Loaded, typed: Prompted, done: Continued) -> Written:
    new = done.new_tokens
    texts = pieces(loaded.model.tokenizer, done.ids[0].tolist())[len(typed) :]
    active = 0.0 if done.active is None else float(done.active[0]) / new
    return Written(texts, float(done.kl[0]) / new, active)
