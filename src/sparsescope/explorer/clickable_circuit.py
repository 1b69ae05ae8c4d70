"""The figure of a circuit for a page that has its own styles: nodes lead to their cards, and nothing is inline.

`report.circuit_figure` draws for a file that stands alone. A page whose policy refuses inline styles takes those of
`circuit.css` instead; which node is which is known by order, since the figure draws nodes in the order of the data.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArtifactError
from ..report.circuit_figure import circuit_figure
from ..report.words import escape

_STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
_GROUP = "<g><title>"


def clickable_circuit(data: Mapping[str, Any], targets: Sequence[str]) -> str:
    """The figure of a circuit's JSON form, with `targets[i]` (a URL or "#anchor") behind node i.

    Text in the figure is escaped, so that tags found in it are the figure's own. Raises `ArtifactError` where the data
    has another number of nodes than the figure.
    """
    head, *groups = _STYLE.sub("", circuit_figure(data), count=1).split(_GROUP)
    nodes = data["nodes"]
    if len(groups) != len(nodes) + 1 or len(targets) != len(nodes):
        raise ArtifactError(
            f"the figure of this circuit has {len(groups) - 1} nodes, {len(nodes)} in its data and {len(targets)} "
            "targets were expected: make the circuit again with 'sparsescope circuit RUN --force'."
        )
    *drawn, sink = groups
    linked = [_linked(group, node, target) for group, node, target in zip(drawn, nodes, targets, strict=True)]
    return "".join([head, *linked, _GROUP, sink])


def _linked(group: str, node: Mapping[str, Any], target: str) -> str:
    """One node's group as a link, and what follows it."""
    inside, _, after = group.partition("</g>")
    name = escape(node["id"])
    return f'<a href="{escape(target)}" data-node="{name}" aria-label="node {name}">{_GROUP}{inside}</g></a>{after}'
