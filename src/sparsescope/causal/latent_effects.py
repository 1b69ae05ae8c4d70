"""What each of many latents does to the next token, where it is strongest: all of them in few passes of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from ..dictionaries.base import Dictionary
from ..features.gathering import Gathered
from ..metrics.statistics import LEVEL, RESAMPLES, Estimate, resampled_sums
from ..models import LanguageModel
from .cases.output_effect import codes_of, without
from .cases.windows import LENGTH, Windows
from .interventions.places import place_in
from .rerun import Rerun
from .strongest_places import CONTEXTS, Places, strongest_places, windows_of

Progress = Callable[[str, int, int], None]
_CELLS = 1 << 22  # numbers in the largest block, of logits or of codes


@dataclass(frozen=True)
class LatentEffect:
    """What a latent does to the next token, mean over `contexts`, each of another document.

    `kl` is KL(clean ‖ ablated) in nats; `control` the same when another latent that is active at the place, drawn at
    random, is ablated instead (None where there never is one). `raised` and `lowered` are token ids with the change
    of their probability by the latent's presence, p(clean) − p(ablated), the largest change first. (Changes of
    log-probability, as `cases.output_effect` tells them, are largest for tokens that hardly ever come.)
    """

    kl: Estimate
    control: Estimate | None
    contexts: int
    raised: list[tuple[int, float]]
    lowered: list[tuple[int, float]]


@torch.no_grad()
def latent_effects(
    model: LanguageModel,
    dictionary: Dictionary,
    gathered: Gathered,
    kept: Bool[Tensor, "context position"],
    *,
    contexts: int = CONTEXTS,
    length: int = LENGTH,
    wanted: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[LatentEffect | None]:
    """Ablate each gathered latent in windows that end where it is strongest, and look at what is predicted there.

    x' = x − c_j f_j at every position of the window, the error of the dictionary kept, as in `cases.output_effect`;
    of a dictionary of two sites, c is read at the one and x' is made at the other. There are `contexts` windows for
    each latent, of `length` tokens and different documents (`kept` says where the dictionary knows the activation). One
    in which the code at the place falls below half of what it is in the whole context is left out, and a latent
    without any window has no effect (None). Intervals are bootstraps over the windows. What is found of a latent does
    not depend on which others are gathered.

    Raises `ConfigurationError` for a dictionary of another model, `ModelError` for a model without logits.
    """
    places = strongest_places(gathered, contexts, length=length, seed=seed)
    ablations = _Ablations(model, dictionary, gathered.latents)
    step = max(1, _CELLS // model.vocabulary)
    cells = max(model.vocabulary, (length + 1) * dictionary.n_latents)
    found: list[LatentEffect | None] = []
    for begin in range(0, len(gathered), step):
        end = min(begin + step, len(gathered))
        mine, tally = places.of(begin, end), _Tally(end - begin, model)
        for pairs, windows, row in windows_of(mine, gathered, kept, length=length, most=max(1, _CELLS // cells)):
            ablations.measure(mine.take(pairs), begin, windows, row, tally)
        found += tally.effects(wanted)
        if progress is not None:
            progress("ablating latents", end, len(gathered))
    return found


class _Ablations:
    """Latents of a dictionary, taken away one by one."""

    def __init__(self, model: LanguageModel, dictionary: Dictionary, latents: Int64[np.ndarray, " latent"]) -> None:
        self.model, self.dictionary = model, dictionary
        self.latents = torch.from_numpy(latents).to(dictionary.device)
        self.site = place_in(model, dictionary)

    def measure(
        self, places: Places, first: int, windows: Windows, row: Int64[np.ndarray, " pair"], tally: "_Tally"
    ) -> None:
        """The effects of latents (counted from `first`) and of their controls, each in one of the windows."""
        rerun = Rerun(self.model, windows.ids, self.site.writes, at=windows.at, attention_mask=windows.mask)
        codes = codes_of(self.dictionary, self._read(rerun, windows), windows)
        where, owner = torch.from_numpy(row).to(codes.device), torch.from_numpy(places.owner).to(codes.device)
        latent = self.latents[owner + first]
        ends = codes[torch.arange(len(codes), device=codes.device), windows.at.to(codes.device)]
        strong = ends[where, latent] >= torch.from_numpy(places.code / 2).to(codes)
        other = _another(ends, where, latent, torch.from_numpy(places.chance).to(codes.device))
        clean = rerun.clean.double().log_softmax(-1)
        for ablated, chosen, control in ((latent, strong, False), (other, strong & (other >= 0), True)):
            for part in chosen.nonzero()[:, 0].split(max(1, _CELLS // self.model.vocabulary)):
                if not len(part):
                    continue
                rows, which = where[part].cpu(), ablated[part]
                direction = self.dictionary.directions[which][:, None]
                changed = without(rerun.activation[rows], codes[where[part], :, which], direction)
                after = rerun.logits(changed, rows).double().log_softmax(-1)
                tally.add(owner[part], clean[rows], after, control)

    def _read(self, rerun: Rerun, windows: Windows) -> Float[Tensor, "n seq d"]:
        """What the dictionary reads in the windows."""
        if not self.site.two:
            return rerun.activation
        return self.model.read(windows.ids, [self.site.reads], windows.mask)[self.site.reads]


def _another(
    ends: Float[Tensor, "window latent"],
    row: Int[Tensor, " pair"],
    latent: Int[Tensor, " pair"],
    chance: Float64[Tensor, " pair"],
) -> Int[Tensor, " pair"]:
    """Another latent that is active at the end of each pair's window, by chance (in [0, 1)); -1 where there is none."""
    parts = []
    for here in torch.arange(len(row), device=row.device).split(max(1, _CELLS // ends.shape[1])):
        active = ends[row[here]] > 0
        active[torch.arange(len(here), device=row.device), latent[here]] = False
        count = active.sum(1)
        drawn = (active.cumsum(1) > (chance[here] * count).long()[:, None]).to(torch.uint8).argmax(1)
        parts.append(torch.where(count > 0, drawn, -1))
    return torch.cat(parts)


class _Tally:
    """Sums over the windows of each of some latents."""

    def __init__(self, latents: int, model: LanguageModel) -> None:
        self.kl: list[tuple[np.ndarray, np.ndarray]] = []
        self.control: list[tuple[np.ndarray, np.ndarray]] = []
        self.count = torch.zeros(latents, device=model.device)
        self.gain = torch.zeros(latents, model.vocabulary, device=model.device)

    def add(
        self,
        owner: Int[Tensor, " pair"],
        clean: Float64[Tensor, "pair vocabulary"],
        after: Float64[Tensor, "pair vocabulary"],
        control: bool,
    ) -> None:
        """Log-probabilities of the next token with a latent, and without it (or without its control)."""
        p = clean.exp()
        kl = (p * (clean - after)).sum(-1)
        (self.control if control else self.kl).append((owner.cpu().numpy(), kl.cpu().numpy()))
        if not control:
            where = owner.to(p.device)
            self.count.index_add_(0, where, torch.ones(len(where), device=p.device))
            self.gain.index_add_(0, where, (p - after.exp()).float())

    def effects(self, wanted: int) -> list[LatentEffect | None]:
        """The effect of every latent, None where it has no window."""
        gain = self.gain / self.count.clamp_min(1)[:, None]
        size = min(wanted, gain.shape[1])
        top, bottom = (gain.topk(size, largest=largest) for largest in (True, False))
        kl, control = (means(values, len(gain)) for values in (self.kl, self.control))
        return [
            None if each is None else LatentEffect(each, control[i], each.n, _listed(top, i, 1), _listed(bottom, i, -1))
            for i, each in enumerate(kl)
        ]


def _listed(found: Any, place: int, sign: int) -> list[tuple[int, float]]:
    """The tokens of one latent that change in a direction."""
    pairs = zip(found.indices[place].tolist(), found.values[place].tolist(), strict=True)
    return [(token, value) for token, value in pairs if sign * value > 0]


def means(parts: list[tuple[np.ndarray, np.ndarray]], owners: int) -> list[Estimate | None]:
    """The mean of each owner's values, given in parts (owner, value), as `ratio_of_sums` gives it; None without any.

    >>> print(means([(np.array([1, 1]), np.array([0.5, 1.5]))], 2)[1].value)
    1.0
    """
    found: list[Estimate | None] = [None] * owners
    if not parts:
        return found
    owner, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Summed in an order that does not depend on how the work was divided.
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    names, begins, counts = np.unique(owner, return_index=True, return_counts=True)
    for n in np.unique(counts).tolist():
        of = counts == n
        table = values[begins[of][:, None] + np.arange(n)]
        for name, estimate in zip(names[of].tolist(), _intervals(table), strict=True):
            found[name] = estimate
    return found


def _intervals(table: Float64[np.ndarray, "owner n"]) -> list[Estimate]:
    """The means of rows, with percentile intervals of one bootstrap over the columns."""
    n, tail = table.shape[1], (1 - LEVEL) / 2
    middles = (table.sum(1) / n).tolist()
    if n == 1:
        return [Estimate(middle, -np.inf, np.inf, n) for middle in middles]
    samples = resampled_sums(table.T, resamples=RESAMPLES) / n
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0).tolist()
    return [Estimate(*row, n) for row in zip(middles, low, high, strict=True)]
