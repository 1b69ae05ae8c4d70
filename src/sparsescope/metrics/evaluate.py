"""Every number about a dictionary, on documents it was not fitted on.

`evaluate` measures one dictionary, `evaluate_all` any number of them on one pass over the activations
and one clean run of the model, which is how a table of them stays affordable: the same rows, the same
contexts and the same bootstrap samples serve all, so that differences between them are paired.

Splits are by document. Choose settings on "validation" and report numbers from "test", the default.

A transcoder reads one site and reconstructs another: what it is compared with, and what it replaces in
the model, is the activation at the output site; what it is given is that of the input site at the same
token, and in the same run of the model.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..activations.base import Activations, Block
from ..dictionaries.base import Dictionary
from ..errors import ConfigurationError, NumericalError
from ..text import Tokens
from .evaluation import Evaluation
from .geometry import capacity
from .places import Place, check_order, check_origin, place_of
from .reconstruction import COLUMNS, RATIOS, Reconstruction
from .splicing import Losses, Replacement, Sites, constant, losses, splice
from .statistics import RESAMPLES, Estimate, ratio_estimate, resampled_sums

if TYPE_CHECKING:
    from ..models import LanguageModel

Progress = Callable[[str, int, int], None]

SPLICE_TOKENS = 16_384
"""Default number of tokens that the model is run on, once clean and once per dictionary."""

_CAPACITY_ROWS = 4096


def evaluate(
    dictionary: Dictionary,
    store: Activations,
    *,
    model: "LanguageModel | None" = None,
    split: str = "test",
    site: str | tuple[str, str] | None = None,
    max_tokens: int | None = None,
    splice_tokens: int | None = SPLICE_TOKENS,
    elsewhere: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure one dictionary on held-out activations and, with `model`, inside the model.

    `split` is "test" for numbers to report, "validation" while settings are still being chosen. `site`,
    for a transcoder the pair (input, output), is only needed where the provenance names none.
    `max_tokens` and `splice_tokens` limit the tokens that are encoded, and those that the model is run
    on, to a random draw of contexts (None: all); the latter are among the former. A dictionary is
    measured on the store that it was made from, whose test documents it cannot have seen; `elsewhere`
    allows another one, and the caller vouches that its text is other text.

    Raises `ArtifactError` when the activations are another model's, or the dictionary was made from
    others and `elsewhere` is off, `SiteError` when they lack the site, or the model does not come to the
    input site before the output site, `ConfigurationError` when the widths differ, `NumericalError` on NaN.

    >>> print(evaluate(sae, store, model=lm))  # doctest: +SKIP
    """
    return evaluate_all(
        [dictionary],
        store,
        model=model,
        split=split,
        site=site,
        max_tokens=max_tokens,
        splice_tokens=splice_tokens,
        elsewhere=elsewhere,
        seed=seed,
        progress=progress,
    )[0]


