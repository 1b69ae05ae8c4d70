"""Timing things against each other fairly: interleaved rounds, medians, and a watch on other processes."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOREIGN = 0.1
"""A sample is disturbed when other processes used more than this share of one core while it ran."""


@dataclass(frozen=True)
class Rate:
    """Units per second of one contender: one sample per round, and how many of them were disturbed."""

    samples: tuple[float, ...]
    disturbed: int

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def describe(self) -> dict[str, Any]:
        """JSON: median, lowest and highest sample, number of samples, number of disturbed ones."""
        low, high = min(self.samples), max(self.samples)
        return {"median": self.median, "low": low, "high": high, "n": len(self.samples), "disturbed": self.disturbed}


def interleaved(
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Rate]:
    """Rates of several contenders, each run once per round after one run to warm up.

    A contender does its work and returns how many units (tokens, rows, operations) that was. Running them in
    turn spreads whatever else the machine does over all of them.

    >>> rates = interleaved({"sleep": lambda: time.sleep(0.01) or 1}, rounds=3)
    >>> 50 < rates["sleep"].median <= 100
    True
    """
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for number, (name, work) in enumerate(contenders.items()):
            if progress:
                progress(name, turn * len(contenders) + number, (rounds + 1) * len(contenders))
            sample = _sample(work)
            if turn:
                samples[name].append(sample)
    return {name: Rate(tuple(rate for rate, _ in got), sum(bad for _, bad in got)) for name, got in samples.items()}


def _sample(work: Callable[[], float]) -> tuple[float, bool]:
    foreign, start = foreign_seconds(), time.perf_counter()
    units = work()
    seconds = time.perf_counter() - start
    return units / seconds, foreign_seconds() - foreign > _FOREIGN * seconds


def foreign_seconds() -> float:
    """Processor seconds used so far by everything but this process, other machines on the same host included.

    Always 0 where there is no /proc (not Linux).
    """
    statistics_file = Path("/proc/stat")
    if not statistics_file.exists():
        return 0.0
    user, nice, system, _, _, _, _, stolen = (int(field) for field in statistics_file.read_text().split()[1:9])
    own = os.times()
    # The kernel counts children of this process in its own times only once they have ended.
    mine = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK") - mine
