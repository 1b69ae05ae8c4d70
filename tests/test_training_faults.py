"""Bad numbers: refused at the door, rolled back on the way, and never saved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_data import realistic

from sparsescope.errors import NumericalError
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


@pytest.mark.parametrize(("value", "faults"), [(1e6, {"exploding"}), (3e38, {"non-finite"})])
def test_a_bad_step_is_rolled_back_reported_and_skipped(tmp_path: Path, value: float, faults: set[str]) -> None:
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
    back = [line for line in records(tmp_path / "saes") if line.get("event") == "rollback"]
    assert [(line["step"], line["name"]) for line in back] == [(41, method.label()) for method in METHODS]
    assert {line["fault"] for line in back} == faults
    assert sum("rolled back" in stage for stage in stages) == len(METHODS)
    clean = train(x, None, METHODS, tokens=6000, batch=100)
    for sae, expected in zip(found, clean, strict=True):
        assert all(tensor.isfinite().all() for tensor in sae.tensors().values())
        error = (sae.reconstruct(x) - x).square().sum() / (expected.reconstruct(x) - x).square().sum()
        assert 0.8 < error < 1.25  # one batch fewer, and up to 20 steps taken back


def test_one_members_fault_leaves_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = realistic(2000)
    calm = train(x, None, METHODS, tokens=3000, batch=100)
    fault, calls = Member.fault, iter(range(100))

    def once(self: Member, loss: float) -> str | None:
        return "exploding" if self.name == "wild" and next(calls) == 7 else fault(self, loss)

    monkeypatch.setattr(Member, "fault", once)
    methods, names = [METHODS[0], TopK(k=2, ratio=2), *METHODS[1:]], ["a", "wild", "b", "c"]
    found = train(x, None, methods, tokens=3000, batch=100, names=names, out=tmp_path / "saes")
    back = [line for line in records(tmp_path / "saes") if line.get("event") == "rollback"]
    assert [(line["step"], line["name"]) for line in back] == [(7, "wild")]
    for one, other in zip(calm, [found[0], *found[2:]], strict=True):
        assert torch.equal(one.directions, other.directions)


def test_going_back_in_vain_is_an_error_and_nothing_is_saved(tmp_path: Path) -> None:
    poison = dict.fromkeys(range(25, 40), 1e6)
    with pytest.raises(NumericalError, match=r"exploding loss .* for the 5th time within 20 steps") as caught:
        train(Poisoned(realistic(2000), poison), "s", METHODS[:1], tokens=6000, batch=100, out=tmp_path / "saes")
    assert "lower the learning rate" in str(caught.value)
    assert not (tmp_path / "saes").exists()


def test_a_dead_end_at_the_last_step_is_taken_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Member.update

    def poisoned_update(self: Member, *arguments: Any, **named: Any) -> None:
        update(self, *arguments, **named)
        if self.rows == 3000:
            self.weights.encoder_bias[0] = float("nan")

    monkeypatch.setattr(Member, "update", poisoned_update)
    (sae,) = train(realistic(2000), None, METHODS[:1], tokens=3000, batch=100, out=tmp_path / "saes")
    assert all(tensor.isfinite().all() for tensor in sae.tensors().values())
    back, end = records(tmp_path / "saes")[-2:]
    assert (back["event"], back["fault"], back["step"], back["loss"]) == ("rollback", "non-finite", 30, None)
    assert end["rows"] == 2000
