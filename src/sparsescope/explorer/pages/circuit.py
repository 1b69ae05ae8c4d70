"""The circuit pages: the graphs of the causal stage, their nodes as cards, and how far each can be believed."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...report.circuit_curves import circuit_curves
from ..clickable_circuit import clickable_circuit
from ..explored import Explored
from ..links import Links
from ..query import Query
from ..rendering import Page
from .brief import Brief, Briefs

OUTPUT = "output"
"""What the last edges lead to: the measure."""
_OPEN = 30
"""Edges in the table before the rest is folded away."""
_ORDERED = {"integrated": "integrated gradients", "attribution": "attribution", "exact": "exact effects"}


@dataclass(frozen=True)
class NodeCard:
    """A node of a circuit: its numbers, and the latent it is, where that is in the database.

    `missing` says why there is no latent to show: "" for an error term and for a latent that is shown.
    """

    anchor: str
    node: Mapping[str, Any]
    dictionary: str
    brief: Brief | None
    missing: str

    @property
    def serves(self) -> bool:
        """Whether the measure falls when the node takes on its value outside the circuit."""
        value = self.node["exact"]["value"]
        return value is not None and value < 0


@dataclass(frozen=True)
class EdgeRow:
    """An edge, with the anchors of the cards at its ends (None: the measure, or a node that is not listed)."""

    source: str
    source_anchor: str | None
    target: str
    target_anchor: str | None
    effect: Mapping[str, Any]


def circuit_page(explored: Explored, links: Links, task: str | None = None, *, query: Query) -> Page:
    """One circuit: figure, nodes, edges and curves; without a task, all circuits of the run.

    Raises `NotThere` for a task without one.
    """
    if task is None:
        found = [(each, links.circuit(each), explored.circuit(each)) for each in explored.circuits()]
        command = shlex.join(["sparsescope", "circuit", str(explored.path), "--task", "agreement"])
        values: dict[str, Any] = {"circuits": found, "command": command}
        return Page("circuits.html", "Circuits", "circuit", values, styles=("search.css", "circuit.css"))
    data = explored.circuit(task)
    cards = _cards(explored, links, data)
    edges = _edges(data, cards)
    values = {
        "data": data,
        "figure": clickable_circuit(data, [f"#{card.anchor}" for card in cards]),
        "curves": circuit_curves(data) if data["curves"] else "",
        "cards": cards,
        "edges": edges[:_OPEN],
        "more_edges": edges[_OPEN:],
        "ordered": _ORDERED.get(data["search"]["method"], data["search"]["method"]),
        "gradient": _ORDERED["attribution" if data["search"]["method"] == "attribution" else "integrated"],
        "others": [(each, links.circuit(each)) for each in explored.circuits() if each != task],
        "output": OUTPUT,
        "all_circuits": links.circuit(),
        "command": shlex.join(["sparsescope", "explore", str(explored.path)]),
    }
    title = f"Circuit for {task}"
    return Page("circuit.html", title, "circuit", values, scripts=("circuit.js",), styles=("search.css", "circuit.css"))


def _cards(explored: Explored, links: Links, data: Mapping[str, Any]) -> list[NodeCard]:
    """One for every node, in the order of the data: by effect on the prompts that the circuit was found on."""
    briefs = Briefs.of(explored, links)
    by_name = {shelf.name: shelf for shelf in explored.shelves()}
    cards = []
    for place, node in enumerate(data["nodes"]):
        name = data["dictionaries"].get(node["site"], "")
        brief, missing = None, ""
        if not node["error"]:
            shelf = by_name.get(name)
            brief = briefs.at(shelf.id, node["latent"]) if shelf is not None and shelf.prepared else None
            missing = "" if brief is not None else f"{name or 'its dictionary'} has no pages here"
        cards.append(NodeCard(f"node-{place}", node, name, brief, missing))
    return cards


def _edges(data: Mapping[str, Any], cards: Sequence[NodeCard]) -> list[EdgeRow]:
    """Strongest first; edges without a value last."""
    anchors = {card.node["id"]: card.anchor for card in cards}

    def size(edge: Mapping[str, Any]) -> float:
        value = edge["effect"]["value"]
        return -1.0 if value is None else abs(value)

    return [
        EdgeRow(
            edge["source"], anchors.get(edge["source"]), edge["target"], anchors.get(edge["target"]), edge["effect"]
        )
        for edge in sorted(data["edges"], key=size, reverse=True)
    ]
