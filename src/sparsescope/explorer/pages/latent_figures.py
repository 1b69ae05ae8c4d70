"""The two figures of a latent: how often it is how active, and which latents it comes from."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from ...features.card import Histogram
from ...report.tree_figure import tree_figure
from ...report.words import number
from ..explored import Explored
from ..links import Links

_WIDE, _TALL, _BASE, _TOP = 330, 128, 104, 12


def histogram(found: Histogram, maximum: float) -> Markup:
    """Steps of equal width from 0 to the largest activation, on a logarithmic axis of counts.

    They are one path, shaded from left to right as tokens are by activation; `data-counts` has the counts.
    """
    counts = [int(count) for count in found.counts]
    most = max([*counts, 1])
    step = _WIDE // len(counts)
    heights = [round((_BASE - _TOP) * math.log1p(count) / math.log1p(most)) for count in counts]
    steps = "".join(f"v{before - height}h{step}" for before, height in pairwise([0, *heights]))
    ticks = "".join(
        f'<text x="{_WIDE * share:g}" y="{_BASE + 17}" text-anchor="{end}">{number(share * maximum)}</text>'
        for share, end in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    label = f"{found.active:,} activations, at most {most:,} in a bin"
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {_WIDE} {_TALL}" width="{_WIDE}" height="{_TALL}" role="img" '
        f'aria-label="{label}" data-counts="{" ".join(map(str, counts))}"><linearGradient id="heat"><stop/>'
        f'<stop offset="1"/></linearGradient><path d="M0 {_BASE}{steps}V{_BASE}z"/>{ticks}</svg>'
    )


def linked_tree(case: Mapping[str, Any], explored: Explored, links: Links) -> Markup:
    """The tree of a case study, every latent a link to its page where the database has its dictionary."""
    tree = case["tree"]
    slugs = {shelf.name: explored.slug(shelf.id) for shelf in explored.shelves()}
    targets = {}
    for node in tree["nodes"]:
        slug = slugs.get(tree["dictionaries"].get(node["site"], ""))
        if slug is not None:
            targets[node["site"], node["latent"]] = links.latent(slug, node["latent"])
    return Markup(tree_figure(tree, case["texts"], targets))
