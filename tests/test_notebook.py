"""Features in a notebook: the values of the database, and HTML that is safe wherever it is put."""

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsescope.bench.explored_run import make_run, world_of
from sparsescope.dictionaries.base import Provenance
from sparsescope.dictionaries.topk import TopKSAE
from sparsescope.errors import ArtifactError, ConfigurationError
from sparsescope.explorer.notebook import Features, load_features
from sparsescope.explorer.notebook.view import plain

LATENTS = 60
TAGS = {
    *("div", "style", "p", "span", "small", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "rect", "title", "line", "text", "details", "summary", "b"),
}
ATTRIBUTES = {
    *("class", "title", "style", "dir", "role", "aria-label", "viewbox"),
    *("x", "y", "x1", "x2", "y1", "y2", "width", "height", "text-anchor"),
}


class Checked(HTMLParser):
    """Parses HTML as a browser does, and keeps what it says; fails on what must not be in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.styles, self.said, self.titles, self.bars, self.seen = "", "", list[str](), list[str](), set[str]()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.open.append(tag)
        self.seen.add(tag)
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name == "style":
                assert re.fullmatch(r"--a:[01]\.\d\d", value or ""), value
            if name == "title":
                self.titles.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles += data
        elif self.open and self.open[-1] == "title":
            self.bars.append(data)
        else:
            self.said += data


def checked(value: Any) -> Checked:
    """What a notebook would show of a value, after all the checks."""
    text = value._repr_html_()
    found = Checked(text)
    assert text.startswith('<div class="ss')
    assert not re.search(r"https?:|//|url\(|@import|javascript:", found.styles)
    for wrapper in re.findall(r'^<div class="(\w+)">', text):
        for selectors in re.findall(r"([^{}]+)\{", re.sub(r"@media[^{]*\{", "", found.styles)):
            for each in selectors.split(","):
                assert f".{wrapper}.{wrapper}" in each, each  # a rule reaches nothing outside the wrapper
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    return found


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Features]:
    with load_features(make_run(tmp_path_factory.mktemp("run") / "made", latents=LATENTS)) as found:
        yield found


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Features]:
    """A run with every text that a page could trip over."""
    path = make_run(tmp_path_factory.mktemp("nasty") / "made", latents=20, dictionaries=1, hostile=True)
    with load_features(path) as found:
        yield found


def test_features_say_what_is_true_of_the_made_up_world(features: Features) -> None:
    world = world_of(LATENTS)
    name = next(iter(features))
    shelf = features[name]
    assert (len(features), len(shelf), shelf.site, shelf.method) == (2, LATENTS, "resid_post.2", "topk")
    for feature in shelf:
        rows, codes = world.active(0, feature.latent)
        assert feature.density == pytest.approx(len(rows) / world.rows)
        assert feature.maximum == pytest.approx(codes.max() if len(codes) else 0)
        assert feature.explanation == world.explanation(0, feature.latent)
        if not len(rows):
            continue
        totals = np.bincount(world.ids.ravel()[rows], codes, len(world.vocabulary))
        best = world.vocabulary.texts[int(totals.argmax())]
        assert feature.tokens[0] == (best, pytest.approx(totals.max() / totals.sum(), abs=1e-3))
        context = feature.contexts[0]
        assert context.codes.max() == pytest.approx(feature.maximum, rel=0.01)
        fragment = world.ids[context.fragment]
        assert context.tokens == [world.vocabulary.texts[token] for token in fragment[fragment >= 0]]
        assert (rows // world.ids.shape[1] == context.fragment).sum() == (context.codes > 0).sum()
        assert "".join(context.tokens) == context.text
        weaker = [float(each.codes.max()) for part in feature.quantiles for each in part]
        assert weaker == sorted(weaker, reverse=True)
    assert shelf[-1].latent == LATENTS - 1
    assert [each.latent for each in shelf[3:9:2]] == [3, 5, 7]
    with pytest.raises(IndexError, match=r"has no latent 60: it has 0 to 59"):
        shelf[LATENTS]


def test_features_are_found(features: Features) -> None:
    world = world_of(LATENTS)
    ids, _ = world.favourites(0, 0)
    found = features.token(world.vocabulary.texts[ids[0]])
    assert (found[0].dictionary, found[0].latent) == (next(iter(features)), 0)
    assert {each.latent for each in features.search("number3")} == {3}
    rule = features.where("f1>0.5 dictionary:topk-k_16-x4")
    assert {each.latent for each in rule} == {each.latent for each in features["topk-k_16-x4"] if (each.f1 or 0) > 0.5}
    scores = [each.card.score for each in features["topk-k_16-x4"].sorted("score", limit=5)]
    assert scores == sorted((each.card.score or -9 for each in features["topk-k_16-x4"]), reverse=True)[:5]
    with pytest.raises(ConfigurationError, match=r"no dictionary 'topk-k_16'.*Did you mean 'topk-k_16-x4'"):
        features["topk-k_16"]
    assert "topk-k_16" not in features
    assert features.get("tied_l1-l0_16-x4") is not None


def test_what_is_shown_is_what_is_stored(features: Features) -> None:
    feature = features["topk-k_16-x4"][0]
    shown = checked(feature.show())
    effect = feature.detail.effect
    assert feature.explanation
    assert effect is not None
    wanted = [feature.explanation, "Latent 0 of topk-k_16-x4", "resid_post.2", f"{effect['kl']['n']} contexts"]
    wanted += [token.replace(" ", "␣") for token, _ in feature.tokens[:4] if token.strip()]
    for each in wanted:
        assert each in shown.said, each
    histogram = feature.detail.histogram
    assert histogram is not None
    filled = [f"{count:,}" for count in histogram.counts.tolist() if count]
    assert [each.rpartition(": ")[2] for each in shown.bars] == filled  # one bar for every bin that is not empty
    drawn = {title for context in feature.contexts[:8] for title in _titles(context)}
    assert len(drawn) > 5
    assert drawn <= set(shown.titles)
    for said in (repr(feature), feature.explanation, "strongest:"):
        assert said in repr(feature.show())
    dead = features["topk-k_16-x4"][19]
    assert "never active" in checked(dead.show()).said
    assert repr(dead.show()) == "Feature 19 of topk-k_16-x4: never active"


def _titles(context: Any) -> list[str]:
    return checked(context).titles


def test_every_html_stands_by_itself_whatever_the_text_is(features: Features, nasty: Features) -> None:
    for found in (features, nasty):
        shelf = found[next(iter(found))]
        for value in (found, shelf, found.search("number1"), found.search("nothing like it"), shelf[2:5]):
            checked(value)
            assert all(each.isprintable() or each in "\n\u200d" for each in repr(value))
    said = ""
    for feature in nasty[next(iter(nasty))]:
        shown = checked(feature.show())
        assert not {"script", "img"} & shown.seen
        said += shown.said + checked(feature).said
        assert all(each.isprintable() or each in "\n\u200d" for each in repr(feature.show()))
    for text in ("<script>alert(1)</script>", "⟨U+202E⟩", "שלום", "👩‍👩‍👧‍👦", "&amp;&lt;", '" onmouseover="alert(3)'):
        assert text in said
    assert "x" * 60 + "…" in said
    assert "x" * 61 not in said  # a token of 100,000 characters is cut
    assert len(nasty[next(iter(nasty))][5].show().html) < 100_000


def test_an_unprepared_run_is_told_what_to_do(tmp_path: Path) -> None:
    from sparsescope.features.database import FeatureDatabase

    with pytest.raises(ArtifactError, match=r"sparsescope explore RUN"):
        load_features(tmp_path)
    with FeatureDatabase.create(tmp_path / "features.sqlite") as database, database.transaction():
        database.put_dictionary("sae", "topk", "resid_post.2")
    found = load_features(tmp_path)
    assert "not prepared" in repr(found)
    assert "not prepared" in checked(found["sae"]).said
    with pytest.raises(ConfigurationError, match=r"'sae' is not prepared: 'sparsescope explore RUN'"):
        found["sae"][3]
    checked(found)


def test_a_dictionary_shows_its_facts() -> None:
    about = Provenance(
        site="resid_post.2", name="<b>sae\u202e</b>", k=2, target_l0=2.5, model="builtin:tiny", path="/runs/a&b"
    )
    zeros = torch.zeros(4)
    sae = TopKSAE(directions=torch.eye(4), encoder=torch.eye(4), encoder_bias=zeros, bias=zeros, k=2, provenance=about)
    shown = checked(sae)
    assert "<b>sae\\u202e</b>" in shown.said
    facts = ("methodtopk", "siteresid_post.2", "latents4", "width4", "k2", "target L02.5", "typefloat32 on cpu")
    for each in (*facts, "modelbuiltin:tiny", "path/runs/a&b"):
        assert each in shown.said
    assert html.escape("/runs/a&b") in sae._repr_html_()


def test_text_for_a_terminal() -> None:
    assert plain("a\x1b[31m\nb\u202e") == r"a\x1b[31m\nb\u202e"
    assert plain("x" * 300) == "x" * 199 + "…"
