"""Which latents of a dictionary are shown, and in which order: what the address says, checked."""

import math
from dataclasses import dataclass, replace

from ...errors import ConfigurationError
from ...features.browsing import Chosen
from ...features.searching.rules import UNDERSTOOD, Term, read
from ...features.searching.ruling import SETS
from ..query import Query, choice, integer, text

SORTS = ("latent", "density", "maximum", "entropy", "score", "f1", "effect")
SHOWS = ("all", "active", "dead", "dense", "explained")
SIZE = 50
"""Latents on a page of the table."""
_LONGEST = 200
NOTHING = Chosen(ranges=(("latent", None, -1.0),))
"""No latent: what a filter chooses that is not understood."""


@dataclass(frozen=True)
class Choice:
    """A view of the table. `asked` is the text of the filter, `rule` what it says and which latents are shown.

    `complaint` is what is wrong with the filter, "" for nothing.
    """

    asked: str
    rule: Chosen
    sort: str
    descending: bool
    page: int = 1
    size: int = SIZE
    complaint: str = ""

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
    rule, complaint = read_filter(asked)
    show = choice(query, "show", SHOWS, "all")
    sort = choice(query, "sort", SORTS, "score" if explained else "density")
    order = choice(query, "order", ("asc", "desc"), "asc" if sort == "latent" else "desc")
    page = integer(query, "page", 1, least=1, most=10_000_000)
    return Choice(asked, replace(rule, show=show), sort, order == "desc", page, complaint=complaint)


def read_filter(asked: str) -> tuple[Chosen, str]:
    """What a filter chooses, and what is wrong with it: then nothing is chosen.

    >>> read_filter("capital letter density<=0.01 F1>=0.5")[0].ranges
    (('density', None, 0.01), ('f1', 0.5, None))
    >>> read_filter("densty<1")[1][:54]
    "unknown field 'densty' in 'densty<1'. Did you mean 'de"
    """
    try:
        terms, words = read(asked)
        ranges = tuple((term.key, *_ends(term)) for term in terms if isinstance(term.value, float))
        return Chosen(" ".join(words), ranges=ranges, terms=tuple(map(_term, _texts(terms)))), ""
    except ConfigurationError as error:
        return NOTHING, str(error).removesuffix(UNDERSTOOD).rstrip()


def _texts(terms: list[Term]) -> list[Term]:
    return [term for term in terms if not isinstance(term.value, float)]


def _term(term: Term) -> Term:
    """A term about the texts of a latent. Raises `ConfigurationError` for another one."""
    if term.key not in SETS:
        raise ConfigurationError(f"{term.key}: tells dictionaries apart, and this table is of one: search for it.")
    if term.key == "label" and not any(map(str.isalnum, str(term.value))):
        raise ConfigurationError(f"label:{term.value} has no letter or digit: name a word of the label.")
    return term


def _ends(term: Term) -> tuple[float | None, float | None]:
    """Least and most that a bound lets through: of '<' and '>', the number next to the bound itself."""
    value = float(str(term.value))
    return {
        "<=": (None, value),
        "<": (None, math.nextafter(value, -math.inf)),
        ">=": (value, None),
        ">": (math.nextafter(value, math.inf), None),
        "=": (value, value),
    }[term.operator]
