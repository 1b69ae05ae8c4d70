"""A run explained: scores that add up, controls, the same bits however it is done, resumption, a server."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from fault_server import Asked, FaultServer, Say

import sparsescope as ss
from sparsescope.artifact import read_json
from sparsescope.errors import ArtifactError, ConfigurationError, ResourceError
from sparsescope.features.database import FeatureDatabase
from sparsescope.interpret import labels
from sparsescope.interpret.base import Explanation, Skipped
from sparsescope.interpret.judging import SCORES, context_gain, judge, shuffled
from sparsescope.interpret.llm import Cost
from sparsescope.interpret.material import prepare
from sparsescope.interpret.records import read_record, write_record
from sparsescope.interpret.scores.intervals import Score, percentile
from sparsescope.study.contents import read_run
from sparsescope.study.crowd import Crowd
from sparsescope.study.explaining import explain_run, preview, tasks
from sparsescope.study.means import Means
from sparsescope.study.presentation import SUMMARY
from sparsescope.study.summary import summarise
from sparsescope.study.workshop import Task, Workshop
from sparsescope.text import load_text

Cli = Callable[..., Outcome]
RECIPE = """
model = "builtin:tiny"
text = "builtin:stories"
site = "resid_post.1"
tokens = 30_000
context = 64

[[train]]
method = "topk"
k = 8
n_latents = 96
tokens = 30_000
batch = 256

[[fit]]
method = "random"
k = 8

[evaluate]
splice = false

[report]
latents = 1
contexts = 1

[controls]
model = "random"
tokens = 15_000
frozen_decoder = true
text = OTHER
text_tokens = 8_000
"""
FEW = Means(latents=12)
NAMES = ["topk-k_8-m96", "random-x2", "random-k_8-x2"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A run that nobody has explained."""
    folder = tmp_path_factory.mktemp("explaining")
    (folder / "small.toml").write_text(RECIPE.replace("OTHER", json.dumps(str(text_file))))
    return ss.run_study(folder / "small.toml", out=folder / "run").path


