"""The benchmark of contexts runs, and judges its targets only at the size they are stated for."""

import json

import pytest

from sparsescope.bench.contexts import _targets, measure_contexts


def test_a_small_run_measures_every_stage() -> None:
    found = measure_contexts(tokens=3000, n_latents=64, k=4, training=2048, peer_latents=4, peer_tokens=1000)
    assert json.loads(json.dumps(found)) == found
    assert [(row["name"], row["n_latents"]) for row in found["rows"]] == [("topk", 64), ("neurons", 192)]
    for row in [*found["rows"], found["beside"]["ours"]]:
        assert set(row["seconds"]) == {"gather", "statistics", "corpus", "latents"}
        assert min(row["seconds"].values()) > 0
        assert row["total_seconds"] == pytest.approx(sum(row["seconds"].values()))
    assert all(100 < row["bytes_per_latent"] < 50_000 for row in found["rows"])
    assert found["rows"][0]["l0"] == pytest.approx(4, abs=0.01)
    assert found["beside"]["ours"]["n_latents"] == 4
    assert found["beside"]["ours"]["tokens"] < 1000
    assert "--peer-python" in found["beside"]["peer"]["note"]
    assert [target["met"] for target in found["targets"]] == [None, None]


def test_targets_are_judged_at_their_size() -> None:
    large = {"n_latents": 2048, "tokens": 1_000_000, "total_seconds": 119.0, "bytes_per_latent": 5001.0}
    assert [target["met"] for target in _targets(large)] == [True, False]
