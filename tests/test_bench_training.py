"""The training benchmark: its arithmetic, its processes, and that every contender does what it is said to do."""

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import Outcome
from scipy import stats

from sparsescope.bench import contenders as entries
from sparsescope.bench import memory, quality, race, training
from sparsescope.bench.contenders import FLOOR, LIBRARIES, OURS, TUNED, Contender, Library, contenders
from sparsescope.bench.data import bias_for, knowing, map_rows, superposed, write_rows
from sparsescope.bench.heats import heats, needed_bytes
from sparsescope.bench.ours import L1, Ours
from sparsescope.bench.peers import PEERS, Learned, Task, start_peer
from sparsescope.bench.processes import QUIET, Process, environment
from sparsescope.bench.targets import targets
from sparsescope.errors import ConfigurationError

Cli = Callable[..., Outcome]
ROW_KEYS = ("name", "library", "method", "d_in", "n_latents", "batch", "l0", "precision", "ms", "ratio", "peak_bytes")


# What is measured on


def test_rows_are_sums_of_the_directions() -> None:
    x, directions = superposed(2000, 64, seed=3)
    assert float(x.square().mean()) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(directions.norm(dim=1), torch.ones(len(directions)), atol=1e-5)
    # sums of 20 of them lie closer to the nearest one than to the nearest of as many others
    others = superposed(1, 64, seed=4)[1]
    assert float((x @ directions.T).amax(1).mean()) > 1.1 * float((x @ others.T).amax(1).mean())
    outlying, _ = superposed(2000, 64, outliers=True, seed=3)
    means = outlying.mean(0).abs().sort(descending=True).values
    assert float(outlying.square().mean()) == pytest.approx(1, rel=1e-5)
    assert float(means[3]) > 20 * float(means[4])


@pytest.mark.parametrize("n_latents", [100, 1200])
def test_weights_know_the_directions(n_latents: int) -> None:
    _, directions = superposed(1, 64)
    weights = knowing(directions, n_latents)
    nearest = (weights @ directions.T).max(dim=1)
    assert torch.allclose(weights.norm(dim=1), torch.ones(n_latents), atol=1e-5)
    assert float(nearest.values.min()) > 0.9
    counts = torch.bincount(nearest.indices, minlength=len(directions))
    assert int(counts.max()) - int(counts.min()) <= 1


@pytest.mark.parametrize("l0", [3, 20.5])
def test_the_bias_gives_the_l0(l0: float) -> None:
    x, directions = superposed(500, 32)
    weights = knowing(directions, 128)
    codes = x @ weights.T + bias_for(x, weights, l0)
    assert float((codes > 0).sum()) / len(x) == pytest.approx(l0, abs=0.01)


def test_mapped_rows_are_the_written_ones(tmp_path: Path) -> None:
    x = torch.randn(7, 5)
    write_rows(x.T.contiguous().T, tmp_path / "rows")  # strides do not matter
    assert torch.equal(map_rows(tmp_path / "rows", 5), x)


@pytest.mark.skipif(memory.resident() is None, reason="memory is told by Linux only")
def test_peak_is_forgotten_and_counted_anew() -> None:
    filled = torch.ones(40_000_000)
    most = memory.peak() or 0
    assert most >= filled.nbytes
    del filled
    if not memory.forget_peak():
        pytest.skip("the system does not let a process reset its peak")
    assert (memory.peak() or 0) < most - 100_000_000
    again = torch.ones(30_000_000)
    assert (memory.peak() or 0) - (memory.resident() or 0) < 10_000_000
    assert len(again)


# Contenders


def test_every_contender_is_named_once_and_the_floor_comes_first() -> None:
    for quick in (False, True):
        found = contenders(quick, n_latents=2048, ensemble=True)
        assert found[0] == Contender(FLOOR, "torch", "product")
        assert len(set(found)) == len(found)
        assert {each.library for each in found} == {"torch", OURS, *LIBRARIES}
        for each in found:
            if each.library in PEERS:
                assert each.method in PEERS[each.library].methods
    assert {each.l0 for each in contenders(False, n_latents=128, ensemble=False)} == {None, 20, 32}


