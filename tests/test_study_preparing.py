"""A run prepared for the explorer: the same as what its parts say one by one, whole or absent, in any order of work."""

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import sparsescope as ss
from sparsescope.artifact import read_json
from sparsescope.errors import ArtifactError, ConfigurationError
from sparsescope.features.browsing import Chosen, FeatureBrowser
from sparsescope.interpret.base import Explanation
from sparsescope.interpret.rules import Rules
from sparsescope.interpret.subject import USUAL
from sparsescope.study import preparer, survey
from sparsescope.study.contents import load_run_model, read_run
from sparsescope.study.explaining import explain_run
from sparsescope.study.means import Means
from sparsescope.study.prepared import ACTIVE, CONTEXTS, RANDOM, TOP, unprepared
from sparsescope.study.preparer import Preparer
from sparsescope.study.preparing import prepare_run
from sparsescope.study.workshop import Task, Workshop, opening

RECIPE = """
model = "builtin:tiny"
text = "builtin:stories"
site = "resid_post.3"
tokens = 12_000
context = 64

[[train]]
method = "topk"
k = [4, 8]
n_latents = 40
tokens = 6_000
batch = 256

[[fit]]
method = "random"
k = 8
ratio = 0.125

[evaluate]
splice = false

[report]
latents = 1
contexts = 1
"""
NAMES = ["topk-k_4-m40", "topk-k_8-m40", "random-x0.125", "random-k_8-x0.125"]
FEW = Means(latents=5, dictionaries=tuple(NAMES[:2]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody has explained or prepared."""
    folder = tmp_path_factory.mktemp("preparing")
    (folder / "small.toml").write_text(RECIPE)
    return ss.run_study(folder / "small.toml", out=folder / "run").path


@pytest.fixture(scope="module")
def prepared(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared by an uninterrupted command; nobody has explained it."""
    run = copied(plain, tmp_path_factory.mktemp("prepared") / "run")
    prepare_run(run)
    return run


@pytest.fixture(scope="module")
def explained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Explained after it was prepared, and then prepared again."""
    run = copied(prepared, tmp_path_factory.mktemp("explained") / "run")
    explain_run(run, FEW, jobs=1)
    return run


def copied(source: Path, target: Path) -> Path:
    """A copy of a run with a feature database of its own."""
    shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns("features.sqlite*"))
    if (source / "features.sqlite").is_file():
        with sqlite3.connect(source / "features.sqlite") as one, sqlite3.connect(target / "features.sqlite") as other:
            one.backup(other)
    return target


@pytest.fixture
def browser(prepared: Path) -> Iterator[FeatureBrowser]:
    with FeatureBrowser.open(prepared / "features.sqlite") as opened:
        yield opened


def number(browser: FeatureBrowser, name: str) -> int:
    return next(shelf.id for shelf in browser.shelves() if shelf.name == name)


def bits(run: Path) -> dict[str, Any]:
    """All rows of all tables of what was prepared, free of row numbers."""
    found: dict[str, Any] = {}
    with FeatureBrowser.open(run / "features.sqlite") as browser:
        for shelf in browser.shelves():
            cards = browser.cards(shelf.id, limit=1000)
            rows = [
                (card.__dict__ | {"dictionary": shelf.name}, _detail(browser, shelf.id, card.latent)) for card in cards
            ]
            kinds = [
                [browser.shown(shelf.id, card.latent, kind) for kind in ("top", "active", "random")] for card in cards
            ]
            shown = [
                [(c.fragment, c.codes.tobytes(), _bytes(c.simulated)) for c in each] for row in kinds for each in row
            ]
            statistics = [browser.statistics(shelf.id, card.latent) for card in cards]
            found[shelf.name] = rows, shown, statistics, shelf.prepared, browser.overview(shelf.id)
        for first in browser.shelves():
            for second in browser.shelves():
                match = browser.matched(first.id, second.id)
                columns = () if match is None else (match.latents, match.others, match.cosines)
                pairs = sorted(zip(*(column.tolist() for column in columns), strict=True))
                found[f"{first.name} and {second.name}"] = pairs
        found["vocabulary"] = browser.texts(range(4096))
        found["strongest"] = browser.rows(
            "SELECT fragment, place, name, latent, code FROM strongest "
            "JOIN dictionaries ON dictionaries.id = dictionary ORDER BY fragment, place, name, latent"
        )
    return found


def _bytes(array: np.ndarray | None) -> bytes | None:
    return None if array is None else array.tobytes()


def _detail(browser: FeatureBrowser, dictionary: int, latent: int) -> Any:
    found = browser.detail(dictionary, latent)
    histogram = found.histogram
    return (
        None if histogram is None else (histogram.counts.tolist(), histogram.active, histogram.rows),
        _bytes(found.firing),
        found.effect,
    )


# Against raw rows


def test_every_latent_has_a_card_that_raw_codes_bear_out(prepared: Path, browser: FeatureBrowser) -> None:
    contents = read_run(prepared, verify=False)
    store, dictionary = contents.store, contents.dictionaries[NAMES[1]]
    rows = np.concatenate(
        [dictionary.encode(b.x.float()).detach().numpy() for b in store.blocks("resid_post.3", "test")]
    )
    ids = store.contexts("test").ids.numpy()[store.kept("test").numpy()]
    tokenizer = load_run_model(contents.run).tokenizer
    at = number(browser, NAMES[1])
    cards = browser.cards(at, limit=100)
    assert [card.latent for card in cards] == list(range(40))
    for card in cards:
        codes = rows[:, card.latent]
        assert card.density == pytest.approx((codes > 0).mean(), abs=2e-3)  # a few contexts hold no fragment
        detail = browser.detail(at, card.latent)
        if not card.density:
            assert (card.maximum, card.tokens, card.effect, detail.histogram, detail.effect) == (
                0,
                (),
                None,
                None,
                None,
            )
            continue
        assert card.maximum == pytest.approx(codes.max(), rel=1e-5)
        mass = np.bincount(ids, weights=codes.clip(0))
        text, share = card.tokens[0]
        assert share == pytest.approx(mass.max() / mass.sum(), rel=0.02)
        assert text == tokenizer.decode([int(mass.argmax())])
        counts = np.histogram(codes[codes > 0].astype(float), bins=30, range=(0, card.maximum * (1 + 1e-9)))[0]
        assert detail.histogram is not None
        assert np.abs(detail.histogram.counts - counts).sum() <= 4
        assert detail.histogram.active == detail.histogram.counts.sum() == round(card.density * detail.histogram.rows)
        assert detail.firing is not None
        assert detail.firing[[shown.fragment for shown in browser.shown(at, card.latent)]].all()
    overview = browser.overview(at)
    dead = sum(card.density == 0 for card in cards)
    assert (overview.counts["latents"], overview.counts["dead"]) == (40, dead)


def test_effects_are_those_of_the_causal_stage(prepared: Path, browser: FeatureBrowser) -> None:
    at = number(browser, NAMES[0])
    effects = {
        card.latent: (card.effect, browser.detail(at, card.latent).effect) for card in browser.cards(at, limit=99)
    }
    seen = 0
    for value, told in effects.values():
        assert (value is None) == (told is None)
        if told is not None:
            assert told["kl"]["value"] == value
            assert 1 <= told["contexts"] == told["kl"]["n"] <= CONTEXTS
            assert told["kl"]["unit"] == "document"
            changes = [change for _, change in told["raised"]]
            assert changes == sorted(changes, reverse=True)
            assert all(change > 0 for change in changes)
            seen += told["control"] is not None
    assert seen > 20


def test_labels_are_those_of_explaining(explained: Path) -> None:
    """The truth stage chooses the same label for the latents it looks at, with the same F1."""
    record = read_json(explained / "interpretation" / "rules" / f"{NAMES[1]}.json")
    with FeatureBrowser.open(explained / "features.sqlite") as browser:
        at = number(browser, NAMES[1])
        seen = 0
        for row in record["latents"]:
            card = browser.card(at, row["latent"])
            assert card is not None
            if "skipped" not in row["truth"]:
                name, value = row["truth"]["name"], row["truth"]["value"]
                wanted = name if value is None else f"{name} = {value}"
                assert card.label == (wanted if row["truth"]["f1"]["value"] else None)
                assert card.f1 == pytest.approx(row["truth"]["f1"]["value"])
                seen += 1
    assert seen >= 3


def test_autoencoders_are_matched_as_by_brute_force(prepared: Path, browser: FeatureBrowser) -> None:
    contents = read_run(prepared, verify=False)
    one, other = (contents.dictionaries[name].directions.numpy() for name in NAMES[:2])
    cosines = one @ other.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(other, axis=1)
    best = linear_sum_assignment(-cosines)
    match = browser.matched(number(browser, NAMES[0]), number(browser, NAMES[1]))
    assert match is not None
    assert (match.latents.tolist(), match.others.tolist()) == (best[0].tolist(), best[1].tolist())
    assert match.cosines == pytest.approx(cosines[best], abs=1e-5)
    assert browser.matched(number(browser, NAMES[0]), number(browser, NAMES[3])) is None


def test_as_much_is_kept_as_explaining_keeps() -> None:
    assert (USUAL.top, USUAL.active, USUAL.random) == (TOP, ACTIVE, RANDOM)


# Explaining before and after


def test_only_cards_are_made_again_when_explanations_change(
    explained: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unprepared(prepared) == []
    assert unprepared(explained) == NAMES[:2]
    before = bits(explained)

    def refused(*_: Any) -> None:
        raise AssertionError("a dictionary was looked at again")

    monkeypatch.setattr(preparer, "survey", refused)
    prepare_run(explained)
    assert unprepared(explained) == []
    after = bits(explained)
    for name in NAMES:
        for (old, old_detail), (new, new_detail) in zip(before[name][0], after[name][0], strict=True):
            words = {"explanation", "explainer", "score"}
            assert {k: v for k, v in old.items() if k not in words} == {k: v for k, v in new.items() if k not in words}
            assert old_detail == new_detail
    predictions_are_the_simulators(explained)


def predictions_are_the_simulators(run: Path) -> None:
    workshop = Workshop(run, run, Means())
    material = workshop.material(workshop.contents.store)
    rules = Rules(material.vocabulary)
    record = read_json(run / "interpretation" / "rules" / f"{NAMES[1]}.json")
    with FeatureBrowser.open(run / "features.sqlite") as browser:
        at = number(browser, NAMES[1])
        cards = browser.cards(at, Chosen(show="explained"), limit=99)
        said = {row["latent"]: row for row in record["latents"] if "text" in row["explanation"]}
        assert {card.latent: card.explanation for card in cards} == {
            n: r["explanation"]["text"] for n, r in said.items()
        }
        for card in cards:
            assert card.score == said[card.latent]["scores"]["own"]["corpus_rho"].get("value")
            for kind in ("top", "active", "random"):
                shown = browser.shown(at, card.latent, kind)
                found = next(e for e in browser.explanations_of(at, card.latent) if e.explainer == "rules")
                explanation = Explanation(found.text, "rules", found.body)
                numbers = np.array([each.fragment for each in shown])
                (levels,) = rules.simulate([explanation], material.scoring, [numbers])
                for each, level in zip(shown, levels, strict=True):
                    assert each.simulated is not None
                    wanted = level[: len(each.ids)] / 10 * card.maximum
                    assert each.simulated == pytest.approx(wanted, abs=0.008 * card.maximum)
        silent = browser.cards(at, Chosen(show="active"), limit=99)
        other = next(card for card in silent if card.explanation is None)
        assert all(each.simulated is None for each in browser.shown(at, other.latent))


def test_explaining_first_gives_the_same(plain: Path, explained: Path, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "run")
    explain_run(run, FEW, jobs=1)
    with pytest.raises(ArtifactError, match="already explained"):
        explain_run(run, FEW)
    assert unprepared(run) == NAMES
    prepare_run(run)
    prepare_run(explained)
    one, other = bits(run), bits(explained)
    for key in one:
        assert one[key] == other[key], key


def test_another_text_is_prepared_anew_and_kept(plain: Path, tmp_path: Path) -> None:
    """Explained on part of the text: that part is what the explorer shows."""
    run = copied(plain, tmp_path / "run")
    name = NAMES[1]
    prepare_run(run, [name])
    explain_run(run, Means(latents=3, max_tokens=640, dictionaries=(name,)), jobs=1)
    assert name in unprepared(run)
    with FeatureBrowser.open(run / "features.sqlite") as browser:
        corpora = browser.rows("SELECT split, fingerprint, fragments FROM corpora ORDER BY split")
    prepare_run(run, [name])
    assert unprepared(run, [name]) == []
    with FeatureBrowser.open(run / "features.sqlite") as browser:
        assert browser.rows("SELECT split, fingerprint, fragments FROM corpora ORDER BY split") == corpora
        at = number(browser, name)
        assert len(browser.cards(at, Chosen(show="explained"), limit=9)) == 3
        assert {len(browser.detail(at, latent).firing) for latent in range(40)} == {corpora[0][2]}  # type: ignore[arg-type]


# Interrupted and asked for twice


def test_a_killed_command_loses_nothing_and_goes_on_to_the_same(plain: Path, prepared: Path, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "run")
    code = "import sys; from sparsescope.study.preparing import prepare_run; prepare_run(sys.argv[1])"
    child = subprocess.Popen([sys.executable, "-c", code, str(run)])
    try:
        while not (done := _prepared(run)):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    left = unprepared(run)
    assert not set(left) & set(done)
    prepare_run(run)
    assert bits(run) == bits(prepared)


def test_what_worker_processes_do_gives_the_same(
    plain: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crowd of `explaining` starts them; here one serves in this process, the tasks being on its stdin."""
    run, threads, answers = copied(plain, tmp_path / "run"), torch.get_num_threads(), io.StringIO()
    Preparer(run).put_text()
    tasks = [asdict(Task(name, "dictionary", name)) for name in NAMES[:2]]
    lines = [opening(run, run, Means()), *tasks, tasks[0], asdict(Task("x", "dictionary", "x"))]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(line) + "\n" for line in lines)))
    monkeypatch.setattr(sys, "stdout", answers)
    try:
        preparer.serve()
    finally:
        torch.set_num_threads(threads)
    *done, wrong = map(json.loads, answers.getvalue().splitlines())
    assert done == [{}, {}, {}]
    assert "KeyError" in wrong["error"]
    one, other = bits(run), bits(prepared)
    assert [one[name] for name in NAMES[:2]] == [other[name] for name in NAMES[:2]]


