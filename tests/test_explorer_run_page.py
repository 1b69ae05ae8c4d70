"""The run page: its numbers are those of the report, its points and names lead to the dictionaries, and what is
missing says which command makes it."""

import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import pytest
from explorer_browser import browser, explored_run, served, visit  # noqa: F401

from sparsescope.explorer.explored import Explored
from sparsescope.explorer.figures import interval_bar
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.pages.beside_controls import of_a_dictionary, of_the_run
from sparsescope.explorer.pages.interpretation import score_rows
from sparsescope.explorer.pages.names import described, entries_by_name, entry_names
from sparsescope.explorer.pages.run import EXAMPLES, run_page
from sparsescope.explorer.rendering import render
from sparsescope.features.browsing import Chosen
from sparsescope.report.figures import Point, Series, plain_axis, scatter
from sparsescope.report.words import interval, number


class Rows(HTMLParser):
    """Rows of every table as lists of (text, first link), by the table's class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self._table: list[list[tuple[str, str]]] = []
        self._in = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        if tag == "table":
            self._table = self.tables.setdefault(facts.get("class", ""), [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._in = True
            self._table[-1].append(("", ""))
        elif tag == "a" and self._in:
            text, link = self._table[-1][-1]
            self._table[-1][-1] = (text, link or facts["href"])

    def handle_endtag(self, tag):
        self._in = self._in and tag not in ("td", "th")

    def handle_data(self, data):
        if self._in:
            text, link = self._table[-1][-1]
            self._table[-1][-1] = (text + data, link)


def shown(explored, links=None):
    links = links or ServedLinks(live=False)
    return render(run_page(explored, links, {}), explored, links)


@pytest.fixture
def changed(explored_run, tmp_path):  # noqa: F811
    """The run with another report: `changed(report)`."""

    def make(report):
        shutil.copytree(explored_run, tmp_path / "run", dirs_exist_ok=True)
        (tmp_path / "run" / "report.json").write_text(json.dumps(report))
        return Explored(tmp_path / "run")

    return make


def test_the_numbers_of_the_page_are_those_of_the_report(explored_run):  # noqa: F811
    explored = Explored(explored_run)
    entries = {entry["name"]: entry for entry in explored.report["dictionaries"]}
    page = Rows(shown(explored))
    rows = {row[0][0]: row for row in page.tables["list stacked"] if row[0][0] != "Dictionary"}
    assert len(rows) == len(explored.shelves()) == len(entries)
    for shelf in explored.shelves():
        row = next(row for name, row in rows.items() if name.startswith(shelf.name))
        assert row[0][1] == f"/dictionary/{explored.slug(shelf.id)}"
        for place, key in ((2, "l0"), (3, "fvu"), (4, "ce_recovered")):
            estimate = entries[shelf.name][key]
            assert row[place][0] == number(estimate["value"]) + interval(estimate)
        cards = explored.browser().cards(shelf.id, limit=10_000)
        counts = [
            len(cards),
            sum(card.density > 0 for card in cards),
            sum(card.density == 0 for card in cards),
            sum(card.density > 0.1 for card in cards),
            sum(card.explanation is not None for card in cards),
        ]
        assert [int(text.replace(",", "")) for text, _ in row[5:]] == counts
    judged = {each["name"]: each for each in explored.report["interpretation"]["dictionaries"]}
    scores = page.tables["scores stacked"][1:]
    assert len(scores) == len(judged)
    told = described(entries)
    found = []
    for row in scores:
        name = next(name for name in judged if row[0][0] == name + told[name])
        found.append(judged[name]["corpus_rho"])
        assert row[1][0] == number(found[-1]["value"]) + interval(found[-1])
    assert [each["value"] for each in found] == sorted((each["value"] for each in found), reverse=True)


def test_every_point_of_the_chart_leads_to_its_dictionary(explored_run):  # noqa: F811
    explored = Explored(explored_run)
    page = shown(explored)
    linked = re.findall(r'<a href="([^"]*)"><g class="mark [^"]*"><title>([^:<]*): FVU', page)
    expected = {f"/dictionary/{explored.slug(shelf.id)}": shelf.name for shelf in explored.shelves()}
    assert dict(linked) == expected
    assert "style=" not in page  # which the content policy forbids
    static = shown(explored, StaticLinks("index.html"))
    assert re.findall(r'<a href="([^"]*)"><g class="mark', static)[0].startswith("dictionary/")


def test_a_point_without_a_link_is_drawn_as_before():
    axis = plain_axis([0.0, 1.0], 0, 1)

    def drawn(link):
        series = [Series("a", "c-topk", "circle", [Point(0.5, 0.5, note="n", link=link)])]
        return scatter(series, axis, axis, x_label="x", y_label="y", title="t")

    assert "<a " not in drawn("")
    assert '<a href="/&quot;&lt;">' in drawn('/"<')


def test_what_is_missing_says_which_command_makes_it(changed, explored_run):  # noqa: F811
    report = json.loads((explored_run / "report.json").read_text())
    whole = shown(Explored(explored_run))
    assert "sparsescope explain" not in whole
    assert "sparsescope ioi" in whole
    assert "sparsescope circuit" in whole
    page = shown(changed({key: value for key, value in report.items() if key != "interpretation"}))
    assert "sparsescope explain" in page
    page = shown(changed({}))
    assert "sparsescope report" in page
    assert "No report was written" in page


def test_controls_and_excess_stand_beside_the_dictionaries():
    def entry(name, kind, value):
        estimate = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 9, "unit": "latent"}
        return {"name": name, "kind": kind, "method": "topk", "corpus_rho": estimate}

    excess = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "unit": "latent", "control": "b"}
    unknown = {
        "name": "e",
        "kind": "dictionary",
        "method": "pca",
        "corpus_rho": {"value": None, "low": None, "high": None},
    }
    found = {
        "dictionaries": [entry("a", "dictionary", 0.6), unknown],
        "controls": [
            entry("b", "random model", 0.4),
            entry("c", "shuffled explanations", 0.01),
            entry("d", "shuffled explanations", -0.1),
            entry("f", "best token lookup", 0.9),
        ],
        "excess": {"corpus_rho": {"a": excess}},
    }
    rows = score_rows(found, lambda name: f"/{name}" if name == "a" else "")
    assert [row.name for row in rows] == ["a", "b", "c", "e"]
    assert [(row.control, row.href, row.over) for row in rows[:2]] == [(False, "/a", "b"), (True, "", "")]
    assert rows[0].excess is excess
    assert rows[1].excess is None
    assert 'class="hollow"' in rows[1].bar
    assert rows[3].bar == ""


def judged(gain_of_control):
    """Two autoencoders and a baseline; a random model scores above all by corpus ρ."""

    def about(value, spread=0.05, **more):
        return {"value": value, "low": value - spread, "high": value + spread, "n": 9, "unit": "latent", **more}

    def row(name, kind, method, rho, gain):
        return {
            "name": name, "kind": kind, "method": method, "corpus_rho": about(rho), "context_gain": about(gain, 0.01)
        }  # fmt: skip

    rho = {name: about(rho - 0.9, control="r") for name, rho in (("a", 0.7), ("b", 0.6), ("pca", 0.8))}
    gain = {name: about(over, control="z") for name, over in (("a", 0.01), ("b", 0.2), ("pca", 0.3))}
    return {
        "dictionaries": [
            row("a", "dictionary", "topk", 0.7, 0.05),
            row("b", "dictionary", "topk", 0.6, 0.24),
            row("pca", "dictionary", "pca", 0.8, 0.34),
        ],
        "controls": [row("r", "random model", "topk", 0.9, gain_of_control)],
        "excess": {"corpus_rho": rho, "context_gain": gain},
    }


def test_a_control_that_wins_is_explained_by_its_context_gain():
    lead, more = of_the_run(judged(0.002))
    assert lead == (
        "A control wins: features of a model with random weights have a mean corpus ρ of 0.900, above the best "
        "dictionary, a, with 0.700."
    )
    assert "single tokens" in more
    assert "context gain 0.00)" in more
    assert "1 of 2 autoencoders are clearly above the best control" in more
    assert "single tokens" not in of_the_run(judged(0.2))[1]  # which are not known by the token alone
    said = of_a_dictionary(judged(0.002), "a"), of_a_dictionary(judged(0.002), "b")
    assert "not clearly different from the best control, z" in said[0]
    assert "0.200 [0.150, 0.250] above the best control, z" in said[1]
    ahead = judged(0.002)
    for name in ("a", "b"):
        ahead["excess"]["corpus_rho"][name] |= {"value": 0.1, "low": 0.05, "high": 0.15}
    assert of_the_run(ahead)[0] == (
        "The best dictionary by corpus ρ is a, with 0.700: 0.100 [0.050, 0.150] above the best control, r."
    )
    assert of_a_dictionary(ahead, "a") == ""
    assert of_the_run({**ahead, "excess": {}}) == ("", "")


def test_bars_share_an_axis():
    def ends(value):
        estimate = {"value": value, "low": value - 0.1, "high": value + 0.1}
        bar = interval_bar(estimate, (0.0, 1.0))
        left, right = re.search(r'"interval" x1="([\d.]+)" x2="([\d.]+)"', bar).groups()
        return float(left), float(re.search(r'cx="([\d.]+)"', bar)[1]), float(right)

    for value in (0.2, 0.5, 0.8):
        scale = [6 + (184 - 6) * each for each in (value - 0.1, value, value + 0.1)]
        assert ends(value) == pytest.approx(scale, abs=0.06)


def test_examples_are_those_that_find_something(explored_run):  # noqa: F811
    explored = Explored(explored_run)
    cards = [card for shelf in explored.shelves() for card in explored.browser().cards(shelf.id, limit=10_000)]
    offered = {asked: href for _, asked, href in run_page(explored, ServedLinks(False), {}).values["examples"]}
    tokens = {token for card in cards for token, _ in card.tokens}
    truth = {
        ")": ")" in tokens,
        ".": "." in tokens,
        "⏎": "\n" in tokens,
        "token:*ing": any(token.endswith("ing") for token in tokens),
        "density<0.01 score>=0.6": any(c.density < 0.01 and c.score is not None and c.score >= 0.6 for c in cards),
        "effect>=0.5": any(c.effect is not None and c.effect >= 0.5 for c in cards),
    }
    for _, asked, by in EXAMPLES:
        if asked in truth:
            assert (asked in offered) == truth[asked], asked
        if asked in offered:
            query = parse_qs(urlsplit(offered[asked]).query)
            assert query["q"] == [asked]
            assert query.get("by", ["words"]) == [by]


def test_latents_to_begin_with_are_well_explained_and_change_most(explored_run):  # noqa: F811
    explored = Explored(explored_run)
    shelf, href, briefs = run_page(explored, ServedLinks(False), {}).values["start"]
    assert href == f"/dictionary/{explored.slug(shelf.id)}"
    cards = explored.browser().cards(shelf.id, Chosen(show="explained"), limit=10_000)
    able = [c for c in cards if c.score is not None and c.score >= 0.5 and c.density <= 0.1]
    able.sort(key=lambda card: (-(card.effect or -1.0), card.latent))
    assert [brief.card.latent for brief in briefs] == [card.latent for card in able[: len(briefs)]]


def test_entries_have_the_names_of_the_database():
    entries = [
        {"name": "topk", "path": "dictionaries/topk@a/0"},
        {"name": "topk", "path": "dictionaries/topk@b/0"},
        {"name": "pca", "path": "dictionaries/pca"},
    ]
    assert entry_names(entries) == ["topk (topk@a/0)", "topk (topk@b/0)", "pca"]
    assert entries_by_name({"dictionaries": entries})["pca"] is entries[2]
    assert entries_by_name({}) == {}


def test_patching_is_drawn_with_links(changed, explored_run):  # noqa: F811
    report = json.loads((explored_run / "report.json").read_text())
    name = report["dictionaries"][0]["name"]
    estimate = {"value": 1.0, "low": 0.9, "high": 1.1, "n": 4, "unit": "prompt"}
    row = {"name": name, "method": "topk", "role": "sparse", "auc_edit": estimate}
    points = [{"n_patched": n, "n_changed": n, "kl": 2.0 - n, "edit": float(n)} for n in (0, 1)]
    curve = {"name": name, "method": "topk", "role": "sparse", "site": "s", "preferred": True, "prompt_seed": 0}
    pca = {"method": "pca", "role": "pca"}
    twins = [{**pca, "name": name} for name in ("pca", "non-negative pca")]
    report["patching"] = {
        "task": {"task": "ioi"},
        "sites": [
            {
                "site": "s",
                "full_edit": 1.0,
                "comparisons": [],
                "decompositions": [row, *({**row, **twin} for twin in twins)],
            }
        ],
        "curves": [{**curve, **each, "points": points} for each in ({}, *twins)],
    }
    page = shown(changed(report))
    swatches = re.findall(r'<li><svg class="swatch c-pca".*?<(polygon|circle) class="hollow" ([^/]*)/>', page)
    assert len(set(swatches)) == 2  # a marker each
    assert re.search(rf'<a href="/dictionary/[^"]*"><g class="mark c-topk"><title>{re.escape(name)}: 1 features', page)
    assert "sparsescope ioi" not in page


def test_from_the_run_page_to_features_by_search_and_by_a_point(visit):  # noqa: F811
    page = visit("/", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 1280, "height": 900})
    before = page.locator("#explanations").bounding_box()
    page.locator("#dictionaries thead .term", has_text="FVU").focus()
    assert "variance" in page.locator(".meaning").inner_text()
    assert page.locator("#explanations").bounding_box()["height"] == before["height"]
    page.keyboard.press("Escape")
    assert not page.locator(".meaning").is_visible()
    page.fill("#find", ")")
    page.press("#find", "Enter")
    page.wait_for_url("**/search?q=*")
    assert page.locator("main [data-item]").count()
    page.go_back()
    page.locator("#frontier svg a").first.click()
    page.wait_for_url("**/dictionary/*")
    assert page.locator("#map").count()
