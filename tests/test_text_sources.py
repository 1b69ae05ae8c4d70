"""Where text comes from: builtin documentation and stories with true labels, files, hubs."""

import json
import re
import subprocess
import sys
from itertools import islice

import pytest

from sparsescope.errors import ConfigurationError
from sparsescope.text import load_text, stories
from sparsescope.text.docs import python_documents
from sparsescope.text.giving import (
    CLAUSES,
    HELD_OUT_CLAUSES,
    HELD_OUT_OPENINGS,
    OPENINGS,
    held_out_forms,
    surface_forms,
)
from sparsescope.text.lexicon import FEMALE, GIVING_NAMES, OTHER_NAMES

TALES = list(islice(stories(seed=3), 400))


def spans(document, name):
    return [(document.text[label.start : label.end], label) for label in document.labels if label.name == name]


def test_names_roles_and_mentions_are_where_the_labels_say():
    for tale in TALES:
        seen = set()
        for words, label in spans(tale, "name"):
            assert words == label.value
            mention = next(m.value for m in tale.labels if m.name == "mention" and m.start == label.start)
            assert mention == ("later" if words in seen else "first")
            seen.add(words)
        for words, label in spans(tale, "role"):
            assert label.value in ("subject", "indirect_object")
            assert words in GIVING_NAMES


def test_whoever_gives_differs_from_whoever_receives_in_each_sentence_of_giving():
    found = 0
    for tale in TALES:
        roles = spans(tale, "role")
        for first in range(0, len(roles), 4):  # two introductions, the subject again, the receiver again
            a, b, giver, receiver = roles[first : first + 4]
            assert giver[0] != receiver[0]
            assert {a[0], b[0]} == {giver[0], receiver[0]}
            assert (giver[1].value, receiver[1].value) == ("subject", "indirect_object")
            assert {words: label.value for words, label in (a, b)} == {
                giver[0]: "subject",
                receiver[0]: "indirect_object",
            }
            found += 1
    assert found > 300


def test_held_out_names_never_give_or_receive_and_held_out_forms_never_occur():
    for tale in TALES:
        assert not {words for words, _ in spans(tale, "role")} & set(OTHER_NAMES)
    text = "\n".join(tale.text for tale in TALES)
    assert all(name in text for name in OTHER_NAMES)
    for form in (*HELD_OUT_OPENINGS, *HELD_OUT_CLAUSES):
        pattern = re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(form))
        assert not re.search(pattern, text), form
    assert len(set(surface_forms())) >= 200
    assert not set(held_out_forms()) & set(surface_forms())
    assert not set(OPENINGS) & set(HELD_OUT_OPENINGS)
    assert not set(CLAUSES) & set(HELD_OUT_CLAUSES)


def test_brackets_close_and_their_depth_is_the_label():
    for tale in TALES:
        for words, label in spans(tale, "brackets"):
            assert words[0] == "("
            assert words[-1] == ")"
            assert words.count("(") == words.count(")")
            before = tale.text[: label.start]
            assert before.count("(") - before.count(")") == int(label.value) - 1


def test_agreement_quotation_gender_date_and_topic_are_true():
    plural = {"are", "were", "have", "seem", "come"}
    for tale in TALES:
        for words, label in spans(tale, "number"):
            assert (words in plural) == (label.value == "plural")
        for words, _ in spans(tale, "quotation"):
            assert words[0] == words[-1] == '"'
        assert tale.text.count('"') == 2 * len(spans(tale, "quotation"))
        for words, label in spans(tale, "gender"):
            assert (words in ("she", "her")) == (label.value == "female")
        for words, label in spans(tale, "date"):
            assert words.isdigit() or label.value in ("whole", "month", "day")
        (whole, _), *more = spans(tale, "topic")
        assert whole == tale.text
        assert not more
    assert set(GIVING_NAMES) & set(OTHER_NAMES) == set()
    assert set(GIVING_NAMES + OTHER_NAMES) >= FEMALE


def test_story_i_depends_on_the_seed_alone():
    assert [tale.text for tale in islice(stories(3), 20)] == [tale.text for tale in TALES[:20]]
    assert next(stories(4)).text != TALES[0].text


def test_python_documentation_is_found_without_importing_it():
    documents = python_documents()
    assert len(documents) > 200
    assert any("argparse.ArgumentParser" in document.text for document in documents)
    assert any(document.source.startswith("help topic") for document in documents)
    code = (
        "import sys; from sparsescope.text.docs import python_documents; before = set(sys.modules); "
        "python_documents(); new = set(sys.modules) - before; "
        "assert not new & {'pydoc_data.topics', 'antigravity', 'turtle', 'smtplib'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_builtin_docs_is_half_stories_by_characters_and_repeats():
    documents = list(load_text("builtin:docs"))
    tales = sum(len(document.text) for document in documents if document.labels)
    assert tales / sum(len(document.text) for document in documents) == pytest.approx(0.5, abs=0.01)
    assert [document.text for document in load_text("builtin:docs")] == [document.text for document in documents]
    assert load_text("builtin:docs").fingerprint != load_text("builtin:docs", seed=1).fingerprint


def test_files_of_every_kind_and_directories_give_their_documents(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.txt").write_text("one, naïve")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n\n{"text": "three", "more": 1}\n')
    pq.write_table(pa.table({"text": ["four", "five"], "id": [1, 2]}), tmp_path / "c.parquet")
    (tmp_path / "ignored.md").write_text("no")
    expected = ["one, naïve", "two", "three", "four", "five"]
    text = load_text(tmp_path)
    assert [document.text for document in text] == expected
    assert [document.text for document in text] == expected
    assert [document.text for document in load_text([tmp_path / "b.jsonl", tmp_path / "a.txt"])] == [
        "two",
        "three",
        "one, naïve",
    ]
    before = text.fingerprint
    (tmp_path / "a.txt").write_text("changed")
    assert load_text(tmp_path).fingerprint != before


def test_what_cannot_be_read_is_named(tmp_path):
    def refused(spec, message):
        with pytest.raises(ConfigurationError, match=message):
            list(load_text(spec))

    refused(str(tmp_path / "none.txt"), "none.txt does not exist")
    (tmp_path / "empty.txt").write_text("")
    refused(tmp_path / "empty.txt", "empty.txt is empty: expected text")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    refused(tmp_path / "latin.txt", "latin.txt is not UTF-8 text")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    refused(tmp_path / "bad.jsonl", "bad.jsonl line 2 is not JSON")
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    refused(tmp_path / "other.jsonl", "line 1 has no text: expected an object with a string under 'text'")
    (tmp_path / "bad.parquet").write_text("no parquet")
    refused(tmp_path / "bad.parquet", "is not a Parquet file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "holds no text: expected files ending in .txt, .jsonl, .parquet")
    refused("builtin:dosc", "unknown text 'builtin:dosc'.*Did you mean 'builtin:docs'")
    refused([], "no text given")


def test_a_hub_data_set_is_streamed_from_a_local_directory_in_the_same_format(tmp_path, monkeypatch):
    from sparsescope.text.files import read_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(5)))
    assert [document.text for document in read_hub(str(folder))] == [f"row {i}" for i in range(5)]
    with pytest.raises(ConfigurationError, match="neither a file nor a directory here, and the hub did not give it"):
        read_hub("nobody/nothing-of-this-name")
