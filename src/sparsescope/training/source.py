"""What training opens: activations of any kind, as one or several sources that are read together."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations.streaming import StreamingActivations
from ..errors import ConfigurationError, NumericalError
from ..sites import Site
from .batches import SAMPLE, read
from .batches import Batch as Batch
from .batches import Source as Source
from .blocks import Blocks
from .guard import GUARD, Limit, limit_of
from .prefetch import ahead
from .tensors import INPUT, OUTPUT, Rows, TensorRows, described

Given = Rows | Tensor | tuple[Tensor, Tensor] | Iterable[Tensor | Sequence[Tensor]]
"""What can be trained on: see `open_feed`."""
SiteOrPair = str | Site | tuple[str | Site, str | Site]
"""A site, or a pair of an input site and an output site."""
OUTWEIGHED = 2.0
"""A mean square of so many times that of the shortened sample is the work of rows of massive norm."""


class Feed:
    """One or several sources of the same activations, read together: row i of every batch is the same token.

    Batches are made in a background thread, one ahead of the one in use; for CUDA they are copied to
    the device there as well. The batch of step t depends on the seed and t alone.
    """

    def __init__(self, activations: Rows, sources: list[Source]) -> None:
        self.sources = sources
        self.shortened = 0
        """Rows that were shortened in the batches handed out so far, over all sources."""
        self._activations = activations
        self._columns = tuple(dict.fromkeys(column for source in sources for column in source.columns))
        # gathering rows gains nothing from more threads, and takes them from training; running a model does
        runs_models = isinstance(activations, (StreamingActivations, Blocks))
        self._threads = torch.get_num_threads() if runs_models else 1

    @property
    def device(self) -> torch.device:
        """Where the batches lie."""
        return self.sources[0].device

    def batches(self, batch: int, first: int, steps: int) -> Iterator[list[Batch]]:
        """The batches of steps `first` to `steps` - 1, one for each source.

        Close the iterator, or let go of it, to end the background thread early. Raises `NumericalError`
        at a step whose rows are not all finite, and whatever reading the activations raises.
        """
        with closing(ahead(self._made(batch, first, steps), self._threads)) as made:
            for found, shortened in made:
                self.shortened += shortened
                yield found

    def _made(self, batch: int, first: int, steps: int) -> Iterator[tuple[list[Batch], int]]:
        seed = self.sources[0].seed
        rows = read(self._activations, self._columns, batch=batch, seed=seed, start=first, steps=max(0, steps - first))
        for step, each in enumerate(rows, first):
            made = [source.batch(each, f"the batch of step {step}", self.device) for source in self.sources]
            yield [found for found, _ in made], sum(count for _, count in made)

    def held_bytes(self, batch: int) -> int:
        """What reading holds in main memory: samples, three batches, and the buffer that rows are shuffled in."""
        samples = [x for each in self.sources for x in (each.sample, each.output_sample)[: len(each.columns)]]
        buffer = getattr(self._activations, "buffer_bytes", None)
        rows = sum(x.nbytes + 3 * batch * x.shape[1] * x.element_size() for x in samples)
        return rows + (0 if buffer is None else buffer(self._columns, batch))


def open_feed(
    activations: Given,
    site: SiteOrPair | Sequence[SiteOrPair] | None,
    seed: int,
    scale: bool,
    device: str | torch.device | None = None,
    guard: float | None = None,
) -> Feed:
    """What there is to train on, opened and measured.

    `activations` with a `site` are a store, a stream or a synthetic world; `site` is one of its sites, a
    pair (input, output) for transcoders, or a list of sites and pairs, which are read in one pass. With
    `site` None they are a tensor (row, d), a pair of tensors with as many rows, or an iterable of
    tensors or of pairs (see `Blocks`).

    With `scale`, rows are divided by the root of their mean square, inputs and outputs each by their own.

    Rows whose norm is above `guard` (by default `GUARD`, 10) times the median norm of the sample are
    shortened to that norm, inputs and the outputs of a pair each by their own median. `Feed.shortened`
    counts them. Where there are such rows, `mean` and `mean_square` are
    those of the sample as shortened, else those of the whole training split. Other rows keep every
    bit; with `guard=math.inf` all do.

    Raises `ConfigurationError` for a site that is missing or that a tensor cannot have, `SiteError` for
    an unknown one, and `NumericalError` when the mean square is not a finite number above zero.

    >>> feed = open_feed(torch.randn(1000, 8), None, seed=0, scale=True)
    >>> [len(batches[0].x) for batches in feed.batches(batch=32, first=0, steps=3)]
    [32, 32, 32]
    """
    held, pairs = _opened(activations, site)
    columns = tuple(dict.fromkeys(column for pair in pairs for column in pair))
    for column in columns:
        held.width(column)  # an unknown site is refused here
        _check_square(held.mean_square(column), "" if site is None else column)
    if isinstance(held, Blocks):
        sample = held.sample(columns)
    else:
        count = max(1, min(SAMPLE, held.rows("train")))
        (sample,) = read(held, columns, batch=count, seed=seed, steps=1)
    settings = (seed, scale, GUARD if guard is None else guard, torch.device(device or "cpu"))
    return Feed(held, [_source(held, pair, sample, site is not None, *settings) for pair in pairs])


def _source(
    held: Rows,
    columns: tuple[str, ...],
    sample: dict[str, Tensor],
    named: bool,
    seed: int,
    scale: bool,
    guard: float,
    device: torch.device,
) -> Source:
    names = columns if named else ("",) * len(columns)
    for column, name in zip(columns, names, strict=True):
        if not bool(sample[column].isfinite().all()):
            raise NumericalError(
                f"activations{_at(name)} hold a NaN or an infinity in the first {len(sample[column]):,} rows to be "
                "trained on; expected finite numbers: harvest again without the rows that hold it."
            )
    x, y = sample[columns[0]].to(torch.float32), sample[columns[-1]].to(torch.float32)
    limit, output_limit = limit_of(x, guard), limit_of(y, guard)
    mean, square, short = _moments(held, columns[0], x, limit)
    paired = len(columns) == 2
    output_mean, output_square, output_short = (
        _moments(held, columns[1], y, output_limit) if paired else (mean, square, short)
    )
    by = math.sqrt(square) if scale else 1.0
    output_by = math.sqrt(output_square) if scale else 1.0
    inputs = short / by
    return Source(
        activations=held,
        columns=columns,
        site=names[0],
        output_site=names[1] if paired else None,
        seed=seed,
        scale=by,
        output_scale=output_by,
        limit=limit,
        output_limit=output_limit,
        mean=(mean / by).to(torch.float32),
        output_mean=(output_mean / output_by).to(torch.float32),
        mean_square=square / by**2,
        sample=inputs,
        output_sample=output_short / output_by if paired else inputs,
        device=device,
    )


def _moments(held: Rows, column: str, x: Float[Tensor, "row d"], limit: Limit) -> tuple[Tensor, float, Tensor]:
    """Mean and mean square as training shall know them, and the sample as shortened."""
    short, count = limit.shorten(x)
    square = held.mean_square(column)
    if limit.norm == math.inf:
        return held.mean(column), square, short
    exact = short.double()
    own = float(exact.square().mean())
    if count or square > OUTWEIGHED * own:
        return exact.mean(0), own, short
    return held.mean(column), square, short


def _opened(activations: Given, site: SiteOrPair | Sequence[SiteOrPair] | None) -> tuple[Rows, list[tuple[str, ...]]]:
    """The activations as something to read from, and what to read: one name, or two for a pair, for each source."""
    if hasattr(activations, "batches"):
        pairs = _pairs(site)
        if len({column for pair in pairs for column in pair}) > 1 and not hasattr(activations, "joint_batches"):
            raise ConfigurationError(
                f"site = {site!r}, but activations of type {type(activations).__name__} can only be read one site at a "
                "time (they have no joint_batches): give one site, or a store that holds them all."
            )
        return cast(Rows, activations), pairs
    if site is not None:
        raise ConfigurationError(f"site is {site!r}, expected None with plain tensors: they have no sites.")
    if isinstance(activations, Tensor):
        return TensorRows(activations), [(INPUT,)]
    if isinstance(activations, tuple):
        if len(activations) != 2:
            raise ConfigurationError(
                f"activations are a tuple of {len(activations)}, expected a pair of tensors, inputs and outputs. Give "
                "tensors that follow each other as a list."
            )
        return TensorRows(*cast(tuple[Tensor, Tensor], activations)), [(INPUT, OUTPUT)]
    if not isinstance(activations, Iterable):
        raise ConfigurationError(
            f"activations are {described(activations)}, expected a store, a tensor of rows × dimensions, a pair of "
            "such, or an iterable of them."
        )
    blocks = Blocks(activations)
    return blocks, [(INPUT, OUTPUT) if blocks.paired else (INPUT,)]


def _pairs(site: SiteOrPair | Sequence[SiteOrPair] | None) -> list[tuple[str, ...]]:
    """What is asked for, as a list of single sites and pairs."""
    if site is None:
        raise ConfigurationError("site is None, expected the site to train on, such as 'resid_post.2'.")
    several = site if isinstance(site, list) else [site]
    pairs = [tuple(map(str, each)) if isinstance(each, (tuple, list)) else (str(each),) for each in several]
    if not pairs or len(set(pairs)) < len(pairs) or any(len(pair) > 2 or not pair for pair in pairs):
        raise ConfigurationError(
            f"site = {site!r}, expected a site, a pair (input, output), or a list of such, each once."
        )
    return pairs


def _check_square(square: float, site: str) -> None:
    if not (math.isfinite(square) and square > 0):
        raise NumericalError(
            f"activations{_at(site)} have a mean square of {square}; expected a finite number above 0. They hold a "
            "NaN, an infinity, or nothing but zeros: look at them, then harvest again."
        )


def _at(site: str) -> str:
    return f" at {site}" if site else ""
