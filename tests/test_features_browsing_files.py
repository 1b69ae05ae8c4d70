"""The file of a prepared database: indexes are used, nothing is written, hostile text, formats, what is replaced."""

import hashlib
import re
import sqlite3
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from sparsescope.bench.explored_run import make_run, world_of
from sparsescope.bench.explored_world import HOSTILE
from sparsescope.errors import ArtifactError, ConfigurationError, StorageError
from sparsescope.features.browsing import Chosen, FeatureBrowser
from sparsescope.features.card import SORTABLE, Card, Detail
from sparsescope.features.cards import (
    is_prepared,
    mark_prepared,
    preparation,
    put_cards,
    put_matches,
    put_overview,
    put_simulations,
)
from sparsescope.features.database import FeatureDatabase
from sparsescope.features.schema import APPLICATION, SCHEMA

FILE = "features.sqlite"
SMALL = ("dictionaries", "corpora", "tokens", "json_each", "each", "overviews", "prepared", "matches")
"""What may be read from end to end: a row for each dictionary, each pair of them, or each distinct token."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("files") / "run", latents=60)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", latents=25)


def ask_everything(browser: FeatureBrowser) -> None:
    """Every query there is."""
    browser.shelves(), browser.overview(1), browser.texts([1, 2]), browser.card(1, 3), browser.detail(1, 3)
    for sort in ("latent", *SORTABLE):
        for descending in (False, True):
            browser.cards(1, sort=sort, descending=descending)
            browser.cards(1, Chosen("more", "active", (("f1", 0.1, None),)), sort=sort, descending=descending)
    browser.count(1), browser.count(1, Chosen("more", "dense"))
    browser.statistics(1, 3), browser.explanations_of(1, 3), browser.scores_of(1, 3), browser.shown_quantiles(1, 3)
    browser.shown(1, 3), browser.apart(1, 3, 4), browser.matched(1, 2), browser.counterparts(1, 3)
    for dictionary in (None, 1):
        browser.by_words("more", dictionary), browser.by_words(")", dictionary)
        browser.by_token(")", dictionary), browser.by_token("w*", dictionary, 2)
        browser.by_rule("token:w* label:bracket words:more dictionary:t* method:topk f1>0.1", dictionary)
    browser.contexts_with("paris")


def test_every_query_finds_its_rows_by_an_index_or_in_one_range_of_the_narrow_table(run: Path) -> None:
    with FeatureBrowser.open(run / FILE) as browser:
        asked: list[str] = []
        browser.connection.set_trace_callback(asked.append)
        ask_everything(browser)
        browser.connection.set_trace_callback(None)
        assert len(set(asked)) > 60
        for query in set(asked):
            if query.startswith("--") or "'main'" in query:  # what a search table asks of its own
                continue
            plan = [row[3] for row in browser.connection.execute("EXPLAIN QUERY PLAN " + query)]
            for step in plan:
                table = re.match(r"SCAN (\w+)", step)
                assert table is None or table[1] in SMALL or "VIRTUAL TABLE" in step or "subquery" in step, (
                    query,
                    plan,
                )
                assert not re.match(r"SEARCH cards USING INDEX cards_by_\w+ \(dictionary=\?\)$", step) or (
                    not any("TEMP B-TREE" in each for each in plan)
                ), (query, plan)


def test_browsing_writes_nothing(run: Path) -> None:
    before = hashlib.sha256((run / FILE).read_bytes()).hexdigest()
    with FeatureBrowser.open(run / FILE) as browser:
        ask_everything(browser)
        for command in ("DELETE FROM cards", "CREATE TABLE more (a)", "PRAGMA user_version = 7", "DROP TABLE cards"):
            with pytest.raises(sqlite3.OperationalError, match=r"readonly|read-only"):
                browser.connection.execute(command)
    assert hashlib.sha256((run / FILE).read_bytes()).hexdigest() == before


def test_hostile_text_is_kept_found_and_cannot_be_a_query(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", latents=60, hostile=True)
    texts = world_of(60, hostile=True).vocabulary.texts
    assert set(HOSTILE) <= set(texts)
    stored = [text.encode("utf-8", "replace").decode() for text in texts]  # a lone surrogate cannot be stored
    with FeatureBrowser.open(path / FILE) as browser:
        assert browser.texts(range(len(texts))) == stored
        for latent, text in enumerate(HOSTILE):
            found = {card.latent for card, _ in browser.by_token(text, 1)}
            if latent != HOSTILE.index("\ud800"):  # "?" now, which is a token of its own or stands for any
                assert latent in found
            card = browser.card(1, latent)
            assert card is not None
            assert stored[latent] in [one for one, _ in card.tokens]
            browser.by_words(text), browser.contexts_with(text), browser.count(1, Chosen(text))
            for rule in (text, f"token:{text}", f'label:"{text}"', f"words:{text}", f"density<{text}"):
                with suppress(ConfigurationError):
                    browser.by_rule(rule)
        for each in browser.contexts_with("x" * 100_000):
            assert "x" * 100_000 in each.pieces
        assert "<script>" in browser.shelves()[0].name


def test_a_database_of_format_1_is_refused_for_browsing_and_upgraded_for_writing(tmp_path: Path, own: Path) -> None:
    old = tmp_path / "old.sqlite"
    connection = sqlite3.connect(old, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"{SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 1;")
    connection.execute("INSERT INTO dictionaries VALUES (1, 'sae', 'topk', 'resid_post.2', '{}')")
    connection.execute("INSERT INTO explanations VALUES (1, 1, 4, 'rules', 'an old sentence', '{}', NULL)")
    with pytest.raises(ArtifactError, match=r"format 1.*'sparsescope explore RUN' prepares it"):
        FeatureBrowser.open(old)
    first = FeatureDatabase.open(old)
    with first, FeatureDatabase.open(old) as database:
        assert [found.latent for found in database.search_explanations("sentence")] == [4]
        with database.transaction():
            put_cards(database, 1, [Card(1, 4, 0.1, 2.0, explainer="rules", explanation="old")], [Detail()])
    connection.close()
    with FeatureBrowser.open(old) as browser:
        assert [card.latent for card in browser.by_words("old")] == [4]
        (shelf,) = browser.shelves()
        assert (shelf.name, shelf.n_latents, shelf.prepared) == ("sae", 0, False)
    tables = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    with FeatureBrowser.open(old) as upgraded, FeatureBrowser.open(own / FILE) as new:
        assert upgraded.rows(tables) == new.rows(tables)
        assert upgraded.rows("PRAGMA user_version") == [(2,)]


def test_what_cannot_be_browsed_is_an_error_that_says_what_to_do(tmp_path: Path, own: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no feature database at.*sparsescope explore"):
        FeatureBrowser.open(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("not a database at all" * 100)
    with pytest.raises(ArtifactError, match=r"cannot read"):
        FeatureBrowser.open(tmp_path / "text.sqlite")
    sqlite3.connect(tmp_path / "other #1?.sqlite").execute("CREATE TABLE things (x)").connection.close()
    with pytest.raises(ArtifactError, match=r"is not a feature database"):
        FeatureBrowser.open(tmp_path / "other #1?.sqlite")
    connection = sqlite3.connect(own / FILE, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")  # so that a writer can lock readers out
    with FeatureBrowser.open(own / FILE) as browser:
        browser.connection.execute("PRAGMA busy_timeout = 20")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"locked"):
            browser.shelves()
        connection.execute("COMMIT")
        with pytest.raises(sqlite3.OperationalError, match=r"no such table"):  # a fault of ours, not of the file
            browser.rows("SELECT * FROM nowhere")
    connection.execute("UPDATE card_bodies SET explanation = CAST(x'ff' AS TEXT)")
    with pytest.raises(ArtifactError, match=r"Move it away"), FeatureBrowser.open(own / FILE) as browser:
        browser.card(1, 0)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(ArtifactError, match=r"has format 3; this sparsescope reads up to 2. Upgrade sparsescope"):
        FeatureBrowser.open(own / FILE)


def test_a_run_in_a_folder_that_cannot_be_written_is_browsed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsescope.features.schema.os.access", lambda *asked: False)
    with FeatureBrowser.open(own / FILE) as browser:
        assert browser.count(1) == 25
        assert sorted(file.name for file in own.iterdir()) == [FILE, "manifest.json", "report.json"]


CARD_TABLES = (
    "cards",
    "card_bodies",
    "card_columns",
    "token_shares",
    "strongest",
    "simulations",
    "matches",
    "overviews",
    "prepared",
)


def test_cards_put_again_replace_their_like_everywhere(own: Path) -> None:
    with FeatureDatabase.open(own / FILE) as database, FeatureBrowser.open(own / FILE) as browser:
        second = browser.cards(2, limit=100)
        new = Card(
            1, 3, 0.2, 5.0, explainer="rules", explanation="something new", score=float("nan"), tokens=((" a", 0.5),)
        )
        with database.transaction():
            put_cards(database, 1, [new], [Detail(firing=np.array([True, False]))])
            put_overview(database, 1)
            assert browser.count(1) == 25  # not before the end
        assert [card.latent for card in browser.cards(1)] == [3]
        assert (browser.by_words("number3", 1), browser.by_token(")", 1)) == ([], [])
        (found,) = browser.by_words("something new")
        assert (found.tokens, found.score) == (new.tokens, None)
        assert browser.by_token("a", 1) == [(found, 0.5)]
        firing = browser.detail(1, 3).firing
        assert firing is not None
        assert firing.tolist() == [True, False]
        assert browser.overview(1).counts["latents"] == 1
        assert browser.cards(2, limit=100) == second
        check_words(database)
        with database.transaction():
            put_cards(database, 1, [Card(1, 1 << 31, 0.0, 0.0)], [Detail()], keep=True)
        assert [card.latent for card in browser.cards(1)] == [3, 1 << 31]
        database.connection.execute("DELETE FROM dictionaries WHERE id = 1")
        for table in CARD_TABLES:
            column = {"card_bodies": "id >> 32", "matches": "first", "simulations": "NULL"}.get(table, "dictionary")
            assert database.connection.execute(f"SELECT count(*) FROM {table} WHERE {column} = 1").fetchone() == (0,), (
                table
            )
        left = database.connection.execute(
            "SELECT count(DISTINCT dictionary) FROM simulations JOIN latents ON id = simulations.latent"
        )
        assert left.fetchone() == (1,)
        assert database.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert browser.cards(2, limit=100) == second
        check_words(database)


def check_words(database: FeatureDatabase) -> None:
    """The index of words agrees with the texts: SQLite raises an error where it does not."""
    database.connection.execute("INSERT INTO card_words (card_words, rank) VALUES ('integrity-check', 1)")


def test_what_does_not_fit_is_refused_and_preparation_is_remembered(own: Path) -> None:
    with FeatureDatabase.open(own / FILE) as database:
        card = Card(1, 0, 0.1, 1.0)
        for cards, details, reason in (
            ([card], [], "1 cards and 0 details"),
            ([Card(2, 0, 0.1, 1.0)], [Detail()], "of dictionary 2"),
            ([Card(1, 0, 0.1, 1.0, explanation="text")], [Detail()], "both or neither"),
        ):
            with pytest.raises(ConfigurationError, match=reason):
                put_cards(database, 1, cards, details)
        with pytest.raises(ConfigurationError, match=r"in two pairs"):
            put_matches(database, 1, 2, [(0, 1, 0.5), (3, 1, 0.4)])
        with pytest.raises(ConfigurationError, match=r"no top contexts on the test split"):
            put_simulations(database, 1, "top", {999: np.zeros((1, 64))})
        with pytest.raises(ConfigurationError, match=r"shape \(2, 3\).*expected \(\d+, 64\)"):
            put_simulations(database, 1, "top", {0: np.zeros((2, 3))})
        mark_prepared(database, 1, {"b": 1, "a": [2]}, {"seconds": 3})
        assert is_prepared(database, 1)
        assert is_prepared(database, 1, {"a": [2], "b": 1})
        assert not is_prepared(database, 1, {"a": [2]})
        assert preparation(database, 1) == ({"b": 1, "a": [2]}, {"seconds": 3})
        database.connection.execute("DELETE FROM corpora WHERE split = 'test'")
        assert not is_prepared(database, 1)
        assert preparation(database, 2) is None
        assert database.connection.execute("SELECT count(*) FROM strongest").fetchone() == (0,)
