"""What the tests of metrics and of the report run on: dictionaries with known answers, a store in
memory, and a model small enough to be computed by hand."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsescope.activations.base import Activations, Block
from sparsescope.dictionaries.base import Dictionary
from sparsescope.text import SPLITS, Tokens

SITE = "resid_post.0"


@dataclass(frozen=True, eq=False, kw_only=True)
class Halves(Dictionary):
    """Codes ReLU(x) and ReLU(-x): reconstructs `factor` times x exactly, as neurons do with factor 1."""

    width: int
    factor: float = 1.0
    method: ClassVar[str] = "neurons"

    @property
    def directions(self) -> Tensor:
        return self.factor * torch.cat([torch.eye(self.width), -torch.eye(self.width)])

    @property
    def bias(self) -> Tensor:
        return torch.zeros(self.width)

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x.relu(), (-x).relu()], -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Dictionary):
    """codes = ReLU(x @ encoder.T + offset); everything given."""

    directions: Tensor
    encoder: Tensor
    offset: Tensor
    bias: Tensor
    method: ClassVar[str] = "untied_l1"

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.encoder.T + self.offset).relu()


@dataclass(frozen=True, eq=False, kw_only=True)
class Skip(Halves):
    """Adds x once more than its codes say."""

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)) + x


def random_linear(width: int, latents: int, seed: int = 0, offset: float = -0.5) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(latents, width, generator=generator), dim=1)
    bias = 0.1 * torch.randn(width, generator=generator)
    return Linear(directions=directions, encoder=directions.clone(), offset=torch.full((latents,), offset), bias=bias)


def following(ids: Tensor, vocabulary: int) -> Tensor:
    """The token that usually comes next."""
    return (3 * ids + 1) % (vocabulary - 1) + 1


class BigramModel:
    """logits of token t + 1 = (mean over s <= t of table[ids[s]], mixed with table[ids[t]]) @ head.

    `resid_post.0` is table[ids], before the mixing, so that what is spliced at one position reaches
    later ones.
    """

    name = "bigram"
    fingerprint = "model-1"
    tokenizer_fingerprint = "tokenizer-1"
    device = torch.device("cpu")

    def __init__(self, vocabulary: int = 11, width: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(vocabulary, width, generator=generator)
        # The head knows which token usually follows which, so that the model is better than no model.
        usual = torch.nn.functional.one_hot(following(torch.arange(vocabulary), vocabulary), vocabulary).float()
        self.head = torch.linalg.pinv(self.table) @ (4 * usual)
        self.masks: list[Tensor | None] = []

    def logits(
        self,
        ids: Tensor,
        replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        self.masks.append(attention_mask)
        x = self.table[ids]
        for site, function in (replace or {}).items():
            assert site == SITE
            x = function(x)
        steps = torch.arange(1, ids.shape[1] + 1)[:, None]
        return (0.5 * x + 0.5 * x.cumsum(1) / steps) @ self.head


class MemoryStore(Activations):
    """The activations of a `BigramModel` on given tokens, one table of contexts per split."""

    def __init__(self, model: BigramModel, tokens: Mapping[str, Tokens], keep_bos: bool = True, rows: int = 7) -> None:
        self.model, self.tokens, self.keep_bos, self.block_rows = model, dict(tokens), keep_bos, rows
        self.sites = [SITE]
        self.config = {"model": model.name, "context": next(iter(tokens.values())).ids.shape[1]}
        self.inputs = {"model": model.fingerprint, "tokenizer": model.tokenizer_fingerprint}
        self.fingerprint, self.seed = "store-1", 0

    def __repr__(self) -> str:
        return "the activations in memory"

    def width(self, site: str) -> int:
        self._known_site(site)
        return self.model.table.shape[1]

    def kept(self, split: str) -> Tensor:
        tokens = self.tokens[split]
        keep = tokens.document >= 0
        return keep if self.keep_bos else keep & ~tokens.bos

    def rows(self, split: str) -> int:
        return int(self.kept(split).sum())

    def mean(self, site: str) -> Tensor:
        return self.all("train").double().mean(0)

    def mean_square(self, site: str) -> float:
        return float(self.all("train").double().square().mean())

    def all(self, split: str) -> Tensor:
        return self.model.table[self.tokens[split].ids[self.kept(split)]]

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[Tensor]:
        raise NotImplementedError

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        x = self.all(split)
        context, position = self.kept(split).nonzero(as_tuple=True)
        document = self.tokens[split].document[context, position]
        for begin in range(0, len(x), self.block_rows):
            part = slice(begin, begin + self.block_rows)
            yield Block(x[part], document[part], position[part], context[part])

    def contexts(self, split: str) -> Tokens:
        return self.tokens[split]


def random_tokens(contexts: int, length: int = 16, document: int = 10, vocabulary: int = 11, seed: int = 0) -> Tokens:
    """Documents of `document` tokens, mostly the usual ones, each after a BOS (id 0), laid over contexts."""
    generator = torch.Generator().manual_seed(seed)
    size = contexts * length
    number = torch.arange(size) // (document + 1)
    bos = torch.arange(size) % (document + 1) == 0
    ids = torch.randint(1, vocabulary, (size,), generator=generator)
    for i in (torch.rand(size, generator=generator) < 0.8).nonzero()[:, 0].tolist():
        ids[i] = following(ids[i - 1], vocabulary) if i else ids[i]
    ids = ids.masked_fill(bos, 0)
    shape = (contexts, length)
    zeros = torch.zeros(shape, dtype=torch.long)
    return Tokens(
        ids.view(shape), number.view(shape), zeros, zeros, zeros, bos.view(shape), torch.zeros(contexts).long()
    )


def memory_store(model: BigramModel | None = None, contexts: int = 12, **settings: Any) -> MemoryStore:
    tokens = {split: random_tokens(contexts, seed=seed) for seed, split in enumerate(SPLITS)}
    return MemoryStore(model or BigramModel(), tokens, **settings)
