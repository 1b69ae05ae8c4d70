"""The tree of a latent as a figure: one column of latents for each site, edges as wide as their effects."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .case_figures import shown, svg
from .words import escape, interval, number, percent

Key = tuple[str, int]
Ends = tuple[float, float, float, float]
_WIDE, _TALL, _ACROSS, _DOWN, _HEAD = 176, 48, 124, 14, 34
_LEVEL, _PORT = 36, 15
"""Pixels that an edge runs level beside its parent, where its label is, and between two edges that leave it."""
_WIDEST = 9.0
"""Pixels of an edge whose effect is 1."""
_LONGEST, _ROOM = 10, 20
"""Characters of a token in a box, and of all of them together."""


def tree_figure(
    tree: Mapping[str, Any], texts: Mapping[str, str], targets: Mapping[Key, str] = MappingProxyType({})
) -> str:
    """Columns from the first site on the left to the target on the right.

    `targets` are the addresses that latents, as (site, latent), are links to.
    """
    columns = _columns(tree)
    sites = [site for site in tree["sites"] if columns[site]]
    rows = max(len(columns[site]) for site in sites)
    width = len(sites) * _WIDE + (len(sites) - 1) * _ACROSS + 8
    height = _HEAD + rows * (_TALL + _DOWN) + 4
    at: dict[Key, tuple[float, float]] = {}
    for place, site in enumerate(sites):
        first = _HEAD + (rows - len(columns[site])) * (_TALL + _DOWN) / 2
        for row, latent in enumerate(columns[site]):
            at[site, latent] = (4 + place * (_WIDE + _ACROSS), first + row * (_TALL + _DOWN))
    heads = [
        f'<text class="name title" x="{4 + place * (_WIDE + _ACROSS) + _WIDE / 2:.1f}" y="16" text-anchor="middle">'
        f"{escape(site)}</text>"
        for place, site in enumerate(sites)
    ]
    ends = _ends(tree["edges"], at)
    drawn = [_edge(edge, end) for edge, end in zip(tree["edges"], ends, strict=True)]
    labels = [_weight(edge, end) for edge, end in zip(tree["edges"], ends, strict=True)]
    root = (tree["nodes"][0]["site"], tree["nodes"][0]["latent"])
    nodes = []
    for node in tree["nodes"]:
        key = (node["site"], node["latent"])
        nodes.append(_linked(_node(node, at[key], texts, root), targets.get(key)))
    return svg(width, height, "which latents of earlier sites the latent comes from", [*heads, *drawn, *nodes, *labels])


def _linked(drawn: str, target: str | None) -> str:
    return drawn if target is None else f'<a href="{escape(target)}">{drawn}</a>'


def _columns(tree: Mapping[str, Any]) -> dict[str, list[int]]:
    """The latents of each site from top to bottom: beside their children, so that few edges cross."""
    columns: dict[str, list[int]] = {site: [] for site in tree["sites"]}
    for node in tree["nodes"]:
        columns[node["site"]].append(node["latent"])
    place: dict[Key, float] = {}
    for site in reversed(tree["sites"]):
        columns[site].sort(key=lambda latent: (_beside(tree["edges"], (site, latent), place), latent))
        middle = (len(columns[site]) - 1) / 2
        place |= {(site, latent): row - middle for row, latent in enumerate(columns[site])}
    return columns


def _beside(edges: Sequence[Mapping[str, Any]], key: Key, place: Mapping[Key, float]) -> tuple[float, float]:
    """Where a latent's children are on average, weighted by the effects; of those at one place the strongest first."""
    own = [(_key(e["child"]), e["effect"]["value"]) for e in edges if _key(e["parent"]) == key]
    total = sum(weight for _, weight in own)
    if not own or total <= 0:
        return 0.0, 0.0
    return round(sum(place[child] * weight for child, weight in own) / total, 9), -total


def _key(pair: Sequence[Any]) -> Key:
    return pair[0], pair[1]


