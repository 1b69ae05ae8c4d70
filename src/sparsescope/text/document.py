"""What a text is: documents, each with truth labels where its maker knows them."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A fact about the characters `start` to `end` (exclusive) of a document.

    `name` says what kind of fact ("name", "role", "mention", "quotation", "brackets", ...), `value`
    which one ("Alice", "indirect_object", "first", "inside", "2", ...).
    """

    start: int
    end: int
    name: str
    value: str


@dataclass(frozen=True)
class Document:
    """One text with its truth labels. `source` says where it came from, for people to read."""

    text: str
    labels: tuple[Label, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Text:
    """A re-readable, deterministic sequence of documents.

    `name` is how the user asked for it; `fingerprint` changes whenever the documents do.

    >>> text = Text("two", "none", lambda: iter([Document("one"), Document("two")]))
    >>> [document.text for document in text]
    ['one', 'two']
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Document]]

    def __iter__(self) -> Iterator[Document]:
        return self.read()


def text_digest(*parts: str) -> str:
    """SHA-256 of strings, each ended by a zero byte so that no two lists of parts collide."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return state.hexdigest()
