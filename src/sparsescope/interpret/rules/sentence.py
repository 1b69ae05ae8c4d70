"""One sentence for the rules of a latent: the few that most of its activation falls under, and its share in each."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from .fitting import Fitted
from .lookup import Lookup
from .patterns import ANY
from .phrases import SHOWN, before, condition, listed
from .spelling import Spelling
from .surroundings import Surroundings

MOST_RULES = 3
_ANY_TOKEN = "any token"
_LEAST_SHARE, _LEAST_TOKEN = 0.05, 0.02  # of the activation for a rule, and of a rule's for a token, to be told
_TELLING = 0.5  # of a rule's activation must be on the tokens that are shown, or it is about "any token"


def about_tokens(
    lookup: Lookup, sums: Float64[ndarray, " vocabulary"], counts: Int64[ndarray, " vocabulary"], spelling: Spelling
) -> str:
    """The sentence of a lookup: the tokens that are most above the mean, with their share of the activation."""
    size = len(sums)
    excess = counts * np.maximum(lookup.values[:size] - lookup.prior, 0)
    order = np.argsort(-excess, kind="stable")[:MOST_RULES]
    parts = [
        f"{listed([spelling.pieces[token]])} ({_share(sums[token] / sums.sum(), number == 0)})"
        for number, token in enumerate(order)
        if excess[token] > 0
    ]
    return "; ".join(parts) if parts else _ANY_TOKEN


def about_rules(fitted: Fitted, around: Surroundings) -> str:
    """The sentence of all stages: patterns and tokens, under the conditions of the leaf that they fall in.

    Empty where nothing can be said that is not true of any token.
    """
    rows, ids = fitted.rows, around.ids[fitted.rows.position]
    mass = rows.weight * rows.activation
    mass = mass / mass.sum()
    deciding = fitted.trie.decide(around, rows.position)
    leaves = np.zeros(len(rows), np.int64)
    if fitted.tree is not None:
        leaves = fitted.tree.nodes(around, rows.position, fitted.base)
    found: defaultdict[str, float] = defaultdict(float)
    named: dict[str, Float64[ndarray, " vocabulary"]] = {}
    for leaf in np.unique(leaves):
        inside = leaves == leaf
        if mass[inside].sum() < rows.weight[inside].sum() / rows.weight.sum():
            continue  # less active than everywhere
        under = _conditions(fitted, int(leaf), around.spelling, tokens=False)
        for numbers, text in _groups(fitted.trie.patterns, around.spelling):
            found[_joined(text, ", ", under)] += float(mass[inside & np.isin(deciding, numbers)].sum())
        single = inside & (deciding < 0)
        by_token = np.bincount(ids[single], mass[single], len(around.spelling))
        if np.sort(by_token)[-SHOWN:].sum() >= _TELLING * by_token.sum():
            named[under] = named.get(under, 0.0) + by_token
        else:
            exactly = _conditions(fitted, int(leaf), around.spelling, tokens=True)
            found[_joined(_ANY_TOKEN, " ", exactly)] += float(by_token.sum())
    for under, by_token in named.items():
        found.update(_tokens(under, by_token, around.spelling))
    found.pop(_ANY_TOKEN, None)
    rules = sorted(found.items(), key=lambda rule: -rule[1])[:MOST_RULES]
    kept = [rule for rule in rules if rule[1] >= _LEAST_SHARE]
    return "; ".join(f"{text} ({_share(share, number == 0)})" for number, (text, share) in enumerate(kept))


def _tokens(under: str, by_token: Float64[ndarray, " vocabulary"], spelling: Spelling) -> dict[str, float]:
    """The rule of some tokens, each with its share of the activation, under a condition."""
    share = float(by_token.sum())
    if share == 0:
        return {}
    order = np.argsort(-by_token, kind="stable")
    texts = [spelling.pieces[token] for token in order[by_token[order] >= _LEAST_TOKEN * share]]
    return {_joined(listed(texts), " ", under): share}


def _joined(text: str, by: str, conditions: str) -> str:
    return f"{text}{by}{conditions}" if conditions else text


def _share(share: float, first: bool) -> str:
    return f"{share:.2f} of the activation" if first else f"{share:.2f}"


def _conditions(fitted: Fitted, leaf: int, spelling: Spelling, *, tokens: bool) -> str:
    """The answers on the way to a leaf, in words; with `tokens`, those about the token itself, too.

    Node 2j + 1 or 2j + 2 is where split j led.
    """
    words: list[str] = []
    while leaf and fitted.tree is not None:
        split, side = divmod(leaf - 1, 2)
        leaf, question = fitted.tree.splits[split]
        itself = question[0] == "size" or (question[0] in ("kind", "spaced", "ends", "begins") and question[1] == 0)
        if tokens or not itself:
            words.append(condition(question, side == 0, spelling))
    return " and ".join(dict.fromkeys(word for word in reversed(words) if word))


def _groups(patterns: Sequence[list[int]], spelling: Spelling) -> list[tuple[list[int], str]]:
    """Patterns that differ only in what stands before one token, together."""
    groups: dict[int, list[int]] = {}
    for number, pattern in enumerate(patterns):
        groups.setdefault(pattern[0], []).append(number)
    found = []
    for token, numbers in groups.items():
        texts = list(dict.fromkeys(before(patterns[number], spelling) for number in numbers))
        subject = _ANY_TOKEN if token == ANY else listed([spelling.pieces[token]])
        found.append((numbers, f"{subject} after {listed(texts)}"))
    return found
