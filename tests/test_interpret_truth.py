"""Labels of stories joined to tokens, and latents planted to stand for some of them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from metrics_world import Linear
from sklearn.metrics import f1_score

from sparsescope.activations.base import Activations, Block
from sparsescope.errors import ArtifactError, ConfigurationError
from sparsescope.features.fragments import Fragments, cut
from sparsescope.interpret.base import Skipped
from sparsescope.interpret.labels import LabelledTokens, candidates, check_text, label_tokens
from sparsescope.interpret.matching import best_labels, chance_f1, f1_table
from sparsescope.interpret.truth import LatentTruth, rank_scores, truth
from sparsescope.text import SPLITS, Document, Label, Text, Tokens, load_text, pack

SITE = "resid_post.0"
STORIES = 260


def characters(texts: list[str], **_: Any) -> dict[str, list]:
    """A tokenizer: words with the space before them, cut after four characters."""
    found: dict[str, list] = {"input_ids": [], "offset_mapping": []}
    for text in texts:
        offsets, start = [], 0
        while start < len(text):
            end = start + 1
            while end < len(text) and text[end] != " " and end - start < 5:
                end += 1
            offsets.append((start, end))
            start = end
        found["offset_mapping"].append(offsets)
        found["input_ids"].append([hash_of(text[a:b]) for a, b in offsets])
    return found


def hash_of(piece: str) -> int:
    return 1 + sum(ord(character) * 31**i for i, character in enumerate(piece)) % 499


class Tokenizer:
    bos_token_id = 0

    def __call__(self, texts: Any, **settings: Any) -> Any:
        return SimpleNamespace(input_ids=[1]) if isinstance(texts, str) else characters(texts, **settings)


class Known(Activations):
    """Activations which say what the labels of a token are: one dimension each for some, noise in the last."""

    def __init__(self, text: Text, dimensions: list[tuple[str, str | None]], seed: int = 0) -> None:
        whole = Tokens.join(pack(text, Tokenizer(), context=64))
        self.tables = {}
        for number, split in enumerate(SPLITS):
            rows = whole.split == number
            self.tables[split] = Tokens(*(getattr(whole, name)[rows] for name in Tokens.__dataclass_fields__))
        self.sites, self.config, self.inputs = [SITE], {"context": 64}, {"text": text.fingerprint}
        self.seed, self.fingerprint = seed, "known"
        self.documents, self.dimensions = list(text), dimensions

    def __repr__(self) -> str:
        return "the activations in memory"

    def width(self, site: str) -> int:
        return len(self.dimensions) + 1

    def rows(self, split: str) -> int:
        return int(self.kept(split).sum())

    def kept(self, split: str) -> torch.Tensor:
        return self.tables[split].document >= 0

    def contexts(self, split: str) -> Tokens:
        return self.tables[split]

    def mean(self, site: str) -> Any:
        raise NotImplementedError("not needed here")

    mean_square = batches = mean  # type: ignore[assignment]

    def x(self, split: str) -> torch.Tensor:
        """2 where the label is, in three tokens of four; noise that fires on a tenth of all tokens."""
        tokens, chance = self.tables[split], np.random.default_rng(SPLITS.index(split))
        found = np.zeros((*tokens.ids.shape, len(self.dimensions) + 1), np.float32)
        for place in np.ndindex(*tokens.ids.shape):
            labels = spelled_out(self.documents, tokens, place)
            found[place][:-1] = [2.0 * (name in labels and chance.random() < 0.75) for name in self.dimensions]
            found[place][-1] = chance.random() < 0.1
        return torch.from_numpy(found)[self.kept(split)]

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        context, position = self.kept(split).nonzero(as_tuple=True)
        x, document = self.x(split), self.tables[split].document[context, position]
        for begin in range(0, len(x), rows):
            part = slice(begin, begin + rows)
            yield Block(x[part], document[part], position[part], context[part])


def spelled_out(documents: list[Document], tokens: Tokens, place: tuple[int, ...]) -> set[tuple[str, str | None]]:
    """The labels of a token, character by character."""
    if tokens.bos[place]:
        return set()
    document = documents[int(tokens.source[place])]
    found: set[tuple[str, str | None]] = set()
    for character in range(int(tokens.start[place]), int(tokens.end[place])):
        for label in document.labels:
            if label.start <= character < label.end:
                found |= {(label.name, label.value), (label.name, None)}
    return found


DIMENSIONS: list[tuple[str, str | None]] = [
    ("name", None), ("brackets", None), ("role", "indirect_object"), ("mention", "later"),
]  # fmt: skip


@pytest.fixture(scope="module")
def text() -> Text:
    whole = load_text("builtin:stories")
    plain = [Document("Nobody knows what is said here, or why it is. " * 6, (), "plain")] * 30

    def read() -> Iterator[Document]:
        yield from (item for pair in zip(islice(whole, 30), plain, strict=True) for item in pair)
        yield from islice(whole, 30, STORIES)

    return Text("some stories", "stories-1", read)


@pytest.fixture(scope="module")
def store(text: Text) -> Known:
    return Known(text, DIMENSIONS)


@pytest.fixture(scope="module")
def labelled(text: Text, store: Known) -> dict[str, LabelledTokens]:
    return {split: label_tokens(text, cut(store, split)) for split in ("validation", "test")}


def identity(n: int) -> Linear:
    eye = torch.eye(n)
    return Linear(directions=eye, encoder=eye, offset=torch.zeros(n), bias=torch.zeros(n)).with_provenance(site=SITE)


def test_tokens_have_the_labels_of_the_spans_they_overlap(store: Known, labelled: dict[str, LabelledTokens]):
    tokens, joined = store.contexts("test"), labelled["test"]
    fragments: Fragments = joined.fragments
    found: dict[int, set] = {row: set() for row in range(len(joined))}
    for row, label in zip(joined.at, joined.label, strict=True):
        assert joined.names[label] not in found[int(row)]
        found[int(row)].add(joined.names[label])
    seen = 0
    for number, position in np.ndindex(*fragments.ids.shape):
        row = int(joined.row[number, position])
        if not fragments.known[number, position]:
            assert row == -1
            continue
        place = (int(fragments.context[number]), int(fragments.start[number]) + position)
        has_labels = bool(store.documents[int(tokens.source[place])].labels)
        assert (row >= 0) == (has_labels and not tokens.bos[place])
        if row >= 0:
            assert found[row] == spelled_out(store.documents, tokens, place)
            assert joined.document[row] == tokens.document[place]
            seen += 1
    assert seen == len(joined) > 1000
    table = joined.table([("name", None), ("no such", None)]).toarray()
    assert set(np.flatnonzero(table[:, 0])) == {row for row, names in found.items() if ("name", None) in names}
    assert not table[:, 1].any()


def test_the_label_that_a_latent_was_planted_for_is_found(store: Known, labelled: dict[str, LabelledTokens]):
    found = truth(identity(5), store, range(5), labelled["validation"], labelled["test"])
    expected = 2 * 0.75 / (0.75 + 1)  # precision 1, recall 3/4
    for item, (name, value) in zip(found, DIMENSIONS, strict=False):
        assert isinstance(item, LatentTruth)
        assert (item.name, item.value) == (name, value)
        assert item.f1.value == pytest.approx(expected, abs=0.08)
        assert item.f1.low < item.f1.value < item.f1.high
        assert item.f1.value > item.null + 0.2
        assert item.p == pytest.approx(1 / 51)
    noise = found[-1]
    assert isinstance(noise, LatentTruth)
    assert noise.f1.value == pytest.approx(noise.null, abs=0.05)
    assert noise.p > 0.05
    again = truth(identity(5), store, [2], labelled["validation"], labelled["test"])[0]
    assert isinstance(again, LatentTruth)
    assert isinstance(found[2], LatentTruth)
    assert (again.f1, again.latent) == (found[2].f1, 2)


def test_a_latent_that_never_fires_has_no_truth(store: Known, labelled: dict[str, LabelledTokens]):
    silent = Linear(
        directions=torch.eye(5), encoder=torch.eye(5), offset=torch.full((5,), -9.0), bias=torch.zeros(5)
    ).with_provenance(site=SITE)
    assert truth(silent, store, [1], labelled["validation"], labelled["test"]) == [Skipped("never fires")]


def test_f1_is_that_of_scikit_learn_and_the_threshold_is_chosen_where_the_label_is():
    generator = np.random.default_rng(0)
    labels = (generator.random((2, 600, 4)) < [0.1, 0.3, 0.05, 0.5]).astype(np.float32)
    codes = generator.random((2, 600, 3)).astype(np.float32) * 0.04 * (generator.random((2, 600, 3)) < 0.5)
    codes[:, :, 0] += labels[:, :, 1] * (generator.random((2, 600)) < 0.9)
    fires, table = (codes[0] > 0), labels[0]
    found = f1_table(scipy.sparse.csc_matrix(fires.astype(np.float32)), scipy.sparse.csr_matrix(table))
    for latent, label in np.ndindex(3, 4):
        assert found[latent, label] == pytest.approx(f1_score(table[:, label], fires[:, latent]))
    shuffled = generator.permuted(np.repeat(fires[None].astype(np.float32), 300, 0), axis=1)
    by_chance = np.mean(
        [f1_table(scipy.sparse.csc_matrix(part), scipy.sparse.csr_matrix(table)) for part in shuffled], 0
    )
    expected = chance_f1(scipy.sparse.csc_matrix(fires.astype(np.float32)), scipy.sparse.csr_matrix(table))
    np.testing.assert_allclose(by_chance, expected, atol=0.005)
    document = np.repeat(np.arange(30), 20)
    best = best_labels(
        *(scipy.sparse.csc_matrix(part) for part in codes),
        *(scipy.sparse.csr_matrix(part) for part in labels),
        document,
    )
    assert best[0] is not None
    assert best[0].label == 1
    assert best[0].threshold > 0  # below it there is noise
    strong = codes[1][:, 0] > best[0].threshold * codes[0][:, 0].max()
    assert best[0].f1.value == pytest.approx(f1_score(labels[1][:, 1], strong))
    assert best[0].p == pytest.approx(1 / 51)
    assert best[1] is not None
    assert best[1].p > 0.05
    assert best[1].null == pytest.approx(best[1].f1.value, abs=0.1)


def test_labels_must_be_there_and_frequent_and_of_the_text_that_was_read(
    text: Text, store: Known, labelled: dict[str, LabelledTokens]
):
    names = candidates(labelled["validation"], labelled["test"])
    assert ("name", None) in names
    assert len(set(names)) == len(names)
    assert names.index(("name", None)) < names.index(("mention", None))
    for name in names:
        for tokens in labelled.values():
            assert tokens.table([name]).sum() >= 10
    check_text(text, store)
    with pytest.raises(ArtifactError, match="made from another text than others"):
        check_text(Text("others", "stories-2", text.read), store)
    bare = Text("bare", "bare", lambda: (Document(document.text) for document in text))
    with pytest.raises(ConfigurationError, match="has truth labels"):
        label_tokens(bare, labelled["test"].fragments)
    rare = Text("rare", "rare", lambda: (Document(d.text, (Label(0, 1, "first", "a"),)) for d in text))
    few = [label_tokens(rare, labelled[split].fragments) for split in ("validation", "test")]
    few[0] = replace(few[0], at=few[0].at[:3], label=few[0].label[:3])
    with pytest.raises(ConfigurationError, match="no label is on 10 tokens"):
        candidates(*few)


def test_scores_are_ranked_by_how_well_they_know_the_truth_and_those_that_do_not_are_demoted():
    generator = np.random.default_rng(0)
    f1 = generator.random(200)
    scores = {
        "noise": generator.random(200),
        "good": f1 + generator.normal(0, 0.1, 200),
        "fair": f1 + generator.normal(0, 0.6, 200),
        "wrong": -f1,
        "undefined": np.full(200, math.nan),
    }
    scores["fair"][:20] = math.nan
    ranked = rank_scores(scores, f1)
    assert [item.score for item in ranked] == ["good", "fair", "noise", "wrong", "undefined"]
    assert [item.demoted for item in ranked] == [False, False, True, True, True]
    assert [item.agreement.n for item in ranked] == [200, 180, 200, 200, 0]
    within = rank_scores(scores, f1, dictionaries=np.repeat(np.arange(4), 50).tolist())
    assert within[0].score == "good"