def _ends(edges: Sequence[Mapping[str, Any]], at: Mapping[Key, tuple[float, float]]) -> list[Ends]:
    """Where each edge begins and ends: those of one latent leave and enter it side by side, so that none cover."""
    keys = [(_key(edge["parent"]), _key(edge["child"])) for edge in edges]
    leaving = {edge: [other for other in keys if other[0] == edge[0]] for edge in keys}
    entering = {edge: [other for other in keys if other[1] == edge[1]] for edge in keys}
    found = []
    for edge in keys:
        out = sorted(leaving[edge], key=lambda other: at[other[1]][1]).index(edge) - (len(leaving[edge]) - 1) / 2
        into = sorted(entering[edge], key=lambda other: at[other[0]][1]).index(edge) - (len(entering[edge]) - 1) / 2
        (x, y), (u, v) = at[edge[0]], at[edge[1]]
        port = min(_PORT, (_TALL - 8) / max(len(leaving[edge]), 1))
        found.append((x + _WIDE, y + _TALL / 2 + port * out, u, v + _TALL / 2 + min(_PORT, 9) * into))
    return found


def _edge(edge: Mapping[str, Any], ends: Ends) -> str:
    x, y, u, v = ends
    middle = (x + _LEVEL + u) / 2
    wide = max(1.2, _WIDEST * min(edge["effect"]["value"], 1.0))
    path = f"M {x:.1f} {y:.1f} H {x + _LEVEL:.1f} C {middle:.1f} {y:.1f} {middle:.1f} {v:.1f} {u:.1f} {v:.1f}"
    return (
        f'<g class="edge"><title>{escape(_note(edge))}</title>'
        f'<path class="link" d="{path}" stroke-width="{wide:.1f}"/></g>'
    )


def _weight(edge: Mapping[str, Any], ends: Ends) -> str:
    """The effect, on the level stretch of the edge beside its parent."""
    x, y, _, _ = ends
    return (
        f'<text class="weight" x="{x + _LEVEL / 2 + 3:.1f}" y="{y + 4:.1f}" text-anchor="middle">'
        f"<title>{escape(_note(edge))}</title>{escape(percent(edge['effect']['value']))}</text>"
    )


def _note(edge: Mapping[str, Any]) -> str:
    effect, held_out, cosine = edge["effect"], edge["held_out"], edge["cosine"]
    words = f"latent {edge['parent'][1]} of {edge['parent'][0]}: {percent(effect['value'])} {interval(effect)}"
    again = "" if held_out is None else f"; held out {percent(held_out['value'])}"
    alike = "" if cosine is None else f"; cosine {number(cosine)}"
    return f"{words} of latent {edge['child'][1]} goes when it is ablated{again}{alike}"


def _fitting(texts: Sequence[str]) -> str:
    """As many of the tokens as a box has room for, in HTML."""
    kept: list[str] = []
    for text in texts:
        cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
        if sum(map(len, kept)) + 2 * len(kept) + len(cut) > _ROOM:
            break
        kept.append(cut)
    return "  ".join(shown(text) for text in kept)


def _node(node: Mapping[str, Any], at: tuple[float, float], texts: Mapping[str, str], root: Key) -> str:
    x, y = at
    first = (node["site"], node["latent"]) == root
    tokens = _fitting([texts[str(token)] for token, _ in node["tokens"][:3]])
    told = ", ".join(f"{shown(texts[str(token)])} {percent(share)}" for token, share in node["tokens"])
    note = f"active on {percent(node['density'])} of tokens, at most {number(node['maximum'])}; mostly on {told}"
    return (
        f'<g><title>{note}</title><rect class="box{" root" if first else ""}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{_WIDE}" height="{_TALL}" rx="7"/>'
        f'<text class="title" x="{x + 11:.1f}" y="{y + 18:.1f}">latent {node["latent"]:,}</text>'
        f'<text class="tick mono" x="{x + 11:.1f}" y="{y + 36:.1f}">{tokens}</text></g>'
    )
