"""Windows of text that end where a latent is strongly active: what single latents are studied in.

A place counts as strong when its code lies in [M/2, M], where M is the largest code on the split, as in
Cunningham et al. 2023, §6. A window is what precedes the place in its document, 40 tokens at most (the
paper's length), with the begin-of-sequence token that the model saw there. The code is measured again in
the window, since less text may change it; a place whose code falls below M/2 by that is not used.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...activations.base import Activations
from ...dictionaries.base import Dictionary
from ...errors import ConfigurationError
from ...features.coding import site_of
from ...models import LanguageModel
from ...text import Tokens
from .activity import Activity

LENGTH = 40
"""Tokens in a window, at most, as in the paper."""
_CANDIDATES = 4
"""So many times the windows asked for are measured, in case some places are not strong in their window."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Right-padded windows, each of another document; the last token of each is the place.

    `mask` is 1 at tokens; `at` is the position of the last one; `changeable` is true where the store has the
    activation, so where its dictionaries were made for one (a BOS token may have been left out); `fixed`
    counts BOS tokens at the front; `activation` is the latent's code at the place, measured in the window.
    """

    ids: Int[Tensor, "n seq"]
    mask: Int[Tensor, "n seq"]
    at: Int[Tensor, " n"]
    changeable: Bool[Tensor, "n seq"]
    fixed: Int[Tensor, " n"]
    document: Int[np.ndarray, " n"]
    activation: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int[np.ndarray, " taken"]) -> "Windows":
        """Some of the windows, in the order given."""
        each = torch.from_numpy(rows)
        tensors = (self.ids[each], self.mask[each], self.at[each], self.changeable[each], self.fixed[each])
        return Windows(*tensors, self.document[rows], self.activation[rows])


def strong_windows(
    model: LanguageModel,
    dictionary: Dictionary,
    store: Activations,
    found: Activity,
    wanted: int,
    *,
    site: str | None = None,
    split: str = "test",
    tokens: Tokens | None = None,
    length: int = LENGTH,
    seed: int = 0,
    required: bool = True,
) -> Windows:
    """`wanted` windows (fewer where there are not so many) spread evenly over the strong places of a latent.

    At most one place of a document is taken, drawn at random; the places are ranked by their code and one is
    drawn from each of `wanted` equal parts. Windows are in descending order of `activation`.

    Raises `ConfigurationError` when the latent is never active, or in no window as strong as on the split; where
    windows are not `required`, there are none then.
    """
    if not len(found) and not required:
        return _none()
    if not len(found):
        raise ConfigurationError(
            f"latent {found.latent} is never active on the {found.rows:,} activations of the {split} split: choose "
            "another latent, or a run with more text."
        )
    tokens = store.contexts(split) if tokens is None else tokens
    generator = np.random.default_rng([seed, found.latent])
    strong = _one_per_document(found, np.flatnonzero(found.codes >= found.maximum / 2), generator)
    chosen = _even(found.codes[strong], _CANDIDATES * wanted, generator)
    windows = windows_at(
        tokens, store.kept(split), found.context[strong[chosen]], found.position[strong[chosen]], length
    )
    measured = codes_at(model, dictionary, site_of(dictionary, site), windows, found.latent)
    windows = replace(windows, activation=measured)
    kept = np.flatnonzero(measured >= found.maximum / 2)
    if not len(kept) and required:
        raise ConfigurationError(
            f"latent {found.latent} reaches half of its maximum {found.maximum:.3g} in none of {len(measured)} windows "
            f"of {length} tokens: it depends on text further back. Allow longer windows."
        )
    kept = kept[_even(measured[kept], wanted, generator)].astype(np.int64)
    return windows.take(kept[np.argsort(-measured[kept], kind="stable")])


def _none() -> Windows:
    ids, row = torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    return Windows(ids, ids, row, ids.bool(), row, np.zeros(0, np.int64), np.zeros(0, np.float32))


def _one_per_document(
    found: Activity, places: Int[np.ndarray, " place"], generator: np.random.Generator
) -> Int[np.ndarray, " taken"]:
    """One of the places in each document, drawn at random; in the order of the text."""
    shuffled = generator.permutation(places)
    _, first = np.unique(found.document[shuffled], return_index=True)
    return np.sort(shuffled[first])


def _even(values: Float[np.ndarray, " n"], wanted: int, generator: np.random.Generator) -> Int[np.ndarray, " taken"]:
    """Numbers of `wanted` values, one drawn from each of as many equal parts of their ranking."""
    ranked = np.argsort(-values, kind="stable")
    if len(ranked) <= wanted:
        return ranked
    return np.array([generator.choice(part) for part in np.array_split(ranked, wanted)])


def windows_at(
    tokens: Tokens,
    kept: Bool[Tensor, "context position"],
    context: Int[np.ndarray, " n"],
    position: Int[np.ndarray, " n"],
    length: int = LENGTH,
) -> Windows:
    """The windows that end at some places of `tokens`, in the order given; `activation` is not known yet.

    `kept` says where the store has an activation. A window is what precedes the place in its document and context, of
    `length` tokens with the place itself, and before it the last begin-of-sequence token, where there is one.
    """
    document, bos = tokens.document.numpy(), tokens.bos.numpy()
    back = position[:, None] - np.arange(length)[::-1]
    row, there = context[:, None], np.maximum(back, 0)
    same = (back >= 0) & (document[row, there] == document[context, position][:, None])
    # Only what follows the last token of another document.
    inside = np.logical_and.accumulate(same[:, ::-1], axis=1)[:, ::-1] & ~bos[row, there]
    before = np.arange(bos.shape[1]) <= position[:, None]
    last = np.where(bos[context] & before, np.arange(bos.shape[1]), -1).max(1)
    there, real = np.column_stack([np.maximum(last, 0), there]), np.column_stack([last >= 0, inside])
    order = np.argsort(~real, axis=1, kind="stable")[:, : int(real.sum(1).max())]
    there, real = np.take_along_axis(there, order, 1), np.take_along_axis(real, order, 1)
    mask = torch.from_numpy(real)
    return Windows(
        ids=torch.where(mask, tokens.ids[torch.from_numpy(row), torch.from_numpy(there)].long(), 0),
        mask=mask.long(),
        at=mask.sum(1) - 1,
        changeable=kept[torch.from_numpy(row), torch.from_numpy(there)] & mask,
        fixed=torch.from_numpy((last >= 0).astype(np.int64)),
        document=document[context, position],
        activation=np.full(len(context), np.nan, np.float32),
    )


@torch.no_grad()
def codes_at(
    model: LanguageModel, dictionary: Dictionary, site: str, windows: Windows, latent: int, *, batch: int = 64
) -> Float[np.ndarray, " n"]:
    """The code of a latent at the end of each window."""
    parts = []
    for begin in range(0, len(windows), batch):
        rows = slice(begin, begin + batch)
        x = model.read(windows.ids[rows], [site], windows.mask[rows])[site]
        last = x[torch.arange(len(x), device=x.device), windows.at[rows].to(x.device)]
        parts.append(dictionary.encode(last.to(dictionary.device, dictionary.dtype))[:, latent])
    return torch.cat(parts).float().cpu().numpy()
