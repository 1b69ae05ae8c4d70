"""A model that was loaded here as explainer and simulator: against the same by hand, one slot at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from interpret_llm_world import SENTENCES, Words, level, make_evidence, make_fragments

from sparsescope.errors import ModelError
from sparsescope.interpret.base import Explanation, Skipped
from sparsescope.interpret.llm import LocalExplainer, LocalSimulator
from sparsescope.interpret.llm.cost import count_tokens
from sparsescope.interpret.llm.prompts import score_prompt
from sparsescope.models import LanguageModel, load_model, random_model, wrap

WORDS = Words()
FRAGMENTS = make_fragments(WORDS)
CATS = Explanation("cats and dogs", "someone", {})
ALL = np.arange(len(FRAGMENTS))
SMALL = {
    "model_type": "gpt_neox",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 2048,
}


@pytest.fixture(scope="module")
def builtin() -> LanguageModel:
    return load_model("builtin:tiny")


@pytest.fixture(scope="module")
def long(builtin: LanguageModel) -> LanguageModel:
    """An untrained model that reads 2,048 tokens."""
    tokenizer = builtin.tokenizer
    return random_model({**SMALL, "vocab_size": len(tokenizer)}, tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def apart(tiny_model_dir: Path) -> LanguageModel:
    """The same with a tokenizer for which '10' is two tokens."""
    tokenizer = load_model(tiny_model_dir).tokenizer
    assert len(tokenizer("10")["input_ids"]) == 2
    return random_model({**SMALL, "vocab_size": len(tokenizer)}, tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("name", ["long", "apart"])
def test_a_fragment_scored_at_once_is_the_same_slot_by_slot(name: str, request: pytest.FixtureRequest) -> None:
    lm: LanguageModel = request.getfixturevalue(name)
    top = 10 if name == "long" else 9
    tokenizer: Any = lm.tokenizer
    digits = [tokenizer(str(number))["input_ids"][-1] for number in range(top + 1)]
    values = LocalSimulator(lm, WORDS).simulate([CATS], FRAGMENTS, [np.array([3, 1])])[0]
    for row, sentence in zip(values, (SENTENCES[3], SENTENCES[1]), strict=True):
        tokens = Words.cut(sentence)
        for place in range(0, len(tokens), 3):
            prompt = score_prompt(CATS.text, tokens[: place + 1], top).removesuffix("?\n")
            logits = lm.logits(torch.tensor(tokenizer(prompt)["input_ids"])[None])[0, -1].double()
            p = [math.exp(logits[digit]) for digit in digits]
            expected = sum(k * q for k, q in enumerate(p)) / sum(p) * 10 / top
            assert row[place] == pytest.approx(expected, rel=1e-4)
        assert not row[len(tokens) :].any()


@pytest.mark.parametrize("name", ["long", "builtin"])
def test_a_model_that_knows_the_answer_gives_it(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the prompt must be shortened and the fragment cut: the builtin model reads 256 tokens."""
    lm: LanguageModel = request.getfixturevalue(name)
    tokenizer: Any = lm.tokenizer
    lengths = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(1, ids.shape[1], lm.vocabulary)
        line = ""
        lengths.append(ids.shape[1])
        for place, token in enumerate(tokenizer.decode([number]) for number in ids[0].tolist()):
            if token == "\t":
                found[0, place, tokenizer(str(level(line)))["input_ids"][-1]] = 100.0
            line = "" if token == "\n" else line + token
        return found

    monkeypatch.setattr(lm, "logits", logits)
    long_sentence = " ".join(SENTENCES[:3] * 5)
    words = Words([long_sentence])
    fragments = make_fragments(words, 192)
    true = [level(token) for token in Words.cut(long_sentence)]
    values = LocalSimulator(lm, words).simulate([CATS], fragments, [np.array([0])])[0]
    np.testing.assert_allclose(values[0, : len(true)], true, atol=1e-6)
    assert (len(lengths) > 1) == (name == "builtin")
    assert max(lengths) <= (lm.context_limit or 0)


