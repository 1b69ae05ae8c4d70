"""Cutting text into fragments, against a plain loop, and the text of their tokens."""

from pathlib import Path

import numpy as np
import pytest
from feature_world import Memory

import sparsescope as ss
from sparsescope.errors import ConfigurationError
from sparsescope.features.fragments import Fragments, cut, pieces
from sparsescope.metrics.evaluate import draw_contexts


def by_hand(store: Memory, numbers: list[int], length: int, shortest: int) -> list[tuple[int, int, int]]:
    """Context, start and length of every fragment, position by position."""
    documents, kept = store.contexts("test").document.tolist(), store.kept("test").tolist()
    found = []
    for context in numbers:
        row, start = documents[context], 0
        for position in range(1, len(row) + 1):
            whole = position - start == length
            if whole or position == len(row) or row[position] != row[start]:
                if position - start >= shortest and row[start] >= 0 and any(kept[context][start:position]):
                    found.append((context, start, position - start))
                start = position
    return found


def places(fragments: Fragments) -> list[tuple[int, int, int]]:
    return list(
        zip(*(column.tolist() for column in (fragments.context, fragments.start, fragments.length)), strict=True)
    )


@pytest.mark.parametrize(("length", "shortest"), [(64, 16), (10, 10), (200, 1), (7, 3)])
def test_cutting_equals_a_plain_loop(length: int, shortest: int) -> None:
    store = Memory(seed=length)
    fragments = cut(store, "test", length=length, shortest=shortest)
    assert places(fragments) == by_hand(store, list(range(24)), length, shortest)
    tokens, kept = store.contexts("test"), store.kept("test")
    for number, (context, start, size) in enumerate(places(fragments)):
        inside = slice(start, start + size)
        assert fragments.ids[number, :size].tolist() == tokens.ids[context, inside].tolist()
        assert fragments.known[number, :size].tolist() == kept[context, inside].tolist()
        assert set(tokens.document[context, inside].tolist()) == {fragments.document[number]}
        assert fragments.real[number].tolist() == [True] * size + [False] * (length - size)
        assert not fragments.ids[number, size:].any()
        assert not fragments.known[number, size:].any()
    assert fragments.coverage == pytest.approx(fragments.known.sum() / store.rows("test"))
    assert len(fragments) == len(places(fragments))


def test_a_draw_of_contexts_is_that_of_evaluate() -> None:
    store = Memory()
    drawn = draw_contexts(store.contexts("test"), 800, 3).tolist()
    assert len(drawn) == 8
    fragments = cut(store, "test", max_tokens=800, seed=3)
    assert places(fragments) == by_hand(store, drawn, 64, 16)
    larger = cut(store, "test", max_tokens=1600, seed=3)
    assert set(places(fragments)) < set(places(larger))


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 ≤ shortest ≤ length"):
        cut(Memory(), "test", length=8)
    with pytest.raises(ConfigurationError, match="no stretch of 90 tokens of one document"):
        cut(Memory(contexts=1, length=30), "test", length=90, shortest=90)


def test_the_tokens_of_a_fragment_together_are_its_text(small_store: Path, tiny_model_dir: Path) -> None:
    store, tokenizer = ss.load_store(small_store), ss.load_model(str(tiny_model_dir)).tokenizer
    fragments = cut(store, "test")
    assert 0.2 < fragments.coverage <= 1
    for number, texts in zip((0, 3), fragments.texts(tokenizer, [0, 3]), strict=True):
        ids = fragments.ids[number, : fragments.length[number]].tolist()
        assert texts == pieces(tokenizer, ids)
        assert "".join(texts) == tokenizer.decode(ids)
    odd = tokenizer("naïve 日本 \x00 word")["input_ids"]  # characters of several tokens
    ids = np.zeros((1, 64), np.int32)
    ids[0, : len(odd)] = odd
    made = Fragments(
        fragments.tokens, "test", ids, ids > 0, ids > 0, *(np.array([n]) for n in (0, 0, len(odd), 0)), coverage=1.0
    )
    assert made.texts(tokenizer, [0]) == [pieces(tokenizer, odd)]
    assert "".join(made.texts(tokenizer, [0])[0]) == "naïve 日本 \x00 word"
