"""What an explanation says that a latent responds to, without what it says the latent does not respond to.

An explanation by rules names conditions that must not hold ("with no opening bracket before it"), and one by a
language model exceptions. Who searches for "bracket" means neither.
"""

import re

LONGEST = 4_000
"""Characters of an explanation that is read so; a longer one is taken whole."""

_QUOTED = r"""(?<!\w)'(?:[^'\\\n]|\\.){0,100}'|(?<!\w)"(?:[^"\\\n]|\\.){0,100}\""""
_LITERAL = rf"""{_QUOTED}|\{{(?:{_QUOTED}|[^}}'"]){{0,100}}\}}"""
_NEGATION = r"\b(?:not|no|without|never|except|excluding|unless|nor|neither|outside|\w+n't)\b"
_END = r"[ ](?:and|but)[ ]|[;,.()]"
# A quoted text is read as one, so that neither a token "not" nor one of punctuation is taken for the sentence's own.
_PART = re.compile(rf"(?P<literal>{_LITERAL})|{_NEGATION}(?:{_LITERAL}|(?!{_END}).)*", re.DOTALL | re.IGNORECASE)


def affirmed(explanation: str) -> str:
    """The explanation without its negated parts: from a negation to the next "and", "but" or mark of punctuation.

    >>> affirmed("')' with no opening bracket before it and not right after {'a', ' not'} and after ' no' (0.5)")
    "')' with  and  and after ' no' (0.5)"
    """
    if len(explanation) > LONGEST:
        return explanation
    return _PART.sub(lambda found: found["literal"] or "", explanation)
