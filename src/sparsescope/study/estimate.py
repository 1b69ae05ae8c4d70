"""What work will cost, told before it starts: a slice of it is measured, the rest is arithmetic.

These are estimates: other programs, caches and the sparsity that training reaches all move them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..training.plan import Size, plan
from .cost import current_rss

if TYPE_CHECKING:
    from ..models import LanguageModel
    from ..training import Method

ANY_TOKENS = 1_000_000
"""What is reckoned with where the whole text is asked for: its length is known only at its end."""
TOKENISED_PER_SECOND = 2e5
"""Tokens that are packed per second, with boundaries kept."""
STEP_OVER_ENCODE = 10.0
"""A training step takes so many times its encoder product (measured: 7 to 15, at L0 16 to 32)."""
SHARD_MEMORY = 4e8
"""Bytes that harvesting holds for the shards being filled and written."""
TIMED_LATENTS, TIMED_ROWS = 8192, 512
"""The encoder product that is timed is no larger than this."""
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Cost:
    """Seconds, peak bytes of memory, and bytes on disk."""

    seconds: float
    memory: float
    disk: float

    def then(self, later: "Cost") -> "Cost":
        """The cost of one thing after the other: time and disk add up, memory is the larger."""
        return Cost(self.seconds + later.seconds, max(self.memory, later.memory), self.disk + later.disk)


def harvest_cost(
    model: "LanguageModel", sites: Sequence[str], tokens: int | None, context: int, batch: int, dtype: str
) -> Cost:
    """The cost of harvesting, from reading one batch of random tokens."""
    ids = _random_ids(model, batch, context)
    per_token = _seconds(lambda: model.read(ids, sites)) / ids.numel()
    count = tokens or ANY_TOKENS
    width = sum(model.width(site) for site in sites)
    disk = count * (width * _BYTES[dtype] + 22)  # 22: token id, document, offsets and marks
    return Cost(count * (per_token + 1 / TOKENISED_PER_SECOND), current_rss() + min(SHARD_MEMORY, 4 * disk), disk)


def training_cost(d: int, methods: "Sequence[Method]", tokens: int, batch: int) -> Cost:
    """The cost of training on activations of width `d`, from timing a piece of the largest encoder product.

    Memory is what `training.plan` reckons, with three batches for reading.
    """
    sizes = [Size(method, method.latents(d), d, d) for method in methods]
    latents = [size.n_latents for size in sizes]
    piece, x = torch.randn(min(max(latents), TIMED_LATENTS), d), torch.randn(min(batch, TIMED_ROWS), d)
    per_product = _seconds(lambda: x @ piece.T) / (len(piece) * len(x))
    steps = -(-tokens // batch)
    workers = min(len(sizes), torch.get_num_threads())
    planned = plan(sizes, batch, workers=workers, reading=3 * batch * d * 4)
    seconds = steps * batch * STEP_OVER_ENCODE * per_product * sum(latents)
    return Cost(seconds, current_rss() + planned.total, 3 * planned.weights)


def evaluation_cost(model: "LanguageModel", count: int, splice_tokens: int, context: int) -> Cost:
    """The cost of running the model on `splice_tokens` tokens, once clean and once for each of `count` dictionaries."""
    ids = _random_ids(model, 8, context)
    per_token = _seconds(lambda: model.logits(ids)) / ids.numel()
    return Cost((count + 1) * splice_tokens * per_token, current_rss(), 0)


def _random_ids(model: "LanguageModel", batch: int, context: int) -> torch.Tensor:
    context = min(context, model.context_limit or context)  # a longer one is refused by the harvest itself
    return torch.randint(0, model.vocabulary, (batch, context), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _seconds(work: Callable[[], object]) -> float:
    """How long `work` takes when it has been done once before."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
