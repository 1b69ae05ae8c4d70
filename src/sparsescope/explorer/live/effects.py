"""What each latent that is active at a token does to the next one: each taken away alone, the text run again."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...causal.interventions import place_in
from ...causal.measures import kl
from ...causal.rerun import Rerun
from ...errors import ConfigurationError
from .lab import Loaded
from .reading import Active, Likely, Prompted, codes_of, prompted, strongest, token_texts

_TOKENS = 8192
"""Tokens whose changed activations are held at a time."""


@dataclass(frozen=True)
class Effect:
    """What ablating one latent does to the token after a position.

    `kl` is KL(as it is ‖ ablated) of the next token in nats; `presence` what the latent adds to the log-probability
    of one token, log p (as it is) − log p (ablated), in nats.
    """

    latent: int
    code: float
    kl: float
    presence: float


@dataclass(frozen=True)
class Effects:
    """The effects of the latents active at `position`, largest KL first, and of how many `active` ones.

    `token` is the one whose log-probability is looked at: what really comes next, or behind the last token
    (`actual` is False) what is likeliest.
    """

    position: int
    everywhere: bool
    token: Likely
    actual: bool
    active: int
    effects: list[Effect]


@torch.no_grad()
def effects(loaded: Loaded, name: str, text: str, position: int = -1, *, everywhere: bool = True) -> Effects:
    """Ablate each latent that is active at a position, alone: at every token (`everywhere`) or there only.

    Exact: as many texts are run as latents are active (at most the strongest `MOST_LATENTS`). A negative position
    counts from the end. Raises `ConfigurationError` for a position outside the text, and as `reading.read`.
    """
    dictionary, typed = loaded.dictionary(name), prompted(loaded, text)
    at = checked_position(typed, position)
    place = place_in(loaded.model, dictionary)
    x = loaded.model.read(typed.ids, [place.reads])[place.reads]
    codes = codes_of(dictionary, x)
    chosen = strongest(codes[at])
    rerun = Rerun(loaded.model, typed.ids, place.writes, at=torch.tensor([at]))
    latents = [each.latent for each in chosen]
    taken = codes[:, latents].T.clone()
    if not everywhere:
        taken[:, torch.arange(len(typed)) != at] = 0
    clean = rerun.logits(rerun.activation).double().cpu().log_softmax(-1)
    after = _ablated(rerun, taken, dictionary.directions[latents])
    last = at == len(typed) - 1
    token = int(clean[0].argmax()) if last else int(typed.ids[0, at + 1])
    found = _told(chosen, clean, after, token)
    likely = Likely(token, token_texts(loaded.model.tokenizer, [token])[token], float(clean[0, token].exp()))
    return Effects(at, everywhere, likely, not last, int((codes[at] != 0).sum()), found)


def checked_position(typed: Prompted, position: int) -> int:
    """A position counted from the beginning. Raises `ConfigurationError` when it is outside the text."""
    if not -len(typed) <= position < len(typed):
        raise ConfigurationError(
            f"position {position} is outside the text, which has {len(typed)} tokens: expected {-len(typed)} to "
            f"{len(typed) - 1}."
        )
    return position % len(typed)


def _ablated(
    rerun: Rerun, codes: Float[Tensor, "latent seq"], directions: Float[Tensor, "latent d"]
) -> Float[Tensor, "latent vocabulary"]:
    """Log-probabilities after the position with x − code · direction in the place of x, for each latent."""
    size = max(1, _TOKENS // rerun.ids.shape[1])
    parts = [torch.empty(0, rerun.clean.shape[-1], dtype=torch.float64)]
    for code, direction in zip(codes.split(size), directions.split(size), strict=True):
        change = (code[..., None] * direction[:, None]).to(rerun.activation)
        x = torch.where(change == 0, rerun.activation, rerun.activation - change)
        rows = torch.zeros(len(x), dtype=torch.long)
        parts.append(rerun.logits(x, rows).double().cpu().log_softmax(-1))
    return torch.cat(parts)


def _told(
    chosen: list[Active],
    clean: Float[Tensor, "1 vocabulary"],
    after: Float[Tensor, "latent vocabulary"],
    token: int,
) -> list[Effect]:
    divergences = kl(clean.expand_as(after), after).tolist() if chosen else []
    presence = (clean[:, token] - after[:, token]).tolist()
    found = [Effect(a.latent, a.code, d, p) for a, d, p in zip(chosen, divergences, presence, strict=True)]
    return sorted(found, key=lambda each: -each.kl)
