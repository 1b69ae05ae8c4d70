"""Explanations by rules: planted latents are found, on documents that were not explained from."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from rules_world import (
    NAMES,
    PIECES,
    Plant,
    correlation,
    evidence_of,
    fragments_of,
    on,
    packed,
    planted,
    sentences,
    synthetic,
)
from threadpoolctl import threadpool_limits

import sparsescope as ss
from sparsescope.errors import ConfigurationError
from sparsescope.features.fragments import Fragments
from sparsescope.interpret.base import Evidence, Explanation, Skipped
from sparsescope.interpret.rules import Lookup, Rules
from sparsescope.text import Tokens, load_text, pack


def follows(before: tuple[str, ...], token: str | None = None) -> Plant:
    """Active right after some tokens, on one token or on any."""

    def codes(pieces, draw):
        pairs = zip(["", *pieces], pieces, strict=False)
        return [draw.uniform(2, 4) * (left in before and token in (None, piece)) for left, piece in pairs]

    return codes


def inside(opening: str, closing: str) -> Plant:
    """Active between two marks, neither of them included."""

    def codes(pieces, draw):
        found, is_open = [], False
        for piece in pieces:
            closes = is_open and piece.endswith(closing)
            found.append(3.0 * (is_open and not closes))
            is_open = not closes and (is_open or piece.endswith(opening))
        return found

    return codes


def number(pieces, draw):
    return [2.0 * piece.strip().isdigit() for piece in pieces]


def second_name(pieces, draw):
    return [4.0 * (piece.strip() in NAMES and pieces[:place].count(piece) == 1) for place, piece in enumerate(pieces)]


def beginning(pieces, draw):
    return [float(pieces[0] == "<|end|>" and place <= 3) for place in range(len(pieces))]


def topic(pieces, draw):
    return [2.0 * (piece == " to" and " river" in pieces[max(0, i - 30) : i]) for i, piece in enumerate(pieces)]


def ending(pieces, draw):
    pairs = zip(["", *pieces], pieces, strict=False)
    return [2.0 * (piece.endswith("ing") and left.strip() in NAMES) for left, piece in pairs]


@pytest.fixture(scope="module")
def texts() -> tuple[Fragments, Fragments]:
    return synthetic()


@pytest.fixture(scope="module")
def rules() -> Rules:
    return Rules(PIECES)


def explained(explainer: Lookup | Rules, evidence: Evidence) -> Explanation:
    (found,) = explainer.explain([evidence])
    assert isinstance(found, Explanation)
    return found


PLANTED = {
    "after": (follows((" don't", " can't"), " stop"), "' stop' right after {", " don't"),
    "any after": (follows((" don't",)), "after", " don't"),
    "bracket": (follows((" (",)), "any token right after", "' ('"),
    "quotation": (inside('"', '"'), "any token inside a quotation", ""),
    "number": (number, "any token that is a number", ""),
    "second": (second_name, "seen before in its document", " Mary"),
    "beginning": (beginning, "among the first 4 tokens of its document", ""),
    "topic": (topic, "' to' with ' river' in the 32 tokens before", ""),
    "ending": (ending, "jumping", ""),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_context_is_found(name, texts, rules) -> None:
    plant, *words = PLANTED[name]
    codes, unseen = (planted(fragments, PIECES, plant, seed) for seed, fragments in enumerate(texts))
    evidence = evidence_of(texts[0], codes, PIECES)
    found = explained(rules, evidence)
    reached = correlation(rules, found, texts[1], unseen)
    assert reached > 0.93
    for word in words:
        assert word in found.text
    assert "of the activation)" in found.text
    numbers = np.arange(len(texts[1]))
    (alone,) = rules.simulate([rules.stage(found, "lookup")], texts[1], [numbers])
    if alone[texts[1].known].std():  # numbers of these documents were never seen: nothing to look up
        known = texts[1].known
        assert np.corrcoef(alone[known], on(texts[1], unseen)[known])[0, 1] < reached - 0.2


def test_one_token_needs_nothing_but_the_lookup(texts, rules) -> None:
    codes, unseen = (
        planted(fragments, PIECES, lambda pieces, draw: [5.0 * (piece == " stop") for piece in pieces])
        for fragments in texts
    )
    found = explained(rules, evidence_of(texts[0], codes, PIECES))
    assert found.text == "' stop' (1.00 of the activation)"
    assert set(found.body) == {"lookup", "left out"}
    assert correlation(rules, found, texts[1], unseen) > 0.99


@pytest.mark.parametrize("share", [0.1, None])
def test_what_no_rule_explains_is_left_to_the_lookup(share, texts, rules) -> None:
    """A tenth of a token's occurrences at random, and noise: rules found by chance would cost correlation."""

    def plant(pieces, draw):
        if share is None:
            return np.maximum(draw.normal(size=len(pieces)), 0)
        return [5.0 * (piece == " stop" and draw.random() < share) for piece in pieces]

    codes, unseen = (planted(fragments, PIECES, plant, seed) for seed, fragments in enumerate(texts))
    evidence = evidence_of(texts[0], codes, PIECES)
    simple = Lookup(PIECES)
    least = correlation(simple, explained(simple, evidence), texts[1], unseen) - 0.02
    assert correlation(rules, explained(rules, evidence), texts[1], unseen) > least


