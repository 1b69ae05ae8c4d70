"""An L0 that was asked for is met within 5% on rows that were not trained on, or the record says not."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_data import realistic

from sparsescope.errors import NumericalError
from sparsescope.training import JumpReLU, Method, TiedL1, UntiedL1, train
from sparsescope.training.schedule import L0Controller, Schedule
from sparsescope.training.source import TensorRows


def finished(out: Path) -> dict[str, dict]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {line["name"]: line for line in lines if line.get("event") == "finished"}


@pytest.mark.parametrize("scale", [True, False])
def test_targets_are_met_on_held_out_rows(tmp_path: Path, scale: bool) -> None:
    x = 3 * realistic(60_000)
    methods: list[Method] = [
        TiedL1(target_l0=2, n_latents=60),
        TiedL1(target_l0=6, ratio=4),
        TiedL1(target_l0=12, ratio=4),
        UntiedL1(target_l0=4, ratio=4),
        UntiedL1(target_l0=9.5, ratio=2),
    ]
    found = train(x, None, methods, tokens=70_000, batch=256, out=tmp_path / "saes", scale=scale)
    records = finished(tmp_path / "saes")
    held = torch.cat(list(TensorRows(x).batches("", batch=3000, steps=1, split="validation")))
    for sae, method in zip(found, methods, strict=True):
        measured = (sae.encode(held) > 0).sum(1).float().mean().item()
        record = records[method.label()]
        assert measured == pytest.approx(method.wanted, rel=0.05)
        assert record["l0"] == pytest.approx(measured, rel=0.02)
        assert record["target_l0"] == method.wanted
        assert record["target_l0_met"] is True
        assert record["l1"] == sae.provenance.l1


class Louder(TensorRows):
    """Held-out rows three times as large as those trained on."""

    def batches(self, site: str, *, split: str = "train", **reading: Any) -> Iterator[Tensor]:
        for x in super().batches(site, split=split, **reading):
            yield 3 * x if split == "validation" else x


def test_a_target_that_is_missed_is_said_to_be_missed(tmp_path: Path) -> None:
    seen: list[str] = []
    method = TiedL1(target_l0=4, ratio=4)
    out = tmp_path / "saes"
    train(
        Louder(realistic(4000)),
        "s",
        [method],
        tokens=20_000,
        batch=250,
        out=out,
        progress=lambda *it: seen.append(it[0]),
    )
    record = finished(out)[method.label()]
    assert record["l0"] > 4.2
    assert record["target_l0_met"] is False
    assert seen[-1] == f"{method.label()} ended at L0 {record['l0']:.3g}, not 4"


def test_the_controller_pushes_the_right_way_and_stays_bounded() -> None:
    controller = L0Controller.begin(TiedL1(target_l0=10, ratio=2), steps=1000, d=64, mean_square=1.0)
    first = controller.weight
    for _ in range(100):
        controller.update(500.0)
    assert first < controller.weight < first * 100
    high = controller.log_weight
    for _ in range(100):
        controller.update(0.0)
    assert controller.log_weight < high
    settled = L0Controller(10, 1000, log_weight=-4.0)
    settled.update(10.0)
    assert settled.weight == pytest.approx(torch.tensor(-4.0).exp().item())


def test_a_penalty_on_l0_turns_into_a_reward_well_below_the_target() -> None:
    """At half the target by log(1/2) times the first guess, which is ten times where the weight began."""
    controller = L0Controller.begin(JumpReLU(target_l0=10, ratio=2), steps=10**9, d=64, mean_square=1.0)
    first = controller.weight
    for _ in range(100):
        controller.update(5.0)
    assert controller.weight == pytest.approx(first * (0.5**0.7 + 10 * math.log(0.5)), rel=1e-3)
    tied = L0Controller.begin(TiedL1(target_l0=10, ratio=2), steps=1000, d=64, mean_square=1.0)
    tied.update(1e-3)
    assert tied.weight > 0


def test_the_learning_rate_rises_holds_and_falls() -> None:
    schedule = Schedule(tokens=1000, batch=10, lr=1.0, warmup=0.1, decay=0.2)
    paces = [schedule.pace(step) for step in range(schedule.steps)]
    assert paces[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert paces[9:81] == [1.0] * 72
    assert paces[-1] == pytest.approx(0.05)
    assert min(paces) > 0
    assert Schedule(tokens=1, batch=10, lr=1.0, warmup=0.0, decay=0.0).pace(0) == 1.0


def test_a_target_that_cannot_be_reached_is_said_and_the_others_are_finished(tmp_path: Path) -> None:
    methods = [TiedL1(target_l0=4, ratio=2), TiedL1(target_l0=60, ratio=4)]
    with pytest.raises(NumericalError, match=r"target_l0 = 60 cannot be reached: .* Ask for fewer") as it:
        train(realistic(4000), None, methods, tokens=60_000, batch=250, out=tmp_path / "saes")
    assert [found is None for found in it.value.finished] == [False, True]
    assert finished(tmp_path / "saes")[methods[0].label()]["target_l0_met"]