def _prepared(run: Path) -> list[str]:
    try:
        with FeatureBrowser.open(run / "features.sqlite") as browser:
            return [shelf.name for shelf in browser.shelves() if shelf.prepared]
    except ArtifactError:
        return []


def test_what_is_there_is_left_alone(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(prepared, tmp_path / "run")
    before = hashlib.sha256((run / "features.sqlite").read_bytes()).digest()
    prepare_run(run)
    assert hashlib.sha256((run / "features.sqlite").read_bytes()).digest() == before
    looked: list[str] = []
    whole = survey.survey

    def noted(dictionary: Any, *rest: Any) -> Any:
        looked.append(dictionary.provenance.name)
        return whole(dictionary, *rest)

    monkeypatch.setattr(preparer, "survey", noted)
    prepare_run(run, [NAMES[0]], again=True)
    assert looked == [NAMES[0]]
    # The dictionary of another name that is asked for, and what was made of another run, is done anew.
    with sqlite3.connect(run / "features.sqlite") as connection:
        connection.execute("UPDATE prepared SET settings = json_set(settings, '$.run', 'another')")
    assert unprepared(run) == NAMES
    assert unprepared(run, NAMES[2:3]) == NAMES[2:3]


def test_names_are_those_of_the_run_and_wrong_ones_are_refused(plain: Path, tmp_path: Path) -> None:
    assert unprepared(plain) == list(read_run(plain, verify=False).dictionaries) == NAMES
    with pytest.raises(ConfigurationError, match=r"no dictionary 'random-x0.126'. Did you mean 'random-x0.125'\?"):
        prepare_run(plain, ["random-x0.126"])
    with pytest.raises(ArtifactError, match="finished run"):
        unprepared(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "activations"}))
    with pytest.raises(ArtifactError, match="no run"):
        prepare_run(tmp_path)
    assert not (plain / "features.sqlite").exists()


def test_looking_for_work_needs_no_torch(prepared: Path) -> None:
    code = (
        "import sys; from sparsescope.study.prepared import unprepared; print(unprepared(sys.argv[1])); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(prepared)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