@pytest.fixture(scope="module")
def explained(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, explained by rules, one dictionary after the other."""
    run = copied(plain, tmp_path_factory.mktemp("explained") / "run")
    explain_run(run, FEW, jobs=1)
    return run


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, copy_function=os.link)
    return target


def summary(run: Path, name: str = "rules") -> dict[str, Any]:
    return read_json(run / "interpretation" / name / SUMMARY)


# What the summary says


def test_every_mean_is_that_of_its_latents_and_all_latents_are_accounted_for(explained: Path) -> None:
    found = summary(explained)
    assert [entry["name"] for entry in found["dictionaries"]] == NAMES
    for entry in found["dictionaries"]:
        record = read_record(explained / "interpretation" / "rules", entry["name"])
        assert len(record.latents) == entry["asked"] == 12
        for score in SCORES:
            values = [each.value for each in record.own[score] if isinstance(each, Score)]
            assert entry[score]["n"] == len(values)
            if values:
                assert entry[score]["value"] == pytest.approx(np.mean(values))
        assert entry["corpus_rho"]["n"] + sum(entry["skipped"].values()) == 12
        assert entry["corpus_rho"]["low"] < entry["corpus_rho"]["value"] < entry["corpus_rho"]["high"]


def test_the_excess_is_over_the_best_control(explained: Path) -> None:
    found = summary(explained)
    means = {entry["name"]: entry["corpus_rho"]["value"] for entry in found["dictionaries"] + found["controls"]}
    for name, excess in found["excess"]["corpus_rho"].items():
        controls = ["random-x2", "random-k_8-x2", "topk-k_8-m96 (random model)", "topk-k_8-m96-frozen (frozen decoder)"]
        best = max(
            (control for control in [*controls, f"{name} (shuffled explanations)"] if control != name), key=means.get
        )
        assert excess["control"] == best
        assert excess["value"] == pytest.approx(means[name] - means[best])
        assert excess["low"] <= excess["value"] <= excess["high"]
        assert -1 <= excess["delta"]["value"] <= 1
        assert 0 <= excess["p"] <= excess["q"] <= 1


def test_a_control_of_another_site_is_none_where_the_same_site_has_one(explained: Path) -> None:
    folder = explained / "interpretation" / "rules"
    topk, dense, sparse = (read_record(folder, name) for name in NAMES)
    better = replace(dense, own=topk.own)  # nothing at the same site is as high
    near = summarise([topk, better, sparse])["excess"]["corpus_rho"]
    assert near[topk.name]["control"] == dense.name
    moved = summarise([topk, replace(better, site="resid_post.2"), sparse])["excess"]["corpus_rho"]
    assert moved[topk.name]["control"] == sparse.name
    # With none at its own site, any will do.
    alone = summarise([topk, *(replace(each, site="resid_post.2") for each in (better, sparse))])
    assert alone["excess"]["corpus_rho"][topk.name]["control"] == dense.name


def test_controls_fail_where_they_must(explained: Path) -> None:
    """Explanations dealt to other latents predict nothing; all kinds of control are there."""
    found = summary(explained)
    rows = {entry["name"]: entry for entry in found["controls"]}
    own = {entry["name"]: entry for entry in found["dictionaries"]}
    assert {entry["kind"] for entry in rows.values()} == {
        *("shuffled explanations", "best token lookup", "random model", "frozen decoder", "second corpus")
    }
    dealt = rows["topk-k_8-m96 (shuffled explanations)"]["corpus_rho"]
    assert abs(dealt["value"]) < 0.15
    assert dealt["high"] < own["topk-k_8-m96"]["corpus_rho"]["low"]
    # The weights are drawn anew: what is left is the token itself.
    assert rows["topk-k_8-m96 (random model)"]["corpus_rho"]["value"] > 0.7
    assert abs(rows["topk-k_8-m96 (random model)"]["context_gain"]["value"]) < 0.05
    assert found["absent"] == []


def test_context_gain_is_the_difference_to_the_lookup(explained: Path) -> None:
    record = read_record(explained / "interpretation" / "rules", NAMES[0])
    seen = 0
    for gain, own, lookup in zip(
        *(record.own[key] for key in ("context_gain", "corpus_rho")), record.lookup["corpus_rho"], strict=False
    ):
        if isinstance(gain, Score) and isinstance(own, Score) and isinstance(lookup, Score):
            assert gain.value == pytest.approx(own.value - lookup.value)
            seen += 1
    assert seen > 5


def test_stories_rank_the_scores(explained: Path) -> None:
    found = summary(explained)["truth"]
    assert {entry["score"] for entry in found["scores"]} == {
        *("corpus_rho", "bills_rho", "detection", "fuzzing", "neighbours", "intruder")
    }
    for entry in found["scores"]:
        assert entry["value"] is None or -1 <= entry["value"] <= 1
        assert entry["demoted"] == (entry["low"] is None or not entry["low"] > 0)
    assert [entry["name"] for entry in found["dictionaries"]][:3] == NAMES


def test_what_was_found_is_in_the_database(explained: Path) -> None:
    record = read_record(explained / "interpretation" / "rules", NAMES[0])
    with FeatureDatabase.open(explained / "features.sqlite") as database:
        held = {each.name for each in database.dictionaries()}
        number = database.dictionary(NAMES[0]).id
        texts = {each.latent: each.text for each in database.explanations(number)}
        scores = {each.latent: each.value for each in database.scores(number) if each.score == "corpus_rho"}
        top = database.contexts(number, record.latents[0])
    assert {*NAMES, "topk-k_8-m96-frozen (frozen decoder)"} == held
    for latent, text, score in zip(record.latents, record.explanations, record.own["corpus_rho"], strict=True):
        assert isinstance(text, Explanation)
        assert texts[latent] == text.text
        assert scores[latent] == (None if isinstance(score, Skipped) else pytest.approx(score.value))
    assert top


def test_seeds_of_one_method_are_taken_together(explained: Path) -> None:
    """Two seeds of equal latents have the mean of both; resampling seeds first widens what differs between them."""
    record = read_record(explained / "interpretation" / "rules", NAMES[0])
    better = [
        percentile(1.0, each.replicates * 0 + 1, 9) for each in record.own["corpus_rho"] if isinstance(each, Score)
    ]
    other = replace(record, own={**record.own, "corpus_rho": better})
    first, second = (replace(each, name=f"topk-k_8-s{n}") for n, each in enumerate((record, other)))
    (pooled,) = summarise([first, second])["seeds"]
    one = [entry["corpus_rho"] for entry in summarise([first, second])["dictionaries"]]
    rho = pooled["corpus_rho"]
    assert (pooled["name"], pooled["seeds"]) == (f"topk-k_8 ({record.site})", 2)
    assert rho["value"] == pytest.approx(
        (one[0]["value"] * one[0]["n"] + one[1]["value"] * one[1]["n"]) / (one[0]["n"] + one[1]["n"])
    )
    assert rho["low"] < one[0]["high"]
    assert rho["high"] == pytest.approx(1.0)
    assert summarise([record])["seeds"] == []


# The same result, however it is made


def test_two_processes_write_the_same_bits_as_one(explained: Path, plain: Path, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "run")
    explain_run(run, FEW, jobs=2)
    assert bits(run) == bits(explained)


def test_a_killed_command_goes_on_to_the_same_bits(explained: Path, plain: Path, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "run")
    code = (
        "import sys; from sparsescope.study.explaining import explain_run; from sparsescope.study.means import Means; "
        "explain_run(sys.argv[1], Means(latents=12), jobs=1)"
    )
    partial = run / "interpretation" / "rules.partial"
    child = subprocess.Popen([sys.executable, "-c", code, str(run)])
    try:
        while not (partial / f"{NAMES[1]}.safetensors").is_file():
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (run / "interpretation" / "rules").exists()
    with pytest.raises(ArtifactError, match="unfinished work"):
        explain_run(run, FEW, jobs=1)
    before = (partial / f"{NAMES[0]}.json").stat().st_mtime_ns
    explain_run(run, FEW, jobs=1, resume=True)
    assert (run / "interpretation" / "rules" / f"{NAMES[0]}.json").stat().st_mtime_ns == before
    assert bits(run) == bits(explained)


def bits(run: Path) -> dict[str, bytes]:
    folder = run / "interpretation" / "rules"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != "manifest.json"}


def test_records_survive_the_disk(explained: Path, tmp_path: Path) -> None:
    record = read_record(explained / "interpretation" / "rules", NAMES[0])
    write_record(tmp_path, record)
    for name in (f"{NAMES[0]}.json", f"{NAMES[0]}.safetensors"):
        assert (tmp_path / name).read_bytes() == (explained / "interpretation" / "rules" / name).read_bytes()


def test_doing_it_twice_is_refused_and_again_starts_afresh(explained: Path, tmp_path: Path) -> None:
    run = copied(explained, tmp_path / "run")
    with pytest.raises(ArtifactError, match="already explained by rules"):
        explain_run(run, FEW)
    assert explain_run(run, FEW, resume=True).path == run / "interpretation" / "rules"
    with pytest.raises(ArtifactError, match="latents"):
        explain_run(run, Means(latents=3), resume=True)
    explain_run(run, Means(latents=3, dictionaries=(NAMES[0],)), again=True, jobs=1)
    assert [entry["asked"] for entry in summary(run)["dictionaries"]] == [3]


def test_two_processes_where_a_second_corpus_has_nothing_to_do(plain: Path, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "run")
    explain_run(run, Means(latents=2, dictionaries=("random-x2",)), jobs=2)
    assert {entry["kind"] for entry in summary(run)["controls"]}.isdisjoint({"second corpus"})


def test_text_without_usable_labels_is_explained_and_says_so(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(plain, tmp_path, FEW)
    store = workshop.contents.store
    # Of another seed: as many stories, of which every label would fall on the wrong token.
    other = prepare(store, workshop.model.tokenizer, text=load_text("builtin:stories", seed=99), resamples=2)
    assert other.labels is None
    assert "another text" in other.unlabelled
    monkeypatch.setattr(labels, "FEWEST", 10_000)
    run = copied(plain, tmp_path / "run")
    explain_run(run, Means(latents=2, max_tokens=640, dictionaries=("random-x2",)), jobs=1)
    assert summary(run)["truth"] is None
    assert "no label is on 10000 tokens" in summary(run)["unlabelled"]


def test_a_fault_in_a_worker_is_ours_and_one_that_is_killed_can_go_on(plain: Path, tmp_path: Path) -> None:
    workshop = Workshop(plain, tmp_path, Means(latents=2))
    nonsense = Task("x", "no such kind", "x")
    with Crowd(workshop, 1) as crowd, pytest.raises(RuntimeError, match="in a worker process") as caught:
        list(crowd.work([nonsense]))
    assert "Traceback" not in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__)
    with Crowd(workshop, 1) as crowd:
        crowd._workers[0]._process.kill()
        with pytest.raises(ResourceError, match="go on with --resume"):
            list(crowd.work(tasks(workshop.contents)[:1]))


# A language model behind a server


def answering(asked: Asked) -> Say:
    """Explains everything by one word, and finds it active on every first token."""
    if asked.path.endswith("/chat/completions"):
        text = json.dumps({"active": [{"index": 0, "token": "x", "activation": 9}]})
        wants_json = "response_format" in asked.body
        content = text if wants_json else "the word that opens a sentence"
        return Say({"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": {}})
    return Say({"error": {"message": "no such endpoint"}}, status=404)


def test_a_server_is_previewed_first_and_never_asked_twice(plain: Path, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "run")
    told: list[Cost] = []
    with FaultServer(answering) as server:
        means = Means(explainer="llm", model="m", base_url=server.url, latents=2, dictionaries=(NAMES[0],))

        def foretell(cost: Cost) -> None:
            assert not server.asked
            told.append(cost)

        explain_run(run, means, foretell=foretell)
        sent = len(server.asked)
        assert told[0].requests > 10
        assert sent > 5
        explain_run(run, means, again=True)
        assert len(server.asked) == sent
    (entry,) = summary(run, "llm m")["dictionaries"]
    assert entry["asked"] == 2
    record = read_record(run / "interpretation" / "llm m", NAMES[0])
    assert {each.text for each in record.explanations if isinstance(each, Explanation)} == {
        "the word that opens a sentence"
    }


def test_one_explainer_leaves_what_another_said(explained: Path, tmp_path: Path) -> None:
    run = copied(explained, tmp_path / "run")
    database = apart(run)
    before = held(database)
    with FaultServer(answering) as server:
        means = Means(explainer="llm", model="m", base_url=server.url, latents=2, dictionaries=(NAMES[0],))
        explain_run(run, means)
    after = held(database)
    assert before["latents"] <= after["latents"]
    assert before["contexts"] <= after["contexts"]
    assert {row for row in after["scores"] if row[0] == "rules"} == before["scores"]
    assert {row[0] for row in after["scores"]} == {"rules", "llm m"}
    # Done again, an explainer says nothing any more of latents that it is not asked about.
    explain_run(run, Means(latents=2, dictionaries=(NAMES[0],)), again=True, jobs=1)
    with FeatureDatabase.open(database) as opened:
        number = opened.dictionary(NAMES[0]).id
        assert sum(each.explainer == "rules" for each in opened.explanations(number)) == 2


def test_a_preview_changes_nothing_and_counts_the_second_corpus(explained: Path, tmp_path: Path) -> None:
    run = copied(explained, tmp_path / "run")
    database = apart(run)
    before = held(database)

    def stop(cost: Cost) -> None:
        raise KeyboardInterrupt

    means = Means(explainer="llm", model="m", base_url="http://127.0.0.1:9", latents=2, max_tokens=2_000)
    made = run / "interpretation" / means.name
    shutil.copytree(run / "interpretation" / "rules", made)
    with pytest.raises(KeyboardInterrupt):
        explain_run(run, means, again=True, foretell=stop)
    assert (made / SUMMARY).is_file()
    assert not made.with_name(f"{made.name}.partial").exists()
    assert held(database) == before
    workshop = Workshop(run, tmp_path, means)
    *others, last = tasks(workshop.contents)
    assert last.kind == "second corpus"
    assert preview(workshop, [last]).requests > 10
    assert preview(workshop, [last, *others]).requests > preview(workshop, others).requests


def apart(run: Path) -> Path:
    """The feature database of a copied run, made one of its own."""
    database = run / "features.sqlite"
    content = database.read_bytes()
    database.unlink()
    database.write_bytes(content)
    return database


def held(database: Path) -> dict[str, set[Any]]:
    columns = {
        "scores": "explainer, dictionary, latent, score, value",
        "latents": "id, dictionary, corpus, latent",
        "contexts": "latent, kind, body",
        "fragments": "id, corpus, number, text",
    }
    with FeatureDatabase.open(database) as opened:
        return {key: set(opened.connection.execute(f"SELECT {row} FROM {key}")) for key, row in columns.items()}


# Parts


def test_a_simulator_that_says_why_is_quoted(plain: Path, tmp_path: Path) -> None:
    class Dead:
        name, reasons = "dead", ["request failed", "request failed"]

        def simulate(self, explanations: Any, fragments: Any, numbers: Any) -> list[Any]:
            return [np.full((len(each), fragments.ids.shape[1]), np.nan, np.float32) for each in numbers]

    class Talks:
        name = "talks"

        def explain(self, evidences: Any) -> list[Any]:
            return [Explanation("x", "talks", {}) for _ in evidences]

    workshop = Workshop(plain, tmp_path, Means(latents=2))
    subject = workshop.subject(tasks(workshop.contents)[0])
    assert subject is not None
    judged = judge(subject, workshop.material(workshop.contents.store), Talks(), Dead(), effort=workshop.means.effort)
    assert set(judged.own["corpus_rho"]) == {Skipped("request failed")}


def test_shuffled_gives_each_explanation_to_another_latent_once() -> None:
    cards: list[Explanation | Skipped] = [Explanation(str(i), "rules", {}) for i in range(9)]
    cards.insert(4, Skipped("never fires"))
    dealt = shuffled(cards, seed=3)
    assert dealt[4] == Skipped("never fires")
    assert sorted(each.text for each in dealt if isinstance(each, Explanation)) == [str(i) for i in range(9)]
    assert all(old != new for old, new in zip(cards, dealt, strict=True) if isinstance(old, Explanation))
    assert shuffled(cards[:1]) == [Skipped("no explanation")]


def test_a_lookup_that_predicts_nothing_counts_as_zero() -> None:
    own = percentile(0.4, np.linspace(0.3, 0.5, 11), 20)
    gain = context_gain(own, Skipped("constant prediction"))
    assert isinstance(gain, Score)
    assert gain.value == 0.4
    assert context_gain(own, Skipped("never fires")) == Skipped("never fires")
    assert context_gain(Skipped("request failed"), own) == Skipped("request failed")
    both = context_gain(own, own)
    assert isinstance(both, Score)
    assert (both.value, both.estimate.low, both.estimate.high) == (0, 0, 0)


# Bad requests


def test_unknown_dictionaries_are_named_with_a_suggestion(plain: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no dictionary 'random-x3'. Did you mean 'random-x2'\?"):
        explain_run(plain, Means(dictionaries=("random-x3",)))
    assert not (plain / "interpretation").exists()


def test_tasks_come_in_an_order_that_can_be_worked_through(plain: Path) -> None:
    found = tasks(read_run(plain))
    assert [task.name for task in found] == [
        *NAMES,
        "topk-k_8-m96 (random model)",
        "topk-k_8-m96-frozen (frozen decoder)",
        "topk-k_8-m96 (second corpus)",
    ]
    assert next(task.name for task in tasks(read_run(plain), ["random-x2"])) == "random-x2"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"explainer": "llm", "base_url": "http://x"}, "needs a model"),
        ({"explainer": "llm", "model": "m"}, "needs the address of a server"),
        ({"model": "m"}, "needs no model"),
        ({"explainer": "local", "model": "m", "base_url": "http://x"}, "asks no server"),
        ({"latents": 0}, "latents = 0"),
        ({"input_price": 1.0}, "one price"),
    ],
)
def test_means_that_make_no_sense_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Means(**wrong)


def test_the_command_shows_tables_and_writes_the_report(explained: Path, tmp_path: Path, cli: Cli) -> None:
    run = copied(explained, tmp_path / "run")
    done = cli("explain", run, "--latents", "12", "--resume", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert {"dictionaries", "controls", "excess", "truth", "absent"} <= set(found)
    assert math.isfinite(found["dictionaries"][0]["corpus_rho"]["value"])
    page = (run / "report.html").read_text()
    assert "How well explanations predict" in page
    assert "topk-k_8-m96 (random model)" in page
    shown = cli("explain", run, "--latents", "12", "--resume")
    assert "over best control" in shown.out
    assert cli("explain", run, "--latents", "12").code == 2
    assert cli("explain", run, "--explainer", "llm").code == 2
    previewed = cli("explain", run, "--again", "--preview")
    assert (previewed.code, "asks none" in previewed.err) == (2, True)
    changed = cli("explain", run, "--latents", "13", "--resume")
    assert changed.code == 2
    assert "--again" in changed.err
    assert "--out" not in changed.err
    nobody = cli("explain", run, "--agreement")
    assert nobody.code == 0
    assert "nobody has rated" in nobody.out
