"""What training reads: tensors, pairs, several sites, the guard against massive rows, and prefetching."""

import gc
import math
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from activation_world import SITES, RunningMean, letters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training_data import realistic

from sparsescope.activations import ActivationStore, harvest, stream
from sparsescope.errors import ConfigurationError, NumericalError, SiteError
from sparsescope.training.batches import Batch
from sparsescope.training.guard import GUARD, Limit, limit_of
from sparsescope.training.prefetch import ahead, moved
from sparsescope.training.source import Feed, open_feed
from sparsescope.training.tensors import TensorRows
from sparsescope.worlds import PlantedWorld

SETTINGS: dict[str, Any] = {"tokens": 3000, "context": 16, "batch": 4, "shard_tokens": 256, "seed": 3}
INPUTS = {"resid_post.0": 8, "module:net.head:in": 5}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return harvest(RunningMean(), letters(), SITES, out=tmp_path_factory.mktemp("acts") / "acts", **SETTINGS)


def only(feed: Feed, batch: int, first: int, steps: int) -> list[Batch]:
    return [found for (found,) in feed.batches(batch, first, steps)]


def root_mean_square(x: Tensor) -> float:
    return float(np.sqrt((x.double().numpy() ** 2).mean()))


# Tensors and pairs


def test_batches_of_a_tensor_are_its_rows_in_units_of_their_root_mean_square() -> None:
    x = realistic(2000)
    feed = open_feed(x, None, seed=4, scale=True)
    (source,) = feed.sources
    rows = TensorRows(x)
    trained = torch.cat(list(rows.batches("", batch=1900, seed=4, steps=1)))
    assert source.scale == pytest.approx(root_mean_square(trained), rel=1e-6)
    found = only(feed, 64, 0, 10)
    for batch, raw in zip(found, rows.batches("", batch=64, seed=4, steps=10), strict=True):
        assert torch.equal(batch.x, raw / source.scale)
        assert batch.y is batch.x
    torch.testing.assert_close(source.mean, trained.mean(0) / source.scale, rtol=1e-4, atol=1e-5)
    assert source.mean_square == pytest.approx(1)
    assert (source.site, source.output_site, source.paired, source.model) == ("", None, False, None)
    assert (source.width, source.output_width, source.output_scale) == (24, 24, source.scale)
    assert source.output_sample is source.sample
    assert len(source.sample) == 1900
    assert source.fingerprint == TensorRows(x).fingerprint


def test_without_scale_the_rows_are_as_they_came() -> None:
    x = realistic(500)
    feed = open_feed(x, None, seed=4, scale=False)
    raw = list(TensorRows(x).batches("", batch=50, seed=4, steps=5))
    assert all(torch.equal(batch.x, each) for batch, each in zip(only(feed, 50, 0, 5), raw, strict=True))
    assert feed.sources[0].scale == feed.sources[0].output_scale == 1.0
    assert feed.sources[0].mean_square == pytest.approx(TensorRows(x).mean_square(""))


def test_the_batch_of_a_step_depends_on_seed_and_step_alone() -> None:
    x = realistic(300)
    whole = only(open_feed(x, None, 5, True), 32, 0, 30)
    later = only(open_feed(x, None, 5, True), 32, 17, 30)
    assert all(torch.equal(a.x, b.x) for a, b in zip(whole[17:], later, strict=True))
    assert not torch.equal(whole[0].x, only(open_feed(x, None, 6, True), 32, 0, 1)[0].x)
    assert only(open_feed(x, None, 5, True), 32, 30, 30) == []


def made_of(x: Tensor) -> Tensor:
    """The outputs of a pair, such that an input tells its output."""
    return 7 * x[:, :3] - 2


