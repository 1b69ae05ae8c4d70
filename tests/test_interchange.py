"""Features in the formats of SAEDashboard and Neuronpedia: every value against the database, and back again."""

import gzip
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsescope.bench.explored_run import make_run
from sparsescope.errors import ArtifactError, ConfigurationError
from sparsescope.features.blobs import unpack_codes, unpack_integers, unpack_json
from sparsescope.features.browsing import FeatureBrowser
from sparsescope.features.database import FeatureDatabase
from sparsescope.features.interchange import neuronpedia, saedashboard
from sparsescope.features.interchange.explanations import read_export
from sparsescope.features.interchange.portrait import Weights, portraits
from sparsescope.interpret.records import file_stem
from sparsescope.study.exchanging import export_features, import_explanations

# The fields of the classes of sae-dashboard 0.8.0, written down here as the package is seldom installed.
FEATURE_DATA = {
    *("feature_tables_data", "acts_histogram_data", "logits_table_data", "logits_histogram_data"),
    *("sequence_data", "prompt_data", "dfa_data", "decoder_weights_data"),
}
SEQUENCE = {
    *("original_index", "qualifying_token_index", "token_ids", "feat_acts", "loss_contribution", "token_logits"),
    *("top_token_ids", "top_logits", "bottom_token_ids", "bottom_logits"),
}
DASHBOARD_FEATURE = {
    *("feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson"),
    *("correlated_features_indices", "correlated_features_l1", "correlated_features_pearson"),
    *("neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero"),
    *("freq_hist_data_bar_values", "freq_hist_data_bar_heights"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    *("n_prompts_total", "n_tokens_in_prompt", "dataset", "decoder_weights_dist", "activations", "vector"),
}
EXPLANATION = {
    *("id", "modelId", "layer", "index", "authorId", "description", "embedding", "typeName", "explanationModelName"),
    *("umap_x", "umap_y", "umap_cluster", "umap_log_feature_sparsity"),
}
LATENTS = 60


class Raw:
    """What the tables hold of the first dictionary, read without the package's readers."""

    def __init__(self, run: Path) -> None:
        self.rows = sqlite3.connect(run / "features.sqlite").execute
        self.id, self.name, self.site = self.rows("SELECT id, name, site FROM dictionaries ORDER BY id").fetchone()
        self.fragments, self.length = self.rows("SELECT fragments, length FROM corpora WHERE split = 'test'").fetchone()
        self.texts = dict(self.rows("SELECT id, text FROM vocabulary"))
        self.alive = [n for (n,) in self._cards("density > 0")]
        self.dead = [n for (n,) in self._cards("density = 0")]

    def _cards(self, where: str) -> Any:
        return self.rows(f"SELECT latent FROM cards WHERE dictionary = {self.id} AND {where} ORDER BY latent")

    def latent(self, number: int) -> tuple[float, float, dict[str, Any], Any, int]:
        """Density, maximum, rankings, counts of the histogram, rows."""
        row, density, maximum, rankings = self.rows(
            "SELECT latents.id, density, maximum, rankings FROM latents JOIN corpora ON corpora.id = corpus "
            "WHERE dictionary = ? AND latent = ? AND split = 'test'",
            (self.id, number),
        ).fetchone()
        (histogram,) = self.rows(
            "SELECT histogram FROM card_bodies JOIN cards USING (id) WHERE dictionary = ? AND latent = ?",
            (self.id, number),
        ).fetchone()
        _, rows, *counts = unpack_integers(histogram).tolist()
        self.row = row
        return density, maximum, unpack_json(rankings), np.array(counts), rows

    def contexts(self, kind: str, maximum: float) -> Iterator[tuple[int, list[int], list[str], np.ndarray]]:
        """Of the latent asked last: fragment, token ids, texts, codes."""
        found = self.rows("SELECT body FROM contexts WHERE latent = ? AND kind = ?", (self.row, kind)).fetchone()
        if found is None:
            return
        for fragment, codes in zip(*unpack_codes(found[0], maximum, self.length), strict=True):
            text, ids, sizes = self.rows(
                "SELECT text, ids, pieces FROM fragments JOIN corpora ON corpora.id = corpus "
                "WHERE split = 'test' AND number = ?",
                (int(fragment),),
            ).fetchone()
            ends = np.cumsum(unpack_integers(sizes)).tolist()
            pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            yield int(fragment), unpack_integers(ids).tolist(), pieces, codes[: len(pieces)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared run."""
    return make_run(tmp_path_factory.mktemp("run") / "made", latents=LATENTS, dictionaries=2)


@pytest.fixture(scope="module")
def raw(run: Path) -> Raw:
    return Raw(run)


@pytest.fixture(scope="module")
def exported(run: Path, raw: Raw, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the first dictionary in each format."""
    home = tmp_path_factory.mktemp("out")
    for name in ("neuronpedia", "saedashboard"):
        export_features(run, home / name, format=name, dictionaries=[raw.name])  # type: ignore[arg-type]
    return {name: home / name / file_stem(raw.name) for name in ("neuronpedia", "saedashboard")}


@pytest.fixture(scope="module")
def weights() -> Weights:
    source = np.random.default_rng(0)
    directions = source.standard_normal((LATENTS, 8)).astype(np.float32)
    return Weights(directions, source.standard_normal((8, 120)).astype(np.float32))


def test_every_value_for_saedashboard_is_that_of_the_database(exported: dict[str, Path], raw: Raw) -> None:
    (file,) = exported["saedashboard"].iterdir()
    found = json.loads(file.read_text())
    assert [int(key) for key in found["feature_data_dict"]] == raw.alive
    stats = found["feature_stats"]
    for place, number in enumerate(raw.alive):
        density, maximum, rankings, counts, rows = raw.latent(number)
        feature = found["feature_data_dict"][str(number)]
        assert set(feature) == FEATURE_DATA
        assert (stats["max"][place], stats["frac_nonzero"][place]) == (maximum, density)
        bars = feature["acts_histogram_data"]
        assert bars["bar_heights"] == counts.tolist()
        assert bars["bar_values"] == pytest.approx((np.arange(30) + 0.5) / 30 * maximum, abs=1e-5)
        assert bars["title"] == f"ACTIVATIONS<br>DENSITY = {density:.3%}"
        logits = feature["logits_table_data"]
        assert [logits["top_token_ids"], logits["top_logits"]] == rankings["raised"]
        assert [logits["bottom_token_ids"], logits["bottom_logits"]] == rankings["lowered"]
        strongest, *intervals = feature["sequence_data"]["seq_group_data"]
        assert strongest["title"] == f"TOP ACTIVATIONS<br>MAX = {maximum:.3f}"
        _same_contexts(strongest["seq_data"], raw.contexts("top", maximum), 20)
        drawn = list(raw.contexts("active", maximum))
        for part, group in enumerate(reversed(intervals)):
            low, high = part * maximum / 10, (part + 1) * maximum / 10
            share = counts[3 * part : 3 * part + 3].sum() / rows
            assert group["title"] == f"INTERVAL {low:.3f} - {high:.3f}<br>CONTAINS {share:.3%}"
            inside = [each for each in drawn if min(int(each[3].max() / maximum * 10), 9) == part]
            _same_contexts(group["seq_data"], iter(inside), 5)


def _same_contexts(found: list[dict[str, Any]], expected: Iterator[Any], most: int) -> None:
    kept = list(expected)[:most]
    assert len(found) == len(kept)
    for each, (fragment, ids, _, codes) in zip(found, kept, strict=True):
        assert set(each) == SEQUENCE
        assert (each["original_index"], each["token_ids"]) == (fragment, ids)
        assert each["feat_acts"] == pytest.approx(codes.tolist(), abs=5.1e-5)
        assert each["qualifying_token_index"] == int(codes.argmax()) + 1
        assert each["token_logits"] == []
        assert each["loss_contribution"] == []


def test_every_value_for_neuronpedia_is_that_of_the_database(exported: dict[str, Path], raw: Raw) -> None:
    folder = exported["neuronpedia"]
    batch = json.loads((folder / "batch-0.json").read_text())
    head = {key: batch[key] for key in ("model_id", "layer", "sae_id_suffix")}
    assert head == {"model_id": json.loads((folder / "run_settings.json").read_text())["model_id"]} | {
        "layer": 2,
        "sae_id_suffix": None,
    }
    assert batch["sae_set"] == raw.name
    assert [each["feature_index"] for each in batch["features"]] == raw.alive
    skipped = json.loads((folder / "skipped_indexes.json").read_text())
    assert skipped["skipped_indexes"] == raw.dead
    assert len(raw.dead) == 3
    for feature in batch["features"]:
        density, maximum, rankings, counts, rows = raw.latent(feature["feature_index"])
        assert set(feature) == DASHBOARD_FEATURE
        assert feature["frac_nonzero"] == density
        assert feature["freq_hist_data_bar_heights"] == counts.tolist()
        assert feature["freq_hist_data_bar_values"] == pytest.approx((np.arange(30) + 0.5) / 30 * maximum, rel=1e-3)
        for ours, theirs in (("raised", "pos"), ("lowered", "neg")):
            numbers, values = rankings[ours]
            assert feature[f"{theirs}_str"] == [raw.texts[number] for number in numbers]
            assert feature[f"{theirs}_values"] == values
        assert (feature["n_prompts_total"], feature["n_tokens_in_prompt"]) == (raw.fragments, raw.length)
        strongest = [each for each in feature["activations"] if each["bin_min"] == -1]
        kept = list(raw.contexts("top", maximum))[:20]
        for each, (_, _, pieces, codes) in zip(strongest, kept, strict=True):
            assert each["tokens"] == pieces
            assert each["values"] == pytest.approx(codes.tolist(), rel=1e-3)
            assert each["qualifying_token_index"] == int(codes.argmax())
            assert (each["bin_max"], each["bin_contains"]) == (maximum, -1)
        for each in feature["activations"][len(strongest) :]:
            part = round(each["bin_min"] / maximum * 5)
            assert each["bin_contains"] == counts[6 * part : 6 * part + 6].sum() / rows
            assert each["bin_min"] * 0.999 <= max(each["values"]) <= each["bin_max"] * 1.001


def test_weights_give_alignment_and_logits(run: Path, weights: Weights) -> None:
    centred = weights.unembedding - weights.unembedding.mean(1, keepdims=True)  # type: ignore[union-attr,operator]
    with FeatureBrowser.open(run / "features.sqlite") as browser:
        shelf = browser.shelves()[0]
        for portrait in portraits(browser, shelf, parts=5, weights=weights):
            direction = weights.directions[portrait.card.latent]
            logits = direction @ centred
            made = saedashboard.feature(portrait)
            table = made["feature_tables_data"]
            best = np.sort(direction)[::-1][:3]
            assert table["neuron_alignment_values"] == pytest.approx(best.tolist())
            assert direction[table["neuron_alignment_indices"]] == pytest.approx(best)
            assert table["neuron_alignment_l1"] == pytest.approx(np.abs(best) / np.abs(direction).sum())
            bars = made["logits_histogram_data"]
            heights, edges = np.histogram(logits.astype(np.float64), 50)
            assert bars["bar_heights"] == heights.tolist()
            assert sum(heights) == 120
            assert bars["bar_values"] == pytest.approx((edges[1:] + edges[:-1]) / 2, abs=1e-5)
            sequence = made["sequence_data"]["seq_group_data"][0]["seq_data"][0]
            assert sequence["token_logits"] == pytest.approx(logits[sequence["token_ids"]], abs=1e-4)
            there = neuronpedia.feature(portrait, neuronpedia.Source("m", 2, "s"), browser.texts)
            assert there["logits_hist_data_bar_heights"] == heights.tolist()
            assert there["neuron_alignment_values"] == pytest.approx(best.tolist(), rel=1e-3)
        with pytest.raises(ConfigurationError, match=r"60 latents, but 59 directions"):
            next(portraits(browser, shelf, parts=5, weights=Weights(weights.directions[:59])))


def test_the_package_reads_what_we_write(
    exported: dict[str, Path], run: Path, weights: Weights, tmp_path: Path
) -> None:
    """Its own objects, built from our files, hold our values: of a run without weights, and with them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sae_dashboard", reason="sae-dashboard is not installed: pip install sae-dashboard==0.8.0")
        from sae_dashboard.neuronpedia.neuronpedia_converter import NeuronpediaConverter
        from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch
        from sae_dashboard.neuronpedia.neuronpedia_runner_config import NeuronpediaRunnerConfig
        from sae_dashboard.sae_vis_data import SaeVisConfig, SaeVisData, _SaeVisData
    with FeatureBrowser.open(run / "features.sqlite") as browser:
        found = list(portraits(browser, browser.shelves()[0], parts=saedashboard.PARTS, weights=weights))
    (tmp_path / "weighed.json").write_text("".join(saedashboard.batch_text(found)))
    for file in (exported["saedashboard"] / "batch-0.json", tmp_path / "weighed.json"):
        said = json.loads(file.read_text())
        config = SaeVisConfig(hook_point="blocks.2.hook_resid_post", features=[])
        whole = SaeVisData.load_json(file, config, None, None)
        plain = _SaeVisData(whole.feature_data_dict, whole.feature_stats).to_dict()
        again = json.loads(json.dumps(plain))
        del again["feature_stats"]["ranges_and_precisions"]  # a constant of theirs
        assert again == said
        _drawn(whole, said, NeuronpediaConverter, with_logits=file.name == "weighed.json")
    folder = exported["neuronpedia"]
    said = json.loads((folder / "batch-0.json").read_text())
    assert json.loads(json.dumps(NeuronpediaDashboardBatch(**said).to_dict())) == said
    settings = json.loads((folder / "run_settings.json").read_text())
    assert NeuronpediaRunnerConfig(**settings).n_quantiles == neuronpedia.PARTS


def _drawn(whole: Any, said: dict[str, Any], converter: Any, with_logits: bool) -> None:
    """What else the package does with it: its converter reads our titles, its page is drawn."""
    from sae_dashboard.layout import SaeVisLayoutConfig

    for key, feature in whole.feature_data_dict.items():
        groups = said["feature_data_dict"][str(key)]["sequence_data"]["seq_group_data"]
        for group, theirs in zip(groups, feature.sequence_data.seq_group_data, strict=True):
            low, high, share = converter._parse_sequence_group_title(theirs.title)
            peak = max((max(each["feat_acts"]) for each in group["seq_data"]), default=None)
            if group is groups[0]:
                assert (low, high, share) == (-1, pytest.approx(peak, rel=0.02, abs=1e-3), -1)
            elif peak is not None:
                assert low - 2e-3 <= peak <= high + 2e-3
                assert 0 < share < 1
        if with_logits:
            layout = SaeVisLayoutConfig.default_feature_centric_layout()
            decode = lambda ids: [str(each) for each in ids] if isinstance(ids, list) else str(ids)  # noqa: E731
            page = feature._get_html_data_feature_centric(layout, decode)
            assert set(page.js_data) >= {"actsHistogramData", "logitsHistogramData", "tokenData", "logitsTableData"}


def test_explanations_go_out_and_come_back(run: Path, raw: Raw, exported: dict[str, Path], tmp_path: Path) -> None:
    file = exported["neuronpedia"] / "explanations" / "batch-0.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
    there = "SELECT latent, text FROM explanations WHERE dictionary = ? AND explainer = ? ORDER BY latent"
    ours = raw.rows(there, (raw.id, "rules")).fetchall()
    assert all(set(row) == EXPLANATION for row in rows)
    assert [(int(row["index"]), row["description"]) for row in rows] == ours
    assert {row["typeName"] for row in rows} == {"rules"}
    assert len({row["id"] for row in rows}) == len(rows)

    stored = import_explanations(run, [file])
    assert stored["dictionary"] == raw.name
    assert stored["explainers"] == {"neuronpedia:rules": len(ours)}
    assert raw.rows(there, (raw.id, "neuronpedia:rules")).fetchall() == ours
    with FeatureDatabase.open(run / "features.sqlite") as database:
        assert {"rules", "neuronpedia:rules"} == {each.explainer for each in database.search_explanations("number3")}
    export_features(run, tmp_path / "again", format="neuronpedia", dictionaries=[raw.name])
    (second,) = (tmp_path / "again").glob("*/explanations/*.gz")
    back = [json.loads(line) for line in gzip.decompress(second.read_bytes()).decode().splitlines()]
    assert [{**each, "typeName": "rules"} for each in back] == rows  # each once, under the id it had


def test_nasty_texts_arrive_as_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", latents=20, dictionaries=1, hostile=True)
    raw = Raw(run)
    export_features(run, tmp_path / "out", format="neuronpedia", dictionaries=[raw.name])
    (folder,) = (tmp_path / "out").iterdir()
    batch = json.loads((folder / "batch-0.json").read_text())
    assert batch["sae_set"] == "topk-k_16-x4-script-alert-4-script"
    kept = {token for feature in batch["features"] for each in feature["activations"] for token in each["tokens"]}
    assert kept <= set(raw.texts.values())
    assert {"x" * 100_000, "a\x00b", "\u202e\u2066reversed\u2069", "<script>alert(1)</script>"} <= kept
    stored = import_explanations(run, [folder / "explanations" / "batch-0.jsonl.gz"])
    assert stored["dictionary"] == raw.name
    texts = raw.rows("SELECT explainer, group_concat(text, '|') FROM explanations GROUP BY explainer").fetchall()
    assert dict(texts)["rules"] == dict(texts)["neuronpedia:rules"]


def row(index: Any = "3", text: Any = "brackets", model: str = "builtin-tiny", source: str = "2-x", **more: Any) -> str:
    """A line as Neuronpedia writes it."""
    named = {"typeName": "oai_token-act-pair", "explanationModelName": "gpt-4o-mini"}
    return json.dumps({"modelId": model, "layer": source, "index": index, "description": text, **named, **more})


@pytest.mark.parametrize("form", ["lines", "gzip", "array"])
def test_an_export_of_neuronpedia_is_read_in_every_form(form: str, tmp_path: Path) -> None:
    lines = [
        row(),
        row(3, "again\u2028\u202e"),
        row("4", "", id="c1"),
        row("5", "x", typeName=None),
        row("0", "\ud800"),
    ]
    text = f"[{', '.join(lines)}]" if form == "array" else "\n".join([*lines, ""])
    file = tmp_path / "batch-0.jsonl"
    file.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    found = read_export([file])
    assert (found.model, found.source, found.layer, found.empty) == ("builtin-tiny", "2-x", 2, 1)
    named = "neuronpedia:oai_token-act-pair/gpt-4o-mini"
    stored = found.by_explainer()
    assert {name: {latent: text for latent, (text, _) in of.items()} for name, of in stored.items()} == {
        named: {3: "brackets", 0: "\ud800"},
        f"{named} #2": {3: "again\u2028\u202e"},
        "neuronpedia:unnamed/gpt-4o-mini": {5: "x"},
    }
    assert stored[named][3][1]["neuronpedia"]["of"] == "builtin-tiny/2-x"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([row(), "{"], r"batch-0\.jsonl, line 2: this is no JSON"),
        ([row(), "3"], "line 2: expected a JSON object, got 3"),
        ([row("one")], "line 1: expected \"index\" to be the number of a latent, got 'one'"),
        ([row(-1)], "the number of a latent, got '-1'"),
        ([row(text=None)], "expected 'description' to be text, got null"),
        ([row(), row(source="3-x")], r"of two dictionaries: builtin-tiny/2-x \(.*line 1\) and builtin-tiny/3-x"),
        ([row(text=" ")], "there is no explanation in"),
        ([], "there is no explanation in"),
        (["[" * 100_000], "this is no JSON"),
        ([row(60)], r"go up to latent 60, but '.*' has 60 latents: it is another dictionary"),
        ([row(source="7-res")], "of layer 7, but .* is of layer 2"),
        ([row(model="gpt2-small")], "of gpt2-small/2-x, but the model of this run is called"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_stored(
    lines: list[str], why: str, run: Path, raw: Raw, tmp_path: Path
) -> None:
    file = tmp_path / "batch-0.jsonl"
    file.write_text("\n".join(lines))
    before = raw.rows("SELECT count(*) FROM explanations").fetchone()
    with pytest.raises((ArtifactError, ConfigurationError), match=why):
        import_explanations(run, [file], dictionary=raw.name, model_id=None if "gpt2" in why else "builtin-tiny")
    assert raw.rows("SELECT count(*) FROM explanations").fetchone() == before


def test_broken_archives_are_told_by_name(tmp_path: Path) -> None:
    whole = gzip.compress(row().encode())
    for number, body in enumerate((whole[:-5], whole[:10] + b"\xff" * 9, b"\xff\xfe{")):
        file = tmp_path / f"batch-{number}.jsonl.gz"
        file.write_bytes(body)
        with pytest.raises(ArtifactError, match=rf"cannot read .*batch-{number}"):
            read_export([file])
    with pytest.raises(ArtifactError, match=r"cannot read .*absent"):
        read_export([tmp_path / "absent"])


def test_the_commands(run: Path, raw: Raw, cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("export", run, "--format", "neuronpedia", "--dictionary", raw.name, "--out", tmp_path / "o", "--json")
    assert done.code == 0
    assert done.json["dictionaries"][raw.name]["latents"] == len(raw.alive)
    assert not (tmp_path / "o.partial").exists()
    files = sorted((tmp_path / "o").glob("*/explanations/*.gz"))
    done = cli("import", run, *files, "--json")
    assert done.code == 0
    assert done.json["dictionary"] == raw.name
    again = cli("export", run, "--format", "neuronpedia", "--dictionary", raw.name, "--out", tmp_path / "o")
    assert again.code == 2
    assert "is there already" in again.err
    wrong = cli("export", run, "--format", "saedashboard", "--dictionary", "topk-k_16", "--out", tmp_path / "p")
    assert wrong.code == 2
    assert "there is no dictionary 'topk-k_16'" in wrong.err
    assert not list(tmp_path.glob("p*"))
    (tmp_path / "e.jsonl").write_text(row())
    unsaid = cli("import", run, tmp_path / "e.jsonl")
    assert unsaid.code == 2
    assert "say which dictionary that is, with --dictionary" in unsaid.err
