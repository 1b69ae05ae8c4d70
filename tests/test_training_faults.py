"""Bad numbers: refused at the door, left out on the way, and never saved."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_data import realistic

from sparsescope.artifact import open_artifact
from sparsescope.dictionaries import load_dictionary
from sparsescope.errors import NumericalError, SparsescopeError
from sparsescope.training import Method, TiedL1, TopK, UntiedL1, train
from sparsescope.training.member import Member
from sparsescope.training.source import TensorRows

METHODS: list[Method] = [TiedL1(l1=0.02, ratio=2), UntiedL1(target_l0=4, ratio=2), TopK(k=4, ratio=2)]


class Poisoned(TensorRows):
    """A tensor whose batches of some steps have one row replaced."""

    def __init__(self, x: Tensor, at: dict[int, float]) -> None:
        super().__init__(x)
        self.at = at

    def batches(self, site: str, *, start: int = 0, split: str = "train", **reading: Any) -> Iterator[Tensor]:
        for step, x in enumerate(super().batches(site, start=start, split=split, **reading), start):
            if split == "train" and step in self.at and len(x) == 100:
                x[7] = self.at[step]
            yield x


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_in_a_tensor_is_refused_and_named(bad: float, tmp_path: Path) -> None:
    x = realistic(500)
    x[123, 4] = bad
    with pytest.raises(NumericalError, match="hold a NaN or an infinity, first in row 123 of 500"):
        train(x, None, METHODS, tokens=1000, batch=100, out=tmp_path / "saes")
    assert not list(tmp_path.iterdir())


def test_nothing_but_zeros_is_refused() -> None:
    with pytest.raises(NumericalError, match=r"mean square of 0\.0; expected a finite number above 0"):
        train(torch.zeros(100, 8), None, METHODS, tokens=1000)


def test_a_nan_batch_of_a_store_ends_training_and_nothing_is_learned_from_it(tmp_path: Path) -> None:
    source = Poisoned(realistic(2000), {33: float("nan")})
    with pytest.raises(NumericalError, match=r"activations at s hold a NaN or an infinity in the batch of step 33"):
        train(source, "s", METHODS, tokens=5000, batch=100, out=tmp_path / "saes")
    assert not (tmp_path / "saes").exists()
    assert records(tmp_path / "saes.partial")[-1]["step"] == 32


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of any norm reach training."""
    monkeypatch.setattr("sparsescope.training.source.GUARD", math.inf)


@pytest.mark.parametrize(("value", "faults"), [(1e6, {"exploding"}), (3e38, {"non-finite"})])
@pytest.mark.usefixtures("unguarded")
def test_a_bad_batch_is_skipped_and_reported(tmp_path: Path, value: float, faults: set[str]) -> None:
    x = realistic(2000)
    stages: list[str] = []
    found = train(
        Poisoned(x, {41: value}),
        "s",
        METHODS,
        tokens=6000,
        batch=100,
        out=tmp_path / "saes",
        progress=lambda stage, done, total: stages.append(stage),
    )
    skipped = [line for line in records(tmp_path / "saes") if line.get("event") == "skipped"]
    assert [(line["step"], line["name"]) for line in skipped] == [(41, method.label()) for method in METHODS]
    assert {line["fault"] for line in skipped} == faults
    assert sum("skipped a batch" in stage for stage in stages) == len(METHODS)
    clean = train(x, None, METHODS, tokens=6000, batch=100)
    for sae, expected in zip(found, clean, strict=True):
        assert all(tensor.isfinite().all() for tensor in sae.tensors().values())
        error = (sae.reconstruct(x) - x).square().sum() / (expected.reconstruct(x) - x).square().sum()
        assert 0.8 < error < 1.25  # one batch fewer


def test_one_members_fault_leaves_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = realistic(2000)
    calm = train(x, None, METHODS, tokens=3000, batch=100)
    fault, calls = Member.fault, iter(range(100))

    def once(self: Member, loss: float) -> str | None:
        return "exploding" if self.name == "wild" and next(calls) == 7 else fault(self, loss)

    monkeypatch.setattr(Member, "fault", once)
    methods, names = [METHODS[0], TopK(k=2, ratio=2), *METHODS[1:]], ["a", "wild", "b", "c"]
    found = train(x, None, methods, tokens=3000, batch=100, names=names, out=tmp_path / "saes")
    skipped = [line for line in records(tmp_path / "saes") if line.get("event") == "skipped"]
    assert [(line["step"], line["name"]) for line in skipped] == [(7, "wild")]
    for one, other in zip(calm, [found[0], *found[2:]], strict=True):
        assert torch.equal(one.directions, other.directions)