def test_a_library_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(entries.LIBRARIES, "SAELens", Library("no_such_module", "no-such-module"))
    assert Contender("TopK", "SAELens", "topk").missing == "not installed: pip install 'sparsescope[bench]'"
    assert Contender("TopK", OURS, "topk").missing is None


def test_heats_hold_everybody_once_and_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "version", "1")
    chosen = contenders(False, n_latents=16384, ensemble=True)
    shape = {"d_in": 512, "n_latents": 16384, "batch": 4096}
    everybody = heats(chosen, **shape, available=None)
    assert len(everybody) == 1
    assert set(everybody[0]) == set(chosen)
    split = heats(chosen, **shape, available=16e9)
    assert len(split) > 1
    running = [each for heat in split for each in heat if each.name != FLOOR]
    assert sorted(map(str, running)) == sorted(str(each) for each in chosen if each.name != FLOOR)
    kinds = [each.method for each in running]
    assert kinds == sorted(kinds, key=("topk", "batchtopk", "matryoshka", "l1").index)
    for heat in split:
        floors = {each.batch for each in heat if each.name == FLOOR}
        assert heat[0] == Contender(FLOOR, "torch", "product")
        assert floors >= {each.batch for each in heat}
        held = sum(needed_bytes(each, 512, 16384, 4096) for each in heat)
        assert held < 16e9 or len(heat) == 2
    assert len(heats(chosen, **shape, available=1e9)) > len(split)


def test_the_environment_of_a_process() -> None:
    base = {"GLIBC_TUNABLES": "x", "PYTHONPATH": "/elsewhere"}
    plain, tuned = environment(3, False, base), environment(3, True, base)
    assert "GLIBC_TUNABLES" not in plain
    assert tuned["GLIBC_TUNABLES"] == TUNED
    assert plain["OMP_NUM_THREADS"] == "3"
    assert plain["PYTHONPATH"].endswith("/elsewhere")


def _task(method: str, x: torch.Tensor, directions: torch.Tensor, **settings: Any) -> Task:
    weights = knowing(directions, 96)
    plain = {"k": 4, "lr": 1e-3, "choice": "reference", "weights": weights, "bias": x.mean(0)}
    return Task(method, 32, 96, len(x), **{**plain, **settings})


@pytest.mark.parametrize("method", ["topk", "l1", "matryoshka"])
def test_our_step_s_loss_is_that_of_what_is_learned(method: str) -> None:
    """The loss before a step is the mean squared error of the weights before it, plus the penalty."""
    x, directions = superposed(256, 32)
    task = _task(method, x, directions, encoder_bias=-0.5, widths=(96,))
    ours = Ours(task, x, screened=False)
    try:
        before = ours.learned()
        codes = before.encode(x)
        expected = (x - before.reconstruct(x)).square().mean()
        if method == "l1":
            expected += L1 * codes.sum() / len(x)
        if method == "matryoshka":  # before any step there is no threshold: the batch's largest are kept
            pre = (x - before.bias) @ before.encoder.T + before.encoder_bias
            kept = pre.flatten().topk(4 * len(x)).values[-1]
            again = pre * (pre >= kept) @ before.directions + before.bias
            expected = (x - again).square().mean()
        losses = [ours.step(x) for _ in range(20)]
        assert losses[0] == pytest.approx(float(expected), rel=1e-4)
        assert losses[-1] < losses[0]
        if method != "l1":
            assert ours.l0 == pytest.approx(4)
    finally:
        ours.close()


