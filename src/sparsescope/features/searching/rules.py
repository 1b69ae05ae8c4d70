"""The rule language of the search: terms that must all hold of a latent.

    token:")"             a token with a share of its activation; token:*ing and token:?? stand for several
    label:bracket         a word that its best truth label has, or that begins with this; not of one at chance
    words:"capital letter"   words of its explanation, tokens or label
    dictionary:topk*      its dictionary by name; likewise method:topk and site:resid_post.2
    density<0.01          a number: density, maximum, entropy, score, f1, effect or latent, with < <= > >= or =

Names are in any case. A value in quotes may hold spaces, and \\", \\\\ and \\n. In a search that is not only a rule,
what is no term stands for words, or for the token that it spells or names.
"""

import math
import re
from dataclasses import dataclass

from ...errors import ConfigurationError, suggest
from ..card import SORTABLE
from .punctuation import named

TEXTS = ("token", "label", "words", "dictionary", "method", "site")
NUMBERS = (*SORTABLE, "latent")
LONGEST, MOST = 1_000, 20
"""Characters in a rule, and terms in it."""

_TERM = re.compile(r'([A-Za-z0-9_]*)(:|<=|>=|<|>|=)("(?:[^"\\]|\\.)*"|[^\s"]\S*|)(?=\s|$)', re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"(?=\s|$)|\S+', re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WILD = {"*", "?"}
_ESCAPES = {"n": "\n", "t": "\t"}


@dataclass(frozen=True)
class Term:
    """One condition: `key` is one of TEXTS with ":" and a text, or one of NUMBERS with a comparison and a number.

    A token may be one of several.
    """

    key: str
    operator: str
    value: str | float | tuple[str, ...]


def parse(rule: str) -> list[Term]:
    """The terms of a rule. Raises `ConfigurationError` that names the first wrong one and says what is understood.

    >>> [(term.key, term.operator, term.value) for term in parse('token:")" density<0.01')]
    [('token', ':', ')'), ('density', '<', 0.01)]
    """
    if len(rule) > LONGEST:
        raise ConfigurationError(f"a rule of {len(rule):,} characters was given: at most {LONGEST:,} are read.")
    terms, place = [], 0
    while rule[place:].strip():
        place += len(rule[place:]) - len(rule[place:].lstrip())
        found = _TERM.match(rule, place)
        if found is None:
            raise _refused(rule[place:].split()[0], "it is no condition")
        terms.append(_term(found.group(), *found.groups()))
        place = found.end()
    if not 1 <= len(terms) <= MOST:
        raise ConfigurationError(f"the rule has {len(terms)} conditions: expected 1 to {MOST}. {UNDERSTOOD}")
    return terms


UNDERSTOOD = (
    'Understood are token:")", token:*ing, label:bracket, words:"capital letter", dictionary:NAME, method:NAME, '
    f"site:NAME, and {', '.join(NUMBERS)} with < <= > >= or =, as in density<0.01; all conditions must hold."
)


def read(text: str) -> tuple[list[Term], list[str]]:
    """The terms in a text that may be no rule at all, and its other words, a text in quotes as one of them.

    Raises `ConfigurationError` for a term that is not understood, and for what must be meant as one: a number
    compared with an unknown name, or a name that is nearly one of those known.

    >>> read('score>=0.9 ) "a b" x:y')[1]
    [')', 'a b', 'x:y']
    """
    terms, others, place = list[Term](), list[str](), 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        found = _TERM.match(text, place)
        if found is None or not _is_meant(*found.groups()):
            found = _WORD.match(text, place)
            assert found is not None  # a text that begins with no white space
            others.append(_unquoted(found.group()))
        else:
            terms.append(_term(found.group(), *found.groups()))
        place = found.end()
    if len(terms) > MOST:
        raise ConfigurationError(f"the rule has {len(terms)} conditions: expected at most {MOST}. {UNDERSTOOD}")
    return terms, others


def mixed(text: str) -> list[Term]:
    """The rule that a text is in which some words are terms; [] where none is. Raises as `read`.

    >>> [(term.key, term.value) for term in mixed("score>=0.9 *ing closing bracket")]
    [('score', 0.9), ('token', '*ing'), ('token', (')',))]
    """
    terms, others = read(text)
    if not terms or not others:
        return terms
    words = [each for each in others if not _is_token(each)]
    terms += [Term("token", ":", named(each) or each) for each in others if _is_token(each)]
    tokens = named(" ".join(words))
    if words:
        terms.append(Term("token", ":", tokens) if tokens else Term("words", ":", " ".join(words)))
    return terms


def texts_of(term: Term) -> tuple[str, ...]:
    """The texts that a term is about, any of which may hold."""
    return term.value if isinstance(term.value, tuple) else (str(term.value),)


def _is_token(word: str) -> bool:
    return bool(_WILD & set(word)) or not any(map(str.isalnum, word))


def _is_meant(key: str, operator: str, value: str) -> bool:
    """Whether something like `key:value` in a text is a term, or was meant as one."""
    name = key.lower()
    if name in (*TEXTS, *NUMBERS):
        return True
    return bool(key) and (bool(suggest(name, (*TEXTS, *NUMBERS))) or (operator not in ":=" and _is_number(value)))


def _is_number(value: str) -> bool:
    return _NUMBER.fullmatch(value) is not None and math.isfinite(float(value))


def _term(whole: str, key: str, operator: str, value: str) -> Term:
    key = key.lower()
    if key not in (*TEXTS, *NUMBERS):
        raise ConfigurationError(
            f"unknown field {key!r} in {_short(whole)!r}.{suggest(key, (*TEXTS, *NUMBERS))} Known: "
            f"{', '.join(NUMBERS)} with < <= > >= or =, and {', '.join(f'{name}:' for name in TEXTS)}"
        )
    if key in TEXTS:
        if operator != ":":
            raise _refused(whole, f"{key} takes a colon")
        text = _unquoted(value)
        if not text:
            raise _refused(whole, "nothing follows the colon")
        return Term(key, operator, text)
    if operator == ":":
        raise _refused(whole, f"{key} is a number: it is compared")
    if not _is_number(value):
        raise _refused(whole, f"{value!r} is no number")
    return Term(key, operator, float(value))


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), value[1:-1], flags=re.DOTALL)


def _refused(term: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the condition {_short(term)!r} is not understood: {reason}{'' if reason.endswith('?') else '.'} {UNDERSTOOD}"
    )


def _short(term: str) -> str:
    return term if len(term) <= 80 else term[:80] + "…"
