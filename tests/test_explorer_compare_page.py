"""Two dictionaries side by side: counts and lists against the planted pairs, counted one by one."""

import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_browser import Visit, browser, explored_run, hostile_run, served, visit  # noqa: F401
from scipy.stats import binomtest

from sparsescope.bench.explored_run import make_run, planted_pairs, world_of
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.match_figure import cosine_counts
from sparsescope.explorer.pages.compare import compare_page, share
from sparsescope.explorer.pages.offers import REASONS, reason
from sparsescope.explorer.query import BadRequest, NotThere
from sparsescope.explorer.rendering import render

LATENTS = 60
FIRST, SECOND = "topk-k_16-x4", "tied_l1-l0_16-x4"


def compared(explored: Explored, first: str, second: str, **query: str) -> Any:
    return compare_page(explored, ServedLinks(), first, second, query=query).values


def active(dictionary: int) -> set[int]:
    """The latents that ever fire in the made-up world."""
    world = world_of(LATENTS)
    return {latent for latent in range(LATENTS) if len(world.active(dictionary, latent)[0])}


def test_counts_and_new_latents_are_those_of_the_planted_pairs(explored_run: Path) -> None:  # noqa: F811
    living = active(0), active(1)
    pairs = [(i, j, c) for i, j, c in planted_pairs(LATENTS, 1) if i in living[0] and j in living[1]]
    assert len(pairs) < len(planted_pairs(LATENTS, 1)), "no dead latent is in a pair: nothing is tested"
    for turned in (False, True):
        names = (SECOND, FIRST) if turned else (FIRST, SECOND)
        values = compared(Explored(explored_run), *names)
        assert values["n_pairs"] == len(pairs)
        for place, side in enumerate(values["sides"]):
            mine = 1 - place if turned else place
            for limit, estimate in side.shared:
                count = sum(np.float32(c) >= limit for *_, c in pairs)
                assert estimate["value"] == pytest.approx(count / len(living[mine]))
            close = {pair[mine] for pair in pairs if pair[2] >= 0.5}
            assert side.n_alone == len(living[mine] - close)
            shown = [brief.card for brief in side.shown]
            assert {card.latent for card in shown} <= living[mine] - close
            assert len(shown) == min(12, side.n_alone)
            assert [c.effect for c in shown] == sorted((c.effect for c in shown), reverse=True)


def test_pages_hold_every_pair_once_in_either_order(explored_run: Path) -> None:  # noqa: F811
    explored = Explored(explored_run)
    rows: dict[str, list[tuple[float, int, int]]] = {}
    for order in ("closest", "farthest"):
        for page in ("1", "2", "9"):
            values = compared(explored, FIRST, SECOND, order=order, page=page)
            rows.setdefault(order, []).extend(
                (row.cosine, row.first.card.latent, row.second.card.latent) for row in values["rows"]
            )
        del rows[order][values["n_pairs"] :]  # a page behind the last is the last
    assert rows["farthest"] == rows["closest"][::-1]
    assert [cosine for cosine, *_ in rows["closest"]] == sorted((c for c, *_ in rows["closest"]), reverse=True)
    expected = {(i, j): c for i, j, c in planted_pairs(LATENTS, 1)}
    assert len(set(rows["closest"])) == len(rows["closest"])
    for cosine, latent, other in rows["closest"]:
        assert cosine == pytest.approx(expected[latent, other], abs=1e-6)
    with pytest.raises(BadRequest, match="page"):
        compared(explored, FIRST, SECOND, page="-1")
    with pytest.raises(NotThere):
        compared(explored, FIRST, "nothing")


def test_intervals_are_those_of_scipy_and_bins_those_of_a_loop() -> None:
    for count, n in ((0, 5), (3, 7), (50, 60), (768, 768)):
        found, expected = share(count, n), binomtest(count, n).proportion_ci(method="wilson")
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert share(0, 0)["value"] is None
    cosines = np.random.default_rng(0).uniform(-0.33, 1.0, 500).astype(np.float32).tolist()
    edges, counts = cosine_counts([*cosines, 1.0, 1.0000001])
    loop = [0] * len(counts)
    for cosine in [*cosines, 1.0, 1.0]:
        loop[min(len(counts) - 1, math.floor((cosine - edges[0]) / 0.05 + 1e-9))] += 1
    assert counts == loop
    assert edges[0] <= min(cosines) < edges[1]
    assert edges[-1] == 1.0


def test_two_that_were_not_matched_say_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "it's a run", latents=40, dictionaries=3)
    connection = sqlite3.connect(run / "features.sqlite")
    with connection:
        connection.execute("DELETE FROM matches WHERE second = 3")
        connection.execute("UPDATE dictionaries SET site = 'mlp_out.1' WHERE id = 3")
    connection.close()
    explored = Explored(run)
    third = explored.slug(3)
    assert "different sites" in compared(explored, FIRST, third)["reason"]
    assert "twice" in compared(explored, FIRST, FIRST)["reason"]
    connection = sqlite3.connect(run / "features.sqlite")
    with connection:
        connection.execute("UPDATE dictionaries SET site = 'resid_post.2' WHERE id = 3")
        connection.execute("DELETE FROM prepared WHERE dictionary = 3")
    connection.close()
    values = compared(Explored(run), FIRST, third)
    assert "not prepared" in values["reason"]
    name = "'topk-k_16-x4 (seed 1)'"
    assert values["command"].endswith(f"it'\"'\"'s a run' --dictionary {FIRST} --dictionary {name}")
    chooser = compare_page(explored, StaticLinks("compare.html"), query={}).values
    assert [offer.address for offer in chooser["offered"]] == [f"compare/{FIRST}/{SECOND}.html"]


def test_comparisons_are_offered_for_what_they_have_in_common() -> None:
    one = {"method": "topk", "n_latents": 768, "seed": 0, "k": 16, "l0": {"value": 16.0}}
    others = (
        {"seed": 1},
        {"method": "tied_l1", "k": None, "target_l0": 16.0, "l0": {"value": 15.2}},
        {"n_latents": 384},
        {"k": 32, "l0": {"value": 32.0}},
        {"method": "tied_l1", "k": None, "l0": {"value": 32.0}},
    )
    for expected, other in zip(REASONS, others, strict=True):
        for pair in ((one, {**one, **other}), ({**one, **other}, one)):
            assert reason(*pair) == expected
    assert reason(one, {**one, "l0": {"value": None}}) == ""


def test_a_comparison_in_a_browser(visit: Visit, hostile_run: Path) -> None:  # noqa: F811
    page = visit("/compare", width=390, dark=True)
    if page.input_value("select[name=first]") != FIRST:  # what the form offers already
        page.select_option("select[name=first]", FIRST)
    assert page.input_value("select[name=second]") == SECOND
    page.click("form.comparing button")
    page.wait_for_selector("svg.cosines .column")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.click("text=farthest first")
    page.wait_for_url("**/compare/**order=farthest**")
    cosines = [float(text) for text in page.locator("#pairs .cosine").all_inner_texts()]
    assert cosines == sorted(cosines)
    explored = Explored(hostile_run)
    slugs = [explored.slug(shelf.id) for shelf in explored.shelves()]
    html = render(compare_page(explored, ServedLinks(), *slugs, query={}), explored, ServedLinks(), "t")
    assert "<script>alert" not in html
    assert "style=" not in html
