"""Whether an explanation says more than the tokens that the page names anyway."""

import re
from collections.abc import Iterable

_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_RULE = rf"(?:{_QUOTED}|\{{{_QUOTED}(?:, {_QUOTED})*\}}) \(\d\.\d\d(?: of the activation)?\)"
_TOKENS_ALONE = re.compile(rf"{_RULE}(?:; {_RULE})*")
_LONGEST = 300


def repeats(explanation: str, tokens: Iterable[str]) -> bool:
    """Whether an explanation is nothing but a list of some of these tokens.

    >>> repeats("')' (0.77 of the activation); {')', '))'} (0.10)", [")", "))", "]"])
    True
    >>> repeats("')' after '(' (0.77 of the activation)", [")", "("])
    False
    """
    if len(explanation) > _LONGEST or not _TOKENS_ALONE.fullmatch(explanation):
        return False
    return set(re.findall(_QUOTED, explanation)) <= {repr(token) for token in tokens}
