"""Dead latents: new directions for the L1 family, and what they are drawn from; and thresholds as deployed."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_data import realistic

from sparsescope.training import BatchTopK, Matryoshka, Method, TiedL1, UntiedL1, train


def one_hot(rows: int, d: int = 16) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.eye(d)[torch.randint(d, (rows,), generator=g)] + 0.01 * torch.randn(rows, d, generator=g)


def records(out: Path, event: str) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == event]


@pytest.mark.parametrize("cls", [TiedL1, UntiedL1])
def test_resampled_latents_get_rows_of_their_own(tmp_path: Path, cls: type[TiedL1] | type[UntiedL1]) -> None:
    out = tmp_path / "saes"
    (sae,) = train(one_hot(4000), None, [cls(l1=1.0, n_latents=512, resample=True)], tokens=20_480, batch=64, out=out)
    given = [line["latents"] for line in records(out, "resampled")]
    assert given
    assert max(given) <= 64
    assert len(sae.directions.unique(dim=0)) == 512


@pytest.mark.parametrize(
    "method", [BatchTopK(k=4, ratio=4), Matryoshka(k=4, ratio=4), BatchTopK(k=4, ratio=4, anneal=1)]
)
@pytest.mark.parametrize("steps", [10, 100])
def test_deployed_thresholds_keep_k_per_row_even_in_short_runs(method: Method, steps: int, tmp_path: Path) -> None:
    x = realistic(6000)
    train(x, None, [method], tokens=64 * steps, batch=64, out=tmp_path / "saes")
    (end,) = records(tmp_path / "saes", "finished")
    assert end["target_l0"] == 4
    assert end["l0"] == pytest.approx(4, rel=0.15)  # 300 held-out rows
