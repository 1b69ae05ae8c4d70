"""A small model and tokenizer of known arithmetic, which stand for a language model in tests of activations."""

import random
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sparsescope.errors import SiteError
from sparsescope.sites import Site
from sparsescope.text import Document, Text

SITES = ["resid_post.0", "module:net.head:in"]
WIDTHS = {"resid_post.0": 8, "module:net.head:in": 5, "mlp_act.1": 3}


class CharTokenizer:
    """One token per character; ids 1 to 127, 0 is BOS."""

    bos_token_id = 0

    def __call__(self, texts: Any, **settings: Any) -> Any:
        if isinstance(texts, str):
            return SimpleNamespace(input_ids=[ord(c) % 127 + 1 for c in texts])
        return {
            "input_ids": [[ord(c) % 127 + 1 for c in text] for text in texts],
            "offset_mapping": [[(i, i + 1) for i in range(len(text))] for text in texts],
        }


class RunningMean:
    """The activation at a position is an embedding plus the mean of the embeddings up to there.

    `massive` is added at BOS at the first site; `poison` maps (site, number of the call) to a value
    that is put into the last row of that call.
    """

    name, revision, n_layers, context_limit = "running-mean", None, 1, 64
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(
        self,
        seed: int = 0,
        massive: float = 0.0,
        poison: dict[tuple[str, int], float] | None = None,
        widths: dict[str, int] | None = None,
    ):
        self.tokenizer: Any = CharTokenizer()
        self.tokenizer_fingerprint = "c" * 64
        self.fingerprint = f"{seed:064x}"
        generator = torch.Generator().manual_seed(seed)
        self.widths = widths or WIDTHS
        self.tables = {site: torch.randn(128, width, generator=generator) for site, width in self.widths.items()}
        self.massive, self.poison = massive, poison or {}
        self.calls = 0
        self.masks: list[Tensor | None] = []

    def check(self, site: str) -> Site:
        parsed = Site.parse(site)
        if str(parsed) not in self.widths:
            raise SiteError(f"no site {parsed}: there are {', '.join(self.widths)}.")
        return parsed

    def width(self, site: str) -> int:
        return self.widths[site]

    def read(self, ids: Tensor, sites: list[str], attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        self.masks.append(attention_mask)
        found = {}
        for site in sites:
            x = self.tables[site][ids]
            x = x + x.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
            if site == "resid_post.0":
                x = x + self.massive * (ids == 0)[..., None]
            if (site, self.calls) in self.poison:
                x[-1, -1, 0] = self.poison[site, self.calls]
            found[site] = x
        self.calls += 1
        return found


def letters(documents: int = 40, length: int = 150, seed: int = 0) -> Text:
    """Documents of random letters, between half of `length` and `length` long."""
    source = random.Random(seed)
    texts = ["".join(source.choices("abcdefgh ", k=source.randint(length // 2, length))) for _ in range(documents)]
    return Text(f"letters:{seed}", f"{documents}-{length}-{seed}", lambda: iter([Document(text) for text in texts]))
