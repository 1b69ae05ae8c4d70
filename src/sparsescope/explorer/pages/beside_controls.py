"""What it means that dictionaries score above or below the controls, in sentences computed from the numbers.

A control may win: features of a model with random weights stand for single tokens, and nothing is explained as well
as a list of tokens. What shows it is context gain, which is 0 there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...report.words import BASELINES, interval, number

Found = Mapping[str, Any]

_WHAT = {
    "random model": "features of a model with random weights",
    "frozen decoder": "those of an autoencoder whose directions stayed random",
    "shuffled explanations": "latents that were given each other's explanations",
}


def of_the_run(found: Found) -> tuple[str, str]:
    """How the best autoencoder of the report's "interpretation" stands to the best control, and what to make of it.

    Either is "" where nothing is known.
    """
    trained = [each for each in found["dictionaries"] if each["method"] not in BASELINES] or found["dictionaries"]
    scored = [each for each in trained if each["corpus_rho"]["value"] is not None]
    if not scored:
        return "", ""
    best = max(scored, key=lambda each: each["corpus_rho"]["value"])
    over = _excess(found, "corpus_rho", best["name"])
    if over is None:
        return "", ""
    rival = _entry(found, over["control"])
    ours = f"{best['name']}, with {number(best['corpus_rho']['value'])}"
    if over["high"] < 0 and rival is not None:
        lead = (
            f"A control wins: {_what(rival)} have a mean corpus ρ of {number(rival['corpus_rho']['value'])}, above the "
            f"best dictionary, {ours}."
        )
        return lead, f"{_because(rival)}{_by_context(found, trained)}"
    side = f"{number(over['value'])} {interval(over)} above" if over["low"] > 0 else "not clearly different from"
    return f"The best dictionary by corpus ρ is {ours}: {side} the best control, {over['control']}.", _by_context(
        found, trained
    )


def of_a_dictionary(found: Found, name: str) -> str:
    """Why the excess of a dictionary is below 0, where it clearly is; else ""."""
    over = _excess(found, "corpus_rho", name)
    rival = None if over is None else _entry(found, over["control"])
    if over is None or rival is None or over["high"] >= 0:
        return ""
    text = (
        f"Excess is below 0: {_what(rival)} have a higher mean corpus ρ, {number(rival['corpus_rho']['value'])}. "
        f"{_because(rival)}"
    )
    by_context = _excess(found, "context_gain", name)
    if by_context is None:
        return text.strip()
    return f"{text}By context gain this dictionary is {_side(by_context)} the best control, {by_context['control']}."


def _what(rival: Found) -> str:
    """What a control's features are."""
    return _WHAT.get(rival["kind"], "random directions" if rival["method"] == "random" else f"those of {rival['name']}")


def _because(rival: Found) -> str:
    """Why it scores high, where its interval of context gain reaches 0."""
    gain = rival.get("context_gain")
    if gain is None or gain["value"] is None or gain["low"] is None or gain["low"] > 0:
        return ""
    value = f"{max(gain['value'], 0.0):.2f}"
    return (
        f"They stand for single tokens, which a list of tokens explains wholly (context gain {value}), so a high "
        "corpus ρ alone does not show that a model has learned anything. "
    )


def _by_context(found: Found, trained: Sequence[Found]) -> str:
    """How many autoencoders are clearly above the best control by context gain."""
    known = [_excess(found, "context_gain", each["name"]) for each in trained]
    above = [each for each in known if each is not None and each["low"] > 0]
    known = [each for each in known if each is not None]
    if not known:
        return ""
    count = f"{len(above)} of {len(known)} autoencoders are" if above else "no autoencoder is"
    return f"By context gain, what explanations tell beyond the token, {count} clearly above the best control."


def _side(over: Found) -> str:
    if over["low"] > 0:
        return f"{number(over['value'])} {interval(over)} above"
    return f"{number(-over['value'])} below" if over["high"] < 0 else "not clearly different from"


def _excess(found: Found, score: str, name: str) -> Found | None:
    """What a dictionary is above its best control; None where that or its interval is unknown."""
    over: Found | None = found.get("excess", {}).get(score, {}).get(name)
    return None if over is None or None in (over["value"], over["low"], over["high"]) else over


def _entry(found: Found, name: str) -> Found | None:
    """The row of a control, which may be a dictionary of random directions."""
    return next((each for each in (*found.get("controls", ()), *found["dictionaries"]) if each["name"] == name), None)
