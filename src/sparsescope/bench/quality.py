"""What speed must not cost: reconstruction and recovery of planted directions, beside other libraries.

Every training reads the same rows in the same order, the same number of times (once), with the same
schedule of the learning rate; its peak was chosen for each library and method on worlds that are not
measured (`tune`). Dictionaries are measured in the form in which they are used afterwards, on new rows.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import torch

from ..errors import NumericalError
from ..metrics import Estimate, fvu, mmcs, recovery
from ..training import BatchTopK, Matryoshka, Method, TopK, train
from ..worlds import PlantedWorld
from .contenders import LIBRARIES, OURS
from .machine import cores
from .peers import Task, start_peer
from .processes import Process

Progress = Callable[[str, int, int], None]
WORLDS = {"plain": 0.0, "offset": 0.3}
"""The constant that is added to every component of every row."""
METHODS = ("topk", "batchtopk", "matryoshka")
PEERS = ("SAELens", "dictionary_learning")
K, N_LATENTS = 5, 512
"""As many active latents as directions are active on average; twice as many latents as directions."""
BATCH = 512
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Groups of Matryoshka dictionaries."""
DEAD_AFTER = 20_000
"""Rows without firing that make a latent dead, for all: the libraries' own 10 million are more than is read."""
WARMUP, DECAY = 0.05, 0.25
THRESHOLD = 0.9
TEST_ROWS = 20_000
LR = 3e-3
LRS = {(library, method): 1e-2 for library in (OURS, *PEERS) for method in ("batchtopk", "matryoshka")}
"""Peaks of the learning rate chosen by `tune`, where they are not `LR`."""
GRID = (1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEED = 100
"""Worlds from this seed on are for choosing learning rates, those below it for measuring."""
SAME = 1e-4
"""How far a library's own reconstruction may be from ours of its weights, as a share of its squared norm: rows
whose k-th code nearly ties with the next may be reconstructed from either."""


@dataclass(frozen=True)
class Trial:
    """One training to be measured. `seed` is that of the world, of the rows and of the initial weights."""

    library: str
    method: str
    world: str
    seed: int
    tokens: int
    lr: float

    @property
    def data(self) -> PlantedWorld:
        return PlantedWorld(seed=self.seed, offset=WORLDS[self.world])


def measure_quality(
    *,
    tokens: int = 1_000_000,
    seeds: int = 5,
    worlds: Sequence[str] = tuple(WORLDS),
    methods: Sequence[str] = METHODS,
    libraries: Sequence[str] = PEERS,
    first_seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train every method of every library on planted worlds of several seeds, and compare them pair by pair.

    A world has 256 unit directions in 64 dimensions, each active with probability 5/256, strengths 0.5 to
    1.5; "offset" worlds add 0.3 to every component. Returns JSON: `rows` with recovery (share of the
    directions found one to one at cosine 0.9), mean max cosine, FVU and L0 on new rows, and seconds, of
    every training; `pairs` with the mean difference of ours to each library, over seeds, with its 95%
    interval (Student's t); `missing` libraries; and the settings.
    """
    found = [each for each in libraries if LIBRARIES[each].version is not None]
    trials = [
        Trial(library, method, world, seed, tokens, LRS.get((library, method), LR))
        for world in worlds
        for seed in range(first_seed, first_seed + seeds)
        for method in methods
        for library in (OURS, *found)
    ]
    rows = list(_carried_out(trials, threads or cores(), progress))
    settings = {
        "tokens": tokens,
        "seeds": seeds,
        "batch": BATCH,
        "k": K,
        "n_latents": N_LATENTS,
        "warmup": WARMUP,
        "decay": DECAY,
        "dead_after": DEAD_AFTER,
        "threshold": THRESHOLD,
    }
    missing = [each for each in libraries if each not in found]
    return {"settings": settings, "rows": rows, "pairs": _pairs(rows), "missing": missing}


def tune(
    *, tokens: int = 1_000_000, worlds: int = 2, threads: int = 2, progress: Progress | None = None
) -> dict[tuple[str, str], float]:
    """For every library and method the learning rate of `GRID` with the lowest FVU on worlds of other seeds."""
    found = [OURS, *(each for each in PEERS if LIBRARIES[each].version is not None)]
    trials = [
        Trial(library, method, "plain", TUNING_SEED + number, tokens, lr)
        for number in range(worlds)
        for method in METHODS
        for library in found
        for lr in GRID
    ]
    scores: dict[tuple[str, str, float], list[float]] = {}
    for row in _carried_out(trials, threads, progress):
        scores.setdefault((row["library"], row["method"], row["lr"]), []).append(row["fvu"])
    best: dict[tuple[str, str], float] = {}
    for library, method, lr in sorted(scores, key=lambda key: fmean(scores[key]), reverse=True):
        best[library, method] = lr
    return best


def _carried_out(trials: Sequence[Trial], threads: int, progress: Progress | None) -> Iterator[dict[str, Any]]:
    """The trials' results in order. As many processes as `threads`, of one thread each: these problems are small."""
    tell = progress or (lambda stage, done, total: None)
    processes = [Process(threads=1) for _ in range(min(threads, len(trials)))]
    try:
        for number, trial in enumerate(trials[: len(processes)]):
            processes[number].send(do="quality", **asdict(trial))
        for number, trial in enumerate(trials):
            tell("planted directions", number, len(trials))
            process = processes[number % len(processes)]
            answer = process.receive()
            if number + len(processes) < len(trials):
                process.send(do="quality", **asdict(trials[number + len(processes)]))
            if "error" in answer:
                raise NumericalError(
                    f"{trial.library} {trial.method} could not be measured: {answer['error']} Leave it out with "
                    "libraries=, or methods=."
                )
            yield {**asdict(trial), **answer}
        tell("planted directions", len(trials), len(trials))
    finally:
        for process in processes:
            process.close()


def run(**settings: Any) -> dict[str, Any]:
    """One trial, in the process it is called in."""
    torch.set_num_threads(1)
    trial = Trial(**settings)
    begun = time.perf_counter()
    x, _ = trial.data.sample(TEST_ROWS, split="test")
    if trial.library == OURS:
        (made,) = train(
            trial.data,
            trial.data.sites[0],
            [_method(trial.method)],
            tokens=trial.tokens,
            seed=trial.seed,
            batch=BATCH,
            lr=trial.lr,
            warmup=WARMUP,
            decay=DECAY,
        )
        directions, codes, again = made.directions, made.encode(x), made.reconstruct(x)
    else:
        directions, codes, again = _trained_peer(trial, x)
    return {
        "recovery": recovery(directions, trial.data.directions, THRESHOLD),
        "mmcs": mmcs(trial.data.directions, directions),
        "fvu": fvu(x, again),
        "l0": float((codes > 0).sum() / len(codes)),
        "seconds": time.perf_counter() - begun,
    }


def _method(name: str) -> Method:
    settings: dict[str, Any] = {"k": K, "n_latents": N_LATENTS, "dead_after": DEAD_AFTER}
    made: dict[str, Callable[[], Method]] = {
        "topk": lambda: TopK(**settings),
        "batchtopk": lambda: BatchTopK(**settings),
        "matryoshka": lambda: Matryoshka(widths=SHARES, **settings),
    }
    return made[name]()


def _trained_peer(trial: Trial, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Directions, and codes and reconstructions of `x`, by a library's training on the trial's rows."""
    world, steps = trial.data, -(-trial.tokens // BATCH)
    task = Task(
        trial.method,
        world.d,
        N_LATENTS,
        BATCH,
        k=K,
        steps=steps,
        lr=trial.lr,
        warmup=WARMUP,
        decay=DECAY,
        seed=trial.seed,
        widths=tuple(round(share * N_LATENTS) for share in SHARES),
        dead_after=DEAD_AFTER,
    )
    peer = start_peer(trial.library, task)
    for rows in world.batches(world.sites[0], batch=BATCH, seed=trial.seed, steps=steps):
        peer.step(rows)
    learned = peer.learned()
    again, own = learned.reconstruct(x), peer.own_reconstruction(x)
    if float((again - own).square().sum()) > SAME * float(own.square().sum()):
        raise NumericalError(
            f"{trial.library} {trial.method} reconstructs otherwise than its weights were read here; its version "
            "differs from those this benchmark knows: compare bench/peers.py with the library."
        )
    return learned.directions, learned.encode(x), again


def _pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours minus theirs, by method, world and library."""
    by = {(row["world"], row["method"], row["library"], row["seed"]): row for row in rows}
    groups: dict[tuple[str, str, str], list[int]] = {}
    for world, method, library, seed in by:
        if library != OURS:
            groups.setdefault((world, method, library), []).append(seed)
    pairs = []
    for (world, method, library), seeds in groups.items():
        pair: dict[str, Any] = {"world": world, "method": method, "library": library}
        for measure in ("recovery", "fvu", "l0"):
            ours = [by[world, method, OURS, seed][measure] for seed in seeds]
            theirs = [by[world, method, library, seed][measure] for seed in seeds]
            gap = difference(ours, theirs)
            pair[measure] = {"ours": fmean(ours), "theirs": fmean(theirs), "difference": gap.to_dict()}
        pair["met"] = (pair["recovery"]["difference"]["high"] or 0.0) >= 0
        pairs.append(pair)
    return pairs


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Mean of the paired differences with its 95% interval by Student's t; the unit is the seed.

    >>> print(difference([0.9, 0.95, 1.0], [0.8, 0.85, 0.9]))
    0.100 [0.100, 0.100]
    """
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle, n = fmean(gaps), len(gaps)
    if n < 2:
        return Estimate(middle, -math.inf, math.inf, n, "seed")
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * stdev(gaps) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n, "seed")
