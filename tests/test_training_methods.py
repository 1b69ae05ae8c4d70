"""What can be asked for, and what is refused."""

import re
from collections.abc import Callable

import pytest
import torch

from sparsescope.errors import ConfigurationError
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


@pytest.mark.parametrize("cls", [TiedL1, UntiedL1])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l1": -1e-3, "ratio": 4}, "l1 = -0.001, expected a number of 0 or more"),
        ({"l1": float("nan"), "ratio": 4}, "l1 = nan, expected"),
        ({"l1": "1e-3", "ratio": 4}, "l1 = '1e-3', expected"),
        ({"target_l0": 0, "ratio": 4}, "target_l0 = 0, expected a number above 0"),
        ({"ratio": 4}, "give exactly one of the two"),
        ({"l1": 1e-3, "target_l0": 8, "ratio": 4}, "l1 = 0.001, target_l0 = 8: give exactly one"),
        ({"l1": 1e-3}, "ratio = None, n_latents = None: give exactly one"),
        ({"l1": 1e-3, "ratio": 4, "n_latents": 64}, "ratio = 4, n_latents = 64: give exactly one"),
        ({"l1": 1e-3, "ratio": 0}, "ratio = 0, expected a number above 0"),
        ({"l1": 1e-3, "n_latents": 1.5}, "n_latents = 1.5, expected a whole number"),
        ({"l1": 1e-3, "ratio": 4, "seed": -1}, "seed = -1, expected"),
        ({"target_l0": 65, "n_latents": 64}, "target_l0 = 65 of only 64 latents"),
    ],
)
def test_an_l1_method_that_cannot_be_is_refused(cls: type, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        cls(**arguments)
    assert cls.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0, "ratio": 4}, "k = 0, expected a whole number"),
        ({"k": 2.5, "ratio": 4}, "k = 2.5, expected a whole number"),
        ({"k": 65, "n_latents": 64}, "k = 65 of only 64 latents"),
        ({"k": 4}, "give exactly one of the two"),
    ],
)
def test_a_topk_that_cannot_be_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        TopK(**arguments)


def test_sizes_are_checked_against_the_width_before_training() -> None:
    with pytest.raises(ConfigurationError, match="k = 40 of only 32 latents"):
        TopK(k=40, ratio=4).latents(8)
    with pytest.raises(ConfigurationError, match="no latents at width 8"):
        train(torch.randn(50, 8), None, [TiedL1(l1=0.1, ratio=0.01)], tokens=10)
    assert TiedL1(l1=0.1, ratio=1.5).latents(8) == 12


def test_the_initial_seed_depends_on_the_run_and_the_own_fields_alone() -> None:
    method = TiedL1(l1=1e-3, ratio=4)
    assert method.init_seed(0) == TiedL1(l1=1e-3, ratio=4.0).init_seed(0) != method.init_seed(1)
    assert method.init_seed(0) != TiedL1(l1=2e-3, ratio=4).init_seed(0) != UntiedL1(l1=2e-3, ratio=4).init_seed(0)
    own = TiedL1(l1=1e-3, ratio=4, seed=5)
    assert own.init_seed(0) == own.init_seed(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens = 0, expected a whole number"),
        ({"batch": -1}, "batch = -1, expected a whole number"),
        ({"lr": 0.0}, "lr = 0.0, expected a number above 0"),
        ({"lr": float("inf")}, "lr = inf, expected"),
        ({"warmup": 0.6, "decay": 0.6}, "together at most 1"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0"),
        ({"names": ["a", "b"]}, "2 names for 1 members"),
        ({"methods": []}, "expected a list such as"),
        ({"methods": [TiedL1(l1=1e-3, ratio=2)] * 2}, "give each its own seed, or its own name"),
        ({"activations": torch.zeros(4, 4, dtype=torch.int64)}, "expected floating rows"),
        ({"activations": torch.zeros(4, 4, 4)}, "expected floating rows"),
        ({"precision": "fp8"}, "precision = 'fp8', expected one of float32, screened, bf16"),
        ({"device": "gpu"}, "device = 'gpu', expected 'cpu', 'cuda' or 'cuda:1'"),
        ({"device": "mps"}, "training runs on 'cpu' and on 'cuda'"),
        ({"device": "cuda:99"}, "CUDA devices that PyTorch can use: train on 'cpu'"),
        ({"kernels": "fast"}, "kernels = 'fast', expected one of auto, compiled, reference, gpu"),
        ({"methods": [Transcoder(k=2, ratio=2)]}, "Transcoder is trained on a pair of sites (input, output)"),
        ({"activations": (torch.randn(64, 4), torch.randn(64, 3))}, "TiedL1 is trained on one site, got the pair"),
        ({"activations": (torch.randn(64, 4), torch.randn(63, 3))}, "63"),
    ],
)
def test_train_refuses_what_cannot_be_meant(change: dict, message: str) -> None:
    given = {"activations": torch.randn(64, 4), "site": None, "methods": [TiedL1(l1=1e-3, ratio=2)], "tokens": 64}
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        train(**{**given, **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gated(ratio=2), "Gated: l1 = None, target_l0 = None: give exactly one"),
        (lambda: JumpReLU(l0=1.0, target_l0=4, ratio=2), "JumpReLU: l0 = 1.0, target_l0 = 4: give exactly one"),
        (lambda: JumpReLU(target_l0=4, ratio=2, bandwidth=0), "bandwidth = 0, expected a number above 0"),
        (lambda: PAnneal(l1=0.1, ratio=2, p=0.0), "p = 0.0, expected a number above 0, at most 1"),
        (lambda: PAnneal(l1=0.1, ratio=2, start=0.8, end=0.2), "start = 0.8, end = 0.2: it must not end before"),
        (lambda: BatchTopK(k=9, n_latents=8), "BatchTopK: k = 9 of only 8 latents"),
        (lambda: BatchTopK(k=3, ratio=2, anneal=1.5), "anneal = 1.5, expected a share from 0 to 1"),
        (lambda: TopK(k=3, ratio=2, aux=-1), "aux = -1, expected a number of 0 or more"),
        (lambda: TopK(k=3, ratio=2, dead_after=0), "dead_after = 0, expected a number of rows"),
        (lambda: Matryoshka(k=3, ratio=2, widths=(0.5, 0.25, 1)), "expected rising shares that end with 1"),
        (lambda: Matryoshka(k=3, ratio=2, widths=(0.5,)), "expected rising shares that end with 1"),
        (lambda: TopK(k=3, ratio=2, frozen="yes"), "TopK: frozen = 'yes', expected true or false"),  # type: ignore[arg-type]
        (lambda: Transcoder(k=3, n_latents=0), "n_latents = 0, expected a whole number of 1 or more"),
        (lambda: TiedL1(l1=0.1, ratio=2, resample=3), "resample = 3, expected true or false"),
    ],
)
def test_methods_that_cannot_be_are_refused(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_annealed_k_falls_to_what_was_asked(share: float) -> None:
    method = TopK(k=10, ratio=4, anneal=0.5)
    assert method.keep(share) == {0.0: 25, 0.25: 18}.get(share, 10)