def test_logits_that_are_not_finite_are_missing(long: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "logits", lambda ids: torch.full((1, ids.shape[1], long.vocabulary), math.nan))
    values = LocalSimulator(long, WORDS).simulate([CATS], FRAGMENTS, [ALL])[0]
    assert np.isnan(values[FRAGMENTS.real]).all()


def test_an_explanation_is_the_greedy_continuation(builtin: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = make_evidence(WORDS, FRAGMENTS)
    explainer = LocalExplainer(builtin, WORDS, max_tokens=5)
    first, again = explainer.explain([evidence, evidence])
    assert isinstance(first, Explanation)
    assert first == again
    assert first.explainer == "local:builtin:tiny"
    prompts = []
    real = builtin.logits

    def logits(ids: torch.Tensor) -> torch.Tensor:
        prompts.append(ids)
        return real(ids)

    monkeypatch.setattr(builtin, "logits", logits)
    explainer.explain([evidence])
    with torch.no_grad():
        ids = prompts[0]
        assert "The old cat" in builtin.tokenizer.decode(ids[0]).replace("\t0\n", "")
        made = builtin.module.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    text = builtin.tokenizer.decode(made, skip_special_tokens=True)
    assert " ".join(text.strip().split("\n")[0].split()) == first.text


def test_what_cannot_be_explained_says_why(builtin: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = make_evidence(WORDS, FRAGMENTS, scale=0.0)
    end = builtin.tokenizer.eos_token_id
    stopped = torch.nn.functional.one_hot(torch.tensor([[end]]), builtin.vocabulary).float()
    monkeypatch.setattr(builtin, "logits", lambda ids: stopped)
    found = LocalExplainer(builtin, WORDS).explain([silent, make_evidence(WORDS, FRAGMENTS)])
    assert found == [Skipped("never fires"), Skipped("unparseable answer")]


def test_a_long_fragment_is_shown_around_its_peak(builtin: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    filler = "one two three four five six seven eight nine ten " * 8
    words = Words([f"{filler}cat {filler}end"])
    prompts = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        prompts.append(builtin.tokenizer.decode(ids[0]))
        return torch.zeros(1, 1, builtin.vocabulary)

    monkeypatch.setattr(builtin, "logits", logits)
    LocalExplainer(builtin, words, max_tokens=4).explain([make_evidence(words, make_fragments(words, 192))])
    assert " cat\t10\n" in prompts[0]
    assert len(builtin.tokenizer(prompts[0])["input_ids"]) <= 252


def test_a_chat_template_is_used(builtin: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin.tokenizer, "chat_template", "{% for m in messages %}[{{ m.role }}]{% endfor %}A:")
    prompts = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        prompts.append(builtin.tokenizer.decode(ids[0]))
        return torch.zeros(1, 1, builtin.vocabulary)

    monkeypatch.setattr(builtin, "logits", logits)
    LocalExplainer(builtin, WORDS).explain([make_evidence(WORDS, FRAGMENTS)])
    assert prompts[0] == "[system][user][assistant][user]A:"


def test_models_that_cannot_are_refused(tiny_model_dir: Path, builtin: LanguageModel) -> None:
    masked = LanguageModel(tiny_models.make("bert"), "bert", tokenizer=builtin.tokenizer)
    bare = LanguageModel(tiny_models.make("gpt2"), "bare")
    for model in (masked, bare, wrap(torch.nn.Linear(2, 2))):
        for kind in (LocalExplainer, LocalSimulator):
            with pytest.raises(ModelError, match="causal language model with its tokenizer"):
                kind(model, WORDS)  # type: ignore[arg-type]
    short = load_model(tiny_model_dir)  # reads 128 tokens, about as many characters
    with pytest.raises(ModelError, match="too few for the explanation"):
        LocalSimulator(short, WORDS).simulate([Explanation("x" * 200, "someone", {})], FRAGMENTS, [ALL])


def test_token_counts_for_a_cost_are_near_those_of_a_tokenizer(builtin: LanguageModel) -> None:
    prompt = score_prompt("names of people who are about to give something", ["Mary", " gave", " the", " ball"] * 16)
    assert 0.6 < count_tokens(prompt) / len(builtin.tokenizer(prompt, verbose=False)["input_ids"]) < 1.6
