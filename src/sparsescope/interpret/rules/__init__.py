"""Explanations by rules, found by counting: deterministic, without a network.

Nested stages, each a simulator by itself: what every token is worth (`lookup`), patterns of up to four
tokens (`trie`), and a shallow tree of questions about the token and its surroundings (`tree`).
"""

from .explaining import Lookup, Rules

__all__ = ["Lookup", "Rules"]
