"""All latents of a dictionary as a script, for pages that have no server to ask: they sort and search it themselves."""

import json

from ...features.browsing import Card
from ..explored import Explored
from ..rendering import token_text, visible

_MANY = 5_000
"""Latents read at a time."""


def rows_script(explored: Explored, slug: str) -> str:
    """`sparsescope.rows["SLUG"] = [...]`: an array for every latent, in their order.

    Its members: latent, density, maximum, entropy, score, F1, effect, explanation, label, and the tokens as
    [text, share]. Numbers are exact, null where unknown; texts are as pages show them, ready for `textContent`. All
    is ASCII. Raises `NotThere` for an unknown dictionary.
    """
    shelf = explored.by_slug(slug)
    browser = explored.browser()
    lines = []
    for offset in range(0, shelf.n_latents, _MANY):
        lines += [_row(card) for card in browser.cards(shelf.id, sort="latent", offset=offset, limit=_MANY)]
    start = "var sparsescope = window.sparsescope || {};\nwindow.sparsescope = sparsescope;\n"
    rows = ",\n".join(lines)
    return (
        f"{start}sparsescope.rows = sparsescope.rows || {{}};\nsparsescope.rows[{json.dumps(slug)}] = [\n{rows}\n];\n"
    )


def _row(card: Card) -> str:
    numbers = [card.latent, card.density, card.maximum, card.entropy, card.score, card.f1, card.effect]
    tokens = [[visible(token_text(text)), share] for text, share in card.tokens]
    return json.dumps([*numbers, _shown(card.explanation, 300), _shown(card.label, 80), tokens], separators=(",", ":"))


def _shown(text: str | None, longest: int) -> str | None:
    return None if text is None else visible(token_text(text, longest))
