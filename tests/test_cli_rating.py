"""`sparsescope rate` on a real feature database: killed in the middle, continued, and stopped."""

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from feature_world import SITE, Memory
from test_explorer_rating import Visitor

from sparsescope.artifact import read_json
from sparsescope.cli.rating import agreement_tables
from sparsescope.dictionaries import TopKSAE
from sparsescope.explorer.rating.material import opened
from sparsescope.features.database import FeatureDatabase
from sparsescope.features.gathering import gather
from sparsescope.features.ratings import MEANING, Rating
from sparsescope.interpret.agreement import agreement, grades, intruders, intruders_found


class Words:
    """One word per token id; some are what no page should show as it is."""

    def decode(self, ids: Any, **settings: Any) -> str:
        return "".join(" <b>&x\x1b[0m" if i < 3 else f" word{i}" for i in ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature database of a run with one dictionary of 20 latents, explained by rules."""
    run = tmp_path_factory.mktemp("run")
    encoder = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    directions = encoder / encoder.norm(dim=1, keepdim=True)
    sae = TopKSAE(encoder=encoder, encoder_bias=torch.zeros(20), directions=directions, bias=torch.zeros(8), k=1)
    found = gather(sae.with_provenance(site=SITE, name="planted"), Memory(contexts=60), split="test")
    with FeatureDatabase.create(run / "features.sqlite") as database, database.transaction():
        database.put_corpus(found.fragments, Words())
        number = database.put_dictionary("planted", "topk", SITE)
        database.put_latents(number, found)
        database.put_explanations(
            number, "rules", {i: (f"<i>latent {i}</i>", {}) for i in range(19)}, {19: "never fires"}
        )
        database.put_explanations(number, "lookup", {i: ("a token", {}) for i in range(20)})
    return run


@contextmanager
def running(program: Any, run: Path, *more: str) -> Iterator[tuple["subprocess.Popen[str]", Visitor]]:
    """A process that serves ratings, killed at the end if it is still there."""
    with program("rate", run, "--port", "0", "--latents", "3", "--json", *more) as process:
        try:
            lines = (re.search(r"rate at (http://127\.0\.0\.1:\d+/)", line) for line in process.stderr)
            yield process, Visitor(next(found for found in lines if found)[1])
        finally:
            process.kill()


def test_a_killed_session_goes_on_and_the_ratings_are_the_answers(made: Path, program: Any, tmp_path: Path) -> None:
    with running(program, made, "--rater", "ann") as (process, ann):
        ann.get()
        ann.send("answer", choice="0")
        assert "&lt;b&gt;&amp;x" in ann.page
        assert "<b>&x" not in ann.page
        offered = re.findall(r'name="picked" value="(\d)">(.*?)</label>', ann.page)
        assert len(offered) == 4
        assert all(text.startswith("&lt;i&gt;latent") for _, text in offered)
        ann.send("answer", rating="4", meaning="words")
        ann.send("answer", choice="1")
        assert "2 of 3" in ann.page
        before = ann.contexts()
        process.kill()
    with running(program, made, "--rater", "ann", "--out", str(tmp_path)) as (process, ann):
        ann.get()
        assert "2 of 3" in ann.page
        assert ann.contexts() == before
        ann.send("answer", rating="1")
        ann.send("answer", choice="2")
        ann.send("answer", rating="5", meaning="others")
        assert "Finished" in ann.page
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert re.search(r'"ann": \{"rated": 3, "intruders_asked": 3, "intruders_found": \d\}', out)
    with opened(made) as (_, ratings):
        kept = ratings.all()
    assert sorted((each.monosemanticity, each.meaning) for each in kept) == [(1, ""), (4, "words"), (5, "others")]
    assert [Rating(**each) for each in read_json(tmp_path / "ratings.json")["ratings"]] == kept


def test_contexts_are_those_of_the_database(made: Path) -> None:
    with FeatureDatabase.open(made / "features.sqlite") as database, opened(made) as (material, _):
        for place in material.places()[:5]:
            for kind in ("top", "active", "random"):
                stored = database.contexts(1, place.latent, kind)
                shown = getattr(material, kind)(place)
                assert [(c.fragment, list(c.pieces), list(c.codes)) for c in shown] == [
                    (s.fragment, s.pieces, s.codes.tolist()) for s in stored
                ]
        assert [material.sentences(place) for place in material.places()[18:]] == [[("rules", "<i>latent 18</i>")], []]


def test_what_is_not_there_is_refused_with_what_is(made: Path, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for words, told in (
        ([tmp_path], "'sparsescope explain RUN' makes it"),
        ([made, "--explainer", "rule"], "Did you mean 'rules'"),
        ([made, "--dictionary", "plantd"], "Did you mean 'planted'"),
        ([made, "--latents", "0"], "--latents"),
        ([made, "--rater", " "], "name or initials"),
    ):
        refused = cli("rate", *words, "--port", "0")
        assert refused.code == 2
        assert told in refused.err


def test_ratings_of_a_copy_are_taken_in_once(made: Path, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for name in ("here", "there"):
        shutil.copytree(made, tmp_path / name)
        with opened(tmp_path / name) as (_, ratings):
            ratings.put("planted", 3, f"{name} rater", MEANING, {"monosemanticity": 2}, "2030-01-01T00:00:00+00:00")
    for _ in range(2):
        merged = cli("rate", tmp_path / "here", "--merge", tmp_path / "there", "--json")
        assert merged.code == 0, merged.err
        raters = merged.json["raters"]
        assert [raters[f"{name} rater"]["rated"] for name in ("here", "there")] == [1, 1]
    assert "0 new answers" in merged.err


def test_the_tables_of_agreement_say_what_is_known() -> None:
    ratings = [
        Rating("sae", i, rater, "", i % 3 > 0, min(5, 1 + i // 2 + shift))
        for rater, shift in (("ann", 0), ("bo", 1))
        for i in range(9)
    ]
    scores = {"corpus ρ": {("sae", i): i / 10 for i in range(9)}, "nowhere": {}}
    given, sought = grades(ratings), intruders(ratings)
    shown = agreement_tables(agreement(scores, given), agreement(scores, sought), intruders_found(sought))
    assert [column.header for column in shown[0].columns][1] == "ρ with grade (95%)"
    assert [str(cell) for cell in shown[0].columns[2].cells] == ["9", "0"]
    assert [str(cell) for cell in shown[0].columns[1].cells][1] == "–"
    assert "0.67 [" in str(shown[-1])
    hostile = agreement({}, {"a\x1b[2J": {1: 1, 2: 2, 3: 3}, "bo": {1: 1, 2: 3, 3: 2}})
    lines = [str(cell) for cell in agreement_tables(hostile, hostile, intruders_found({}))[2].columns[0].cells]
    assert lines[0] == "'a\\x1b[2J' and bo"
    nobody = agreement(scores, {})
    assert "nobody has rated" in str(agreement_tables(nobody, nobody, intruders_found({}))[0])
