"""Training any number of dictionaries on one pass over the data."""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..artifact import MANIFEST, Draft, drafting, open_artifact, start
from ..dictionaries import Dictionary, load_dictionary, save_dictionary
from ..errors import ConfigurationError, NumericalError
from .checkpoint import FOLDER
from .device import check_precision, on_device
from .kernels import Precision
from .memory import check_memory
from .methods import Method, Transcoder
from .run import Progress, Run
from .schedule import Schedule
from .source import Feed, Given, SiteOrPair, Source, open_feed

LR = 0.05
"""The default learning rate times the square root of the width: components of unit directions shrink so."""


def train(
    activations: Given,
    site: SiteOrPair | Sequence[SiteOrPair] | None,
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
    precision: Precision = "float32",
    device: str | torch.device | None = None,
    kernels: str = "auto",
    names: Sequence[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Dictionary]:
    """Train one dictionary per method on one pass over `tokens` rows; the answer is in their order.

    `activations` is a store (or a stream, or a synthetic world) read at `site`: one site, a pair (input,
    output) for transcoders, or a list of these, which are read together; then every method is trained at
    each, site by site. Or it is a plain tensor of rows, a pair of tensors, or an iterable of either, with
    `site` None. Members share every batch and nothing else: each equals its solo run.

    Optimiser: Adam (β 0.9 and 0.999, ε 1e-8, bias-corrected) at `lr`, with `warmup` and `decay` as in
    `Schedule`; by default 0.05 / sqrt(d), which suits runs of a million rows (the paper: 1e-3 for
    5 to 50 million). Unit norms are kept by projection: the part of the gradient along a direction is
    removed, and rows are brought back to unit norm after each step. (The paper's code divides by the
    norm inside the forward pass and never renormalises the stored rows, which makes the step size
    shrink as they grow; and its Adam's bias correction is stuck at that of the first step.)

    With `scale`, activations are divided by the root of their mean square, so that an l1 means the
    same on any model of this width; the scale is folded back into the weights at the end, and codes
    are in the units of the activations. With `scale=False` training runs on raw activations, as the
    paper's does. Rows of extreme norm are shortened (see `source`). Nothing is centred, except by the
    bias that a method learns.

    `precision`: "float32"; "screened", which finds the entries to compute by cheaper products and
    computes them in float32, so that the answer is that of float32; or "bf16", whose encoder products
    are rounded, with weights in float32. `kernels` says which implementation computes: see `kernels.choose`.

    With `out`, the dictionaries are written as artifact `out`: `out/0`, `out/1`, ... and
    `metrics.jsonl`. Every `checkpoint_every` steps, at Ctrl-C and when memory runs out a checkpoint goes to
    `out.partial/checkpoints`; `resume=True` continues from the last one, to the same bits as an
    uninterrupted run.

    A step whose loss is not finite, or over 1,000 times the running median, is not taken: the batch is
    skipped for that member, and `metrics.jsonl` and `progress` say so. After five in a row the member is
    stopped; the others go on to the end and are saved, and then a `NumericalError` names the stopped
    (its `finished` holds the dictionaries, None in the place of those). Activations that hold a NaN are a
    `NumericalError` at once: those are a fault of the data, and no batch is silently left out for it. For
    a `target_l0` the L0 on held-out rows is recorded at the end, with `target_l0_met` (within 5%).

    Raises `ConfigurationError` for values that cannot be used (among them more memory than there is),
    `NumericalError` as above, `ArtifactError` when `out` is in the way, `StorageError` when the disk refuses.

    >>> import torch
    >>> from sparsescope.training import TopK
    >>> x = torch.randn(1000, 8)
    >>> sae, = train(x, None, [TopK(k=2, ratio=2)], tokens=4000, batch=256)
    >>> sae.n_latents
    16
    """
    if checkpoint_every < 1:
        raise ConfigurationError(f"checkpoint_every = {checkpoint_every}, expected a number of steps, 1 or more.")
    check_precision(precision)
    methods = _checked(methods)
    feed = open_feed(activations, site, seed, scale, on_device(device))
    members = [(number, method) for number in range(len(feed.sources)) for method in methods]
    named = _names(feed, members, names)
    first = feed.sources[0]
    schedule = Schedule(tokens, batch, LR / math.sqrt(first.width) if lr is None else lr, warmup, decay)
    for number, method in members:
        _check_pair(feed.sources[number], method)
        method.latents(feed.sources[number].width)
    check_memory(feed, members, batch, precision, kernels)
    run = partial(
        Run,
        feed,
        members,
        named,
        schedule,
        [math.sqrt(first.width / source.width) if lr is None else 1.0 for source in feed.sources],
        progress,
        every=checkpoint_every,
        precision=precision,
        kernels=kernels,
    )
    if out is None:
        started = run()
        return _all_of(started.train(), started.stopped())
    config = {"site": _plain_site(site), **schedule.settings(), "scale": scale, "precision": precision, "names": named}
    config["methods"] = [method.settings() for method in methods]
    draft = start(out, "dictionaries", config, seed, {"activations": first.fingerprint}, resume)
    if not draft.done:
        with drafting(draft):
            return _write(draft, run(folder=draft.path))
    return _loaded(draft.out, len(members))


def _checked(methods: Sequence[Method]) -> list[Method]:
    found = list(methods) if isinstance(methods, Iterable) else []
    if not found or not all(isinstance(method, Method) for method in found):
        raise ConfigurationError(f"methods = {methods!r}, expected a list such as [TiedL1(l1=1e-3, ratio=4)].")
    return found


def _check_pair(source: Source, method: Method) -> None:
    """Transcoders are trained on pairs, and nothing else is."""
    if source.paired == isinstance(method, Transcoder):
        return
    one = f"the one site {source.site or None}"
    given = f"the pair ({source.site or 'x'}, {source.output_site or 'y'})" if source.paired else one
    needed = "a pair of sites (input, output), or of tensors" if isinstance(method, Transcoder) else "one site"
    raise ConfigurationError(f"{type(method).__name__} is trained on {needed}, got {given}.")


def _names(feed: Feed, members: Sequence[tuple[int, Method]], names: Sequence[str] | None) -> list[str]:
    if names is None:
        sites = ["-".join(filter(None, (source.site, source.output_site))) + "-" for source in feed.sources]
        found = [(sites[number] if len(sites) > 1 else "") + method.label() for number, method in members]
    else:
        found = [str(name) for name in names]
    if len(found) != len(members):
        raise ConfigurationError(f"{len(found)} names for {len(members)} members: give one name for each.")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ConfigurationError(f"two members are called {twice[0]!r}: give each its own seed, or its own name.")
    return found


def _plain_site(site: SiteOrPair | Sequence[SiteOrPair] | None) -> Any:
    """The site as it stands in a manifest."""
    if isinstance(site, (tuple, list)):
        return [_plain_site(each) for each in site]
    return None if site is None else str(site)


def _folders(path: Path, count: int) -> list[Path]:
    return [path / str(index) for index in range(count)]


def _write(draft: Draft, run: Run) -> list[Dictionary]:
    """Train into the draft and seal it; dictionaries that are already written are not trained again."""
    folders = _folders(draft.path, len(run.members))
    finished: list[Dictionary | None] = []
    if not all((folder / MANIFEST).is_file() for folder in folders):
        finished = run.train()
        for folder, dictionary in zip(folders, finished, strict=True):
            if dictionary is not None:
                save_dictionary(dictionary, folder, inputs=draft.inputs, resume=True)
    shutil.rmtree(draft.path / FOLDER, ignore_errors=True)
    stopped = run.stopped()
    draft.finish(**({"stopped": stopped} if stopped else {}))
    return _loaded(draft.out, len(folders))


def _loaded(out: Path, count: int) -> list[Dictionary]:
    """The dictionaries of an artifact. Raises `NumericalError` when some were stopped."""
    folders = _folders(out, count)
    found = [load_dictionary(folder) if folder.exists() else None for folder in folders]
    return _all_of(found, open_artifact(out, "dictionaries", verify=False).manifest.get("stopped", {}))


def _all_of(finished: Sequence[Dictionary | None], stopped: Mapping[str, str | None]) -> list[Dictionary]:
    if stopped:
        named = "; ".join(f"{name} ({why})" for name, why in stopped.items())
        raise NumericalError(f"stopped: {named}. The others were trained to the end.", finished)
    return [dictionary for dictionary in finished if dictionary is not None]
