"""Which latents of a dictionary are shown, and in which order: what the address says, checked."""

import math
import re
from dataclasses import dataclass, replace

from ...features.browsing import Chosen
from ..query import Query, choice, integer, text

SORTS = ("latent", "density", "maximum", "entropy", "score", "f1", "effect")
SHOWS = ("all", "active", "dead", "dense", "explained")
SIZE = 50
"""Latents on a page of the table."""
_LONGEST = 200
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_BOUND = re.compile(rf"({'|'.join(SORTS[1:])})(<=|>=|<|>)({_NUMBER})", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """A view of the table. `asked` is the text of the filter, `rule` what it says and which latents are shown."""

    asked: str
    rule: Chosen
    sort: str
    descending: bool
    page: int = 1
    size: int = SIZE

    @property
    def offset(self) -> int:
        """Latents before the first of this page."""
        return (self.page - 1) * self.size

    @property
    def query(self) -> dict[str, object]:
        """The parameters of this view, those of the first page of all latents left out."""
        return {
            "q": self.asked or None,
            "show": None if self.rule.show == "all" else self.rule.show,
            "sort": self.sort,
            "order": "desc" if self.descending else "asc",
            "page": None if self.page == 1 else self.page,
        }

    def last(self, total: int) -> int:
        """The number of the last page; there is always one."""
        return max(1, -(-total // self.size))

    def within(self, total: int) -> "Choice":
        """The same, at the last page where this one lies beyond it."""
        return replace(self, page=min(self.page, self.last(total)))


def read_choice(query: Query, *, explained: bool) -> Choice:
    """What the address asks for; by default the best explained first, or where none is, the most frequent.

    Raises `BadRequest` for what cannot be meant.
    """
    asked = text(query, "q", longest=_LONGEST).strip()
    words, ranges = read_filter(asked)
    show = choice(query, "show", SHOWS, "all")
    sort = choice(query, "sort", SORTS, "score" if explained else "density")
    order = choice(query, "order", ("asc", "desc"), "asc" if sort == "latent" else "desc")
    page = integer(query, "page", 1, least=1, most=10_000_000)
    return Choice(asked, Chosen(words=words, show=show, ranges=ranges), sort, order == "desc", page)


def read_filter(asked: str) -> tuple[str, tuple[tuple[str, float | None, float | None], ...]]:
    """The words of a filter, and its bounds as (column, least, most), both ends included.

    >>> read_filter("capital letter density<=0.01 score>=0.5")
    ('capital letter', (('density', None, 0.01), ('score', 0.5, None)))
    """
    words, ranges = [], []
    for term in asked.split():
        bound = _BOUND.fullmatch(term)
        if bound is None:
            words.append(term)
        else:
            ranges.append((bound[1], *_ends(bound[2], float(bound[3]))))
    return " ".join(words), tuple(ranges)


def _ends(sign: str, value: float) -> tuple[float | None, float | None]:
    """Least and most that a bound lets through: of '<' and '>', the number next to the bound itself."""
    if sign.startswith("<"):
        return None, value if sign == "<=" else math.nextafter(value, -math.inf)
    return value if sign == ">=" else math.nextafter(value, math.inf), None
