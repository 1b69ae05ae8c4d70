"""Facts about latents that need no explanation: their tokens, what they write to the logits, their neighbours."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from torch import Tensor

from ..dictionaries.base import Dictionary
from ..errors import ConfigurationError
from .gathering import Gathered
from .token_sums import TokenSums

_CELLS = 1 << 24  # numbers in the largest intermediate block: 64 MiB of float32
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)  # set bits of each byte


@dataclass(frozen=True, eq=False)
class Ranked:
    """A few of many for each latent, best first: `numbers`, -1 where there are no more, and their `values`."""

    numbers: Int64[np.ndarray, "latent rank"]
    values: Float32[np.ndarray, "latent rank"]

    def of(self, place: int) -> tuple[list[int], list[float]]:
        """Those of one latent, without empty ranks."""
        there = self.numbers[place] >= 0
        return self.numbers[place][there].tolist(), self.values[place][there].tolist()


@dataclass(frozen=True, eq=False)
class Statistics:
    """What `statistics` computes for the latents of a `Gathered`, in its order.

    `entropy` (nats) as in `token_entropy`; `tokens` the token ids with the most activation, and their
    share of it; `raised` and `lowered` the token ids whose logit a latent raises and lowers most
    directly, with the change per unit of its code (None without an unembedding); `alike` the latents of
    the dictionary with the closest directions, by cosine; `together` those of the gathered ones that are
    active on the same fragments, by Jaccard index. Neighbours are named by latent number.
    """

    entropy: Float64[np.ndarray, " latent"]
    tokens: Ranked
    raised: Ranked | None
    lowered: Ranked | None
    alike: Ranked
    together: Ranked


def statistics(
    gathered: Gathered,
    dictionary: Dictionary,
    unembedding: Float[Tensor, "d vocabulary"] | None = None,
    *,
    wanted: int = 10,
) -> Statistics:
    """All statistics of the gathered latents, `wanted` of each ranking.

    `unembedding` is the matrix that turns the residual stream into logits; leave it out where the
    dictionary does not write to the residual stream.
    """
    effects = None if unembedding is None else logit_effect(dictionary, gathered.latents, unembedding, wanted)
    return Statistics(
        entropy=token_entropy(gathered.token_sum),
        tokens=top_tokens(gathered.token_sum, wanted),
        raised=None if effects is None else effects[0],
        lowered=None if effects is None else effects[1],
        alike=alike(dictionary, gathered.latents, wanted),
        together=together(gathered.firing, gathered.latents, wanted),
    )


def token_entropy(sums: TokenSums) -> Float64[np.ndarray, " latent"]:
    """H = −Σ p_v ln p_v, where p_v is the share of a latent's activation that falls on token id v; nats.

    0 for a latent of one token, ln(vocabulary) for one that does not care; nan for one that is never
    active. Source: Heap et al. 2025 (arXiv 2501.17727), who find that it tells trained models from random
    ones where automated scores do not.
    """
    owner = np.repeat(np.arange(len(sums.indptr) - 1), np.diff(sums.indptr))
    totals = np.bincount(owner, weights=sums.sums, minlength=len(sums.indptr) - 1)
    share = sums.sums / totals[owner]
    entropy = np.bincount(owner, weights=-share * np.log(share), minlength=len(totals))
    return np.where(totals > 0, np.maximum(entropy, 0), np.nan)


def top_tokens(sums: TokenSums, wanted: int = 10) -> Ranked:
    """The token ids on which most of each latent's activation falls, with their share of it; of equals the lower id."""
    latents = len(sums.indptr) - 1
    numbers = np.full((latents, wanted), -1, np.int64)
    values = np.zeros((latents, wanted), np.float32)
    for place in range(latents):
        ids, mass, _ = sums.of(place)
        order = np.argsort(-mass, kind="stable")[:wanted]
        numbers[place, : len(order)] = ids[order]
        values[place, : len(order)] = mass[order] / mass.sum() if len(ids) else 0
    return Ranked(numbers, values)