def test_members_of_an_ensemble_differ_and_all_train() -> None:
    x, directions = superposed(256, 32)
    ours = Ours(_task("l1", x, directions), x, screened=False, members=3)
    try:
        begun = [member.weights.directions.clone() for member in ours.members]
        ours.step(x)
        for number, member in enumerate(ours.members):
            assert not torch.equal(member.weights.directions, begun[number])
            assert not torch.equal(begun[number], begun[number - 1])
    finally:
        ours.close()


def test_screening_selects_what_float32_selects_on_outlier_dimensions() -> None:
    x, directions = superposed(2048, 32, outliers=True)
    ours = Ours(_task("topk", x, directions, choice=None), x, screened=True)
    try:
        ours.step(x)
        assert ours.missed(x) == 0
    finally:
        ours.close()


def test_learned_keeps_what_its_form_says() -> None:
    torch.manual_seed(0)
    weights = (torch.randn(6, 4), torch.randn(6), torch.randn(6, 4), torch.randn(4))
    x = torch.randn(10, 4)
    pre = (x - weights[3]) @ weights[0].T + weights[1]
    for learned in (Learned(*weights, k=2), Learned(*weights, threshold=0.7), Learned(*weights)):
        codes = learned.encode(x)
        for row, codes_of_row in zip(pre, codes, strict=True):
            ranks = row.argsort(descending=True)
            kept = ranks[:2] if learned.k else torch.arange(6)
            for latent in range(6):
                active = latent in kept and float(row[latent]) > learned.threshold
                assert float(codes_of_row[latent]) == (float(row[latent]) if active else 0.0)
        assert torch.allclose(learned.reconstruct(x), codes @ weights[2] + weights[3])


