"""What the model loses when a dictionary's reconstruction takes the place of an activation.

    CE recovered = (CE_zero − CE_spliced) / (CE_zero − CE_clean)

CE is the mean cross-entropy (nats) of predicting the next token. "Spliced" runs the model with the
site's value replaced by `dictionary.reconstruct` of it; "zero" and "mean" put zeros, or the mean of
the train split, in its place: the floors. 1 means that nothing was lost, 0 that the reconstruction is
worth no more than zeros. Sources: SAEBench core; Bricken et al. 2023, *Towards Monosemanticity*.

A transcoder reads one site and stands for another: then it is the value at its output site that is
replaced, by the reconstruction from the value at its input site in the same run; so are the floors.

Which predictions count: those of a token by its predecessor in the same document. Predictions across a
document boundary, of padding, and of an inserted BOS token do not count; the prediction of a document's
first token from its own BOS does. Which positions are replaced: the ones given in `where`, for
`evaluate` those that the store holds activations of; a BOS or massive position that was left out of the
store is left as it is, in the floors too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..dictionaries.base import Dictionary
from ..errors import ModelError, NumericalError, SiteError
from ..text import Tokens
from .reconstruction import row_chunks

if TYPE_CHECKING:
    from ..models import LanguageModel

Replacement = Callable[[Float[Tensor, "batch seq d_in"]], Float[Tensor, "batch seq d_out"]]
Sites = str | tuple[str, str]
"""One site, or (the site that a replacement reads, the site that it replaces)."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Losses:
    """Summed cross-entropy (nats) per document, clean and under each replacement, on the same predictions."""

    documents: Int[np.ndarray, " document"]
    predictions: Float[np.ndarray, " document"]
    """How many predictions were counted in each document."""
    clean: Float[np.ndarray, " document"]
    replaced: Mapping[str, Float[np.ndarray, " document"]]

    def mean(self, name: str | None = None) -> float:
        """Mean cross-entropy per prediction: clean, or under the replacement called `name`."""
        sums = self.clean if name is None else self.replaced[name]
        return float(sums.sum() / self.predictions.sum())


def splice(dictionary: Dictionary) -> Replacement:
    """The replacement that makes `dictionary.reconstruct` of an activation, in its dtype.

    Raises `NumericalError` when the activation or the reconstruction is not finite.
    """

    def replace(x: Float[Tensor, "batch seq d_in"]) -> Float[Tensor, "batch seq d_out"]:
        if not torch.isfinite(x).all():
            raise NumericalError("the model's activations at the spliced site hold NaN or infinity.")
        flat = x.reshape(-1, x.shape[-1]).to(dictionary.device, dictionary.dtype)
        parts = [dictionary.reconstruct(flat[rows]) for rows in row_chunks(len(flat), dictionary.n_latents)]
        x_hat = torch.cat(parts)
        if not torch.isfinite(x_hat).all():
            raise NumericalError(f"a {dictionary.method} dictionary gave reconstructions that are not finite.")
        return x_hat.reshape(*x.shape[:-1], dictionary.d_out).to(x.device, x.dtype)

    return replace


def constant(value: Float[Tensor, " d"]) -> Replacement:
    """The replacement that puts one vector everywhere: zeros, or a mean."""
    return lambda x: value.to(x.device, x.dtype).expand_as(x)


def only_where(replacement: Replacement, where: Bool[Tensor, "batch seq"]) -> Replacement:
    """The replacement at the positions that are true in `where`; the others keep their value."""
    if where.all():
        return replacement
    return lambda x: torch.where(where[..., None].to(x.device), replacement(x), x)


def hooks(
    sites: Sites, function: Replacement, where: Bool[Tensor, "batch seq"] | None = None
) -> dict[str, Replacement]:
    """What `model.logits(replace=...)` takes so that `function`, of the value at the site read, replaces the other's.

    It is for one run of the model. Where the two sites are one, that is `function` itself, limited to
    `where`. Otherwise the input site keeps its value, and `function` is computed while it passes by.
    """
    reads, writes = (sites, sites) if isinstance(sites, str) else sites
    limited = (lambda change: change) if where is None else (lambda change: only_where(change, where))
    if reads == writes:
        return {writes: limited(function)}
    made: list[Tensor] = []

    def read(x: Float[Tensor, "batch seq d_in"]) -> Float[Tensor, "batch seq d_in"]:
        made.append(function(x))
        return x

    def write(y: Float[Tensor, "batch seq d_out"]) -> Float[Tensor, "batch seq d_out"]:
        if not made:
            raise SiteError(
                f"the model comes to {writes} before {reads}: expected an input site before the output site that "
                "is made from it."
            )
        return made.pop().to(y.device, y.dtype)

    return {reads: read, writes: limited(write)}


