"""What the model said, as the JSON that the pages read: latents joined with what the feature database knows of them.

A latent appears in many tokens of a text, so what is known of it is given once, under "cards", by its number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...features.browsing import FeatureBrowser
    from ...features.cards import Card
    from .changing import Change, Compared, Steered
    from .effects import Effects
    from .lab import Status
    from .reading import Most, Prompted, Reading

JSON = dict[str, Any]


def told_status(status: "Status") -> JSON:
    """State, seconds, expected seconds and reason."""
    return asdict(status)


def told_reading(reading: "Reading", browser: "FeatureBrowser", dictionary: int) -> JSON:
    """Per token its text, the active latents and what is expected next; and what is known of those latents."""
    tokens = []
    for place, piece in enumerate(reading.prompted.pieces):
        expected = reading.expected[place]
        tokens.append(
            {
                "text": piece,
                "added": place < reading.prompted.added,
                "active": reading.counts[place],
                "latents": [asdict(each) for each in reading.active[place]],
                "likely": [asdict(each) for each in expected.likely],
                "actual": None if expected.actual is None else {**asdict(expected.actual), "rank": expected.rank},
            }
        )
    numbers = {each.latent for row in reading.active for each in row}
    return {"tokens": tokens, "cards": cards_of(browser, dictionary, numbers)}


def told_effects(found: "Effects") -> JSON:
    """Position, the token looked at, and the effects, largest first."""
    return asdict(found)


def told_change(prompted: "Prompted", changes: "list[Change]") -> JSON:
    """Per token the predictions before and after, and how far they are apart."""
    tokens = [
        {
            "text": piece,
            "kl": each.kl,
            "before": _compared(each.before),
            "after": _compared(each.after),
            "actual": None if each.actual is None else asdict(each.actual),
        }
        for piece, each in zip(prompted.pieces, changes, strict=True)
    ]
    return {"tokens": tokens}


def told_steered(found: "Steered") -> JSON:
    """The prompt's tokens and three continuations."""
    return asdict(found)


def told_most(
    found: "list[Most]", shelves: Mapping[str, tuple[int, str]], browser: "FeatureBrowser", limit: int
) -> list[JSON]:
    """The latents most active on a text, by their share of the largest code they ever have; those that the database
    saw never active come last. `shelves` gives number and slug of each dictionary by name."""
    rows = []
    for each in found:
        number, slug = shelves[each.dictionary]
        card = browser.card(number, each.latent)
        maximum = 0.0 if card is None else card.maximum
        rows.append(
            {
                "dictionary": slug,
                "latent": each.latent,
                "code": each.code,
                "share": each.code / maximum if maximum > 0 else None,
                "position": each.position,
                "token": each.token,
                "active": each.active,
                **_known(card),
            }
        )
    rows.sort(key=lambda row: (row["share"] is None, -(row["share"] or 0.0), row["density"] or 0.0, row["latent"]))
    return rows[:limit]


def cards_of(browser: "FeatureBrowser", dictionary: int, latents: Iterable[int]) -> JSON:
    """What is known of some latents, by number."""
    return {str(latent): _known(browser.card(dictionary, latent)) for latent in sorted(set(latents))}


def _known(card: "Card | None") -> JSON:
    """What a page shows beside a latent; everything None for one that was not prepared."""
    if card is None:
        return dict.fromkeys(("density", "maximum", "explanation", "score", "label", "words"))
    return {
        "density": card.density,
        "maximum": card.maximum,
        "explanation": card.explanation,
        "score": card.score,
        "label": card.label if card.fits else None,
        "words": [text for text, _ in card.tokens[:4]],
    }


def _compared(rows: "list[Compared]") -> list[JSON]:
    return [asdict(row) for row in rows]
