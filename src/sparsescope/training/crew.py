"""Members side by side: one thread each, as far as torch's threads go.

Members are independent, so this scales better on a CPU than splitting each of their small operations.
Which thread computes a member does not matter to its numbers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

import torch
from typing_extensions import Self

from .kernels import Kernels
from .kernels.reference import Buffers

T = TypeVar("T")

WORTH_SPLITTING = 1 << 25
"""Multiplications in one encoder product below which torch's own threads cost more than they bring, most
of all on a machine that is busy with other things (measured there: four times slower at 2^23)."""


@dataclass
class Bench:
    """What a call has to itself while it runs: kernels with their memory, and buffers of the engine's own."""

    kernels: Kernels
    buffers: Buffers = field(default_factory=Buffers)


class Crew:
    """Runs a function for every member, on as many threads as torch has (`torch.get_num_threads`).

    Use as a context manager. Each call has a `Bench` to itself while it runs. Torch's threads are
    divided between the calls that run at once, and given back at the end; where `work`, the
    multiplications in one encoder product, is small, each call has one. On a GPU calls run one by one.

    >>> from sparsescope.training.kernels.reference import Reference
    >>> with Crew(3, work=1000, kernels=Reference) as crew:
    ...     crew.each(lambda index, bench: index * index)
    [0, 1, 4]
    """

    def __init__(self, members: int, work: int, kernels: Callable[[], Kernels], on_cpu: bool = True) -> None:
        self._members = members
        self._threads = torch.get_num_threads()
        self._workers = max(1, min(members, self._threads)) if on_cpu else 1
        self._share = self._threads // self._workers if work >= WORTH_SPLITTING else 1
        self._benches: SimpleQueue[Bench] = SimpleQueue()
        for _ in range(self._workers):
            self._benches.put(Bench(kernels()))
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers > 1:
            self._pool = ThreadPoolExecutor(self._workers, "member", torch.set_num_threads, (self._share,))
        torch.set_num_threads(self._share)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        torch.set_num_threads(self._threads)

    def each(self, call: Callable[[int, Bench], T]) -> Sequence[T]:
        """`call(index, bench)` for every member; the answers in their order.

        When a call raises, the others are made nevertheless, so that all members stay at the same step.
        """

        @torch.no_grad()  # which is a setting of each thread
        def one(index: int) -> T:
            bench = self._benches.get()
            try:
                return call(index, bench)
            finally:
                self._benches.put(bench)

        if self._pool is None:
            return [one(index) for index in range(self._members)]
        waiting = [self._pool.submit(one, index) for index in range(self._members)]
        for each in waiting:
            each.exception()
        return [each.result() for each in waiting]
