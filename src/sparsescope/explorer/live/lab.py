"""The model of a run and its dictionaries, loaded when a page first asks for them, used by one request at a time."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import ConfigurationError, SparsescopeError, suggest

if TYPE_CHECKING:
    from ...dictionaries import Dictionary
    from ...models import LanguageModel

State = Literal["resting", "loading", "ready", "failed"]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with a tokenizer, and dictionaries by the names that the feature database has for them.

    `bos` says where the run put a begin-of-sequence token (see `text.packing.bos_policy`): a text is read as the
    texts were that the dictionaries were trained on.
    """

    model: "LanguageModel"
    dictionaries: Mapping[str, "Dictionary"]
    bos: str = "auto"

    def dictionary(self, name: str) -> "Dictionary":
        """The dictionary of that name. Raises `ConfigurationError` when there is none for this model."""
        if name not in self.dictionaries:
            raise ConfigurationError(
                f"{name} cannot be used with {self.model.name}: it belongs to another model (a control), or is no "
                f"longer in the run. Choose another dictionary.{suggest(name, self.dictionaries)}"
            )
        return self.dictionaries[name]


@dataclass(frozen=True)
class Status:
    """How far the loading is.

    `seconds` is how long it has taken so far, or took in all; `expected` how long it should take (None: not known);
    `reason` says why it failed.
    """

    state: State
    seconds: float
    expected: float | None
    reason: str | None


class NotReady(Exception):
    """The model is not loaded; `status` says whether it is being loaded, was never asked for, or cannot be had."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.reason or f"the model is {status.state}")
        self.status = status


class Lab:
    """A model that is loaded once, by a thread of its own, and then lent to one user at a time.

    `load` gives the model; `expected` is how many seconds that should take.

        lab = Lab(loader("runs/demo"))
        lab.begin()                          # returns at once
        with lab.using() as loaded:          # NotReady while it is still loading
            loaded.model, loaded.dictionary("topk-k_16-x4")
    """

    def __init__(self, load: Callable[[], Loaded], expected: float | None = None) -> None:
        self._load, self._expected = load, expected
        self._turn = threading.Lock()  # held by who uses the model
        self._change = threading.Lock()  # held while what follows is read or written
        self._state: State = "resting"
        self._began, self._took = 0.0, 0.0
        self._reason: str | None = None
        self._loaded: Loaded | None = None
        self._thread: threading.Thread | None = None

    def status(self) -> Status:
        """Where the loading stands."""
        with self._change:
            return self._status()

    def begin(self) -> Status:
        """Start to load, unless that was done; what failed is tried again. Returns at once."""
        with self._change:
            if self._state in ("resting", "failed"):
                self._state, self._reason, self._began = "loading", None, time.perf_counter()
                self._thread = threading.Thread(target=self._fetch, name="loading the model", daemon=True)
                self._thread.start()
            return self._status()

    def wait(self, seconds: float | None = None) -> Status:
        """Wait until the loading that was begun has ended, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.status()

    @contextmanager
    def using(self) -> Iterator[Loaded]:
        """The model, for one user at a time: others wait. Raises `NotReady` when it is not loaded."""
        with self._change:
            loaded, status = self._loaded, self._status()
        if loaded is None:
            raise NotReady(status)
        with self._turn:
            yield loaded

    def _status(self) -> Status:
        running = self._state == "loading"
        seconds = time.perf_counter() - self._began if running else self._took
        return Status(self._state, seconds, self._expected, self._reason)

    def _fetch(self) -> None:
        try:
            found, reason = self._load(), None
        except SparsescopeError as error:
            found, reason = None, str(error)
        except Exception as error:  # a page must say so: nobody sees what a thread raises
            found, reason = None, f"{type(error).__name__}: {error}"
        with self._change:
            self._loaded, self._reason = found, reason
            self._state = "failed" if found is None else "ready"
            self._took = time.perf_counter() - self._began
