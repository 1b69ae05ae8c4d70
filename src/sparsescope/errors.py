"""Every error that Sparsescope raises on purpose.

    SparsescopeError
    ├── ConfigurationError   a value, key or flag that cannot be used            exit code 2
    ├── SiteError            a site that this model does not have                exit code 2
    ├── ArtifactError        a directory on disk that is damaged or does not fit exit code 2
    ├── ModelError           a model or tokenizer that cannot be loaded or run   exit code 2
    ├── ClientError          a remote service that failed                        exit code 1
    ├── StorageError         the disk refused a write; unfinished work is kept   exit code 1
    ├── ResourceError        memory that ran out on the way                     exit code 1
    └── NumericalError       numbers that stopped being finite                   exit code 1

A message says what was given, what was expected, and what to do next. Exit code 2 means that the
request was wrong and nothing was started; 1 means that the run failed on the way.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class SparsescopeError(Exception):
    """Base of every deliberate error. `exit_code` is what the command line returns for it."""

    exit_code = 2


class ConfigurationError(SparsescopeError):
    """A value, key or flag that cannot be used."""


class SiteError(SparsescopeError):
    """A site that the model does not have."""


class ArtifactError(SparsescopeError):
    """An artifact that is missing, damaged, of another kind, or made from other inputs."""


class ModelError(SparsescopeError):
    """A model or tokenizer that cannot be loaded or run."""


class ClientError(SparsescopeError):
    """A remote service that failed."""

    exit_code = 1


class StorageError(SparsescopeError):
    """The disk refused a write. What was finished before stays on disk and can be resumed."""

    exit_code = 1


class ResourceError(SparsescopeError):
    """Memory ran out on the way. What was finished before can be resumed."""

    exit_code = 1


class NumericalError(SparsescopeError):
    """Numbers stopped being finite, and leaving them out did not help.

    `finished` holds what was finished all the same, with None in the place of what was not.
    """

    exit_code = 1

    def __init__(self, message: str, finished: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.finished = list(finished)


def suggest(given: str, valid: Iterable[str]) -> str:
    """' Did you mean X?' when a valid name is close to `given`, else ''."""
    close = difflib.get_close_matches(given, list(valid), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