@pytest.mark.parametrize(("library", "method"), [(name, m) for name, peer in PEERS.items() for m in peer.methods])
@pytest.mark.filterwarnings("default")
def test_peers_train_and_their_weights_are_read_rightly(
    library: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(LIBRARIES[library].module) is None:
        pytest.skip(f"{library} is not installed")
    x, directions = superposed(256, 32)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    for weights, bias in ((None, None), (knowing(directions, 96), x.mean(0))):
        task = Task(method, 32, 96, 256, k=4, steps=100_000, lr=1e-2, weights=weights, bias=bias)
        peer = start_peer(library, task)
        begun = float((x - peer.learned().reconstruct(x)).square().mean())
        for _ in range(60):
            peer.step(x)
        learned = peer.learned()
        again = learned.reconstruct(x)
        assert float((again - peer.own_reconstruction(x)).abs().max()) < 1e-4
        if weights is None:
            assert float((x - again).square().mean()) < begun
        if method == "topk":
            assert int((learned.encode(x) > 0).sum(1).max()) <= 4


def test_what_no_library_has_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown library 'torch'"):
        start_peer("torch", Task("topk", 4, 8, 16))
    with pytest.raises(ConfigurationError, match="sparsify has no method 'l1', only topk"):
        start_peer("sparsify", Task("l1", 4, 8, 16))


# The race


class Scripted:
    """A process that takes the seconds it is told to, in a world of its own."""

    seconds: ClassVar[dict[str, list[float]]] = {}
    foreign: ClassVar[dict[str, list[float]]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, threads: int, tuned: bool) -> None:
        self.name = ""

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        self.name = self.name or request["contender"]["name"]
        self.asked.append((do, self.name))
        if do == "make" and self.name == "broken":
            return {"error": "ValueError: no"}
        if do == "sample":
            return {"seconds": self.seconds[self.name].pop(0), "foreign": self.foreign.get(self.name, [0] * 9).pop(0)}
        return {"seconds": 1.0, "peak_bytes": 5, "l0": 7.0} if do == "finish" else {}

    def close(self) -> None:
        self.asked.append(("close", self.name))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(race, "Process", Scripted)
    monkeypatch.setattr(race.time, "sleep", lambda seconds: None)
    Scripted.asked = []
    return Scripted


def test_samples_interleave_and_ratios_are_of_medians(scripted: type[Scripted]) -> None:
    scripted.seconds = {FLOOR: [0.1, 0.3, 0.2], "a": [0.4, 0.5, 0.3, 9.0], "many": [1.6, 3.2, 4.8]}
    scripted.foreign = {"a": [0.0, 0.9, 0.0, 0.0]}
    missing = Contender("b", "SAELens", "topk")
    chosen = [
        Contender(FLOOR, "torch", "product"),
        Contender("a", OURS, "topk"),
        Contender("many", OURS, "l1", members=16),
        Contender("broken", OURS, "topk"),
        missing,
    ]
    shape = {"d_in": 8, "n_latents": 16, "k": 4, "threads": 1}
    racing = race.Race(chosen, shape, 32, None)
    racing.entrants[-1].note = "not installed"
    rows = {row["name"]: row for row in racing.run(3, retries=1)}
    sampled = [name for do, name in scripted.asked if do == "sample"]
    assert sampled == [FLOOR, "a", "many", FLOOR, "a", "a", "many", FLOOR, "a", "many"]
    assert rows["a"]["ms"] == pytest.approx(400)  # the disturbed sample of the second round was taken again
    assert rows["a"]["ratio"] == pytest.approx(0.4 / 0.2)
    assert (rows["a"]["l0"], rows["many"]["l0"], rows["a"]["disturbed"]) == (4, 7.0, 0)
    assert rows["many"]["ms"] == pytest.approx(200)
    assert (rows["many"]["low"], rows["many"]["high"]) == (pytest.approx(100), pytest.approx(300))
    assert rows["broken"]["ms"] is None
    assert rows["broken"]["note"] == "ValueError: no"
    assert rows["b"]["note"] == "not installed"
    assert all(set(ROW_KEYS) <= set(row) for row in rows.values())


def test_a_budget_ends_the_rounds(scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(race.time, "monotonic", lambda: next(clock))
    scripted.seconds = {FLOOR: [0.1] * 9}
    shape = {"d_in": 8, "n_latents": 16, "k": 4, "threads": 1}
    (row,) = race.Race([Contender(FLOOR, "torch", "product")], shape, 32, None).run(9, budget=25.0)
    assert row["n"] == 2  # 10 s for the first; the clock says 20 s before the third, which would not fit


def test_processes_measure_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything once, very small: the floor, ours, a library that is missing, and one that fails."""
    chosen = [
        Contender(FLOOR, "torch", "product"),
        Contender("TopK", OURS, "topk", choice="reference", memory="tuned"),
        Contender("TopK", "SAELens", "topk"),
        Contender("nothing", OURS, "no such method"),
    ]
    monkeypatch.setattr(training, "contenders", lambda *arguments, **settings: chosen)
    monkeypatch.setitem(entries.LIBRARIES, "SAELens", Library("no_such_module", "no-such-module"))
    stages: list[str] = []
    result = training.measure_training(
        n_latents=(64,), d_in=16, batch=64, k=3, rounds=2, threads=1, progress=lambda *told: stages.append(told[0])
    )
    json.dumps(result, allow_nan=False)
    floor, ours, missing, failed = result["rows"]
    assert floor["ratio"] == pytest.approx(1)
    assert (ours["l0"], ours["n"], ours["kernels"], ours["memory"]) == (3, 2, "reference", "tuned")
    assert ours["ms"] > 0
    assert ours["ratio"] == pytest.approx(ours["ms"] / floor["ms"])
    assert ours["peak_bytes"] is None or 0 < ours["peak_bytes"] < 200_000_000
    assert ours["loss_last"] < ours["loss_first"]
    assert missing["ms"] is None
    assert "pip install" in missing["note"]
    assert "no method 'no such method' is measured" in failed["note"]
    assert result["machine"]["threads"] == 1
    assert result["machine"]["libraries"]["SAELens"] is None
    assert "measuring, 64 latents" in stages


def test_a_process_that_dies_is_told_with_its_last_words() -> None:
    with Process(threads=1) as process:
        assert process.ask(do="make") == {"error": process.ask(do="make")["error"]}  # it outlives a bad request
        process._process.kill()
        assert "its process ended with code -9" in process.ask(do="warm", steps=1)["error"]


# Targets


def test_targets_are_told_with_what_was_measured() -> None:
    plain = {"d_in": 512, "n_latents": 16384, "batch": 4096, "data": "plain", "memory": "default", "choice": None}
    plain |= {"members": 1, "precision": "float32", "peak_bytes": 100, "l0": 32}
    rows = [
        {**plain, "name": "TopK", "library": OURS, "method": "topk", "precision": "bf16", "ms": 10.0, "ratio": 0.6},
        {**plain, "name": "TopK", "library": OURS, "method": "topk", "ms": 20.0, "ratio": 1.4},
        {**plain, "name": "BatchTopK", "library": OURS, "method": "batchtopk", "ms": 21.0, "ratio": 1.5},
        {**plain, "name": "tied L1", "library": OURS, "method": "l1", "precision": "bf16", "ms": 9, "ratio": 0.7},
        {**plain, "name": "signum", "library": "sparsify", "method": "topk", "ms": 40.0, "ratio": 3.0},
        {**plain, "name": "adam", "library": "sparsify", "method": "topk", "ms": 29.0, "ratio": 2.0},
        {**plain, "name": "TopK", "library": "SAELens", "method": "topk", "ms": 70.0, "ratio": 9.0, "peak_bytes": 150},
    ]
    found = {target["what"]: target for target in targets(rows)}
    for what, measured, met in (
        ("TopK, screened, ratio", 0.6, True),
        ("TopK, float32 products, ratio", 1.4, False),
        ("TopK without a compiler, ratio", None, None),
        ("tied L1, screened at L0 32, ratio", 0.7, True),
        ("BatchTopK / TopK, float32", 1.05, True),
        ("BatchTopK / TopK, screened", None, None),
        ("TopK, screened: times the speed of sparsify, default malloc", 2.9, False),
        ("TopK, screened: times the speed of sparsify, tuned malloc", None, None),
        ("TopK, screened: times the speed of SAELens, default malloc", 7.0, True),
        ("TopK, screened: times less peak memory than SAELens", 1.5, False),
    ):
        assert found[what]["measured"] == (None if measured is None else pytest.approx(measured)), what
        assert found[what]["met"] is met, what
    assert targets([{**row, "d_in": 64} for row in rows]) == []


# Quality


def test_differences_are_paired_and_their_interval_is_student_s() -> None:
    ours, theirs = [0.9, 0.8, 1.0, 0.7], [0.85, 0.9, 0.8, 0.65]
    found = quality.difference(ours, theirs)
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = stats.t.interval(0.95, 3, loc=found.value, scale=stats.sem(gaps))
    assert found.value == pytest.approx(sum(gaps) / 4)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert quality.difference([1.0], [0.5]).low == -math.inf


def test_pairs_compare_the_same_world_and_seed() -> None:
    rows = [
        {"world": world, "method": "topk", "library": library, "seed": seed}
        | {"recovery": base + seed / 10, "fvu": 0.1, "l0": 5.0}
        for world, library, base in (("plain", OURS, 0.5), ("plain", "SAELens", 0.6), ("offset", OURS, 0.1))
        for seed in (0, 1, 2)
    ]
    (pair,) = quality._pairs(rows)
    assert (pair["world"], pair["library"], pair["met"]) == ("plain", "SAELens", False)
    assert pair["recovery"]["difference"]["value"] == pytest.approx(-0.1)
    assert pair["recovery"]["ours"] == pytest.approx(0.6)


@pytest.mark.parametrize("world", ["plain", "offset"])
def test_a_trial_measures_a_training_of_ours(world: str) -> None:
    found = quality.run(library=OURS, method="topk", world=world, seed=1, tokens=100_000, lr=1e-2)
    assert found["l0"] == pytest.approx(5, abs=0.2)
    assert 0.1 < found["fvu"] < 0.6
    assert 0.05 < found["recovery"] <= 1


# The command


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from sparsescope.cli import bench as command

    given: dict[str, Any] = {}
    row: dict[str, Any] = {
        "name": "TopK",
        "library": OURS,
        "n_latents": 64,
        "d_in": 512,
        "l0": 32.0,
        "n": 5,
        "note": None,
    }
    row |= {
        "precision": "bf16",
        "memory": "default",
        "data": "plain",
        "ms": 12.5,
        "ratio": 0.5,
        "peak_bytes": 3_000_000,
    }
    row |= {"disturbed": 1}
    lost = {**row, "library": "SAELens", "ms": None, "ratio": None, "note": "not installed: pip install it"}

    def speed(**settings: Any) -> dict[str, Any]:
        given["speed"] = settings
        target = {"what": "TopK, ratio", "n_latents": 64, "measured": 0.5, "at_most": 0.6, "met": True}
        return {"machine": {}, "settings": {"batch": 4096}, "rows": [lost, row], "targets": [target]}

    def quality(**settings: Any) -> dict[str, Any]:
        given["quality"] = settings
        gap = {"value": 0.01, "low": -0.02, "high": 0.04, "n": 5, "unit": "seed"}
        both = {"ours": 0.99, "theirs": 0.98, "difference": gap}
        pair = {"world": "offset", "method": "topk", "library": "SAELens", "met": True}
        pair |= {"recovery": both, "fvu": both, "l0": both}
        return {"settings": {"tokens": 1000, "seeds": 5, "n_latents": 512}, "rows": [], "pairs": [pair], "missing": []}

    monkeypatch.setattr(command, "measure_training", speed)
    monkeypatch.setattr(command, "measure_quality", quality)
    return given


def test_the_command_shows_tables_and_writes_the_numbers(cli: Cli, tmp_path: Path, canned: dict[str, Any]) -> None:
    ended = cli("bench", "--json-out", tmp_path / "all.json", "--n-latents", 64, "--out", tmp_path / "folder")
    assert ended.code == 0
    assert "expected: about" in ended.err
    for words in ("12.5", "0.50", "3 MB", "1 of 5 disturbed", "not installed: pip install it", "met", "+0.010"):
        assert words in ended.out
    written = json.loads((tmp_path / "all.json").read_text())
    assert [row["library"] for row in written["rows"]] == ["SAELens", OURS]
    assert written["quality"]["pairs"][0]["world"] == "offset"
    assert written == json.loads((tmp_path / "folder" / "bench.json").read_text())
    assert (canned["speed"]["n_latents"], canned["quality"]["seeds"]) == ((64,), 5)


def test_parts_of_the_command(cli: Cli, canned: dict[str, Any]) -> None:
    ended = cli("bench", "--what", "quality", "--quick", "--library", "SAELens", "--json")
    assert (ended.code, set(canned)) == (0, {"quality"})
    assert set(ended.json) == {"quality"}
    assert (canned["quality"]["libraries"], canned["quality"]["seeds"]) == (["SAELens"], 2)
    assert cli("bench", "--what", "speed", "--quick").code == 0
    assert canned["speed"]["quick"] is True


def test_requests_that_cannot_be_met(cli: Cli) -> None:
    for words, message in (
        (["--library", "SAElens"], "Did you mean 'SAELens'?"),
        (["--n-latents", "16"], "--k 32 of only 16 latents"),
        (["--rounds", "0"], "--rounds"),
    ):
        ended = cli("bench", *words)
        assert ended.code == 2
        assert message in ended.err


def test_the_command_says_what_it_takes(cli: Cli) -> None:
    ended = cli("bench", "--help")
    for word in ("--quick", "--json-out", "--out", "--seed", "--json", "--config", "--debug", "example:"):
        assert word in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100
