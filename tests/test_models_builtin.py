"""The model that ships with the package, its untrained twin, and the examples in the docstrings."""

import doctest
from pathlib import Path
from types import ModuleType

import pytest
import torch

import sparsescope.models
from sparsescope.bench import timing
from sparsescope.models import LanguageModel, language, load, load_model, wrapped

FOLDER = Path(sparsescope.models.__file__).with_name("builtin_tiny")
SENTENCE = "The function returns a list of the names of the files in the directory."


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_model("builtin:tiny")


def loss(lm: LanguageModel, ids: torch.Tensor) -> float:
    return torch.nn.functional.cross_entropy(lm.logits(ids)[0, :-1], ids[0, 1:]).item()


def test_it_is_an_ordinary_directory_of_at_most_16_megabytes(tiny: LanguageModel) -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 16_000_000
    local = load_model(FOLDER)
    assert (local.fingerprint, local.tokenizer_fingerprint) == (tiny.fingerprint, tiny.tokenizer_fingerprint)
    assert (tiny.name, tiny.revision) == ("builtin:tiny", None)
    assert tiny.module.config.model_type == "gpt_neox"


def test_it_models_language_and_its_twin_does_not(tiny: LanguageModel) -> None:
    twin = load_model("builtin:tiny-random")
    assert twin.tokenizer_fingerprint == tiny.tokenizer_fingerprint
    assert twin.sites() == tiny.sites()
    ids = torch.tensor([tiny.tokenizer(SENTENCE)["input_ids"]])
    uniform = torch.tensor(float(tiny.vocabulary)).log().item()
    assert loss(tiny, ids) < uniform / 2
    assert loss(twin, ids) > uniform * 0.9


def test_its_tokenizer_gives_the_text_back(tiny: LanguageModel) -> None:
    for text in (SENTENCE, " spaces  and\n\nlines\t", "ünïcödé ☃ 字"):
        encoded = tiny.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        assert tiny.tokenizer.decode(encoded["input_ids"]) == text
        assert max(encoded["input_ids"]) < tiny.vocabulary
        assert encoded["offset_mapping"][-1][1] == len(text)


@pytest.mark.parametrize("module", [language, load, wrapped, timing], ids=lambda module: module.__name__)
def test_examples(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
