"""Activations straight from the model: nothing touches the disk, nothing is kept beyond a buffer.

What a store has on disk, a stream makes again whenever it is asked: every pass runs the model.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from ..artifact import digest
from ..errors import ConfigurationError
from ..text import SPLITS, Text, Tokens
from .base import DTYPES, Activations, Block, check_reading, known_split
from .mixing import capacity, mixed
from .plan import Plan, Unit, take
from .reading import Reading, read_unit

if TYPE_CHECKING:
    from ..models import LanguageModel

BUFFER_ROWS = 65536
HELD_OUT_TOKENS = 65536


def stream(
    model: "LanguageModel",
    text: Text,
    sites: Sequence[str],
    *,
    tokens: int | None,
    context: int = 128,
    batch: int = 32,
    dtype: str = "float16",
    seed: int = 0,
    bos: str = "auto",
    massive: str = "keep",
    include_bos: bool = True,
    shard_tokens: int | None = None,
    buffer_rows: int = BUFFER_ROWS,
    held_out_tokens: int = HELD_OUT_TOKENS,
    progress: Callable[[str, int, int], None] | None = None,
) -> "StreamingActivations":
    """The activations that `harvest` would write, made anew on every reading. Arguments as there, and:

    `buffer_rows` rows are shuffled among each other (in `dtype`; at least four batches);
    validation and test are the first `held_out_tokens` of their splits, fixed and held as tokens.
    `shard_tokens` is how much of the train split the mean, the mean square and the median norm are
    estimated from, here and now: the stream begins with one pass over that much text.

    Raises what `harvest` raises, but for the errors of the disk.

    >>> from sparsescope.models import load_model
    >>> from sparsescope.text import load_text
    >>> model, text = load_model("builtin:tiny-random"), load_text("builtin:stories")
    >>> activations = stream(model, text, ["resid_post.1"], tokens=20_000)
    >>> len(next(activations.batches("resid_post.1", batch=256)))
    256
    """
    if buffer_rows < 1 or held_out_tokens < 1:
        raise ConfigurationError(
            f"buffer_rows is {buffer_rows}, held_out_tokens {held_out_tokens}: expected 1 or more."
        )
    plan = Plan.checked(
        model=model,
        text=text,
        sites=sites,
        tokens=tokens,
        context=context,
        batch=batch,
        dtype=dtype,
        seed=seed,
        bos=bos,
        massive=massive,
        include_bos=include_bos,
        shard_tokens=shard_tokens,
    )
    return StreamingActivations(plan, buffer_rows, held_out_tokens, progress)


class StreamingActivations(Activations):
    """See `stream`. The same text, model and settings give the same rows as a store, in another order."""

    def __init__(
        self,
        plan: Plan,
        buffer_rows: int,
        held_out_tokens: int,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._plan, self._buffer_rows = plan, buffer_rows
        self.sites = list(plan.sites)
        self.seed = plan.seed
        self.config = plan.config() | {"buffer_rows": buffer_rows, "held_out_tokens": held_out_tokens}
        self.inputs = plan.inputs()
        self.fingerprint = digest({"kind": "stream", "config": self.config, "inputs": self.inputs, "seed": self.seed})
        self._held_out: dict[str, Tokens] = {}
        self._kept: dict[str, Tensor] = {}
        self._train_rows = 0
        self._first = self._survey(held_out_tokens, progress)

    def __repr__(self) -> str:
        return f"the activations streamed from {self.model_name!r} on {self.config['text']}"

    def _survey(self, held_out_tokens: int, progress: Callable[[str, int, int], None] | None) -> Reading:
        """Tokenise the whole text once: count rows, set the held-out contexts aside, read the first train unit."""
        first, done = None, 0
        aside: dict[str, list[Tokens]] = {split: [] for split in SPLITS if split != "train"}
        room = dict.fromkeys(aside, max(1, held_out_tokens // self._plan.context))
        for unit in self._plan.units():
            if unit.split == "train":
                first = first or unit
                self._train_rows += int(self._may_keep(unit.tokens).sum())
            elif room[unit.split]:
                fitting = take(unit.tokens, slice(room[unit.split]))
                aside[unit.split].append(fitting)
                room[unit.split] -= len(fitting)
            done += len(unit.tokens) * self._plan.context
            if progress:
                progress("tokenise", done, max(self._plan.tokens or 0, done))
        if first is None:
            raise ConfigurationError(f"{self.config['text']} fills no context of the train split: give more text.")
        self._held_out = {split: Tokens.join(parts) for split, parts in aside.items() if parts}
        reading = read_unit(self._plan, first, None)
        return replace(reading, rows={site: x[:0].clone() for site, x in reading.rows.items()})  # the sums are enough

    def _may_keep(self, tokens: Tokens) -> Bool[Tensor, "n context"]:
        """Tokens that become rows unless they are massive."""
        return (tokens.document >= 0) & (self._plan.include_bos | ~tokens.bos)

    def width(self, site: str) -> int:
        return self._first.rows[self._known_site(site)].shape[1]

    def rows(self, split: str) -> int:
        """As of a store; but with `massive="drop"` the massive rows of the train split are still counted."""
        if known_split(split) == "train":
            return self._train_rows
        return int(self._keep(split).sum()) if split in self._held_out else 0

    def mean(self, site: str) -> Float64[Tensor, " d"]:
        """Estimated from the first `shard_tokens` of the train split."""
        site = self._known_site(site)
        return self._first.sums[site] / int(self._first.keep.sum())

    def mean_square(self, site: str) -> float:
        """Estimated from the first `shard_tokens` of the train split."""
        site = self._known_site(site)
        return self._first.squares[site] / (int(self._first.keep.sum()) * self.width(site))

    def contexts(self, split: str) -> Tokens:
        return Tokens.join(unit.tokens for unit in self._units(self._filled_split(split)))

    def kept(self, split: str) -> Bool[Tensor, "context position"]:
        return self._keep(self._filled_split(split))

    def _keep(self, split: str) -> Bool[Tensor, "context position"]:
        if self._plan.massive == "keep":
            return self._may_keep(Tokens.join(unit.tokens for unit in self._units(split)))
        if split not in self._kept:
            self._kept[split] = torch.cat([reading.keep for reading in self._readings(self.sites[:1], split)])
        return self._kept[split]

    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float32[Tensor, "batch d"]]:
        """Batches drawn from a buffer of `buffer_rows` rows, which is filled in the order of the text.

        Each time, half of the buffer is drawn at random and replaced by what comes next, epoch after
        epoch. The batch of step t depends on (`seed`, t) and the settings alone; to reach `start`, the
        steps before it are made and thrown away.
        """
        site = self._known_site(site)
        found = self.joint_batches([site], batch=batch, seed=seed, start=start, steps=steps, split=split)
        return (rows[site] for rows in found)

    def joint_batches(
        self,
        sites: Sequence[str],
        *,
        batch: int,
        seed: int = 0,
        start: int = 0,
        steps: int | None = None,
        split: str = "train",
    ) -> Iterator[dict[str, Float32[Tensor, "batch d"]]]:
        """The `batches` of several sites, from one run of the model over each piece of text."""
        known, split = self._known_sites(sites), self._filled_split(split)
        check_reading(batch, seed, start, steps)
        found = mixed(self._endless(known, split), batch=batch, seed=seed, buffer_rows=self._buffer_rows)
        return islice(found, start, None if steps is None else start + steps)

    def buffer_bytes(self, sites: Sequence[str], batch: int) -> int:
        """What reading these sites holds beside the batches: the buffer, and half of it while it is refilled."""
        row = sum(self.width(site) for site in sites) * DTYPES[self._plan.dtype].itemsize
        return capacity(self._buffer_rows, batch) * row * 3 // 2

    def _endless(self, sites: Sequence[str], split: str) -> Iterator[dict[str, Float[Tensor, "row d"]]]:
        while True:
            for reading in self._readings(sites, split):
                if reading.keep.any():
                    yield {site: reading.rows[site] for site in sites}

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        site, split = self._known_site(site), self._filled_split(split)
        if rows < 1:
            raise ConfigurationError(f"rows is {rows}: expected the number of rows in a block, 1 or more.")
        return self._blocks(site, split, rows)

    def _blocks(self, site: str, split: str, size: int) -> Iterator[Block]:
        waiting: list[Tensor] = []
        first = 0
        for reading in self._readings([site], split):
            context, position = reading.keep.nonzero(as_tuple=True)
            new = [reading.rows[site], reading.unit.tokens.document[reading.keep], position, context + first]
            waiting = [torch.cat(pair) for pair in zip(waiting, new, strict=True)] if waiting else new
            first += len(reading.keep)
            while len(waiting[0]) >= size:
                yield _block(column[:size] for column in waiting)
                waiting = [column[size:] for column in waiting]
        if len(waiting[0]):
            yield _block(waiting)

    def _readings(self, sites: Sequence[str], split: str) -> Iterator[Reading]:
        """Run the model over a split. All sites are needed only where any of them can leave a row out."""
        plan = self._plan if self._plan.massive == "drop" else replace(self._plan, sites=list(sites))
        for unit in self._units(split):
            yield read_unit(plan, unit, self._first.medians)

    def _units(self, split: str) -> Iterator[Unit]:
        """A split, one model batch at a time."""
        size = self._plan.batch
        if split == "train":
            yield from replace(self._plan, shard_tokens=size * self._plan.context).units(("train",))
        else:
            for first in range(0, len(self._held_out[split]), size):
                yield Unit(split, first // size, take(self._held_out[split], slice(first, first + size)))


def _block(columns: Iterable[Tensor]) -> Block:
    x, document, position, context = columns
    return Block(x.float(), document, position, context)