def counted(tokens: Tokens) -> Bool[Tensor, "n prediction"]:
    """Which predictions count: entry t is that of token t + 1 from the tokens up to t.

    Both must lie in the same document, and token t + 1 must not be an inserted BOS.
    """
    document = tokens.document
    return (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0) & ~tokens.bos[:, 1:]


@torch.no_grad()
def losses(
    model: "LanguageModel",
    tokens: Tokens,
    replacements: Mapping[str, tuple[Sites, Replacement]],
    *,
    where: Bool[Tensor, "n context"] | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Losses:
    """Cross-entropy per document of the clean model and under each replacement (name -> (sites, function)).

    `sites` is the site whose value the function makes a new one from, or a pair: the function then makes
    from the first site's value what takes the place of the second's. Each batch of contexts is run once
    clean and once per replacement, which is only applied at the positions true in `where` (default: all).

    Raises `ModelError` for a model that sees the tokens it is to predict, `SiteError` for one that comes
    to the second site of a pair first, `NumericalError` on a loss that is not finite.
    """
    check_causal(model, tokens.ids[:1])
    documents, places = np.unique(tokens.document.numpy(), return_inverse=True)
    places = places.reshape(tokens.document.shape)
    mask = counted(tokens)
    predictions = np.bincount(places[:, 1:][mask.numpy()], minlength=len(documents)).astype(float)
    sums = {name: np.zeros(len(documents)) for name in (None, *replacements)}
    for begin in range(0, len(tokens), batch):
        if progress is not None:
            progress("splicing", begin, len(tokens))
        rows = slice(begin, begin + batch)
        for name, total in sums.items():
            replace = {}
            if name is not None:
                replace = hooks(*replacements[name], None if where is None else where[rows])
            here = _cross_entropy(model, tokens.ids[rows], tokens.document[rows], mask[rows], replace)
            total += np.bincount(places[rows, 1:][mask[rows].numpy()], weights=here, minlength=len(documents))
        if not all(np.isfinite(total).all() for total in sums.values()):
            bad = next(name for name, total in sums.items() if not np.isfinite(total).all())
            raise NumericalError(f"the loss {f'under {bad!r}' if bad else 'of the clean model'} is not finite.")
    if progress is not None:
        progress("splicing", len(tokens), len(tokens))
    kept = predictions > 0
    clean, *replaced = (total[kept] for total in sums.values())
    return Losses(documents[kept], predictions[kept], clean, dict(zip(replacements, replaced, strict=True)))


def check_causal(model: "LanguageModel", ids: Int[Tensor, "1 seq"]) -> None:
    """Raise `ModelError` when what is predicted at a position depends on later tokens, as in BERT.

    Found by running one context whole and cut in half: but for rounding, the first half may not change.
    """
    half = ids.shape[1] // 2
    whole, cut = (model.logits(part.to(model.device))[:, :half] for part in (ids, ids[:, :half]))
    rounding = min(0.02, 1000 * torch.finfo(cut.dtype).eps)
    if (whole.float() - cut.float()).square().mean().sqrt() > rounding * cut.float().std():
        raise ModelError(
            f"{model.name!r} sees later tokens (it is a masked language model, say), so a loss of predicting the next "
            "token means nothing: evaluate without the model."
        )


def _cross_entropy(
    model: "LanguageModel",
    ids: Int[Tensor, "batch seq"],
    document: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch prediction"],
    replace: dict[str, Replacement],
) -> Float[np.ndarray, " counted"]:
    """Nats per counted prediction, row by row."""
    padded = bool((document < 0).any())
    attention = (document >= 0).long().to(model.device) if padded else None
    logits = model.logits(ids.to(model.device), replace=replace, attention_mask=attention)
    mask = mask.to(logits.device)
    targets = ids.to(logits.device)[:, 1:][mask]
    return (
        torch.nn.functional.cross_entropy(logits[:, :-1][mask].float(), targets, reduction="none")
        .double()
        .cpu()
        .numpy()
    )
