"""Training any number of dictionaries on one pass over the data."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..artifact import MANIFEST, Draft, drafting, start
from ..dictionaries import Dictionary, load_dictionary, save_dictionary
from ..errors import ConfigurationError
from .checkpoint import FOLDER
from .methods import Method
from .run import Progress, Run
from .schedule import Schedule
from .source import Rows, open_source

LR = 0.05
"""The default learning rate times the square root of the width: components of unit directions shrink so."""


def train(
    activations: Rows | Float[Tensor, "row d"],
    site: str | None,
    methods: Sequence[Method],
    *,
    tokens: int,
    seed: int = 0,
    out: str | Path | None = None,
    batch: int = 1024,
    lr: float | None = None,
    warmup: float = 0.05,
    decay: float = 0.25,
    scale: bool = True,
    names: Sequence[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Dictionary]:
    """Train one dictionary per method on one pass over `tokens` rows; the answer is in their order.

    `activations` is a store (or a stream, or a synthetic world) read at `site`, or a plain tensor of
    rows with `site` None. Members share every batch and nothing else: each equals its solo run.
    Optimiser: Adam (β 0.9 and 0.999, ε 1e-8, bias-corrected) at `lr`, with `warmup` and `decay` as in
    `Schedule`; by default 0.05 / sqrt(d), which suits runs of a million rows (the paper: 1e-3 for
    5 to 50 million). Unit norms are kept by projection: the part of the gradient along a direction is
    removed, and rows are brought back to unit norm after each step. (The paper's code divides by the
    norm inside the forward pass and never renormalises the stored rows, which makes the step size
    shrink as they grow; and its Adam's bias correction is stuck at that of the first step.)

    With `scale`, activations are divided by the root of their mean square, so that an l1 means the
    same on any model of this width; the scale is folded back into the weights at the end, and codes
    are in the units of the activations. With `scale=False` training runs on raw activations, as the
    paper's does. Nothing is centred, except by the bias that TopK learns.

    With `out`, the dictionaries are written as artifact `out`: `out/0`, `out/1`, ... and
    `metrics.jsonl`. Every `checkpoint_every` steps (rounded up to a multiple of 20) and at Ctrl-C a
    checkpoint goes to `out.partial/checkpoints`; `resume=True` continues from the last one, to the same
    bits as an uninterrupted run.

    A step whose loss is not finite, or over 1,000 times the running median, is not taken: the member
    goes back to its last good copy (at most 20 steps old) and the batch is skipped; `metrics.jsonl`
    and `progress` say so. Five times between two good copies is a `NumericalError`. So are activations
    that hold a NaN: those are a fault of the data, and no batch is silently left out for it. For a
    `target_l0` the L0 on held-out rows is recorded at the end, with `target_l0_met` (within 5%).

    Raises `ConfigurationError` for values that cannot be used, `NumericalError` as above,
    `ArtifactError` when `out` is in the way, `StorageError` when the disk refuses.

    >>> import torch
    >>> from sparsescope.training import TopK
    >>> x = torch.randn(1000, 8)
    >>> sae, = train(x, None, [TopK(k=2, ratio=2)], tokens=4000, batch=256)
    >>> sae.n_latents
    16
    """
    named = _names(methods, names)
    if checkpoint_every < 1:
        raise ConfigurationError(f"checkpoint_every = {checkpoint_every}, expected a number of steps, 1 or more.")
    site = None if site is None else str(site)
    source = open_source(activations, site, seed, scale)
    schedule = Schedule(tokens, batch, LR / math.sqrt(source.width) if lr is None else lr, warmup, decay)
    for method in methods:
        method.latents(source.width)
    if out is None:
        return Run(source, methods, named, schedule, progress).train()
    config = {"site": site, **schedule.settings(), "scale": scale, "names": named}
    config["methods"] = [method.settings() for method in methods]
    draft = start(out, "dictionaries", config, seed, {"activations": source.fingerprint}, resume)
    if not draft.done:
        with drafting(draft):
            _write(draft, Run(source, methods, named, schedule, progress, draft.path, checkpoint_every))
    return [load_dictionary(draft.out / str(index)) for index in range(len(methods))]


def _names(methods: Sequence[Method], names: Sequence[str] | None) -> list[str]:
    if not methods or not all(isinstance(method, Method) for method in methods):
        raise ConfigurationError(f"methods = {methods!r}, expected a list such as [TiedL1(l1=1e-3, ratio=4)].")
    found = [method.label() for method in methods] if names is None else [str(name) for name in names]
    if len(found) != len(methods):
        raise ConfigurationError(f"{len(found)} names for {len(methods)} methods: give one name for each.")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ConfigurationError(f"two members are called {twice[0]!r}: give each its own seed, or its own name.")
    return found


def _write(draft: Draft, run: Run) -> None:
    """Train into the draft and seal it; dictionaries that are already written are not trained again."""
    folders = [draft.path / str(index) for index in range(len(run.members))]
    if not all((folder / MANIFEST).is_file() for folder in folders):
        for folder, dictionary in zip(folders, run.train(), strict=True):
            save_dictionary(dictionary, folder, inputs=draft.inputs, resume=True)
    shutil.rmtree(draft.path / FOLDER, ignore_errors=True)
    draft.finish()
