"""Text to tokens: documents with truth labels, splits by document, packing into contexts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from ..errors import ConfigurationError, suggest
from .docs import python_documents
from .document import Document, Label, Text, text_digest
from .files import SUFFIXES, read_files, read_hub
from .packing import BOS_POLICIES, SPLITS, Tokens, bos_policy, pack
from .stories import stories

__all__ = [
    "BOS_POLICIES",
    "SPLITS",
    "Document",
    "Label",
    "Text",
    "Tokens",
    "bos_policy",
    "load_text",
    "pack",
    "stories",
]

_BUILTIN = {"builtin:docs": "Python's documentation mixed with stories", "builtin:stories": "stories alone"}
_STORIES = 8_000  # in builtin:stories, about 3 MB


def load_text(spec: str | Path | Sequence[str | Path], *, seed: int = 0) -> Text:
    """A text by name: `builtin:docs`, `builtin:stories`, files, directories, or a `datasets` hub id.

    `builtin:docs` mixes the documentation of the running Python with generated stories, half and half
    by characters; `seed` chooses the stories and the order. Several paths make one text.

    Raises `ConfigurationError` for what does not exist, is empty or is not text.

    >>> text = load_text("builtin:stories")
    >>> next(iter(text)).source
    'story 0/0'
    """
    specs = [spec] if isinstance(spec, str | Path) else list(spec)
    if not specs:
        raise ConfigurationError("no text given: expected a file, a directory, a hub id, or 'builtin:docs'.")
    if len(specs) == 1 and isinstance(specs[0], str):
        only = specs[0]
        if only.startswith("builtin:"):
            return _builtin(only, seed)
        if not Path(only).exists() and Path(only).suffix not in SUFFIXES and only.count("/") <= 1:
            return read_hub(only)
    return read_files(specs)


def _builtin(name: str, seed: int) -> Text:
    if name not in _BUILTIN:
        known = ", ".join(f"{key} ({what})" for key, what in _BUILTIN.items())
        raise ConfigurationError(f"unknown text {name!r}: expected {known}.{suggest(name, _BUILTIN)}")
    if name == "builtin:stories":
        return Text(name, text_digest(name, str(seed), next(stories(seed)).text), lambda: _first_stories(seed))
    documents = python_documents()
    fingerprint = text_digest(name, str(seed), next(stories(seed)).text, *(document.text for document in documents))
    return Text(name, fingerprint, lambda: _mixed(documents, seed))


def _first_stories(seed: int) -> Iterator[Document]:
    for _, document in zip(range(_STORIES), stories(seed), strict=False):
        yield document


def _mixed(documents: Sequence[Document], seed: int) -> Iterator[Document]:
    """Python's documentation in a shuffled order, after each part as many characters of stories."""
    order = list(documents)
    Random(f"sparsescope docs {seed}").shuffle(order)
    tales = stories(seed)
    owed = 0
    for document in order:
        yield document
        owed += len(document.text)
        while owed > 0:
            tale = next(tales)
            owed -= len(tale.text)
            yield tale
