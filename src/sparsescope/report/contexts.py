"""Where in the text a few latents of a dictionary are most active."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..activations.base import Activations, Block
from ..dictionaries.base import Dictionary, to_dense
from ..errors import ConfigurationError
from ..features.fragments import pieces
from ..metrics.evaluate import draw_contexts
from ..metrics.reconstruction import ALIVE_ABOVE, row_chunks
from ..text import Tokens

Progress = Callable[[str, int, int], None]

BEFORE, AFTER = 20, 10  # tokens shown on either side of a peak


def top_contexts(
    dictionary: Dictionary,
    store: Activations,
    tokenizer: Any,
    *,
    latents: int | Sequence[int] = 8,
    contexts: int = 5,
    split: str = "test",
    site: str | None = None,
    max_tokens: int | None = 100_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The strongest activations of some latents in held-out text: one item of a report's "features".

    `latents` is how many to choose, spread evenly over the densities of the latents that are alive, from
    frequent to rare (no randomness: nobody picked the good ones), or their numbers. Of each, the
    `contexts` largest codes in different documents are shown, with the tokens around them. `max_tokens`
    limits the search to a random draw of contexts.

    Raises `ConfigurationError` for latents that the dictionary does not have, or without a tokenizer.
    """
    at = site or dictionary.provenance.site
    if at is None:
        raise ConfigurationError(
            f"this {dictionary.method} dictionary does not say which site it belongs to: give site=."
        )
    if tokenizer is None:
        raise ConfigurationError("contexts cannot be shown without a tokenizer: give that of the model.")
    tokens = store.contexts(split)
    numbers = draw_contexts(tokens, max_tokens, seed)
    search = _Search(dictionary, store, at, split, torch.from_numpy(numbers), progress)
    counts, rows = search.counts()
    chosen = spread(counts, latents) if isinstance(latents, int) else _checked(latents, dictionary)
    codes = search.codes(chosen, tokens.ids.shape)
    return {
        "dictionary": dictionary.provenance.name or dictionary.provenance.path or dictionary.method,
        "method": dictionary.method,
        "site": at,
        "split": split,
        "tokens": rows,
        "l0": float(counts.sum()) / rows,
        "latents": [
            {
                "latent": latent,
                "density": float(counts[latent]) / rows,
                "maximum": float(codes[place].max()),
                "contexts": [
                    _shown(codes[place], tokens, peak, tokenizer) for peak in peaks(codes[place], tokens, contexts)
                ],
            }
            for place, latent in enumerate(chosen)
        ],
    }


def spread(counts: Int[Tensor, " latent"], wanted: int) -> list[int]:
    """`wanted` latents at even quantiles of density, frequent first, among those that are alive.

    >>> spread(torch.tensor([0, 400, 100, 300, 200, 3]), 2)
    [1, 4]
    """
    alive = (counts > ALIVE_ABOVE).nonzero()[:, 0]
    if not len(alive):
        alive = (counts > 0).nonzero()[:, 0]
    order = alive[torch.argsort(counts[alive], descending=True, stable=True)]
    wanted = min(wanted, len(order))
    places = [round((i + 0.5) * len(order) / wanted - 0.5) for i in range(wanted)]
    return order[places].tolist()


def peaks(codes: Float[Tensor, "context position"], tokens: Tokens, wanted: int) -> list[tuple[int, int]]:
    """(context, position) of the `wanted` largest positive codes, largest first, each in another document."""
    found: list[tuple[int, int]] = []
    documents: set[int] = set()
    flat = codes.reshape(-1)
    positive = (flat > 0).nonzero()[:, 0]
    for place in positive[torch.argsort(flat[positive], descending=True, stable=True)].tolist():
        context, position = divmod(place, codes.shape[1])
        document = int(tokens.document[context, position])
        if document not in documents:
            documents.add(document)
            found.append((context, position))
        if len(found) == wanted:
            break
    return found


def _shown(
    codes: Float[Tensor, "context position"], tokens: Tokens, at: tuple[int, int], tokenizer: Any
) -> dict[str, Any]:
    """The tokens around a peak, in the same document and context, with their codes."""
    context, position = at
    inside = tokens.document[context] == tokens.document[context, position]
    window = [i for i in range(position - BEFORE, position + AFTER + 1) if 0 <= i < len(inside) and inside[i]]
    return {
        "document": int(tokens.document[context, position]),
        "peak": window.index(position),
        "tokens": pieces(tokenizer, tokens.ids[context, window].tolist()),
        "values": [round(value, 4) for value in codes[context, window].tolist()],
    }


def _checked(latents: Sequence[int], dictionary: Dictionary) -> list[int]:
    for latent in latents:
        if not 0 <= latent < dictionary.n_latents:
            raise ConfigurationError(
                f"there is no latent {latent}: the dictionary has 0 to {dictionary.n_latents - 1}."
            )
    return list(latents)


class _Search:
    """Codes of the rows of some contexts, encoded twice rather than kept."""

    def __init__(
        self,
        dictionary: Dictionary,
        store: Activations,
        site: str,
        split: str,
        numbers: Int[Tensor, " context"],
        progress: Progress | None,
    ) -> None:
        self.dictionary, self.store, self.site, self.split = dictionary, store, site, split
        self.numbers, self.progress = numbers, progress

    def counts(self) -> tuple[Int[Tensor, " latent"], int]:
        """On how many rows each latent is active, and the number of rows."""
        counts, rows = torch.zeros(self.dictionary.n_latents, dtype=torch.long), 0
        for block, indices, values in self._encoded("choosing latents"):
            counts += torch.bincount(indices[values != 0].cpu(), minlength=len(counts))
            rows += len(block.x)
        if not rows:
            raise ConfigurationError(
                f"the chosen contexts of the {self.split} split hold no row at {self.site}: allow more tokens."
            )
        return counts, rows

    def codes(self, latents: list[int], shape: torch.Size) -> Float[Tensor, "latent context position"]:
        """The codes of some latents at every position; 0 where there is no row."""
        found = torch.zeros(len(latents), *shape)
        for block, indices, values in self._encoded("finding contexts"):
            dense = to_dense(indices, values, self.dictionary.n_latents)[:, latents]
            found[:, block.context, block.position] = dense.T.float().cpu()
        return found

    @torch.no_grad()
    def _encoded(self, stage: str) -> Iterator[tuple[Block, Tensor, Tensor]]:
        done, total = 0, self.store.rows(self.split)
        for block in self.store.blocks(self.site, self.split):
            inside = torch.isin(block.context, self.numbers).nonzero()[:, 0]
            for chunk in row_chunks(len(inside), self.dictionary.n_latents):
                rows = inside[chunk]
                part = Block(block.x[rows], block.document[rows], block.position[rows], block.context[rows])
                x = part.x.to(self.dictionary.device, self.dictionary.dtype)
                yield part, *self.dictionary.encode_sparse(x)
            done += len(block.x)
            if self.progress is not None:
                self.progress(stage, done, total)
