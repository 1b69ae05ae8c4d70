"""Top contexts as HTML: tokens on a background as strong as the latent's code."""

from collections.abc import Mapping, Sequence
from typing import Any

from .words import METHODS, escape, escape_token, number, percent


def features(found: Sequence[Mapping[str, Any]]) -> str:
    """The latents of each dictionary that contexts were collected for."""
    if not found:
        return '<p class="note">No contexts were collected for this run.</p>'
    return "".join(_dictionary(item) for item in found)


def _dictionary(item: Mapping[str, Any]) -> str:
    latents = item["latents"]
    method = METHODS.get(item["method"], item["method"])
    l0 = item.get("l0")
    facts = [str(method), str(item["site"]), *([f"L0 {number(l0)}"] if l0 is not None else [])]
    cards = "".join(_latent(latent) for latent in latents)
    if not latents:
        cards = '<p class="note">None of its latents was active.</p>'
    return (
        f'<h3 class="of">{escape(item["dictionary"])} <small>{escape(", ".join(facts))}</small></h3>'
        f'<div class="latents">{cards}</div>'
    )


def _latent(latent: Mapping[str, Any]) -> str:
    top = latent["maximum"]
    contexts = "".join(f"<li>{_context(context, top)}</li>" for context in latent["contexts"])
    facts = f"active on {percent(latent['density'])} of tokens, at most {number(top)}"
    title = f"<h4>Latent {latent['latent']:,} <small>{facts}</small></h4>"
    return f'<article class="latent">{title}<ol>{contexts}</ol></article>'


def _context(context: Mapping[str, Any], top: float) -> str:
    """Token after token; a token without a text of its own lends its code to the next one."""
    spans, waiting, peak = [], 0.0, False
    for place, (text, value) in enumerate(zip(context["tokens"], context["values"], strict=True)):
        waiting = value if abs(value) > abs(waiting) else waiting
        peak = peak or place == context["peak"]
        if text:
            spans.append(_token(text, waiting, top, peak))
            waiting, peak = 0.0, False
    return f'<p class="context" dir="auto">{"".join(spans)}</p>'


def _token(text: str, value: float, top: float, peak: bool) -> str:
    if value == 0:
        return f"<span>{escape_token(text)}</span>"
    strength = min(abs(value) / top, 1.0) if top else 0.0
    kind = ("t n" if value < 0 else "t") + (" peak" if peak else "")
    return f'<span class="{kind}" style="--a:{strength:.2f}" title="{number(value)}">{escape_token(text)}</span>'
