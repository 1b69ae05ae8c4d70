"""The page on which people type a text: which latents are active at each token, and what changing them does."""

from collections.abc import Mapping, Sequence

from ...features.browsing import Shelf
from ..explored import Explored
from ..links import Links
from ..live.asking import LONGEST_TEXT
from ..query import choice, integer, text
from ..rendering import Page
from .recommended import recommended

SORTS = ("activation", "rarity", "effect")
WHERE = ("everywhere", "here")
EXAMPLES = (
    "When Mary and John went to the shop, John gave a drink to",
    "print(sorted(items[0], key=lambda x: (x.size, x.name)))",
    "Once upon a time there was a little girl called Anna. She",
)
_LONGEST_EDITS = 1_500


def prompt_page(explored: Explored, links: Links, *, query: Mapping[str, str]) -> Page:
    """The page, filled in as the query says: dictionary, text, position, sort, where, edits.

    What is active is asked for by the page itself, once it is shown: making the page loads no model.
    """
    shelves = [shelf for shelf in explored.shelves() if shelf.active]
    asked = text(query, "dictionary")
    chosen = explored.by_slug(asked) if asked else recommended(shelves, explored.report)
    integer(query, "position", 0)
    text(query, "edits", longest=_LONGEST_EDITS)
    values = {
        "groups": [(kind, _options(explored, shelves, kind)) for kind in dict.fromkeys(each.kind for each in shelves)],
        "slug": None if chosen is None else explored.slug(chosen.id),
        "text": text(query, "text", longest=LONGEST_TEXT),
        "sort": choice(query, "sort", SORTS, "activation"),
        "where": choice(query, "where", WHERE, "everywhere"),
        "sorts": SORTS,
        "examples": EXAMPLES,
        "longest": LONGEST_TEXT,
    }
    return Page("prompt.html", "Prompt", "prompt", values, scripts=("live.js", "prompt.js"), styles=("live.css",))


def _options(explored: Explored, shelves: Sequence[Shelf], kind: str) -> list[tuple[str, str]]:
    """Slug and words of every dictionary of a kind."""
    return [
        (explored.slug(shelf.id), f"{shelf.name}: {shelf.n_latents:,} latents at {shelf.site}")
        for shelf in shelves
        if shelf.kind == kind
    ]
