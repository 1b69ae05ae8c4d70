"""Killed at any moment and resumed, a run ends with the same bits as one that was left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training_data import realistic

from sparsescope.errors import ArtifactError, StorageError
from sparsescope.training import (
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Method,
    PAnneal,
    TiedL1,
    TopK,
    Transcoder,
    UntiedL1,
    train,
)
from sparsescope.training.member import Member, Vectors

METHODS: list[Method] = [
    TiedL1(l1=0.02, ratio=2),
    UntiedL1(target_l0=4, ratio=2, resample=True),
    PAnneal(target_l0=4, ratio=2),
    Gated(target_l0=4, ratio=2),
    JumpReLU(target_l0=4, ratio=2),
    TopK(k=4, ratio=2, dead_after=500),
    TopK(k=4, ratio=2, dead_after=500, frozen=True),
    BatchTopK(k=4, ratio=2, dead_after=500),
    Matryoshka(k=4, ratio=2),
]


def run(out: Path, rows: int = 2000, **changes: Any) -> None:
    settings: dict[str, Any] = {"tokens": 12_000, "batch": 100, "checkpoint_every": 20, "resume": True}
    train(realistic(rows), None, METHODS, out=out, **{**settings, **changes})


def bits(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "saes"
    run(out, resume=False)
    return bits(out)


class Interrupt:
    """Progress that interrupts at one step."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error = at, error

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done == self.at:
            raise self.error


@pytest.mark.parametrize("at", [1, 20, 21, 77, 120])
def test_ctrl_c_leaves_a_checkpoint_and_resume_gives_the_same_bits(
    tmp_path: Path, undisturbed: dict[str, bytes], at: int
) -> None:
    out = tmp_path / "saes"
    with pytest.raises(KeyboardInterrupt):
        run(out, checkpoint_every=1000, progress=Interrupt(at, KeyboardInterrupt()))
    assert not out.exists()
    saved = sorted(path.name for path in (tmp_path / "saes.partial" / "checkpoints").glob("*.json"))
    assert saved == [f"{at:08d}.json"]
    run(out)
    assert bits(out) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    out, calls = tmp_path / "saes", iter(range(10_000))
    update = Member.update

    def signalled(self: Member, *arguments: Any) -> None:
        if next(calls) == 200:
            os.kill(os.getpid(), number)
        update(self, *arguments)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # Of either signal: a shell that runs the tests in the background has SIGINT ignored.
    before = signal.signal(number, interrupt)
    try:
        monkeypatch.setattr(Member, "update", signalled)
        with pytest.raises(KeyboardInterrupt):
            run(out, checkpoint_every=1000)
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    saved = sorted(path.name for path in (tmp_path / "saes.partial" / "checkpoints").glob("*.json"))
    assert saved == [f"{200 // len(METHODS) + 1:08d}.json"]
    monkeypatch.undo()
    run(out)
    assert bits(out) == undisturbed


def test_a_step_that_breaks_off_half_way_is_not_saved(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "saes", iter(range(10_000))
    update = Vectors.update

    def torn(self: Vectors, *arguments: Any) -> None:
        if next(calls) == 400:
            raise KeyboardInterrupt
        update(self, *arguments)

    monkeypatch.setattr(Vectors, "update", torn)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    saved = sorted(path.name for path in (tmp_path / "saes.partial" / "checkpoints").glob("*.json"))
    assert saved == ["00000020.json", "00000040.json"]
    monkeypatch.undo()
    run(out)
    assert bits(out) == undisturbed


def test_faults_after_resuming_are_the_same_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Member.fault

    def bad(self: Member, loss: float) -> str | None:
        return "exploding" if 0.3 < (loss * 1e4) % 1 < 0.33 else fault(self, loss)

    monkeypatch.setattr(Member, "fault", bad)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole)
    events = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("event") == "skipped" for line in events) >= 4
    for at in (15, 41, 62, 83, 110):
        with pytest.raises(KeyboardInterrupt):
            run(cut, progress=Interrupt(at, KeyboardInterrupt()))
    run(cut)
    assert bits(cut) == bits(whole)


def test_transcoders_resume_to_the_same_bits_too(tmp_path: Path) -> None:
    x = realistic(2000)
    pair = (x, x.tanh()[:, :10].contiguous())
    methods = [Transcoder(k=4, ratio=2), Transcoder(k=4, ratio=2, skip=True)]
    settings: dict[str, Any] = {"tokens": 6000, "batch": 100, "resume": True}
    train(pair, None, methods, out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(pair, None, methods, out=tmp_path / "cut", progress=Interrupt(33, KeyboardInterrupt()), **settings)
    train(pair, None, methods, out=tmp_path / "cut", **settings)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training_resume import run
print("ready", flush=True)
run(Path(sys.argv[1]))
"""


def test_sigkill_at_random_moments_and_resume_give_the_same_bits(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "saes"
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    moments, killed = random.Random(0), 0
    for longest in (0.05, 0.25, 0.5):  # the first kill comes before any machine can have finished
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.01, longest))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert killed
    run(out)
    assert bits(out) == undisturbed


@pytest.mark.parametrize("where", ["rmtree", "rename"])
def test_interrupted_while_it_is_sealed_it_does_not_train_again(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "saes"
    rename = os.rename

    def interrupt(source: Any, *others: Any, **named: Any) -> None:
        if where == "rmtree" or str(source) == f"{out}.partial":
            raise KeyboardInterrupt
        rename(source, *others, **named)

    monkeypatch.setattr(shutil if where == "rmtree" else os, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    monkeypatch.undo()
    monkeypatch.setattr(Member, "update", lambda *arguments, **named: pytest.fail("trained again"))
    run(out)
    assert bits(out) == undisturbed


def test_a_damaged_checkpoint_is_not_used_and_the_one_before_is(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out, folder = tmp_path / "saes", tmp_path / "saes.partial" / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=Interrupt(77, KeyboardInterrupt()))
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000060.json",
        "00000060.safetensors",
        "00000077.json",
        "00000077.safetensors",
    ]
    newest = folder / "00000077.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(bytes(data))
    run(out)
    assert bits(out) == undisturbed


def test_when_every_checkpoint_is_damaged_it_says_so(tmp_path: Path) -> None:
    out, folder = tmp_path / "saes", tmp_path / "saes.partial" / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=Interrupt(77, KeyboardInterrupt()))
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"no checkpoint .* can be used .* wrong checksum.* start afresh"):
        run(out)


def test_other_settings_do_not_continue_a_run(tmp_path: Path) -> None:
    out = tmp_path / "saes"
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=Interrupt(30, KeyboardInterrupt()))
    with pytest.raises(ArtifactError, match=r"seed = 0, now asked for 1"):
        run(out, seed=1)
    with pytest.raises(ArtifactError, match=r"inputs.activations = "):
        run(out, rows=1999)
    with pytest.raises(ArtifactError, match="unfinished work: pass --resume"):
        run(out, resume=False)


def test_a_disk_that_is_full_loses_nothing_that_was_finished(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "saes"
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "00000060" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        run(out)
    monkeypatch.undo()
    assert (tmp_path / "saes.partial" / "checkpoints" / "00000040.json").is_file()
    run(out)
    assert bits(out) == undisturbed
