"""The rule language of the search: terms that must all hold of a latent.

    token:")"             a token with a share of its activation; token:*ing and token:?? stand for several
    label:bracket         a word that its best truth label has, or that begins with this
    words:"capital letter"   words of its explanation, tokens or label
    dictionary:topk*      its dictionary by name; likewise method:topk and site:resid_post.2
    density<0.01          a number: density, maximum, entropy, score, f1, effect or latent, with < <= > >= or =

A value in quotes may hold spaces, and \\", \\\\ and \\n.
"""

import math
import re
from dataclasses import dataclass

from ..errors import ConfigurationError, suggest
from .card import SORTABLE

TEXTS = ("token", "label", "words", "dictionary", "method", "site")
NUMBERS = (*SORTABLE, "latent")
LONGEST, MOST = 1_000, 20
"""Characters in a rule, and terms in it."""

_TERM = re.compile(r'([A-Za-z0-9_]*)(:|<=|>=|<|>|=)("(?:[^"\\]|\\.)*"|[^\s"]\S*|)(?=\s|$)', re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t"}


@dataclass(frozen=True)
class Term:
    """One condition: `key` is one of TEXTS with ":" and a text, or one of NUMBERS with a comparison and a number."""

    key: str
    operator: str
    value: str | float


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


def _term(whole: str, key: str, operator: str, value: str) -> Term:
    if key not in (*TEXTS, *NUMBERS):
        raise _refused(whole, f"nothing is called {key!r}.{suggest(key, (*TEXTS, *NUMBERS))}")
    if key in TEXTS:
        if operator != ":":
            raise _refused(whole, f"{key} takes a colon")
        text = _unquoted(value)
        if not text:
            raise _refused(whole, "nothing follows the colon")
        return Term(key, operator, text)
    if operator == ":":
        raise _refused(whole, f"{key} is a number: it is compared")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _refused(whole, f"{value!r} is no number")
    return Term(key, operator, number)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), value[1:-1], flags=re.DOTALL)


def _refused(term: str, reason: str) -> ConfigurationError:
    shown = term if len(term) <= 80 else term[:80] + "…"
    return ConfigurationError(
        f"the condition {shown!r} is not understood: {reason}{'' if reason.endswith('?') else '.'} {UNDERSTOOD}"
    )