def test_a_member_that_diverges_is_stopped_and_the_others_are_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = realistic(2000)
    calm = train(x, None, METHODS, tokens=3000, batch=100)
    fault = Member.fault

    def wild(self: Member, loss: float) -> str | None:
        return "exploding" if self.name == "wild" and self.position >= 10 else fault(self, loss)

    monkeypatch.setattr(Member, "fault", wild)
    methods, names = [METHODS[0], TopK(k=2, ratio=2), *METHODS[1:]], ["a", "wild", "b", "c"]
    with pytest.raises(
        NumericalError, match=r"stopped: wild \(exploding loss at step 14, 5 batches in a row: "
    ) as caught:
        train(x, None, methods, tokens=3000, batch=100, names=names, out=tmp_path / "saes")
    assert "lower the learning rate" in str(caught.value)
    assert [found is None for found in caught.value.finished] == [False, True, False, False]
    for place, expected in zip((0, 2, 3), calm, strict=True):
        assert torch.equal(load_dictionary(tmp_path / "saes" / str(place)).directions, expected.directions)
    assert "wild" in open_artifact(tmp_path / "saes", "dictionaries").manifest["stopped"]
    assert not (tmp_path / "saes" / "1").exists()
    with pytest.raises(NumericalError, match="stopped: wild") as again:
        train(x, None, methods, tokens=3000, batch=100, names=names, out=tmp_path / "saes", resume=True)
    assert [found is None for found in again.value.finished] == [False, True, False, False]


@pytest.mark.usefixtures("unguarded")
def test_when_every_member_diverges_nothing_is_saved(tmp_path: Path) -> None:
    poison = dict.fromkeys(range(25, 40), 1e6)
    with pytest.raises(NumericalError, match=r"every member was stopped: .*exploding loss at step 29"):
        train(Poisoned(realistic(2000), poison), "s", METHODS[:1], tokens=6000, batch=100, out=tmp_path / "saes")
    assert not (tmp_path / "saes").exists()


def test_weights_that_are_not_finite_at_the_end_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Member.update

    def poisoned_update(self: Member, *arguments: Any, **named: Any) -> None:
        update(self, *arguments, **named)
        if self.rows == 3000 and self.name == "bad":
            self.weights.vectors["encoder_bias"][0] = float("nan")

    monkeypatch.setattr(Member, "update", poisoned_update)
    with pytest.raises(NumericalError, match=r"bad .weights that are not finite at the end") as caught:
        train(realistic(2000), None, METHODS[:2], tokens=3000, batch=100, names=["good", "bad"], out=tmp_path / "saes")
    assert [found is None for found in caught.value.finished] == [False, True]
    assert not (tmp_path / "saes" / "1").exists()


def test_rows_of_massive_norm_are_shortened_and_do_no_harm() -> None:
    x = realistic(4000)
    spiked = x.clone()
    spiked[::500] *= 1e4
    clean = train(x, None, METHODS, tokens=8000, batch=100)
    for sae, expected in zip(train(spiked, None, METHODS, tokens=8000, batch=100), clean, strict=True):
        error = (sae.reconstruct(x) - x).square().sum() / (expected.reconstruct(x) - x).square().sum()
        assert error < 1.6


def test_memory_that_runs_out_leaves_a_state_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = realistic(2000)
    whole = train(x, None, METHODS, tokens=3000, batch=100)
    measure, calls = Member.measure, iter(range(1000))

    def failing(self: Member, *arguments: Any, **named: Any) -> Any:
        if self.name == METHODS[1].label() and next(calls) == 17:
            raise MemoryError("Unable to allocate 40 GiB")
        return measure(self, *arguments, **named)

    monkeypatch.setattr(Member, "measure", failing)
    with pytest.raises(
        SparsescopeError, match=r"memory ran out at step 17 .*largest size that would fit is \d+ latents"
    ) as caught:
        train(x, None, METHODS, tokens=3000, batch=100, out=tmp_path / "saes")
    assert "is saved: resume" in str(caught.value)
    # the other members had taken step 17 already, and must not take it twice
    resumed = train(x, None, METHODS, tokens=3000, batch=100, out=tmp_path / "saes", resume=True)
    for one, other in zip(whole, resumed, strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())