def evaluate_all(
    dictionaries: Sequence[Dictionary],
    store: Activations,
    *,
    model: "LanguageModel | None" = None,
    split: str = "test",
    site: str | tuple[str, str] | None = None,
    max_tokens: int | None = None,
    splice_tokens: int | None = SPLICE_TOKENS,
    elsewhere: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """`evaluate` for several dictionaries at once, on the same tokens, contexts and bootstrap samples."""
    if seed < 0:
        raise ConfigurationError(f"seed = {seed}, expected a whole number of 0 or more.")
    places = [place_of(dictionary, store, site) for dictionary in dictionaries]
    if not elsewhere:
        for dictionary in dictionaries:
            check_origin(dictionary, store)
    contexts = store.contexts(split)
    if model is not None:
        store.check_model(model)
        for dictionary, at in zip(dictionaries, places, strict=True):
            if at.two:
                check_order(model, at, contexts.ids[:1, :1], dictionary.provenance.name or dictionary.method)
    sample = _Sample(store, split, draw_contexts(contexts, max_tokens, seed))
    plan = _Bootstrap(resamples, seed)
    found: list[dict[str, Any]] = [{} for _ in dictionaries]
    for here in dict.fromkeys(places):
        members = [i for i, at in enumerate(places) if at == here]
        sums = _reconstruct([dictionaries[i] for i in members], sample, here, progress)
        for i, one in zip(members, sums, strict=True):
            found[i] = _measured(one, plan, here.writes)
    if model is not None and dictionaries:
        rows = np.intersect1d(sample.numbers, draw_contexts(contexts, splice_tokens, seed))
        held = _held(sample, places[0].reads, contexts)[rows]
        replacements = _replacements([dictionary.to(model.device) for dictionary in dictionaries], places, store)
        loss = losses(model, _take(contexts, rows), replacements, where=held, progress=progress)
        for i, at in enumerate(places):
            found[i] |= _spliced(loss, str(i), at.writes, plan)
    return [
        _evaluation(dictionary, at, split, numbers)
        for dictionary, at, numbers in zip(dictionaries, places, found, strict=True)
    ]


def draw_contexts(contexts: Tokens, budget: int | None, seed: int) -> Int[np.ndarray, " context"]:
    """Ascending numbers of the contexts to use: all, or a random draw of `budget` tokens (at least one context).

    They are drawn from the whole split, so that a text made of several sources is sampled in all of
    them. With one seed, a smaller draw is part of a larger one.
    """
    if budget is not None and budget < 1:
        raise ConfigurationError(f"the limit of tokens is {budget}; expected a positive number, or None for all.")
    wanted = len(contexts) if budget is None else max(1, budget // contexts.ids.shape[1])
    return np.sort(np.random.default_rng(seed).permutation(len(contexts))[:wanted])


@dataclass(frozen=True, eq=False)
class _Sample:
    """The rows that are measured: those of some contexts of a split."""

    store: Activations
    split: str
    numbers: Int[np.ndarray, " context"]

    def blocks(self, site: str) -> Iterator[Block]:
        """The chosen rows of every block; blocks after the last chosen context are not read."""
        chosen = torch.from_numpy(self.numbers)
        last = int(chosen[-1])
        for block in self.store.blocks(site, self.split):
            inside = torch.isin(block.context, chosen)
            if inside.any():
                columns = (block.x, block.document, block.position, block.context)
                yield Block(*(column[inside] for column in columns)) if not inside.all() else block
            if int(block.context[-1]) > last:
                return

    def pairs(self, place: Place) -> Iterator[tuple[Block, Float[Tensor, "row d_out"]]]:
        """Blocks of the input site, and what stands at the output site in the same rows."""
        if not place.two:
            yield from ((block, block.x) for block in self.blocks(place.reads))
            return
        for block, beside in zip(self.blocks(place.reads), self.blocks(place.writes), strict=True):
            yield block, beside.x


@dataclass(frozen=True)
class _Bootstrap:
    """One set of resampled documents for all numbers, so that they are paired."""

    resamples: int
    seed: int

    def ratios(
        self, columns: Float[np.ndarray, "document column"], pairs: Mapping[str, tuple[int, int]]
    ) -> dict[str, Estimate]:
        """The ratio of the sums of two columns, by name."""
        totals = columns.sum(0)
        samples = resampled_sums(columns, resamples=self.resamples, seed=self.seed)
        return {
            name: ratio_estimate(totals[list(pair)], samples[:, list(pair)], len(columns))
            for name, pair in pairs.items()
        }


def _reconstruct(
    dictionaries: Sequence[Dictionary], sample: _Sample, place: Place, progress: Progress | None
) -> list[Reconstruction]:
    """Sums of all dictionaries of one place: one pass for the mean and the documents, one for everything else."""
    site = place.writes
    total, rows, seen = torch.zeros(sample.store.width(site), dtype=torch.float64), 0, []
    for block in sample.blocks(site):
        total += block.x.double().sum(0)
        rows += len(block.x)
        seen.append(block.document.unique())
    if not seen or not total.isfinite().all():
        raise NumericalError(
            f"the chosen contexts of the {sample.split} split hold no row at {site}: allow more tokens."
            if not seen
            else f"the activations at {site} hold NaN or infinity: harvest them again."
        )
    documents = torch.cat(seen).unique()
    sums = [Reconstruction(dictionary, total / rows, len(documents)) for dictionary in dictionaries]
    done = 0
    for block, target in sample.pairs(place):
        numbers = torch.searchsorted(documents, block.document)
        for one in sums:
            one.add(block.x, numbers, target)
        done += len(block.x)
        if progress is not None:
            progress(f"reconstructing {site}", done, rows)
    return sums


def _measured(sums: Reconstruction, plan: _Bootstrap, site: str) -> dict[str, Any]:
    """What was found about one dictionary without the model."""
    if not sums.totals["variance"] > 0:
        raise NumericalError(f"the activations at {site} are all the same: FVU is undefined. Evaluate on more tokens.")
    pairs = {name: (COLUMNS.index(above), COLUMNS.index(below)) for name, (above, below) in RATIOS.items()}
    return {
        **plan.ratios(sums.columns, pairs),
        "alive": sums.alive,
        "density": sums.density,
        "moments": sums.moments,
        "tokens": sums.tokens,
    }


def _held(sample: _Sample, site: str, contexts: Tokens) -> Bool[Tensor, "n context"]:
    """Which positions the store holds activations of (the same at every site)."""
    held = torch.zeros(contexts.ids.shape, dtype=torch.bool)
    for block in sample.blocks(site):
        held[block.context, block.position] = True
    return held


def _take(contexts: Tokens, rows: Int[np.ndarray, " context"]) -> Tokens:
    return replace(contexts, **{name: column[rows] for name, column in vars(contexts).items()})


def _replacements(
    dictionaries: Sequence[Dictionary], places: Sequence[Place], store: Activations
) -> dict[str, tuple[Sites, Replacement]]:
    """Every dictionary under its number, and both floors of every site that is reconstructed."""
    by_name: dict[str, tuple[Sites, Replacement]] = {}
    for at in dict.fromkeys(place.writes for place in places):
        by_name[f"zero {at}"] = (at, constant(torch.zeros(store.width(at))))
        by_name[f"mean {at}"] = (at, constant(store.mean(at)))
    return by_name | {str(i): (places[i], splice(dictionary)) for i, dictionary in enumerate(dictionaries)}


def _spliced(loss: Losses, name: str, site: str, plan: _Bootstrap) -> dict[str, Any]:
    """Cross-entropies of one dictionary, and how much of the loss it recovers from each floor."""
    zero, mean, spliced = loss.replaced[f"zero {site}"], loss.replaced[f"mean {site}"], loss.replaced[name]
    gains = [zero - spliced, zero - loss.clean, mean - spliced, mean - loss.clean]
    columns = np.stack([*gains, loss.clean, spliced, loss.predictions], 1)
    clean, after = loss.mean(), loss.mean(name)
    pairs = {
        "ce_recovered": (0, 1),
        "ce_recovered_mean": (2, 3),
        "ce_clean_interval": (4, 6),
        "ce_spliced_interval": (5, 6),
    }
    return {
        **plan.ratios(columns, pairs),
        "ce_clean": clean,
        "ce_spliced": after,
        "ce_zero": loss.mean(f"zero {site}"),
        "ce_mean": loss.mean(f"mean {site}"),
        "perplexity_clean": math.exp(clean),
        "perplexity_spliced": math.exp(after),
        "predictions": int(loss.predictions.sum()),
    }


def _evaluation(dictionary: Dictionary, place: Place, split: str, numbers: dict[str, Any]) -> Evaluation:
    origin = dictionary.provenance
    k = origin.k if origin.k is not None else dictionary.settings().get("k")
    rows = None
    if dictionary.n_latents > _CAPACITY_ROWS:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(dictionary.n_latents, generator=generator)[:_CAPACITY_ROWS]
    return Evaluation(
        name=origin.name or origin.path or f"{dictionary.method}-{dictionary.n_latents}",
        method=dictionary.method,
        site=place.reads,
        output_site=place.writes if place.two else None,
        n_latents=dictionary.n_latents,
        seed=origin.seed,
        l1=origin.l1,
        k=k,
        target_l0=origin.target_l0,
        capacity=float(capacity(dictionary.directions, rows).double().mean()),
        split=split,
        path=origin.path,
        **numbers,
    )
