"""What is said about a run, a dictionary and a feature: the parts of their cards, and the same as text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...features.browsing import Shelf
from ...features.card import Card
from ...report.interpretability import SCORES
from ...report.words import METHODS, escape, number, percent
from .drawing import CARD_HEADS, CARD_NUMBERS, bars, card_row, chips, estimate, facts, moved, sentence, table
from .view import plain

if TYPE_CHECKING:
    from .feature import Feature

STRONGEST, EACH, NEIGHBOURS = 8, 2, 5


def heading(title: str, below: str) -> str:
    """A title and a line below it; both are text."""
    return f'<p class="head">{escape(title)}</p><p class="sub">{escape(below)}</p>'


def shelf_name(shelf: Shelf) -> str:
    return f'<span class="name">{escape(shelf.name)}</span>'


def counts(shelf: Shelf) -> tuple[int, int, int, int]:
    """Latents: all, dead, dense, explained."""
    return shelf.n_latents, shelf.dead, shelf.dense, shelf.explained


def run_body(run: str, shelves: Sequence[Shelf]) -> str:
    """Every dictionary of a run as a row."""
    rows = [
        [
            shelf_name(each),
            escape(METHODS.get(each.method, each.method)) + ("" if each.kind == "dictionary" else f" ({each.kind})"),
            escape(each.site),
            *(f"{count:,}" if each.prepared else "–" for count in counts(each)),
        ]
        for each in shelves
    ]
    heads = ("dictionary", "method", "site", "latents", "dead", "dense", "explained")
    return heading(f"Features of {run}", f"{len(shelves):,} dictionaries") + table(heads, rows, 4)


def shelf_body(shelf: Shelf, cards: Sequence[Card]) -> str:
    """The facts about a dictionary, and its features with the best explanations."""
    if not shelf.prepared:
        return heading(shelf.name, "not prepared: 'sparsescope explore RUN' does that first")
    found = facts(
        [
            ("method", escape(METHODS.get(shelf.method, shelf.method))),
            ("site", escape(shelf.site)),
            ("latents", f"{shelf.n_latents:,}"),
            ("active", f"{shelf.active:,}"),
            ("dead", f"{shelf.dead:,}"),
            ("dense", f"{shelf.dense:,}"),
            ("explained", f"{shelf.explained:,}"),
        ]
    )
    below = f"the {len(cards):,} latents whose explanations predict them best, of {shelf.n_latents:,}"
    return heading(shelf.name, below) + found + table(CARD_HEADS, map(card_row, cards), CARD_NUMBERS)


def brief(feature: "Feature") -> str:
    """A feature in short: what it is said to be, its numbers, and the three contexts where it is strongest."""
    if not feature.density:
        return _title(feature)
    contexts = "".join(each.body() for each in feature.contexts[:3])
    return _title(feature) + _numbers(feature) + chips(feature.tokens[:6]) + contexts


def body(feature: "Feature") -> str:
    """All about a feature."""
    if not feature.density:
        return _title(feature)
    return "".join(
        (
            _title(feature),
            _numbers(feature),
            _scores(feature),
            f'<div class="two">{_tokens(feature)}{_bars(feature)}</div>',
            _output(feature),
            _part("Strongest"),
            *(each.body() for each in feature.contexts[:STRONGEST]),
            *_weaker(feature),
            _alike(feature),
        )
    )


def text(feature: "Feature") -> str:
    """All about a feature, for a terminal."""
    if not feature.density:
        return repr(feature)
    by = f", explained by {plain(feature.explainer)}" if feature.explainer else ""
    lines = [
        repr(feature),
        f"  {plain(feature.shelf.method)} at {plain(feature.shelf.site)}{by}",
        f"  active on {percent(feature.density)} of tokens, at most {number(feature.maximum)}",
        "  tokens: " + ", ".join(f"{text[:20]!r} {percent(share)}" for text, share in feature.tokens[:6]),
    ]
    if feature.label is not None:
        lines.append(f"  best label: {plain(feature.label)} (F1 {number(feature.f1)})")
    if feature.scores:
        shown = [(name, feature.scores[key]) for key, name in SCORES if key in feature.scores]
        lines.append("  scores: " + ", ".join(f"{name} {number(value)}" for name, value in shown))
    if feature.effect is not None:
        lines.append(f"  ablating it moves the next token by {number(feature.effect)} nats (KL)")
    return "\n".join([*lines, "  strongest:", *(f"    {each!r}" for each in feature.contexts[:STRONGEST])])


def _title(feature: "Feature") -> str:
    below = f"{METHODS.get(feature.shelf.method, feature.shelf.method)} at {feature.shelf.site}"
    said = f'<p class="said">{sentence(feature.explanation)}</p>' if feature.explanation else ""
    by = f'<p class="sub">explained by {escape(feature.explainer)}</p>' if feature.explanation else ""
    dead = "" if feature.density else '<p class="note">This latent was never active on the held-out text.</p>'
    return heading(f"Latent {feature.latent:,} of {feature.dictionary}", below) + said + by + dead


def _numbers(feature: "Feature") -> str:
    shown = [
        ("active on", percent(feature.density)),
        ("largest code", number(feature.maximum)),
        ("entropy of tokens", f"{number(feature.entropy)} <small>nats</small>"),
    ]
    if feature.label is not None:
        shown.append(("best label", f"{escape(feature.label)} <small>F1 {number(feature.f1)}</small>"))
    effect = feature.detail.effect
    if effect is not None:
        shown += [
            ("KL when ablated", estimate(effect.get("kl"))),
            ("of another latent", estimate(effect.get("control"))),
        ]
    elif feature.effect is not None:
        shown.append(("KL when ablated", number(feature.effect)))
    return facts(shown)


def _scores(feature: "Feature") -> str:
    shown = [(name, number(feature.scores[key])) for key, name in SCORES if key in feature.scores]
    return _part("How well the explanation predicts it") + facts(shown) if shown else ""


def _tokens(feature: "Feature") -> str:
    return f"<div>{_part('Most of its activation is on')}{chips(feature.tokens)}</div>"


def _bars(feature: "Feature") -> str:
    histogram = feature.detail.histogram
    if histogram is None:
        return ""
    title = f"Its {histogram.active:,} positive codes, of {histogram.rows:,} tokens"
    return f"<div>{_part(title)}{bars(histogram, feature.maximum)}</div>"


def _output(feature: "Feature") -> str:
    effect = feature.detail.effect or {}
    parts = [
        moved("Logits raised directly, per unit", feature.raised[:6]),
        moved("Logits lowered directly, per unit", feature.lowered[:6]),
        moved("Next tokens it makes likelier, in points of probability", _pairs(effect.get("raised"))),
        moved("Next tokens it makes less likely, in points", _pairs(effect.get("lowered"))),
    ]
    return f'<div class="two">{"".join(parts)}</div>' if any(parts) else ""


def _pairs(found: Sequence[Sequence[float | str]] | None) -> list[tuple[str, float]]:
    return [(str(token), 100 * float(value)) for token, value in (found or ())[:6]]


def _weaker(feature: "Feature") -> list[str]:
    """Contexts by quantile, folded."""
    parts = [
        f"{_part(f'Part {place} of {len(feature.quantiles)}, from strong to weak')}"
        + "".join(each.body() for each in contexts[:EACH])
        for place, contexts in enumerate(feature.quantiles, 1)
        if contexts
    ]
    return [f"<details><summary>Weaker contexts, by quantile</summary>{''.join(parts)}</details>"] if parts else []


def _alike(feature: "Feature") -> str:
    rows = [
        (
            f'<span class="name">{other.latent:,}</span>',
            sentence(other.explanation),
            chips(other.tokens[:3]),
            number(cosine),
        )
        for other, cosine in feature.alike[:NEIGHBOURS]
    ]
    heads = ("latent", "explanation", "tokens", "cosine")
    return f"<details><summary>Closest directions</summary>{table(heads, rows, 1)}</details>" if rows else ""


def _part(title: str) -> str:
    return f'<p class="part">{escape(title)}</p>'