def test_rows_of_a_pair_of_tensors_stay_together() -> None:
    x = realistic(3000)
    feed = open_feed((x, made_of(x)), None, seed=1, scale=True)
    (source,) = feed.sources
    assert (source.site, source.output_site, source.paired) == ("", "", True)
    assert (source.width, source.output_width) == (24, 3)
    split, held_out = source.held_out()
    batches = [*only(feed, 100, 0, 40), *held_out, Batch(source.sample, source.output_sample)]
    for batch in batches:
        torch.testing.assert_close(batch.y * source.output_scale, made_of(batch.x * source.scale), rtol=1e-4, atol=1e-3)
    assert split == "validation"
    assert sum(len(batch.x) for batch in held_out) == 150
    trained = {tuple(row) for batch in batches[:40] for row in batch.x.tolist()}
    assert len(trained) == 2850
    assert trained.isdisjoint(tuple(row) for batch in held_out for row in batch.x.tolist())
    y = torch.cat([batch.y for batch in batches[:29]])[:2850].double()  # one epoch
    assert y.square().mean().item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(source.output_mean.double(), y.mean(0), rtol=1e-4, atol=1e-4)
    assert source.fingerprint != open_feed((x, made_of(x) + 1), None, 1, True).sources[0].fingerprint
    assert source.fingerprint != open_feed(x, None, 1, True).sources[0].fingerprint


def test_what_cannot_be_trained_on_is_refused() -> None:
    x = realistic(100)

    def refused(given: Any, site: Any, message: str, kind: type[Exception] = ConfigurationError) -> None:
        with pytest.raises(kind, match=message):
            open_feed(given, site, 0, True)

    refused((x, x[:50]), None, "a pair of 100 inputs and 50 outputs, expected as many")
    refused((x, x, x), None, "a tuple of 3, expected a pair")
    refused(x, "resid_post.0", "site is 'resid_post.0', expected None")
    refused(x[0], None, r"tensor of shape \(24,\), expected floating rows")
    refused((x, x.long()), None, "the outputs are a torch.int64 tensor")
    refused(3, None, "activations are of type int, expected a store, a tensor")
    refused(x * torch.nan, None, "first in row 0 of 100", NumericalError)
    refused((x, x.index_fill(0, torch.tensor([7]), torch.inf)), None, "the outputs hold .* in row 7", NumericalError)
    refused(torch.zeros(50, 3), None, "a mean square of 0.0", NumericalError)
    refused((x, torch.zeros(100, 3)), None, "a mean square of 0.0", NumericalError)


# Sites


def test_a_pair_of_sites_and_single_sites_are_read_in_one_pass(store: ActivationStore) -> None:
    first, second = SITES
    asked: Any = [first, second, (first, second)]
    feed = open_feed(store, asked, seed=2, scale=True)
    names = [(source.site, source.output_site) for source in feed.sources]
    assert names == [(first, None), (second, None), (first, second)]
    assert {source.model for source in feed.sources} == {"running-mean"}
    raw = list(store.joint_batches(SITES, batch=64, seed=2, steps=15))
    for (one, other, pair), rows in zip(feed.batches(64, 0, 15), raw, strict=True):
        assert torch.equal(one.x, rows[first] / math.sqrt(store.mean_square(first)))
        assert torch.equal(other.x, rows[second] / math.sqrt(store.mean_square(second)))
        assert torch.equal(pair.x, one.x)
        assert torch.equal(pair.y, other.x)
        assert one.y is one.x
        assert pair.y is not pair.x
    for source, site in zip(feed.sources, SITES, strict=False):
        torch.testing.assert_close(source.mean.double(), store.mean(site) / source.scale, rtol=1e-5, atol=1e-6)
        (alone,) = open_feed(store, site, seed=2, scale=True).sources
        assert torch.equal(alone.sample, source.sample)
        assert alone.scale == source.scale
    paired = feed.sources[2]
    assert torch.equal(paired.output_sample, feed.sources[1].sample)
    _, held_out = paired.held_out()
    for batch, one in zip(held_out, feed.sources[1].held_out()[1], strict=True):
        assert torch.equal(batch.y, one.x)


def test_a_stream_is_run_once_for_all_sources() -> None:
    calls = []
    several: Any
    for several in (SITES[0], [*SITES, tuple(SITES)]):
        model = RunningMean()
        feed = open_feed(stream(model, letters(), SITES, buffer_rows=400, **SETTINGS), several, 2, True)
        before = model.calls
        whole = list(feed.batches(64, 0, 60))
        calls.append(model.calls - before)
        later = list(feed.batches(64, 50, 60))
        for step, again in zip(whole[50:], later, strict=True):
            assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(step, again, strict=True))
    # how far the background thread has read ahead when the last batch is handed out is the same for both
    assert calls[0] == calls[1]


