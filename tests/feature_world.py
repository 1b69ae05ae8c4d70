"""Activations in memory, with documents of every length and rows left out, for tests of what reads them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsescope.activations.base import Activations, Block
from sparsescope.text import SPLITS, Tokens

SITE = "resid_post.0"


class Memory(Activations):
    """One site and one split ("test"): `contexts` contexts of `length` tokens, ids below `vocabulary`, `d` dimensions.

    Documents have 1 to 200 tokens and run over the ends of contexts; some rows are missing.
    """

    def __init__(self, contexts: int = 24, length: int = 96, d: int = 8, vocabulary: int = 30, seed: int = 0) -> None:
        source = np.random.default_rng(seed)
        self.sites, self.config, self.inputs, self.seed, self.fingerprint = [SITE], {"context": length}, {}, seed, "f"
        shape = (contexts, length)
        sizes = source.integers(1, 200, contexts * length)
        document = np.repeat(np.arange(len(sizes)), sizes)[: contexts * length].reshape(shape)
        document[-1, -7:] = -1
        plain = torch.zeros(shape, dtype=torch.long)
        self._tokens = Tokens(
            ids=torch.from_numpy(source.integers(0, vocabulary, shape)),
            document=torch.from_numpy(document),
            source=plain,
            start=plain,
            end=plain,
            bos=plain.bool(),
            split=torch.full((contexts,), SPLITS.index("test")),
        )
        self._kept = torch.from_numpy((source.random(shape) > 0.05) & (document >= 0))
        # Half of an activation says which token it is, so that latents have favourites.
        table = source.standard_normal((vocabulary, d))
        noise = source.standard_normal((*shape, d))
        x = torch.from_numpy(table[self._tokens.ids.numpy()] + noise).float()
        self.x: Tensor = x[self._kept]

    def __repr__(self) -> str:
        return "the activations in memory"

    def width(self, site: str) -> int:
        return self.x.shape[1]

    def rows(self, split: str) -> int:
        return len(self.x) if split == "test" else 0

    def mean(self, site: str) -> Tensor:
        return self.x.double().mean(0)

    def mean_square(self, site: str) -> float:
        return float(self.x.square().mean())

    def batches(self, site: str, **settings: Any) -> Iterator[Tensor]:  # type: ignore[override]
        raise NotImplementedError("these activations are only read in order")

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        self._known_site(site)
        context, position = self._kept.nonzero(as_tuple=True)
        document = self._tokens.document[context, position]
        for begin in range(0, len(self.x), rows):
            part = slice(begin, begin + rows)
            yield Block(self.x[part], document[part], position[part], context[part])

    def contexts(self, split: str) -> Tokens:
        return self._tokens

    def kept(self, split: str) -> Tensor:
        return self._kept
