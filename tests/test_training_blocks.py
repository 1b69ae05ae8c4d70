"""Activations from lists, loaders and generators: what is held out, what is trained on, and in what order."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sparsescope.errors import ConfigurationError, NumericalError
from sparsescope.training.blocks import Blocks
from sparsescope.training.source import Feed, open_feed

HELD, UNKNOWN, HEAD = 16_384, 4096, 20_480


def numbered(rows: int, d: int = 2) -> Tensor:
    """Row i is (i + 1, i + 1, ...), which float32 holds exactly."""
    return torch.arange(1.0, rows + 1).unsqueeze(1).repeat(1, d)


def blocks(rows: int, size: int = 700, d: int = 2) -> list[Tensor]:
    return list(numbered(rows, d).split(size))


def numbers(feed: Feed, batch: int, first: int, steps: int) -> Tensor:
    """The numbers of the rows of these steps, counted from 0."""
    found = [found.x[:, 0] for (found,) in feed.batches(batch, first, steps)]
    return torch.cat(found).long() - 1


def opened(given: Any, seed: int = 0) -> Feed:
    return open_feed(given, None, seed, scale=False, guard=math.inf)


def held_out(feed: Feed) -> list[int]:
    return sorted(int(x) - 1 for batch in feed.sources[0].held_out()[1] for x in batch.x[:, 0])


def test_the_first_rows_are_held_out_and_no_others() -> None:
    for rows, given, held in (
        (10_000, blocks(10_000), 500),  # a list: one in twenty
        (400_000, blocks(400_000, 30_000, 1), HELD),
        (60_000, iter(blocks(60_000)), UNKNOWN),
        (9_000, iter(blocks(9_000)), 450),  # all of it was read when it was opened
        (60_000, DataLoader(TensorDataset(numbered(60_000)), batch_size=500), 3000),
    ):
        feed = opened(given)
        size = min(4096, held)
        assert held_out(feed) == list(range(held // size * size))
        steps = (rows - held) // 1000
        trained = numbers(feed, 1000, 0, steps)
        assert int(trained.min()) >= held
        if isinstance(given, Iterator):
            assert len(set(trained.tolist())) == steps * 1000  # read once: each row at most once


def test_moments_and_sample_are_of_the_first_rows() -> None:
    x = torch.randn(30_000, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0.0, -2.0])
    for given in (list(x.split(900)), iter(x.split(900))):
        held = 1500 if isinstance(given, list) else UNKNOWN
        (source,) = open_feed(given, None, 0, scale=True).sources
        head = x[:HEAD].double()
        assert source.scale == pytest.approx(math.sqrt(float(head.square().mean())), rel=1e-9)
        torch.testing.assert_close(source.mean.double(), head.mean(0) / source.scale, rtol=1e-5, atol=1e-6)
        assert torch.equal(source.sample, x[held : held + 4096] / source.scale)


def test_every_row_is_read_once_an_epoch_and_shuffled_within_a_buffer() -> None:
    rows, held, buffer_rows = 30_000, 1500, 2000
    given = Blocks(blocks(rows), buffer_rows=buffer_rows)
    epochs = 3
    steps = epochs * (rows - held) // 100
    drawn = torch.cat([x["input"][:, 0] for x in given.joint_batches(["input"], batch=100, seed=1, steps=steps)]).long()
    counts = torch.bincount(drawn - 1, minlength=rows)[held:]
    # three epochs were drawn, but for what is in the buffer: of the third, and of the fourth already
    assert int((counts == epochs).sum()) > rows - held - 2 * buffer_rows
    assert set(counts.tolist()) <= {epochs - 1, epochs, epochs + 1}
    first = drawn[:20_000] - 1 - held
    place = torch.arange(20_000)
    assert bool((first < place + buffer_rows).all())  # not before it was read
    assert float((first - place).abs().float().mean()) > buffer_rows / 8
    assert not all(a < b for a, b in pairwise(first[:100].tolist()))


def test_a_step_depends_on_the_seed_and_the_blocks_alone() -> None:
    for make in (lambda: blocks(30_000), lambda: iter(blocks(30_000))):
        whole = numbers(opened(make(), seed=3), 64, 0, 300)
        assert torch.equal(numbers(opened(make(), seed=3), 64, 210, 300), whole[210 * 64 :])
        assert not torch.equal(numbers(opened(make(), seed=4), 64, 0, 300), whole)
    # how the rows are cut into blocks makes no difference
    once = [numbers(opened(iter(blocks(30_000, size)), seed=3), 64, 0, 300) for size in (123, 9000)]
    assert torch.equal(*once)


def test_a_generator_gives_all_it_has_and_then_says_how_much_that_was() -> None:
    steps = (25_000 - UNKNOWN) // 64
    assert len(numbers(opened(iter(blocks(25_000))), 64, 0, steps)) == steps * 64
    given_out = []
    with pytest.raises(ConfigurationError) as caught:
        given_out.extend(opened(iter(blocks(25_000))).batches(64, 0, steps + 1))
    assert len(given_out) == steps
    message = str(caught.value)
    assert "ended after 25,000 rows, of which 4,096 are held out: enough for 326 steps of 64 rows" in message
    assert "asked for were 327 steps of 64 rows. Ask for at most 20,864 tokens" in message
    with pytest.raises(ConfigurationError, match="enough for 326 steps"):
        list(opened(iter(blocks(25_000))).batches(64, 400, 500))


def test_a_generator_is_read_once() -> None:
    feed = opened(iter(blocks(25_000)))
    numbers(feed, 64, 0, 10)
    with pytest.raises(ConfigurationError, match="have been read already, and can be read only once"):
        numbers(feed, 64, 10, 20)
    assert held_out(feed) == list(range(UNKNOWN))  # which is still there


class Turning:
    """Blocks that begin elsewhere each time, as a loader that shuffles does."""

    def __init__(self) -> None:
        self.times = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.times += 1
        whole = numbered(30_000).roll(self.times * 5000, 0)
        return iter(whole.split(1000))


def test_blocks_in_another_order_each_time_would_train_on_what_is_held_out() -> None:
    with pytest.raises(ConfigurationError, match="begin with other rows when they are read again"):
        numbers(opened(Turning()), 64, 0, 10)
    assert len(numbers(opened(iter(Turning())), 64, 0, 10)) == 640


def test_pairs_stay_together() -> None:
    x = numbered(30_000, 3)
    pairs = [(part, 10 * part[:, :1]) for part in x.split(800)]
    loader = DataLoader(TensorDataset(x, 10 * x[:, :1]), batch_size=800)
    for given in (pairs, iter(pairs), loader):
        feed = open_feed(given, None, 0, scale=True)
        (source,) = feed.sources
        assert (source.width, source.output_width, source.paired) == (3, 1, True)
        batches = [found for (found,) in feed.batches(500, 0, 30)] + source.held_out()[1]
        for batch in batches:
            inputs, outputs = batch.x[:, :1] * source.scale, batch.y * source.output_scale
            torch.testing.assert_close(outputs, 10 * inputs, rtol=1e-5, atol=0)
        torch.testing.assert_close(
            source.output_sample * source.output_scale, 10 * source.sample[:, :1] * source.scale, rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_is_read_as_float32(dtype: torch.dtype) -> None:
    x = torch.randn(5000, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    feed = opened(list(x.split(300)))
    rows = {tuple(row) for row in x.float().tolist()}
    for (batch,) in feed.batches(100, 0, 30):
        assert batch.x.dtype == torch.float32
        assert {tuple(row) for row in batch.x.tolist()} <= rows


def test_fingerprints_tell_blocks_apart() -> None:
    one, same, other = (Blocks(blocks(2000, d=d)).fingerprint for d in (2, 2, 3))
    assert one == same != other


def test_wide_rows_are_held_in_a_smaller_buffer() -> None:
    narrow, wide = (Blocks([torch.ones(50, d)]) for d in (8, 8192))
    assert narrow.buffer_bytes(["input"], 16) == 65_536 * 8 * 4 * 3 // 2
    assert wide.buffer_bytes(["input"], 16) == 8192 * 8192 * 4 * 3 // 2  # 256 MiB, and half of it again


def test_blocks_that_cannot_be_trained_on_are_refused() -> None:
    good = torch.randn(40, 3)

    def refused(given: Any, message: str, kind: type[Exception] = ConfigurationError) -> None:
        with pytest.raises(kind, match=message):
            opened(given)

    refused([], "a list hold 0 rows, expected two or more")
    refused([good[:1]], "hold 1 rows")
    refused([good, good[0]], r"a block a torch.float32 tensor of shape \(3,\), expected floating tensors of rows")
    refused([good.numpy()], "a block of type ndarray, expected floating tensors")
    refused([good, good[:, :2]], r"begin with blocks of \(width, dtype\) .*3, torch.float32.* but one has .*2, ")
    refused([good, good.double()], "float64.*: expected all alike")
    refused([(good, good[:5])], r"shape \(40, 3\) and a torch.float32 tensor of shape \(5, 3\)")
    refused([(good, good, good)], "or pairs of them")
    refused([(good, good), good], "expected all alike")
    refused([good.long()], "torch.int64 tensor")
    refused([good, good.index_fill(0, torch.tensor([3]), math.nan)], "first in row 43", NumericalError)
    refused(iter([]), "hold 0 rows")


def test_a_bad_block_later_on_is_found_when_it_is_read() -> None:
    later = blocks(60_000)
    later[50] = later[50][:, :1]
    with pytest.raises(ConfigurationError, match="expected all alike"):
        numbers(opened(iter(later)), 500, 0, 100)
    later[50] = torch.full((700, 2), math.nan)
    with pytest.raises(NumericalError, match=r"hold a NaN or an infinity in the batch of step \d+"):
        numbers(opened(iter(later)), 500, 0, 100)