def test_bad_sites_are_refused(store: ActivationStore) -> None:
    world = PlantedWorld(d=4, n_features=8, active=1)
    for site, message in (
        (None, "site is None, expected the site to train on"),
        ([], r"site = \[\], expected a site, a pair"),
        ([SITES[0], SITES[0]], "each once"),
        ((*SITES, SITES[0]), "expected a site, a pair"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            open_feed(store, site, 0, True)
    with pytest.raises(SiteError, match="no site 'embed'"):
        open_feed(store, (SITES[0], "embed"), 0, True)
    with pytest.raises(SiteError, match="no site 'embed'"):
        open_feed(world, "embed", 0, True)
    with pytest.raises(ConfigurationError, match="PlantedWorld can only be read one site at a time"):
        open_feed(world, ["planted", "other"], 0, True)


def test_a_world_that_knows_only_batches_is_read() -> None:
    world = PlantedWorld(d=6, n_features=10, active=2, offset=0.3)
    feed = open_feed(world, "planted", seed=3, scale=True)
    (source,) = feed.sources
    for batch, raw in zip(
        only(feed, 32, 4, 9), world.batches("planted", batch=32, seed=3, start=4, steps=5), strict=True
    ):
        assert torch.equal(batch.x, raw / math.sqrt(world.mean_square("planted")))
    torch.testing.assert_close(source.mean.double(), world.mean("planted") / source.scale, rtol=1e-5, atol=1e-6)


# Massive norms


def with_massive(rows: int = 3000, every: int = 50, factor: float = 500.0) -> Tensor:
    x = realistic(rows)
    x[::every] *= factor
    return x


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 20), norm=st.floats(1e-3, 1e3), dtype=st.sampled_from(["f", "h"]))
def test_longer_rows_are_brought_to_the_limit_and_others_keep_every_bit(
    seed: int, d: int, norm: float, dtype: str
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(40, d, generator=g) * torch.logspace(-4, 5, 40)[:, None]
    before = x.clone()
    short, count = Limit(norm).shorten(x)
    lengths = before.double().norm(dim=1)
    for row, length in enumerate(lengths.tolist()):
        if length <= norm * (1 - 1e-6):
            assert torch.equal(short[row], before[row])
        elif length >= norm * (1 + 1e-6):
            expected = (before[row].double() * (norm / length)).float()
            torch.testing.assert_close(short[row], expected, rtol=1e-6, atol=0)
            assert short[row].double().norm().item() == pytest.approx(norm, rel=1e-6)
    assert abs(count - int((lengths > norm).sum())) <= int((lengths / norm - 1).abs().lt(1e-6).sum())
    assert torch.equal(x, before)


def test_a_norm_beyond_float32_is_shortened_too() -> None:
    x = torch.tensor([[3e38, -3e38, 3e38], [1.0, 2.0, 2.0]])
    short, count = Limit(5.0).shorten(x)
    torch.testing.assert_close(short[0], torch.tensor([1.0, -1.0, 1.0]) * 5 / math.sqrt(3))
    assert torch.equal(short[1], x[1])
    assert count == 1


def test_no_limit_is_set_by_rows_of_which_half_are_zero() -> None:
    x = torch.zeros(10, 2)
    x[:4] = 100.0
    assert limit_of(x) == Limit(math.inf)
    assert limit_of(torch.ones(9, 4), 3.0) == Limit(6.0)


def test_massive_rows_neither_weigh_nor_scale() -> None:
    x = with_massive()
    feed = open_feed(x, None, 0, True)
    (source,) = feed.sources
    sampled = next(TensorRows(x).batches("", batch=2850, seed=0)).double().numpy()
    lengths = np.linalg.norm(sampled, axis=1, keepdims=True)
    limit = GUARD * np.median(lengths)
    assert source.limit.norm == pytest.approx(limit, rel=1e-9)
    clipped = sampled * np.minimum(1, limit / lengths)
    assert source.scale == pytest.approx(np.sqrt((clipped**2).mean()), rel=1e-6)
    assert source.scale < 0.1 * root_mean_square(x)
    np.testing.assert_allclose(source.sample, clipped / source.scale, rtol=1e-5)
    np.testing.assert_allclose(source.mean, clipped.mean(0) / source.scale, rtol=1e-4, atol=1e-6)
    assert source.mean_square == pytest.approx(1)
    raw = list(TensorRows(x).batches("", batch=100, seed=0, steps=28))
    found = only(feed, 100, 0, 28)
    massive = 0
    for batch, rows in zip(found, raw, strict=True):
        long = rows.norm(dim=1) > source.limit.norm
        massive += int(long.sum())
        assert torch.equal(batch.x[~long], rows[~long] / source.scale)
        found_lengths = batch.x[long].norm(dim=1) * source.scale
        torch.testing.assert_close(found_lengths, torch.full_like(found_lengths, source.limit.norm))
        assert batch.y is batch.x
    assert massive > 40
    assert feed.shortened == massive
    assert all(
        (batch.x.norm(dim=1) * source.scale <= source.limit.norm * 1.0001).all() for batch in source.held_out()[1]
    )


def test_data_without_massive_rows_are_what_they_are_without_a_guard() -> None:
    for data in (realistic(2000), (realistic(2000), realistic(2000, seed=1))):
        one, other = (open_feed(data, None, 0, True, guard=guard) for guard in (None, math.inf))
        for a, b in zip(only(one, 64, 0, 20), only(other, 64, 0, 20), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)
        assert one.shortened == 0
        assert torch.equal(one.sources[0].mean, other.sources[0].mean)


def test_rare_massive_rows_that_no_sample_holds_do_not_set_the_scale() -> None:
    x = realistic(30_000)
    rows = TensorRows(x)
    sampled = next(rows.batches("", batch=4096, seed=0))
    outside = next(n for n in range(30_000) if n in rows._splits["train"] and not (sampled == x[n]).all(1).any())
    x[outside] *= 1e4
    feed = open_feed(x, None, 0, True)
    assert feed.sources[0].scale == pytest.approx(root_mean_square(sampled), rel=1e-6)
    assert open_feed(x, None, 0, True, guard=math.inf).sources[0].scale > 10 * feed.sources[0].scale
    list(feed.batches(1500, 0, 19))
    assert feed.shortened == 1


def test_inputs_and_outputs_of_a_pair_are_shortened_each_by_their_own_median() -> None:
    x = with_massive()
    y = realistic(3000, seed=1)
    y[::50] *= 100
    feed = open_feed((x, y), None, 0, scale=False)
    raw = TensorRows(x, y).joint_batches(["input", "output"], batch=500, seed=0, steps=5)
    source = feed.sources[0]
    for batch, rows in zip(only(feed, 500, 0, 5), raw, strict=True):
        columns = ((batch.x, rows["input"], source.limit), (batch.y, rows["output"], source.output_limit))
        for found, raw_rows, limit in columns:
            norms = raw_rows.norm(dim=1, keepdim=True)
            assert bool((norms > limit.norm).any())
            torch.testing.assert_close(found, raw_rows * (limit.norm / norms).clamp(max=1))


def test_the_guard_may_be_set_and_left_out() -> None:
    x = with_massive()
    assert torch.equal(
        only(open_feed(x, None, 0, False, guard=math.inf), 100, 0, 1)[0].x,
        next(TensorRows(x).batches("", batch=100, seed=0)),
    )
    lower = open_feed(x, None, 0, False, guard=2.0)
    assert lower.sources[0].limit.norm == pytest.approx(2 / GUARD * open_feed(x, None, 0, False).sources[0].limit.norm)


# Rows that are not finite


class Poisoned(TensorRows):
    """A tensor whose batch of one step holds a bad row."""

    at, value = 5, float("nan")

    def batches(self, site: str, *, start: int = 0, split: str = "train", **reading: Any) -> Iterator[Tensor]:
        for step, x in enumerate(super().batches(site, start=start, split=split, **reading), start):
            if step == self.at:
                x[3, 1] = self.value
            yield x


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_named_and_those_before_it_are_given(value: float) -> None:
    rows = Poisoned(realistic(500))
    rows.value = value
    feed = open_feed(rows, "s", 0, True)
    given_out = []
    with pytest.raises(NumericalError, match="activations at s hold a NaN or an infinity in the batch of step 5"):
        given_out.extend(feed.batches(50, 2, 9))
    assert len(given_out) == 3


def test_a_finite_row_whose_square_overflows_is_shortened() -> None:
    rows = Poisoned(realistic(500))
    rows.value = 3e38
    feed = open_feed(rows, "s", 0, True)
    found = only(feed, 50, 5, 6)[0].x
    assert feed.shortened == 1
    assert found[3].norm().item() * feed.sources[0].scale == pytest.approx(feed.sources[0].limit.norm, rel=1e-5)


def test_a_sample_that_is_not_finite_is_refused_at_once() -> None:
    rows = Poisoned(realistic(500))
    rows.at = 0
    with pytest.raises(NumericalError, match="at s hold a NaN or an infinity in the first 475 rows to be trained on"):
        open_feed(rows, "s", 0, True)


# Prefetching


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_one_item_is_made_ahead_in_the_background_and_no_more() -> None:
    made: list[int] = []
    seen = [threading.Event() for _ in range(6)]
    makers = set()

    def items() -> Iterator[int]:
        for number in range(6):
            makers.add(threading.current_thread())
            made.append(number)
            seen[number].set()
            yield number

    reader = ahead(items(), threads=1)
    for number in range(6):
        assert next(reader) == number
        if number + 1 < 6:
            assert seen[number + 1].wait(10)  # made without being asked for
        assert made == list(range(min(number + 2, 6)))
    assert list(reader) == []
    assert threading.current_thread() not in makers
    assert not reading_threads()


def test_an_error_comes_where_its_item_was_asked_for_and_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise SiteError("no third")

    reader = ahead(items(), threads=1)
    assert [next(reader), next(reader)] == [1, 2]
    with pytest.raises(SiteError, match="no third"):
        next(reader)
    assert not reading_threads()


@pytest.mark.parametrize("how", ["close", "drop", "error", "interrupt"])
def test_the_thread_and_what_it_reads_end_with_the_consumer(how: str) -> None:
    ended = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            ended.append(True)

    read = items()

    def consume() -> None:
        for number in ahead(read, threads=1):
            if number == 3:
                raise {"error": ValueError, "interrupt": KeyboardInterrupt}[how]

    if how in ("close", "drop"):
        reader = ahead(read, threads=1)
        next(reader)
        if how == "close":
            reader.close()
        del reader
        gc.collect()
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            consume()
    assert not reading_threads()
    assert ended == [True]


def test_no_more_than_three_items_are_alive() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def items() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(20):
            x = torch.zeros(3)
            alive.add(x)
            most = max(most, len(alive))
            yield x
            del x

    for _ in ahead(items(), threads=1):
        pass
    assert most <= 3


def test_the_threads_of_torch_are_as_said_in_the_background_and_as_before_elsewhere() -> None:
    before = torch.get_num_threads()
    found = list(ahead((torch.get_num_threads() for _ in range(3)), threads=before + 1))
    assert found == [before + 1] * 3
    assert torch.get_num_threads() == before


def test_a_feed_reads_ahead_and_stops_when_it_is_closed() -> None:
    feed = open_feed(realistic(500), None, 0, True)
    reader = feed.batches(50, 0, 100)
    next(reader)
    assert len(reading_threads()) == 1
    reader.close()
    assert not reading_threads()
    assert len(only(feed, 50, 0, 3)) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_come_to_the_device_with_every_bit() -> None:
    feed = open_feed(realistic(5000), None, 0, True, device="cuda")
    same = open_feed(realistic(5000), None, 0, True)
    for one, other in zip(only(feed, 512, 0, 40), only(same, 512, 0, 40), strict=True):
        assert one.x.device.type == "cuda"
        assert torch.equal(one.x.cpu(), other.x)
    assert feed.sources[0].sample.device.type == "cpu"


def test_a_tensor_that_is_where_it_should_be_is_not_copied() -> None:
    x = realistic(5)
    assert moved(x, torch.device("cpu")) is x


def test_what_reading_holds_is_counted(store: ActivationStore) -> None:
    both: Any = [SITES[0], tuple(SITES)]
    assert str(open_feed(store, both, 0, True).device) == "cpu"
    rows = store.rows("train")
    sample = 4 * min(4096, rows) * (8 + 8 + 5)
    assert open_feed(store, both, 0, True).held_bytes(100) == sample + 3 * 100 * 4 * (8 + 8 + 5)
    streamed = stream(RunningMean(), letters(), SITES, buffer_rows=5000, **SETTINGS)
    feed = open_feed(streamed, tuple(SITES), 0, True)
    rows = min(4096, streamed.rows("train"))
    assert feed.held_bytes(100) == 4 * rows * 13 + 3 * 100 * 4 * 13 + 5000 * 13 * 2 * 3 // 2