def test_json_and_a_fresh_simulator_give_the_same_numbers(texts, rules) -> None:
    bodies = []
    for name in ("after", "quotation", "second"):
        evidence = evidence_of(texts[0], planted(texts[0], PIECES, PLANTED[name][0]), PIECES)
        found = explained(rules, evidence)
        with threadpool_limits(2):
            assert explained(Rules(PIECES), evidence) == found
        bodies.append(found)
    numbers = [np.arange(7), np.array([3]), np.array([], np.int64)]
    again = [replace(found, body=json.loads(json.dumps(found.body, allow_nan=False))) for found in bodies]
    ours, theirs = rules.simulate(bodies, texts[1], numbers), Rules(PIECES).simulate(again, texts[1], numbers)
    for a, b, chosen in zip(ours, theirs, numbers, strict=True):
        assert a.dtype == np.float32
        assert (a == b).all()
        assert (a[~texts[1].real[chosen]] == 0).all()
    assert max(len(json.dumps(found.body)) for found in bodies) < 6000


def test_the_first_stage_is_the_lookup(texts, rules) -> None:
    evidence = evidence_of(texts[0], planted(texts[0], PIECES, PLANTED["after"][0]), PIECES)
    whole, simple = explained(rules, evidence), Lookup(PIECES)
    numbers = [np.arange(len(texts[1]))]
    (ours,) = rules.simulate([rules.stage(whole, "lookup")], texts[1], numbers)
    (theirs,) = simple.simulate([explained(simple, evidence)], texts[1], numbers)
    assert (ours == theirs).all()
    assert rules.stage(whole, "tree") == whole


def test_predicts_is_any_token_at_one_or_above(texts, rules) -> None:
    found = explained(rules, evidence_of(texts[0], planted(texts[0], PIECES, PLANTED["bracket"][0]), PIECES))
    (expected,) = rules.simulate([found], texts[1], [np.arange(len(texts[1]))])
    mask = rules.predicts(found, texts[1])
    assert mask.dtype == bool
    assert mask.tolist() == [(row[known] >= 1).any() for row, known in zip(expected, texts[1].known, strict=True)]
    assert 0 < mask.sum() < len(mask)


@pytest.mark.parametrize("explainer", [Lookup, Rules])
def test_latents_that_rules_cannot_explain(explainer, texts) -> None:
    fragments = texts[0]
    shape = tuple(fragments.tokens.ids.shape)
    few = np.zeros(shape)
    chosen = np.flatnonzero(fragments.known[:, 1])[:4]
    few[fragments.context[chosen], fragments.start[chosen] + 1] = 1.0
    cases = {"never fires": np.zeros(shape), "fires on every token": np.ones(shape), "too few contexts": few}
    everything = [evidence_of(fragments, codes, PIECES) for codes in cases.values()]
    assert explainer(PIECES).explain(everything) == [Skipped(reason) for reason in cases]


def test_one_document_gives_a_lookup() -> None:
    words = [token for sentence in sentences(30, 3, range(20)) for token in sentence]
    fragments = fragments_of(packed([words]))
    codes = planted(fragments, PIECES, PLANTED["bracket"][0])
    found = explained(Rules(PIECES), evidence_of(fragments, codes, PIECES))
    assert set(found.body) == {"lookup", "left out"}


def test_refusals(texts, rules) -> None:
    evidence = evidence_of(texts[0], planted(texts[0], PIECES, number), PIECES)
    found = explained(Lookup(PIECES), evidence)
    with pytest.raises(ConfigurationError, match="made by 'lookup', expected 'rules'"):
        rules.simulate([found], texts[1], [np.arange(2)])
    with pytest.raises(ConfigurationError, match="expected as many of both"):
        rules.simulate([], texts[1], [np.arange(2)])
    with pytest.raises(ConfigurationError, match="unknown stage 'trees'"):
        rules.stage(found, "trees")
    for explainer in (Lookup(PIECES[:50]), Rules(PIECES[:50])):
        with pytest.raises(ConfigurationError, match="vocabulary has 50 tokens"):
            explainer.explain([evidence])


def test_corpus_text_cannot_act_in_a_sentence(texts) -> None:
    hostile = [*PIECES]
    hostile[PIECES.index(" stop")] = "\x1b[2J\u202e\n"
    hostile[PIECES.index(" don't")] = "\r\x00don't"
    codes = planted(texts[0], PIECES, follows((" don't",), " stop"))
    text = explained(Rules(hostile), evidence_of(texts[0], codes, hostile)).text
    assert text.isprintable()
    assert r"'\x1b[2J\u202e\n' right after " in text


STORIES = {
    "second": lambda pieces, draw: [
        3.0 * (piece[:1] == " " and piece[1:2].isupper() and pieces[:place].count(piece) == 1)
        for place, piece in enumerate(pieces)
    ],
    "brackets": inside(" (", ")"),
    "article": follows((" said",)),
}


@pytest.fixture(scope="module")
def stories() -> tuple[list[str], list[Fragments]]:
    tokenizer = ss.load_model("builtin:tiny").tokenizer
    contexts = list(islice(pack(load_text("builtin:stories"), tokenizer), 700))
    splits = [Tokens.join([one for one in contexts if int(one.split) == split]) for split in (1, 2)]
    return [tokenizer.decode([token]) for token in range(len(tokenizer))], [fragments_of(each) for each in splits]


@pytest.mark.parametrize("name", STORIES)
def test_planted_in_stories(name, stories) -> None:
    pieces, (explaining, scoring) = stories
    assert not set(explaining.document) & set(scoring.document)
    codes, unseen = (planted(fragments, pieces, STORIES[name]) for fragments in (explaining, scoring))
    evidence = evidence_of(explaining, codes, pieces)
    rules, simple = Rules(pieces), Lookup(pieces)
    reached = correlation(rules, explained(rules, evidence), scoring, unseen)
    assert reached > 0.85
    assert reached > correlation(simple, explained(simple, evidence), scoring, unseen) + 0.2
