"""Circuit pages: the figure's links against the data, nodes as cards, and runs that have none or half of one."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_browser import browser, explored_run, visiting  # noqa: F401
from explorer_browser import serving as serving_run

from sparsescope.errors import ArtifactError
from sparsescope.explorer.clickable_circuit import clickable_circuit
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.pages.circuit import circuit_page
from sparsescope.explorer.query import NotThere
from sparsescope.explorer.rendering import render

SITES = ("resid_post.1", "resid_post.2")
NASTY = "<script>alert(1)</script>\u202e</g></a>"


def estimate(value: float | None, unit: str = "prompt") -> dict[str, Any]:
    spread = None if value is None else 0.1
    low, high = (None, None) if value is None or spread is None else (value - spread, value + spread)
    return {"value": value, "low": low, "high": high, "n": 32, "unit": unit}


def node(site: str, latent: int | None, exact: float | None, text: str | None = None) -> dict[str, Any]:
    name = f"{site}/{'error' if latent is None else latent}"
    measured = {kind: estimate(exact) for kind in ("effect", "exact", "attribution")}
    error = latent is None
    return {
        "id": name,
        "site": site,
        "latent": latent,
        "error": error,
        "place": None,
        "token": 3,
        "text": text,
        **measured,
    }


def circuit() -> dict[str, Any]:
    """The JSON form of a circuit as `causal.circuits` writes it, with a latent of a dictionary that has no pages."""
    nodes = [
        node(SITES[1], 3, -2.0, " the"),
        node(SITES[1], None, -1.0),
        node(SITES[0], 5, 0.5, NASTY),
        node(SITES[1], 59, None),
        node(SITES[1], 4_000, -0.1, "x" * 100_000),
    ]
    ids = [each["id"] for each in nodes]
    effects = np.random.default_rng(0).normal(size=70).round(3).tolist()
    edges = [
        {"source": ids[2], "target": [ids[0], ids[1], "output"][place % 3], "effect": estimate(effect)}
        for place, effect in enumerate(effects)
    ]
    points = [
        {"n_nodes": n, "faithfulness": estimate(n / 8), "completeness": estimate(1 - n / 8)} for n in (0, 1, 2, 4, 8)
    ]
    head = {"name": "latents", "method": "integrated", "always_kept": 0}
    curves = [{**head, "points": points, "area": estimate(0.4), "nodes_for_0.8": 8}]
    return {
        "task": "agreement",
        "sites": list(SITES),
        "dictionaries": {SITES[0]: "elsewhere <b>", SITES[1]: "topk-k_16-x4"},
        "search": {"method": "integrated", "edge_threshold": 0.01},
        "whole": estimate(2.8),
        "empty": estimate(-2.7),
        "n_nodes": 9_228,
        "nodes": nodes,
        "edges": edges,
        "curves": curves,
        "ahead": [{"of": "latents", "over": "neurons", "method": "integrated", "area": estimate(0.2)}],
        "agreement": {"listed": {"integrated": estimate(0.9, "node")}},
        "errors": {"alone": estimate(0.0), "without": estimate(0.4), "of_effects": estimate(0.1)},
        "ability": {"accuracy": estimate(0.85), "chance": 0.5, "n": 256},
    }


@pytest.fixture(scope="module")
def run(explored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The made-up run with a circuit."""
    path = tmp_path_factory.mktemp("circuit") / "run"
    shutil.copytree(explored_run, path)
    (path / "circuits" / "agreement").mkdir(parents=True)
    (path / "circuits" / "agreement" / "circuit.json").write_text(json.dumps(circuit()), "utf-8")
    return path


