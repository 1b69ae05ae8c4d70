"""Ctrl-C and SIGTERM between steps, never within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody has asked to stop."""

    asked = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` when somebody has."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[Interruption]:
    """While this lasts, signals that would raise `KeyboardInterrupt` at any moment are kept for `check`.

    A second one is not kept. Outside the main thread, which alone gets signals, this does nothing; nor
    does it touch a signal that somebody has set to be ignored, or to end the process.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}

    def note(number: int, frame: FrameType | None) -> None:
        interruption.asked = True
        signal.signal(number, handlers[signal.Signals(number)])

    try:
        for number in handlers:
            signal.signal(number, note)
        yield interruption
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
