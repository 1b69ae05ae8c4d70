"""Text as SQLite keeps it and searches it, whatever is in it."""

_WORDS = 32  # of a query; more make no search better


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

    With `prefix`, words that begin with these are found too.

    >>> query_of("NEAR the - end")
    '"NEAR" "the" "end"'
    """
    words = [word for word in plain(text).split() if any(map(str.isalnum, word))][:_WORDS]
    return " ".join('"' + word.replace('"', '""') + '"' + ("*" if prefix else "") for word in words)
