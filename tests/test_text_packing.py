"""Packing loses nothing, mixes no splits, and keeps every boundary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsescope.errors import ConfigurationError, ModelError
from sparsescope.text import Document, Text, Tokens, bos_policy, load_text, pack


def byte_tokenizer(bos: bool = True, adds_bos: bool = False):
    """One token per byte, ids 1 to 256; id 0 is the BOS where there is one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, **{letter: index for index, letter in enumerate(alphabet, 1)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>" if bos else None)


TOKENIZER = byte_tokenizer()
NO_BOS = byte_tokenizer(bos=False)
ADDS_BOS = byte_tokenizer(adds_bos=True)


def text_of(*texts: str) -> Text:
    return Text("a list", "none", lambda: (Document(text) for text in texts))


def many(count: int, length: int) -> list[str]:
    return [f"{number:04d}" + "x" * (length - 4) for number in range(count)]


def test_offsets_point_at_the_characters_of_each_token():
    texts = [f"Document {number}: naïve café, “quoted” — end.\n" for number in range(60)]
    tokens = Tokens.join(pack(text_of(*texts), TOKENIZER, context=16, bos="document"))
    for ids, source, start, end, bos in zip(
        tokens.ids.flatten(),
        tokens.source.flatten(),
        tokens.start.flatten(),
        tokens.end.flatten(),
        tokens.bos.flatten(),
        strict=True,
    ):
        character = texts[source][start:end]
        assert (int(ids) == 0 and character == "") if bos else len(character) == 1
        if character.isascii() and not bos:
            assert TOKENIZER.decode([int(ids)]) == character


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(8, 90), min_size=30, max_size=60),
    st.integers(4, 24),
    st.sampled_from(["document", "context", "none"]),
    st.integers(0, 5),
)
def test_every_split_is_its_documents_in_order_with_only_the_last_incomplete_context_dropped(
    lengths, context, bos, seed
):
    texts = [chr(97 + number % 26) * length for number, length in enumerate(lengths)]
    tokens = Tokens.join(pack(text_of(*texts), TOKENIZER, context=context, bos=bos, seed=seed))
    for split in range(3):
        rows = tokens.split == split
        document, ids, mark = (getattr(tokens, name)[rows].flatten() for name in ("document", "ids", "bos"))
        members = sorted(set(document.tolist()))
        assert document.tolist() == sorted(document.tolist())
        expected = "".join(texts[member] for member in members)
        got = TOKENIZER.decode(ids[~mark].tolist())
        assert expected.startswith(got)
        if bos == "context":
            assert tokens.bos[rows][:, 0].all()
            assert not tokens.bos[rows][:, 1:].any()
        elif bos == "document":
            starts = torch.nonzero(mark).flatten().tolist()
            first = [document.tolist().index(member) for member in members]
            assert starts == first
        else:
            assert not mark.any()
    splits = [set(tokens.document[tokens.split == split].flatten().tolist()) for split in range(3)]
    assert sum(map(len, splits)) == len(set.union(*splits))


def test_of_every_ten_documents_eight_one_and_one_go_to_the_splits():
    tokens = Tokens.join(pack(text_of(*many(100, 8)), TOKENIZER, context=8, bos="none"))
    for block in range(10):
        inside = (tokens.document[:, 0] >= 10 * block) & (tokens.document[:, 0] < 10 * block + 10)
        assert tokens.split[inside].bincount(minlength=3).tolist() == [8, 1, 1]
    other = Tokens.join(pack(text_of(*many(100, 8)), TOKENIZER, context=8, bos="none", seed=1))
    assert not torch.equal(tokens.split, other.split)


def test_long_documents_are_cut_at_paragraph_ends_then_lines_then_anywhere():
    paragraphs = [f"paragraph {number} " + "y" * 20 for number in range(40)]
    text = "\n\n".join(paragraphs)
    tokens = Tokens.join(pack(text_of(text), TOKENIZER, context=4, bos="none", max_document_tokens=100))
    starts = {}
    for document, start in zip(tokens.document.flatten().tolist(), tokens.start.flatten().tolist(), strict=True):
        starts[document] = min(start, starts.get(document, start))
    assert len(starts) > 10
    assert all(text[start:].startswith("paragraph") for start in starts.values())
    text = "\n".join(paragraphs)
    lines = Tokens.join(pack(text_of(text), TOKENIZER, context=4, bos="none", max_document_tokens=100))
    whole = []
    for split in range(3):
        document, start = (getattr(lines, name)[lines.split == split].flatten() for name in ("document", "start"))
        first = torch.nonzero(torch.diff(document, prepend=document.new_tensor([-1]))).flatten()
        whole += [text[at:].startswith("paragraph") for at in start[first].tolist()]
    assert len(whole) > 10
    assert all(whole)
    solid = Tokens.join(pack(text_of("z" * 4000), TOKENIZER, context=4, bos="none", max_document_tokens=100))
    assert solid.document.max() == 39


def test_bos_policy_follows_the_tokenizer_and_id_zero_is_a_bos():
    assert TOKENIZER.bos_token_id == 0
    assert bos_policy(TOKENIZER) == "document"
    assert bos_policy(ADDS_BOS) == "context"
    assert bos_policy(NO_BOS) == "none"
    assert bos_policy(TOKENIZER, "none") == "none"
    with pytest.raises(ConfigurationError, match="needs a tokenizer with a BOS token; this one has none"):
        bos_policy(NO_BOS, "context")
    with pytest.raises(ConfigurationError, match="unknown BOS policy 'maybe'"):
        bos_policy(TOKENIZER, "maybe")


def test_packing_stops_at_the_tokens_asked_for_and_says_when_there_are_fewer():
    assert sum(t.ids.numel() for t in pack(text_of(*many(100, 20)), TOKENIZER, context=10, tokens=200)) == 200
    with pytest.raises(ConfigurationError, match="has 2,000 tokens in whole contexts, asked for 5,000"):
        list(pack(text_of(*many(100, 20)), TOKENIZER, context=10, bos="none", tokens=5000))


def test_bad_texts_and_contexts_are_refused():
    with pytest.raises(ConfigurationError, match="contains no text"):
        list(pack(text_of(), TOKENIZER, context=8))
    with pytest.raises(ConfigurationError, match="contains no text"):
        list(pack(text_of("", ""), TOKENIZER, context=8, bos="none"))
    with pytest.raises(
        ConfigurationError, match="too short: its 5 tokens do not fill one context of 8 tokens for train"
    ):
        list(pack(text_of("short"), TOKENIZER, context=8, bos="none"))
    with pytest.raises(ConfigurationError, match="for validation"):
        list(pack(text_of("long enough" * 10), TOKENIZER, context=8, bos="none"))
    with pytest.raises(ConfigurationError, match="first 16 tokens of a list do not fill one context of 8 tokens for"):
        list(pack(text_of(*many(100, 20)), TOKENIZER, context=8, tokens=16))
    with pytest.raises(ConfigurationError, match="context is 1"):
        list(pack(text_of("text"), TOKENIZER, context=1))
    with pytest.raises(ModelError, match="no tokenizer"):
        list(pack(text_of("text"), None, context=8))


def test_builtin_docs_packs_the_same_twice():
    first, second = (
        Tokens.join(pack(load_text("builtin:docs"), TOKENIZER, context=64, tokens=50_000)) for _ in range(2)
    )
    assert torch.equal(first.ids, second.ids)
