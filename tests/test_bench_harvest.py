"""The benchmark's arithmetic, and that every contender gives the same activations."""

import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sparsescope.bench import harvest as bench
from sparsescope.bench import timing
from sparsescope.bench.timing import interleaved
from sparsescope.errors import ConfigurationError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    monkeypatch.setattr(bench, "PYTHIA_70M", {**bench.PYTHIA_70M, **sizes})


def test_rates_are_units_over_seconds_of_interleaved_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) * 2.0)
    order: list[str] = []
    rates = interleaved({"a": lambda: order.append("a") or 10, "b": lambda: order.append("b") or 30}, rounds=3)
    assert order == ["a", "b"] * 4
    assert rates["a"].samples == (5.0, 5.0, 5.0)
    assert rates["b"].describe()["median"] == 15.0
    assert rates["b"].describe()["n"] == 3


@pytest.mark.usefixtures("small")
def test_report(tiny_model_dir: Path) -> None:
    result = bench.measure_harvest(contexts=(16,), rounds=1, tokens=8_192, tokenizer_of=str(tiny_model_dir))
    rows = {(row["name"], row["dtype"]): row for row in result["rows"]}
    names = {"bare forward", "sparsescope read", "sparsescope harvest", "transformers hidden states"}
    assert {name for name, _ in rows} == names | {"TransformerLens stop_at_layer"}
    for name, dtype in itertools.product(names, ("float32", "bfloat16")):
        rate, floor = rows[name, dtype]["tokens_per_second"], rows["bare forward", dtype]["tokens_per_second"]
        assert rate["low"] <= rate["median"] <= rate["high"]
        assert rows[name, dtype]["ratio_to_bare"] == rate["median"] / floor["median"]
    harvested = rows["sparsescope harvest", "float32"]
    first, lens = result["targets"][0], [target for target in result["targets"] if target["target"] == 2.5]
    assert first["measured"] == harvested["ratio_to_bare"]
    assert first["met"] == (first["measured"] >= 0.9)
    assert len(lens) == 1
    if find_spec("transformer_lens") is None:
        assert "pip install 'sparsescope[bench]'" in rows["TransformerLens stop_at_layer", "float32"]["note"]
        assert (lens[0]["measured"], lens[0]["met"]) == (None, None)
    assert set(result["machine"]["matmul_gflops"]) == {"float32", "bfloat16", "float16"}


@pytest.mark.usefixtures("small")
def test_contenders_do_the_same_work(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tmp_path: Path) -> None:
    """What the floor computes is what is read: the first three blocks, and neither norm nor head."""
    made: list[torch.nn.Module] = []
    plain = bench.random_model

    def kept(*arguments: object, **settings: object) -> object:
        model = plain(*arguments, **settings)
        made.append(model.module)
        return model

    monkeypatch.setattr(bench, "random_model", kept)
    text = bench._text_file(tmp_path / "text.jsonl", 4096)
    tokenizer = bench.load_model(tiny_model_dir).tokenizer
    contenders = bench._contenders("float32", 16, 4096, text, tokenizer, tmp_path)
    whole, cut = made[:2]
    assert len(cut.gpt_neox.layers) == 3
    cut.load_state_dict(whole.state_dict(), strict=False)
    ids = torch.arange(32).view(2, 16)
    states = whole(ids, output_hidden_states=True).hidden_states
    assert torch.equal(cut.gpt_neox(ids).last_hidden_state, states[3])
    assert {name: work() for (name, _), work in contenders.items() if "sparsescope" in name or "bare" in name} == {
        "bare forward": 4096,
        "sparsescope read": 4096,
        "sparsescope harvest": 4096,
    }


def test_a_dtype_that_is_none(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="dtype is 'float8'"):
        bench.measure_harvest(dtypes=("float8",), tokens=8_192, tokenizer_of=str(tiny_model_dir))
