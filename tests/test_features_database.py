"""The feature database: everything comes back, whole dictionaries or none, and search of hostile text."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_world import SITE, Memory

from sparsescope.dictionaries import TopKSAE
from sparsescope.errors import ArtifactError, ConfigurationError, StorageError
from sparsescope.features.blobs import pack_codes, pack_integers, unpack_codes, unpack_integers
from sparsescope.features.database import KINDS, FeatureDatabase
from sparsescope.features.gathering import Gathered, gather
from sparsescope.features.statistics import Statistics, statistics

HOSTILE = [
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m",
    "a\x00b",
    'say "hi" AND NOT',
    "it's; DROP TABLE latents;--",
    "日本",
]


class Words:
    """One word per token id; some of them are what no page or terminal should be shown as it is."""

    def decode(self, ids: Any, **settings: Any) -> str:
        return "".join(f" {HOSTILE[i]}" if i < len(HOSTILE) else f" word{i}" for i in ids)


def sae() -> TopKSAE:
    encoder = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    directions = encoder / encoder.norm(dim=1, keepdim=True)
    bias = torch.zeros(40)
    bias[3] = -1e3  # never active
    return TopKSAE(encoder=encoder, encoder_bias=bias, directions=directions, bias=torch.zeros(8), k=2).with_provenance(
        site=SITE, name="planted"
    )


@pytest.fixture(scope="module")
def gathered() -> Gathered:
    return gather(sae(), Memory(), split="test", latents=[5, 3, 39])


@pytest.fixture(scope="module")
def facts(gathered: Gathered) -> Statistics:
    return statistics(gathered, sae(), torch.eye(8), wanted=4)


@pytest.fixture
def database(tmp_path: Path) -> Any:
    with FeatureDatabase.create(tmp_path / "features.sqlite") as made:
        yield made


def put(database: FeatureDatabase, gathered: Gathered, facts: Statistics | None = None, name: str = "planted") -> int:
    with database.transaction():
        database.put_corpus(gathered.fragments, Words())
        number = database.put_dictionary(name, "topk", SITE, {"l0": 2.0})
        database.put_latents(number, gathered, facts)
    return number


def test_packing_loses_nothing_but_the_last_bits_of_codes() -> None:
    source = np.random.default_rng(0)
    numbers = source.integers(0, 1 << 32, 200)
    np.testing.assert_array_equal(unpack_integers(pack_integers(numbers)), numbers)
    codes = source.random((7, 64)) ** 4 * 5 * (source.random((7, 64)) < 0.5)
    codes[0, :3] = 5.0, 1e-9, -2.0
    fragments, back = unpack_codes(pack_codes(np.arange(7), codes, 5.0), 5.0, 64)
    assert fragments.tolist() == list(range(7))
    assert np.abs(back - codes.clip(0)).max() <= 0.008 * 5
    np.testing.assert_array_equal(back > 0, codes > 0)
    assert back[0, 0] == 5.0
    nothing = unpack_codes(pack_codes(np.zeros(0, int), np.zeros((0, 64)), 0.0), 0.0, 64)
    assert [part.shape for part in nothing] == [(0,), (0, 64)]


def test_quantiles_are_the_active_contexts_in_equal_parts_by_strength(
    database: FeatureDatabase, gathered: Gathered
) -> None:
    number = put(database, gathered)
    place = int(np.argmax((gathered.active.numbers >= 0).sum(1)))
    latent = int(gathered.latents[place])
    parts = database.quantiles(number, latent, 3)
    numbers, codes = gathered.active.of(place)
    assert sorted(each.fragment for part in parts for each in part) == sorted(numbers.tolist())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    exact = dict(zip(numbers.tolist(), codes.max(1).tolist(), strict=True))
    step = 0.01 * gathered.maximum[place]  # codes are kept to that
    for stronger, weaker in pairwise(parts):
        assert min(exact[each.fragment] for each in stronger) >= max(exact[each.fragment] for each in weaker) - step
    assert database.quantiles(number, 999) == [[], [], [], [], []]


def test_everything_put_comes_back(database: FeatureDatabase, gathered: Gathered, facts: Statistics) -> None:
    number = put(database, gathered, facts)
    database.put_explanations(number, "rules", {5: ("fires on 日本", {"tokens": [5]})}, {39: "no explanation"})
    database.put_scores(number, "rules", "corpus_rho", {5: 0.5, 39: "no explanation", 3: float("nan")})
    with FeatureDatabase.open(database.path) as reader:
        only = reader.dictionary("planted")
        assert reader.dictionaries() == [only]
        assert (only.id, only.name, only.method, only.site, only.facts) == (
            number,
            "planted",
            "topk",
            SITE,
            {"l0": 2.0},
        )
        for stored in reader.latents(number):
            place = gathered.latents.tolist().index(stored.latent)
            assert stored.maximum == gathered.maximum[place]
            assert stored.density == gathered.density[place]
            for name in ("mean", "variance", "skew", "kurtosis"):
                value = float(getattr(gathered.moments, name)[place])
                assert getattr(stored, name) == (None if np.isnan(value) else value)
            assert stored.entropy == (None if place == 1 else facts.entropy[place])
            for name, (numbers, values) in stored.rankings.items():
                expected = getattr(facts, name).of(place)
                assert numbers == expected[0]
                assert values == pytest.approx(expected[1], rel=1e-3)
            assert len(stored.rankings) == 5
            for kind in KINDS:
                check_contexts(reader, gathered, number, place, kind)
        assert [(e.latent, e.text, e.body, e.skipped) for e in reader.explanations(number)] == [
            (5, "fires on 日本", {"tokens": [5]}, None),
            (39, "", {}, "no explanation"),
        ]
        assert [(s.latent, s.value, s.skipped) for s in reader.scores(number)] == [
            (3, None, None),
            (5, 0.5, None),
            (39, None, "no explanation"),
        ]


def put_and_fail(database: FeatureDatabase, gathered: Gathered) -> None:
    number = put(database, gathered, name="other")
    database.put_latents(number, gather(sae(), Memory(seed=1), split="test", latents=[1]))


def check_contexts(reader: FeatureDatabase, gathered: Gathered, number: int, place: int, kind: str) -> None:
    fragments = gathered.fragments
    numbers, codes = getattr(gathered, kind).of(place)
    contexts = reader.contexts(number, int(gathered.latents[place]), kind)
    assert [context.fragment for context in contexts] == numbers.tolist()
    for context, values in zip(contexts, codes, strict=True):
        length = fragments.length[context.fragment]
        ids = fragments.ids[context.fragment, :length].tolist()
        assert context.ids == ids
        assert context.document == fragments.document[context.fragment]
        assert context.pieces == [Words().decode([token]) for token in ids]
        np.testing.assert_allclose(context.codes, values[:length], atol=0.009 * gathered.maximum[place])


def test_a_dictionary_put_again_replaces_itself_and_ratings_stay(database: FeatureDatabase, gathered: Gathered) -> None:
    first = put(database, gathered)
    database.put_explanations(first, "rules", {5: ("an old sentence", {})})
    database.ratings().put("planted", 5, "ann", "meaning", {"monosemanticity": 4}, "2030-01-01T00:00:00Z")
    tokens = database.connection.execute("SELECT count(*) FROM fragments").fetchone()
    second = put(database, gathered)
    put(database, gathered, name="another")
    assert [each.name for each in database.dictionaries()] == ["planted", "another"]
    assert database.connection.execute("SELECT count(*) FROM fragments").fetchone() == tokens  # stored once
    assert len(database.latents(second)) == 3
    assert not database.explanations(second)
    assert not database.search_explanations("sentence")
    assert [rating.rater for rating in database.ratings().all()] == ["ann"]


def test_a_dictionary_that_is_kept_holds_what_others_said(database: FeatureDatabase, gathered: Gathered) -> None:
    first = put(database, gathered)
    database.put_explanations(first, "rules", {5: ("an old sentence", {})})
    database.put_explanations(first, "llm m", {5: ("another sentence", {})})
    database.put_scores(first, "rules", "corpus_rho", {5: 0.5})
    place = {key: getattr(database.dictionary("planted"), key) for key in ("name", "method", "site", "facts")}
    contexts = database.connection.execute("SELECT latent, kind, body FROM contexts").fetchall()
    with database.transaction():
        assert database.put_dictionary(**place, keep=True) == first
        database.forget(first, "rules")
        database.put_latents(first, gathered, keep=True)
    assert [each.explainer for each in database.explanations(first)] == ["llm m"]
    assert [each.text for each in database.search_explanations("sentence")] == ["another sentence"]
    assert database.scores(first) == []
    assert database.connection.execute("SELECT latent, kind, body FROM contexts").fetchall() == contexts
    with database.transaction():
        second = database.put_dictionary(**{**place, "facts": {"run": "another"}}, keep=True)
    assert database.explanations(second) == database.latents(second) == []


def test_explanations_put_again_replace_earlier_ones_in_the_index_too(
    database: FeatureDatabase, gathered: Gathered
) -> None:
    number = put(database, gathered)
    database.put_explanations(number, "rules", {5: ("names of rivers", {}), 39: ("names of towns", {})})
    database.put_explanations(number, "rules", {5: ("colours \ud800", {})})
    assert [e.latent for e in database.search_explanations("names")] == [39]
    assert [(e.dictionary, e.latent, e.text) for e in database.search_explanations("COLOURS")] == [
        ("planted", 5, "colours ?")
    ]


def test_another_corpus_of_a_split_replaces_what_was_gathered_on_it(
    database: FeatureDatabase, gathered: Gathered
) -> None:
    number = put(database, gathered)
    other = gather(sae(), Memory(seed=1), split="test", latents=[1])
    with pytest.raises(ConfigurationError, match="store them with put_corpus first"):
        database.put_latents(number, other)
    assert database.search("word9")
    database.put_corpus(other.fragments, Words())
    assert database.latents(number) == []
    assert len(database.search("word9", limit=1000)) == sum(9 in row for row in other.fragments.ids)
    assert database.connection.execute("SELECT count(*) FROM contexts").fetchone() == (0,)


def test_search_takes_any_text_for_what_it_is(database: FeatureDatabase, gathered: Gathered) -> None:
    put(database, gathered)
    fragments = gathered.fragments
    texts = [Words().decode(ids[:size]) for ids, size in zip(fragments.ids, fragments.length, strict=True)]
    for words in ("word7", "word7 word9", "日本", "script alert", "WORD7"):
        expected = {n for n, text in enumerate(texts) if all(word.lower() in text.lower() for word in words.split())}
        found = database.search(words, limit=1000)
        # "word7" is a word of its own, but "word1" begins "word10": only whole words are looked for.
        assert {each.fragment for each in found} == expected
        assert all(each.text == texts[each.fragment] and each.split == "test" for each in found)
    for query in [*HOSTILE, '"', '""', "word7*", "NEAR(a b)", "text:word7", "a AND", "(", "^", "-word7", "x" * 10**6]:
        database.search(query)
        database.search_explanations(query)
    assert len(database.search("<", limit=1000)) == sum("<" in text for text in texts)  # no word: the text itself
    assert database.search("\x00 \ud800") == []
    assert database.search("  ") == database.search("") == database.search("nowhere") == []
    assert len(database.search("word7", limit=2)) == 2
    assert len(database.dictionaries()) == 1


KILLED = """
    import os, signal, sys
    sys.path[:0] = {paths!r}
    from test_features_database import Memory, SITE, Words, gather, sae
    from sparsescope.features.database import FeatureDatabase
    got = gather(sae(), Memory(), split="test")
    database = FeatureDatabase.open({file!r})
    for name in ["first", "second"]:
        with database.transaction():
            database.put_corpus(got.fragments, Words())
            number = database.put_dictionary(name, "topk", SITE)
            database.put_latents(number, got)
            if name == "second":
                print("writing", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dictionary_half_written_when_the_process_is_killed_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "features.sqlite"
    with FeatureDatabase.create(file) as reader:
        code = textwrap.dedent(KILLED).format(paths=[str(Path(__file__).parent), *sys.path], file=str(file))
        died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert died.stdout == "writing\n"
        assert [each.name for each in reader.dictionaries()] == ["first"]
        assert reader.connection.execute("SELECT count(*) FROM latents").fetchone() == (40,)
        assert reader.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with reader.transaction():  # the lock of the dead process is gone
            reader.put_dictionary("third", "topk", SITE)
    with FeatureDatabase.open(file) as again:
        assert [each.name for each in again.dictionaries()] == ["first", "third"]


def test_a_reader_sees_nothing_before_the_end_and_nothing_of_what_failed(
    database: FeatureDatabase, gathered: Gathered
) -> None:
    with FeatureDatabase.open(database.path) as reader:
        with database.transaction():
            put(database, gathered)
            assert reader.dictionaries() == []
            assert len(database.dictionaries()) == 1
        assert len(reader.dictionaries()) == 1
        with pytest.raises(ConfigurationError, match="put_corpus first"), database.transaction():
            put_and_fail(database, gathered)
        assert len(database.dictionaries()) == len(reader.dictionaries()) == 1


def test_what_cannot_be_opened_or_put_is_refused(tmp_path: Path, database: FeatureDatabase, gathered: Gathered) -> None:
    with pytest.raises(ArtifactError, match="no feature database at"):
        FeatureDatabase.open(tmp_path / "none.sqlite")
    with pytest.raises(StorageError, match="could not open"):
        FeatureDatabase.create(tmp_path / "no" / "directory.sqlite")
    (tmp_path / "text.sqlite").write_text("not a database at all" * 100)
    with pytest.raises(ArtifactError, match="cannot read"):
        FeatureDatabase.open(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE things (x)")
    other.close()
    with pytest.raises(ArtifactError, match="is not a feature database"):
        FeatureDatabase.create(tmp_path / "other.sqlite")
    with pytest.raises(ConfigurationError, match="outside a transaction"):
        database.put_dictionary("planted", "topk", SITE)
    put(database, gathered)
    with pytest.raises(ConfigurationError, match=r"no dictionary 'plantd'.*planted"):
        database.dictionary("plantd")
    assert database.contexts(1, 999) == []
    database.connection.execute("PRAGMA user_version = 3")
    with pytest.raises(ArtifactError, match="has format 3; this sparsescope reads up to 2"):
        FeatureDatabase.open(database.path)


def test_damage_in_the_middle_is_named_and_the_file_is_not_to_be_thrown_away(
    tmp_path: Path, gathered: Gathered
) -> None:
    path = tmp_path / "features.sqlite"
    with FeatureDatabase.create(path) as database:
        number = put(database, gathered)
        database.put_scores(number, "rules", "corpus_rho", {5: 0.5})
        database.connection.execute("UPDATE scores SET score = CAST(x'ff' AS TEXT)")
    with pytest.raises(ArtifactError, match="Move it away"), FeatureDatabase.open(path) as database:
        database.scores(number)
    with pytest.raises(sqlite3.IntegrityError), FeatureDatabase.open(path) as database:
        database.connection.execute("INSERT INTO latents (id) VALUES (1)")  # a fault of the caller, not of the file


def test_a_locked_database_is_a_storage_error(database: FeatureDatabase, gathered: Gathered) -> None:
    with FeatureDatabase.open(database.path) as second:
        second.connection.execute("PRAGMA busy_timeout = 50")
        with database.transaction():
            put(database, gathered)
            with pytest.raises(StorageError, match="database is locked"):
                put(second, gathered)
    assert os.path.exists(database.path)