class _Figure(HTMLParser):
    """For every link around a group: its address, the node it names, and the title that is in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[list[str]] = []
        self.tags: set[str] = set()
        self._open, self._titled = False, False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attributes)
        if tag == "a" and "data-node" in found:
            self.links.append([found["href"] or "", found["data-node"] or "", ""])
            self._open = True
        self._titled = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "a"

    def handle_data(self, data: str) -> None:
        if self._open and self._titled and not self.links[-1][2]:
            self.links[-1][2] = data


def test_every_node_of_the_figure_leads_to_its_own_card() -> None:
    data = circuit()
    targets = [f"#n{place}" for place in range(len(data["nodes"]))]
    drawn = clickable_circuit(data, targets)
    figure = _Figure(drawn)
    assert [link[:2] for link in figure.links] == [[t, n["id"]] for t, n in zip(targets, data["nodes"], strict=True)]
    assert all(title.startswith(f"{name}: ") for _, name, title in figure.links)
    assert not figure.tags & {"style", "script"}
    assert drawn.count("<g>") == drawn.count("</g>") - drawn.count("<g transform")
    with pytest.raises(ArtifactError, match="4 targets"):
        clickable_circuit(data, targets[:-1])


def test_nodes_are_cards_with_what_is_known_of_their_latents(run: Path) -> None:
    explored = Explored(run)
    values = circuit_page(explored, ServedLinks(), "agreement", query={}).values
    shown = [(card.brief is not None, card.missing, card.serves) for card in values["cards"]]
    elsewhere, gone = "elsewhere <b> has no pages here", "topk-k_16-x4 has no pages here"
    assert shown == [
        (True, "", True),
        (False, "", True),
        (False, elsewhere, False),
        (True, "", False),
        (False, gone, True),
    ]
    first = values["cards"][0].brief
    assert first.card == explored.browser().card(1, 3)
    assert first.href == "/dictionary/topk-k_16-x4/latent/3"
    edges = [*values["edges"], *values["more_edges"]]
    sizes = [abs(edge.effect["value"]) for edge in edges]
    assert sizes == sorted((abs(each["effect"]["value"]) for each in circuit()["edges"]), reverse=True)
    anchors = {card.node["id"]: card.anchor for card in values["cards"]}
    assert all(edge.target_anchor == anchors.get(edge.target) for edge in edges)


def test_pages_with_hostile_nodes_and_without_circuits(run: Path, explored_run: Path) -> None:  # noqa: F811
    explored = Explored(run)
    for links in (ServedLinks(), StaticLinks("circuit/agreement.html")):
        html = render(circuit_page(explored, links, "agreement", query={}), explored, links, "t")
        assert "<script>alert" not in html
        assert "<style" not in html
        assert " style=" not in html
        assert "\u202e" not in html
        # The figure says a long token once, in a title; the page never does.
        assert html.count("x" * 1_000) <= 100
    with pytest.raises(NotThere, match="agreement"):
        circuit_page(explored, ServedLinks(), "ioi", query={})
    none = Explored(explored_run)
    html = render(circuit_page(none, ServedLinks(), query={}), none, ServedLinks(), "t")
    assert f"sparsescope circuit {explored_run} --task agreement" in html
    assert 'href="/circuit/agreement"' in render(
        circuit_page(explored, ServedLinks(), query={}), explored, ServedLinks()
    )


def test_clicking_a_node_shows_its_card(browser: Any, run: Path) -> None:  # noqa: F811
    with serving_run(run) as server, visiting(browser, server.url) as go:
        page = go("/circuit", width=390, dark=True)
        page.click("text=agreement")
        page.wait_for_selector("svg.circuit a[data-node]")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.focus(f'svg.circuit a[data-node="{SITES[0]}/5"]')
        mine = page.eval_on_selector_all("path.edge.mine", "edges => edges.length")
        assert mine == page.locator("path.edge").count() == 60
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector(':target h3').textContent.trim().split(/\\s+/).join(' ')") == (
            f"Latent 5 {SITES[0]}"
        )
        page.click("#node-0 h3 a")
        page.wait_for_url("**/dictionary/topk-k_16-x4/latent/3")
