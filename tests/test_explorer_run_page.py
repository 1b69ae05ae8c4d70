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
from sparsescope.explorer.pages.interpretation import score_rows
from sparsescope.explorer.pages.names import entries_by_name, entry_names
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
    rows = {row[0][0]: row for row in page.tables["list"][1:]}
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
    scores = page.tables["scores"][1:]
    assert len(scores) == len(judged)
    for row in scores:
        estimate = judged[row[0][0]]["corpus_rho"]
        assert row[1][0] == number(estimate["value"]) + interval(estimate)
    values = [judged[row[0][0]]["corpus_rho"]["value"] for row in scores]
    assert values == sorted(values, reverse=True)


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
    report["patching"] = {
        "task": {"task": "ioi"},
        "sites": [{"site": "s", "full_edit": 1.0, "comparisons": [], "decompositions": [row]}],
        "curves": [{**curve, "points": points}],
    }
    page = shown(changed(report))
    assert re.search(rf'<a href="/dictionary/[^"]*"><g class="mark c-topk"><title>{re.escape(name)}: 1 features', page)
    assert "sparsescope ioi" not in page


def test_from_the_run_page_to_features_by_search_and_by_a_point(visit):  # noqa: F811
    page = visit("/", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 1280, "height": 900})
    page.fill("#find", ")")
    page.press("#find", "Enter")
    page.wait_for_url("**/search?q=*")
    assert page.locator("text=Fire on this token").count()
    page.go_back()
    page.locator("#frontier svg a").first.click()
    page.wait_for_url("**/dictionary/*")
    assert page.locator("#map").count()
