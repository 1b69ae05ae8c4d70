"""Text as SQLite keeps it and searches it, whatever is in it."""

import re

_WORDS = 32  # of a query; more make no search better
_PREFIX, _STEM = 3, 4  # letters from which on a word is found by its beginning: without an ending, and with one
_ENDING = re.compile(r"(.*?)(ing|ed|es|s|e)?", re.DOTALL | re.IGNORECASE)


def storable(text: str) -> str:
    """Text that UTF-8 can hold: an unpaired surrogate, which a language model's JSON may bring, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain(text: str) -> str:
    """Text that SQLite takes as a parameter and FTS5 as a query: no NUL, no unpaired surrogate."""
    return storable(text.replace("\0", " "))


def bare(token: str) -> str:
    """The text of a token without white space around it; white space alone is kept as it is.

    >>> bare(" the"), bare("\\n\\n")
    ('the', '\\n\\n')
    """
    return token.strip() or token


def query_of(text: str, *, prefix: bool = False) -> str:
    """An FTS5 query for all words of `text`, each quoted, so that none is an operator; "" when it has no word.

    With `prefix`, words that begin with these are found too. Not with less than three letters, nor with a short word
    that has an ending, of which the index of stems would keep next to nothing ("being", "used"); and not with a
    number, since who types 20 does not mean 2024.

    >>> query_of("NEAR the - end")
    '"NEAR" "the" "end"'
    >>> query_of("of brackets used 12", prefix=True)
    '"of" "brackets"* "used" "12"'
    """
    words = [word for word in plain(text).split() if any(map(str.isalnum, word))][:_WORDS]
    return " ".join('"' + word.replace('"', '""') + '"' + ("*" if prefix and _begins(word) else "") for word in words)


def _begins(word: str) -> bool:
    """Whether a word may be the beginning of the one that is meant."""
    found = _ENDING.fullmatch(word)
    least = _STEM if found and found[2] else _PREFIX
    return word[-1].isalpha() and found is not None and len(found[1]) >= least
