"""The report: what it says, that it is safe and whole, and that its figures put points where they belong."""

import copy
import doctest
import importlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_world import SITE, BigramModel, Halves, memory_store, random_linear
from report_data import demo_run, entries, entry, estimate

from sparsescope import report
from sparsescope.dictionaries.files import CLASSES
from sparsescope.errors import ConfigurationError, NumericalError, StorageError
from sparsescope.metrics import evaluate
from sparsescope.report.charts import colour, frontiers
from sparsescope.report.comparison import contests, headline
from sparsescope.report.contexts import peaks, pieces, spread, top_contexts
from sparsescope.report.figures import Axis, Point, Series, l0_axis, plain_axis, scatter
from sparsescope.report.page import build
from sparsescope.report.words import METHODS, escape, in_order, interval, number
from sparsescope.report.write import write_report

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x00\x1b\u202e<style>"
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Balanced(HTMLParser):
    """Fails unless every element is closed in order; collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_both_files_are_written_and_hold_every_number(tmp_path):
    data = demo_run()
    page = write_report(tmp_path / "run", data)
    assert page == tmp_path / "run" / "report.html"
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == json.loads(json.dumps(data))
    text = " ".join(parsed(page.read_text()).text)
    for shown in (
        "builtin:tiny",
        "0.203",
        "[0.199, 0.206]",
        "2 min 13 s",
        "1.42 GiB",
        "topk-1024-16",
        "perplexity 24.8",
    ):
        assert shown in text
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]


def test_the_page_loads_nothing(tmp_path):
    page = build(demo_run())
    for tag, attributes in parsed(page).tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not attributes.keys() & {"src", "href", "srcset", "onclick", "onload", "onerror"}
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/2000/svg"}


def test_the_same_numbers_give_the_same_bytes():
    assert build(demo_run()) == build(demo_run())


def test_hostile_text_stays_text():
    data = demo_run()
    data["run"] = {"title": HOSTILE, "model": HOSTILE, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    data["stages"] = {HOSTILE: {"seconds": 1.0, "peak_rss_bytes": 1}}
    for e in data["dictionaries"]:
        e["name"] = e["path"] = HOSTILE
        e["site"] = "module:" + HOSTILE
    data["dictionaries"][0]["method"] = HOSTILE
    for latent in data["features"][0]["latents"]:
        for context in latent["contexts"]:
            context["tokens"] = [HOSTILE] * len(context["tokens"])
    found = parsed(build(data))
    assert not {tag for tag, _ in found.tags} & {"img"}
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert [tag for tag, _ in found.tags].count("style") == 1
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert not set("".join(found.text)) & {"\x00", "\x1b", "\u202e"}


def test_an_entry_may_be_what_evaluate_gives(tmp_path):
    store = memory_store()
    found = evaluate(Halves(width=6), store, model=store.model, site=SITE)
    features = [top_contexts(Halves(width=6), store, Words(), site=SITE, latents=3)]
    data = {"run": {}, "stages": {}, "dictionaries": [found], "features": features}
    page = write_report(tmp_path, data).read_text()
    parsed(page)
    assert json.loads((tmp_path / "report.json").read_text())["dictionaries"] == [found.to_dict()]


def test_reports_of_little_are_still_pages():
    parsed(build({"run": {}, "stages": {}, "dictionaries": []}))
    without_model = [entry("topk", 8, 0.3, 64, ce_clean=None, ce_recovered=None, ce_zero=None, ce_mean=None)]
    text = " ".join(parsed(build({"run": {}, "stages": {}, "dictionaries": without_model})).text)
    assert "evaluated without the model" in text
    unknown = {"value": None, "low": None, "high": None, "n": 3}
    undefined = [entry("pca", 8, 0.3, 64, k=8, ce_recovered=unknown, density=None)]
    text = " ".join(parsed(build({"run": {}, "stages": {}, "dictionaries": undefined})).text)
    assert "nothing to recover" in text
    silent = [{"dictionary": "d", "method": "topk", "site": "s", "latents": []}]
    parsed(build({"run": {}, "stages": {}, "dictionaries": [], "features": silent}))


def test_several_sites_and_seeds_are_told_apart():
    both = entries("resid_post.2") + entries("mlp_out.2")
    for e in both[:4]:
        e["seed"] = 1
    text = " ".join(parsed(build({"run": {}, "stages": {}, "dictionaries": both})).text)
    assert "At mlp_out.2, with 8, 16 and 32" in text
    assert "seed 1" in text


def test_every_method_has_a_name_a_marker_and_a_colour_of_its_own():
    css = (Path(report.__file__).parent / "page.css").read_text()
    looks = set()
    for method in CLASSES:
        light, dark = re.findall(rf"--m-{method}: (#[0-9a-f]{{6}})", css)
        assert f".c-{method} {{ --c: var(--m-{method}) }}" in css
        looks.add((light, dark))
        assert colour({"method": method}) == f"c-{method}"
        assert METHODS[method]
    assert len(looks) == len(CLASSES) == len(METHODS) == len(set(METHODS.values()))
    assert colour({"method": "something new"}).startswith("c-spare")


def test_the_sparsity_that_was_asked_for_is_named_by_what_it_is():
    asked = [
        entry("gated", 8, 0.3, 64, l1=0.02),
        entry("jumprelu", 8, 0.2, 64, l1=0.03),
        entry("jumprelu", 9, 0.2, 64, l1=0.04, target_l0=9),
        entry("batchtopk", 8, 0.1, 64, k=8),
    ]
    text = " ".join(parsed(build({"run": {}, "stages": {}, "dictionaries": asked})).text)
    for shown in ("gated, l1 0.02", "JumpReLU, L0 penalty 0.03", "JumpReLU, for L0 9", "BatchTopK, k = 8"):
        assert shown in text


def test_a_transcoder_stands_apart_from_dictionaries_of_one_site():
    across = [
        entry("transcoder", k, 0.01, 512, k=k, site="mlp_in.2", output_site="mlp_out.2", ce_zero=9.5, name=f"t{k}")
        for k in (8, 16)
    ]
    alone = entries("mlp_in.2")
    assert contests(alone + across) == contests(alone)
    assert headline(alone + across) == headline(alone)
    text = " ".join(parsed(build({"run": {}, "stages": {}, "dictionaries": alone + across})).text)
    assert "mlp_in.2 → mlp_out.2" in text
    assert "With zeros in the place of mlp_out.2: 9.50" in text
    assert "With zeros in the place of mlp_in.2: 7.90" in text
    assert "transcoder, 512" in text
    assert "reads the site before the arrow" in text
    only_one_site = " ".join(parsed(build({"run": {}, "stages": {}, "dictionaries": alone})).text)
    assert "before the arrow" not in only_one_site
    drawn = frontiers(in_order(alone + across), "mlp_in.2 → mlp_out.2")
    assert drawn.count('class="mark c-transcoder"') == 4  # two points in each of two charts
    assert "c-topk" not in drawn


def test_what_cannot_be_written_is_refused_and_leaves_the_old_report(tmp_path, monkeypatch):
    write_report(tmp_path, demo_run())
    before = (tmp_path / "report.json").read_bytes()
    for spoil, error, words in (
        (lambda d: d.pop("stages"), ConfigurationError, "needs stages"),
        (lambda d: d["dictionaries"][1].pop("alive"), ConfigurationError, "entry 1 of dictionaries lacks alive"),
        (
            lambda d: d["dictionaries"][0].update(fvu={"value": 1}),
            ConfigurationError,
            "expected value, low, high and n",
        ),
        (lambda d: d["run"].update(odd=float("nan")), NumericalError, "not finite"),
        (lambda d: d["run"].update(odd={1}), ConfigurationError, "not JSON"),
    ):
        data = copy.deepcopy(demo_run())
        spoil(data)
        with pytest.raises(error, match=words):
            write_report(tmp_path, data)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_report(tmp_path / "file" / "run", demo_run())
    assert (tmp_path / "report.json").read_bytes() == before


def test_the_headline_says_who_is_ahead_and_where_l1_stands():
    first, *rest = headline(entries())
    assert first == (
        "With 8, 16 and 32 active latents per token, the best autoencoder leaves less variance unexplained than "
        "every top-k baseline, intervals apart."
    )
    assert "FVU is 0.203 for the best autoencoder (TopK, 1,024 latents)" in rest[0]
    assert "The best L1 autoencoder is ahead of every baseline at 8, 16 and 32." in rest
    changed = [e for e in entries() if not (e["method"] == "pca" and e["k"] == 32)]
    changed.append(entry("pca", 32, 0.15, 256, k=32))
    changed[-1]["fvu"] = estimate(0.15, 0.02)
    words = " ".join(headline(changed))
    assert "With 32 active latents per token, the best autoencoder and the best top-k baseline cannot be told" in words
    assert "behind the best baseline at 32" in words
    changed[-1]["fvu"] = estimate(0.05, 0.01)
    assert "32 active latents per token, the best top-k baseline leaves less" in " ".join(headline(changed))


def test_only_equally_sparse_dictionaries_are_compared():
    saes = [entry("topk", 8, 0.3, 64, k=8), entry("tied_l1", 9.5, 0.1, 64), entry("tied_l1", 8.7, 0.2, 64)]
    baselines = [entry("pca", 8, 0.4, 32, k=8), entry("pca", 32, 0.0, 32), entry("ica", 16, 0.4, 32, k=16)]
    (contest,) = contests(saes + baselines)
    assert [e["l0"]["value"] for e in contest.trained] == [8.7, 8]
    assert contest.baselines == baselines[:1]
    assert headline([entry("pca", 8, 0.4, 32, k=8)])[0].startswith("pca-32-8 (top-k PCA) leaves the least")


def test_intervals_decide_who_is_ahead():
    def margin(ours, theirs, metric="fvu"):
        a, b = entry("topk", 8, 0.3, 64, k=8), entry("pca", 8, 0.4, 32, k=8)
        a[metric], b[metric] = ours, theirs
        return contests([a, b])[0].margin(metric)

    assert margin(estimate(0.3, 0.01), estimate(0.4, 0.01)) == "ahead"
    assert margin(estimate(0.3, 0.06), estimate(0.4, 0.06)) == "level"
    assert margin(estimate(0.5, 0.01), estimate(0.4, 0.01)) == "behind"
    assert margin(estimate(0.9, 0.01), estimate(0.4, 0.01), "ce_recovered") == "ahead"
    assert margin(estimate(0.3, 0.01), estimate(0.4, 0.01), "ce_recovered") == "behind"
    assert margin({"value": 0.3, "low": None, "high": None, "n": 1}, estimate(0.4, 0.01)) == "unknown"
    assert margin(None, estimate(0.4, 0.01), "ce_recovered") == "unknown"


def test_points_lie_where_their_numbers_say():
    x, y = Axis(1, 100, 50, 250, log=True), Axis(0, 1, 300, 100)
    assert (x(1), x(10), x(100)) == (50, 150, 250)
    assert (y(0), y(0.25), y(2)) == (300, 250, 100)
    assert [round(t, 6) for t in x.ticks()] == [1, 2, 5, 10, 20, 50, 100]
    assert Axis(0, 1, 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    drawn = scatter(
        [Series("a", "c-topk", "circle", [Point(10, 0.25, 0.2, 0.3), Point(100, 5)])],
        x, y, x_label="x", y_label="y", title="t",
    )  # fmt: skip
    assert '<circle class="solid" cx="150.0" cy="250.0" r="4.3"/>' in drawn
    assert 'x1="150.0" x2="150.0" y1="260.0" y2="240.0"' in drawn
    assert '<polygon class="solid" points="250.0,100.0' in drawn  # beyond the edge: an arrow on it


def test_axes_hold_all_that_is_within_their_limits():
    axis = l0_axis([0.0, 8, 300])
    assert axis.holds(300)
    assert axis(0.0) == axis.start
    assert plain_axis([0.3, 7.0], 0, 1.1).high == 1.1
    assert plain_axis([], 0, 1).low < plain_axis([], 0, 1).high
    assert plain_axis([2.17, 3.0], -0.1, 1.02).ticks()  # all beyond the end
    for value in np.geomspace(0.01, 1e5, 40):
        assert len(l0_axis([value, 30 * value]).ticks()) >= 2


def test_words_and_numbers():
    assert number(-0.25) == "−0.250"
    assert number(1e-9) == "<0.0001"
    assert interval({"low": 8.0, "high": 8.0}) == ""
    assert interval({"low": None, "high": 1.0}) == ""
    assert escape("\ud800<") == "?&lt;"


class Words:
    """A tokenizer whose tokens are words; id 9 is the first half of a character, 10 the second."""

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        assert (skip_special_tokens, clean_up_tokenization_spaces) == (False, False)
        return " ".join(f"w{i}" for i in ids).replace("w9 w10", "é").replace("w9", "\ufffd").replace("w10", "\ufffd")


def test_pieces_of_text_join_to_the_whole():
    assert pieces(Words(), [1, 9, 10, 3]) == ["w1", "", " é", " w3"]
    assert pieces(Words(), [1, 9]) == ["w1", " \ufffd"]
    assert pieces(Words(), []) == []


def test_latents_are_spread_over_densities():
    counts = torch.tensor([0, 1000, 11, 10, 500, 250, 125, 60])
    assert spread(counts, 3) == [1, 5, 7]
    assert spread(counts, 100) == [1, 4, 5, 6, 7, 2]
    assert spread(torch.tensor([0, 3, 5]), 8) == [2, 1]
    assert spread(torch.zeros(4, dtype=torch.long), 8) == []


def test_top_contexts_are_the_largest_codes_each_in_another_document():
    model = BigramModel()
    store = memory_store(model)
    dictionary = random_linear(6, 12, offset=0.0).with_provenance(site=SITE, name="mine")
    found = top_contexts(dictionary, store, Words(), latents=[2, 5], contexts=4)
    tokens = store.contexts("test")
    codes = dictionary.encode(model.table[tokens.ids])
    for item in found["latents"]:
        own = codes[..., item["latent"]]
        best = [float(own[tokens.document == d].max()) for d in tokens.document.unique()]
        expected = sorted((b for b in best if b > 0), reverse=True)[:4]
        shown = [max(c["values"]) for c in item["contexts"]]
        assert [c["values"][c["peak"]] for c in item["contexts"]] == pytest.approx(expected, abs=1e-3)
        assert shown == pytest.approx(expected, abs=1e-3)
        assert len({c["document"] for c in item["contexts"]}) == 4
        assert item["density"] == pytest.approx(float((own > 0).double().mean()))
        assert item["maximum"] == pytest.approx(float(own.max()))
        for c in item["contexts"]:
            ids = [
                int(word[1:]) for word in "".join(c["tokens"]).replace("é", "w9 w10").replace("\ufffd", "w9").split()
            ]
            assert len(c["tokens"]) == len(c["values"])
            own_ids = tokens.ids[tokens.document == c["document"]].tolist()
            assert set(ids) - {9} <= set(own_ids)
    assert (found["dictionary"], found["method"], found["tokens"]) == ("mine", "untied_l1", tokens.ids.numel())


def test_positions_without_activations_are_not_shown_as_active():
    store = memory_store(keep_bos=False)
    tokens = store.contexts("test")
    found = top_contexts(Halves(width=6), store, Words(), site=SITE, latents=12, contexts=3)
    assert found["tokens"] == int((~tokens.bos).sum())
    for item in found["latents"]:
        for c in item["contexts"]:
            assert all(value == 0 for text, value in zip(c["tokens"], c["values"], strict=True) if text.strip() == "w0")


def test_peaks_prefer_large_codes_and_skip_silence():
    store = memory_store()
    tokens = store.contexts("test")
    codes = torch.zeros(tokens.ids.shape)
    codes[0, 3], codes[0, 4], codes[3, 2] = 2.0, 3.0, 1.0
    assert peaks(codes, tokens, 5) == [(0, 4), (3, 2)]


def test_contexts_that_cannot_be_found_are_refused():
    store = memory_store()
    with pytest.raises(ConfigurationError, match="does not say which site"):
        top_contexts(Halves(width=6), store, Words())
    with pytest.raises(ConfigurationError, match="without a tokenizer"):
        top_contexts(Halves(width=6), store, None, site=SITE)
    with pytest.raises(ConfigurationError, match="no latent 12"):
        top_contexts(Halves(width=6), store, Words(), site=SITE, latents=[12])


@pytest.mark.parametrize("name", ["words", "contexts", "write"])
def test_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(f"sparsescope.report.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
