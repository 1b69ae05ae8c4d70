"""The cards of a dictionary: what a survey found out about its latents, and what was said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..causal.latent_effects import LatentEffect
from ..features.browsing import FeatureBrowser
from ..features.card import Card, Detail, Histogram
from ..features.reading import FeatureReader
from ..interpret.base import Explanation
from ..interpret.truth import LatentTruth
from .survey import Survey


@dataclass(frozen=True)
class Said:
    """An explanation of a latent, and its corpus ρ where it has one."""

    explanation: Explanation
    score: float | None


def best_said(database: FeatureReader, dictionary: int) -> dict[int, Said]:
    """By latent, the explanation with the highest corpus ρ; of equal ones that of the explainer whose name is first.

    Latents without an explanation are not in it.
    """
    scores = {
        (each.latent, each.explainer): each.value for each in database.scores(dictionary) if each.score == "corpus_rho"
    }
    found: dict[int, Said] = {}
    for each in database.explanations(dictionary):
        if each.skipped is not None:
            continue
        score = scores.get((each.latent, each.explainer))
        before = found.get(each.latent)
        if before is None or (score is not None and (before.score is None or score > before.score)):
            found[each.latent] = Said(Explanation(each.text, each.explainer, each.body), score)
    return found


def cards_of(
    dictionary: int, found: Survey, said: Mapping[int, Said], vocabulary: Sequence[str]
) -> tuple[list[Card], list[Detail]]:
    """The card and the detail of every latent of a surveyed dictionary, whose number in the database is given.

    A label that is never there when the latent fires on held-out text (F1 = 0) is not named.
    """
    cards, details = [], []
    for place, latent in enumerate(found.gathered.latents.tolist()):
        effect = found.effects[place]
        truth = None if found.truth is None else found.truth[place]
        card = Card(
            dictionary=dictionary,
            latent=latent,
            density=float(found.gathered.density[place]),
            maximum=float(found.gathered.maximum[place]),
            entropy=float(found.statistics.entropy[place]),
            label=None if truth is None or not truth.f1.value > 0 else label_of(truth),
            f1=None if truth is None else truth.f1.value,
            effect=None if effect is None else effect.kl.value,
            tokens=tuple(
                (vocabulary[token], share) for token, share in zip(*found.statistics.tokens.of(place), strict=True)
            ),
        )
        cards.append(_saying(card, said.get(latent)))
        details.append(_detail(found, place, None if effect is None else told(effect, vocabulary)))
    return cards, details


def renewed(
    database: FeatureReader, path: Any, dictionary: int, said: Mapping[int, Said]
) -> tuple[list[Card], list[Detail]]:
    """The cards that a dictionary has, with what is said of its latents now."""
    browser = FeatureBrowser(path, database.connection)
    cards = browser.cards(dictionary, limit=browser.count(dictionary))
    return (
        [_saying(card, said.get(card.latent)) for card in cards],
        [browser.detail(dictionary, card.latent) for card in cards],
    )


def label_of(truth: LatentTruth) -> str:
    """A truth label in words.

    >>> from sparsescope.metrics.statistics import Estimate
    >>> f1 = Estimate(0.9, 0.8, 1.0, 20)
    >>> label_of(LatentTruth(3, "bracket depth", "1", 0.1, f1, 0.9, 0.1, 0.02))
    'bracket depth = 1'
    """
    return truth.name if truth.value is None else f"{truth.name} = {truth.value}"


def told(effect: LatentEffect, vocabulary: Sequence[str]) -> dict[str, Any]:
    """An effect as JSON, with the texts of its tokens."""
    return {
        "kl": effect.kl.to_dict(),
        "control": None if effect.control is None else effect.control.to_dict(),
        "contexts": effect.contexts,
        **{
            way: [[_text(vocabulary, token), float(f"{change:.4g}")] for token, change in listed]
            for way, listed in (("raised", effect.raised), ("lowered", effect.lowered))
        },
    }


def _text(vocabulary: Sequence[str], token: int) -> str:
    """A token's text; a model may predict more tokens than its tokenizer has."""
    return vocabulary[token] if token < len(vocabulary) else f"<{token}>"


def _saying(card: Card, said: Said | None) -> Card:
    if said is None:
        return replace(card, explainer=None, explanation=None, score=None)
    return replace(card, explainer=said.explanation.explainer, explanation=said.explanation.text, score=said.score)


def _detail(found: Survey, place: int, effect: Mapping[str, Any] | None) -> Detail:
    counts = found.histograms[place]
    active = int(counts.sum())
    return Detail(
        histogram=Histogram(counts, active, found.gathered.tokens) if active else None,
        firing=found.gathered.is_active(place),
        effect=effect,
    )
