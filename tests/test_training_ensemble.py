"""Ensembles: members equal their solo runs, reading order, scale, and what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import realistic

from sparsescope.artifact import open_artifact
from sparsescope.dictionaries import Dictionary, load_dictionary
from sparsescope.errors import ArtifactError, ConfigurationError, SiteError
from sparsescope.training import BatchTopK, Method, TiedL1, TopK, UntiedL1, train
from sparsescope.training.kernels.reference import Reference
from sparsescope.training.source import TensorRows
from sparsescope.worlds import PlantedWorld

MIXED: list[Method] = [TiedL1(l1=0.02, ratio=2), UntiedL1(target_l0=4, ratio=2), TopK(k=4, ratio=3)]


def assert_equal(one: Dictionary, other: Dictionary) -> None:
    assert one.tensors().keys() == other.tensors().keys()
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(tensor, other.tensors()[name], rtol=1e-5, atol=1e-6)


def test_each_of_sixteen_tied_members_equals_its_solo_run() -> None:
    x = realistic(3000)
    methods = [
        TiedL1(l1=l1, ratio=ratio, seed=seed)
        for l1 in (0.003, 0.01, 0.03, 0.1)
        for ratio in (1, 3)
        for seed in (None, 7)
    ]
    together = train(x, None, methods, tokens=2500, batch=128)
    for method, member in zip(methods, together, strict=True):
        (solo,) = train(x, None, [method], tokens=2500, batch=128)
        assert_equal(member, solo)


def test_members_of_all_methods_equal_their_solo_runs_in_any_company() -> None:
    x = realistic(3000)
    together = train(x, None, MIXED, tokens=4000, batch=128)
    turned = train(x, None, MIXED[::-1], tokens=4000, batch=128)[::-1]
    for method, member, other in zip(MIXED, together, turned, strict=True):
        (solo,) = train(x, None, [method], tokens=4000, batch=128)
        assert_equal(member, solo)
        assert_equal(member, other)


def test_the_number_of_threads_changes_no_bit_of_an_ensemble() -> None:
    x, threads = realistic(2000), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(train(x, None, MIXED, tokens=2000, batch=128))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for members in zip(*found, strict=True):
        for name, tensor in members[0].tensors().items():
            assert all(torch.equal(tensor, other.tensors()[name]) for other in members[1:])


def test_seeds_change_members_and_own_seeds_stand_for_the_runs() -> None:
    x = realistic(1000)
    method, own = TiedL1(l1=0.02, ratio=2), TiedL1(l1=0.02, ratio=2, seed=3)
    first, with_own = train(x, None, [method, own], tokens=500, batch=100, seed=0)
    (second,) = train(x, None, [method], tokens=500, batch=100, seed=1)
    assert not torch.allclose(first.directions, with_own.directions, atol=0.1)
    assert not torch.allclose(first.directions, second.directions, atol=0.1)
    assert (first.provenance.seed, with_own.provenance.seed) == (0, 3)


@pytest.mark.parametrize("factor", [1e-3, 37.0])
def test_the_scale_of_the_activations_is_folded_back(factor: float) -> None:
    x = realistic(2000)
    for plain, scaled in zip(
        train(x, None, MIXED, tokens=3000, batch=128),
        train(x * factor, None, MIXED, tokens=3000, batch=128),
        strict=True,
    ):
        codes, larger = plain.encode(x), scaled.encode(x * factor)
        torch.testing.assert_close(larger / factor, codes, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(scaled.reconstruct(x * factor) / factor, plain.reconstruct(x), rtol=1e-2, atol=2e-2)


def test_without_scale_raw_activations_are_trained_on() -> None:
    x = realistic(2000)
    unit = x / TensorRows(x).mean_square("") ** 0.5
    (scaled,) = train(x, None, MIXED[:1], tokens=2000, batch=128)
    (raw,) = train(unit, None, MIXED[:1], tokens=2000, batch=128, scale=False)
    torch.testing.assert_close(scaled.directions, raw.directions, rtol=1e-3, atol=1e-4)


def test_batches_depend_on_seed_and_step_alone_and_cover_every_epoch() -> None:
    rows = TensorRows(torch.arange(210.0).unsqueeze(1).repeat(1, 2))
    read = list(rows.batches("", batch=32, seed=5, steps=20))
    later = list(rows.batches("", batch=32, seed=5, start=13, steps=7))
    assert all(torch.equal(a, b) for a, b in zip(read[13:], later, strict=True))
    stream = torch.cat(read)[:, 0]
    count = rows.rows("train")
    assert count == 200
    assert rows.rows("validation") == 10
    first, second = stream[:count], stream[count : 2 * count]
    assert first.sort().values.tolist() == second.sort().values.tolist()
    assert not torch.equal(first, second)
    held = next(rows.batches("", batch=10, split="validation"))[:, 0]
    assert set(held.tolist()).isdisjoint(first.tolist())
    other = torch.cat(list(rows.batches("", batch=32, seed=6, steps=7)))[:, 0]
    assert not torch.equal(stream[: len(other)], other)


def test_moments_of_a_tensor_are_those_of_its_training_rows() -> None:
    rows = TensorRows(realistic(500).half())
    trained = torch.cat(list(rows.batches("", batch=475, steps=1))).double()
    torch.testing.assert_close(rows.mean(""), trained.mean(0))
    assert rows.mean_square("") == pytest.approx(trained.square().mean().item())


def test_what_is_written_can_be_read_and_says_what_it_is(tmp_path: Path) -> None:
    x = realistic(2000)
    seen: list[tuple[str, int, int]] = []
    names = ["a", "b", "c"]
    found = train(
        x, None, MIXED, tokens=1300, batch=128, out=tmp_path / "saes", names=names, progress=lambda *it: seen.append(it)
    )
    container = open_artifact(tmp_path / "saes", "dictionaries")
    assert container.config["methods"][1]["target_l0"] == 4
    assert container.manifest["inputs"]["activations"] == TensorRows(x).fingerprint
    for index, (one, memory) in enumerate(zip(found, train(x, None, MIXED, tokens=1300, batch=128), strict=True)):
        again = load_dictionary(tmp_path / "saes" / str(index))
        assert again.method == one.method == MIXED[index].method
        assert again.provenance.name == names[index]
        assert_equal(again, one)
        assert_equal(again, memory)
    assert found[0].provenance.l1 == 0.02
    assert found[1].provenance.target_l0 == 4
    assert found[2].provenance.k == 4
    assert found[2].provenance.l1 is None
    assert seen[-1][1:] == (11, 11)
    assert not list(tmp_path.rglob("checkpoints"))
    assert not list(tmp_path.rglob("*.partial"))
    lines = [json.loads(line) for line in (tmp_path / "saes" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "event" not in line]
    assert [(line["step"], line["name"]) for line in steps] == [(step, name) for step in range(11) for name in names]
    assert steps[-1]["rows"] == 11 * 128
    assert steps[0].keys() == {"step", "name", "rows", "loss", "mse", "fvu", "l0", "l1", "lr", "dead"}
    assert [line["name"] for line in lines if line.get("event") == "finished"] == names


def test_the_record_of_the_end_is_the_dictionary_on_held_out_rows(tmp_path: Path) -> None:
    x = realistic(4000)
    (sae,) = train(x, None, [TopK(k=4, ratio=4)], tokens=20_000, batch=128, out=tmp_path / "saes")
    held = torch.cat(list(TensorRows(x).batches("", batch=200, steps=1, split="validation")))
    error = (held - sae.reconstruct(held)).square().sum() / (held - held.mean(0)).square().sum()
    last = json.loads((tmp_path / "saes" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished"
    assert last["split"] == "validation"
    assert last["fvu"] == pytest.approx(error.item(), rel=1e-4)
    assert last["l0"] == pytest.approx((sae.encode(held) > 0).sum(1).float().mean().item())


def test_topk_starts_at_the_mean_and_loses_no_latents(tmp_path: Path) -> None:
    x = realistic(20_000)
    (sae,) = train(x, None, [TopK(k=4, ratio=4)], tokens=60_000, batch=256, out=tmp_path / "saes")
    first, *_, last = map(json.loads, (tmp_path / "saes" / "metrics.jsonl").read_text().splitlines())
    assert first["fvu"] < 1.0  # the mean alone has 1
    assert last["dead"] <= 0.02 * sae.n_latents
    # the 4 principal components that matter most for each row, about the mean
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh
    scores = (x - mean) @ axes.T
    kept = scores.square().topk(4, dim=1).values.sum() / scores.square().sum()
    assert last["fvu"] < 1 - kept.item()


def test_another_run_is_never_written_over(tmp_path: Path) -> None:
    x = realistic(500)
    out = tmp_path / "saes"
    train(x, None, MIXED[:1], tokens=300, batch=100, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="already holds a finished artifact"):
        train(x, None, MIXED[:1], tokens=300, batch=100, out=out)
    with pytest.raises(ArtifactError, match="tokens = 300, now asked for 301"):
        train(x, None, MIXED[:1], tokens=301, batch=100, out=out, resume=True)
    (again,) = train(x, None, MIXED[:1], tokens=300, batch=100, out=out, resume=True)
    assert again.provenance.path == str(out / "0")
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_site_must_be_given_and_known() -> None:
    world = PlantedWorld(d=4, n_features=8, active=1)
    with pytest.raises(ConfigurationError, match="site is None, expected"):
        train(world, None, [TopK(k=1, ratio=2)], tokens=10)
    with pytest.raises(SiteError, match=r"no site 'resid_post\.2'"):
        train(world, "resid_post.2", [TopK(k=1, ratio=2)], tokens=10)


def test_batchtopk_looks_for_its_threshold_where_the_last_batch_had_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running mean lags behind a threshold that falls for hundreds of steps, and every step selects twice."""
    expected, found = [], []
    select = Reference.largest_of_batch

    def noting(self: Reference, *arguments: Any) -> Any:
        codes, smallest = select(self, *arguments)
        expected.append(arguments[4])
        found.append(smallest)
        return codes, smallest

    monkeypatch.setattr(Reference, "largest_of_batch", noting)
    train(realistic(2000), None, [BatchTopK(k=4, ratio=2)], tokens=10_000, batch=500, kernels="reference")
    assert expected[0] is None
    assert expected[1:] == found[:-1]
    assert len(set(found)) > 10
