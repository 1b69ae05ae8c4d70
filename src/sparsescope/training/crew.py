"""Members side by side: one thread each, as far as torch's threads go.

Members are independent, so this scales better on a CPU than splitting each of their small operations.
Which thread computes a member does not matter to its numbers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

import torch
from typing_extensions import Self

from .gradients import Workspace

T = TypeVar("T")


class Crew:
    """Runs a function for every member, on as many threads as torch has (`torch.get_num_threads`).

    Use as a context manager. Each call has a `Workspace` to itself while it runs. Torch's threads are
    divided between the calls that run at once, and given back at the end.

    >>> with Crew(3) as crew:
    ...     crew.each(lambda index, space: index * index)
    [0, 1, 4]
    """

    def __init__(self, members: int) -> None:
        self._members = members
        self._threads = torch.get_num_threads()
        self._workers = max(1, min(members, self._threads))
        self._spaces: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(self._workers):
            self._spaces.put(Workspace())
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers > 1:
            share = self._threads // self._workers
            self._pool = ThreadPoolExecutor(self._workers, "member", torch.set_num_threads, (share,))
            torch.set_num_threads(share)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(self._threads)

    def each(self, call: Callable[[int, Workspace], T]) -> Sequence[T]:
        """`call(index, workspace)` for every member; the answers in their order.

        When a call raises, or this thread is interrupted, it first waits for the calls that have begun.
        """

        @torch.no_grad()  # which is a setting of each thread
        def one(index: int) -> T:
            space = self._spaces.get()
            try:
                return call(index, space)
            finally:
                self._spaces.put(space)

        if self._pool is None:
            return [one(index) for index in range(self._members)]
        waiting = [self._pool.submit(one, index) for index in range(self._members)]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            for each in waiting:
                each.cancel()
            for each in waiting:
                if not each.cancelled():
                    each.exception()
            raise
