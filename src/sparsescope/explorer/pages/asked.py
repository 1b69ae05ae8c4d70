"""What is typed into the search box, as it is meant; and the rule that is made of it, in words."""

from ...features.searching.rules import Term, texts_of
from ...features.searching.words import bare
from ..rendering import token_text

_WRITTEN = {"⏎": "\n", "␣": " ", "·": " ", "\\n": "\n", "\\t": "\t"}


def plain(given: str) -> str:
    """What is meant by a text in which white space is written as pages show it.

    >>> plain("⏎"), plain("·word"), plain(" the ")
    ('\\n', ' word', ' the ')
    """
    for written, meant in _WRITTEN.items():
        given = given.replace(written, meant)
    return given


def spellings(given: str) -> list[str]:
    """The tokens to look for, the first that is found counts: as it is given, then in other cases.

    White space around a token is no part of it, unless there is nothing else.

    >>> spellings("The"), spellings(" ) ")
    (['The', 'the', 'THE'], [')'])
    """
    token = bare(plain(given))
    return list(dict.fromkeys([token, token.lower(), token.capitalize(), token.upper()]))


def written(term: Term) -> str:
    """A term in words.

    >>> written(Term("score", ">=", 0.9)), written(Term("token", ":", ("(", ")"))), written(Term("label", ":", "x"))
    ('score ≥ 0.9', 'fires on ( or )', 'label with “x”')
    """
    shown = " or ".join(token_text(text) for text in texts_of(term))
    if term.key == "token":
        return f"fires on {shown}"
    if term.operator == ":":
        return f"{term.key} with “{shown}”" if term.key in ("label", "words") else f"{term.key} {shown}"
    sign = {"<=": "≤", ">=": "≥"}.get(term.operator, term.operator)
    return f"{term.key} {sign} {term.value:g}"
