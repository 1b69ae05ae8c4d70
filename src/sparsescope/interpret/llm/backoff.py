"""How long to wait before a request is sent again."""

import random
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime


def wait_before(attempt: int, first: float, longest: float, seed: str) -> float:
    """Seconds before attempt number `attempt` + 1: doubling from `first` to `longest`, then 50% to 100% of that.

    The random part keeps requests that failed together from coming back together.

    >>> [0.5 * 2**i <= wait_before(i, 1.0, 60.0, "key") <= 2**i for i in range(5)]
    [True, True, True, True, True]
    """
    return min(longest, first * 2**attempt) * random.Random(f"{seed} {attempt}").uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be left alone (RFC 9110 §10.2.3: a number or a date), or None.

    >>> retry_after({"retry-after": "7"}), retry_after({"retry-after": "soon"}), retry_after({})
    (7.0, None, None)
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return max(0.0, (aware - datetime.now(timezone.utc)).total_seconds())


class Pause:
    """A moment before which no thread sends anything: one answer 'too many requests' is meant for all of them."""

    def __init__(self) -> None:
        self._until = 0.0
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def extend(self, seconds: float) -> None:
        """Nobody sends anything for at least this long from now."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def wait(self, seconds: float = 0.0) -> bool:
        """Wait `seconds`, and until the pause is over; False when everything was stopped meanwhile."""
        until = time.monotonic() + seconds
        while not self.stopped.is_set():
            with self._lock:
                left = max(until, self._until) - time.monotonic()
            if left <= 0:
                return True
            self.stopped.wait(left)
        return False