@torch.no_grad()
def logit_effect(
    dictionary: Dictionary,
    latents: Int64[np.ndarray, " latent"],
    unembedding: Float[Tensor, "d vocabulary"],
    wanted: int = 10,
) -> tuple[Ranked, Ranked]:
    """Token ids whose logits the directions raise most, and lower most: `directions @ unembedding`, centred.

    The mean over the vocabulary is taken off, as a shift of all logits changes no probability. This is the
    direct path alone: later layers and the scale of the last normalisation are left out, whose weights
    belong into `unembedding`. Raises `ConfigurationError` when the widths differ.
    """
    if unembedding.ndim != 2 or unembedding.shape[0] != dictionary.d_out:
        raise ConfigurationError(
            f"the unembedding has shape {tuple(unembedding.shape)}, but directions have width {dictionary.d_out}: "
            "give a matrix (width, vocabulary)."
        )
    matrix = unembedding.to(dictionary.device, torch.float32)
    matrix = matrix - matrix.mean(1, keepdim=True)
    size = min(wanted, matrix.shape[1])
    raised, lowered = [], []
    for part in torch.from_numpy(latents).split(max(1, _CELLS // matrix.shape[1])):
        effect = dictionary.directions[part.to(dictionary.device)].float() @ matrix
        raised.append(effect.topk(size, dim=1))
        lowered.append(effect.topk(size, dim=1, largest=False))
    return _ranked(raised), _ranked(lowered)


@torch.no_grad()
def alike(dictionary: Dictionary, latents: Int64[np.ndarray, " latent"], wanted: int = 10) -> Ranked:
    """For each of `latents`, the other latents of the dictionary whose directions have the largest cosine with it."""
    directions = torch.nn.functional.normalize(dictionary.directions.float(), dim=1)
    size = min(wanted, len(directions) - 1)
    found = []
    for part in torch.from_numpy(latents).to(directions.device).split(max(1, _CELLS // len(directions))):
        cosine = directions[part] @ directions.T
        cosine[torch.arange(len(part), device=part.device), part] = -torch.inf
        found.append(cosine.topk(size, dim=1))
    return _ranked(found)


def together(
    firing: UInt8[np.ndarray, "latent byte"], latents: Int64[np.ndarray, " latent"], wanted: int = 10
) -> Ranked:
    """For each latent, the others that are active on the same fragments: |A ∩ B| / |A ∪ B|, where it is above 0.

    `firing` packs one bit per fragment, as `Gathered.firing` does. Of equal ones, the lower place comes first.
    """
    size = min(wanted, len(firing) - 1)
    each = torch.from_numpy(_ONES[firing].sum(1, dtype=np.int64))
    numbers, values = [], []
    rows = max(1, _CELLS // len(firing))
    for part in (slice(begin, begin + rows) for begin in range(0, len(firing), rows)):
        both = _both(firing[part], firing)
        jaccard = both / (each[part, None] + each - both).clamp_min(1)
        jaccard[:, part].fill_diagonal_(0)
        order = torch.sort(jaccard, dim=1, descending=True, stable=True)
        values.append(order.values[:, :size].numpy())
        numbers.append(np.where(values[-1] > 0, latents[order.indices[:, :size].numpy()], -1))
    return Ranked(np.concatenate(numbers), np.concatenate(values).astype(np.float32))


def _both(
    some: UInt8[np.ndarray, "part byte"], firing: UInt8[np.ndarray, "latent byte"]
) -> Float64[Tensor, "part latent"]:
    """On how many fragments both of two latents are active."""
    both = torch.zeros(len(some), len(firing), dtype=torch.float64)
    # Counts below 2²⁴ are exact in float32, and no piece has so many fragments.
    for begin in range(0, firing.shape[1], step := max(1, _CELLS // 8 // len(firing))):
        bits, others = (
            torch.from_numpy(np.unpackbits(packed[:, begin : begin + step], axis=1)).float()
            for packed in (some, firing)
        )
        both += bits @ others.T
    return both


def _ranked(found: list[torch.return_types.topk]) -> Ranked:
    return Ranked(
        torch.cat([part.indices for part in found]).cpu().numpy(),
        torch.cat([part.values for part in found]).cpu().numpy(),
    )
