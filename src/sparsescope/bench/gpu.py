"""Tokens per second of TopK training steps on one CUDA device, by width and number of latents.

Not yet measured: the Triton kernels have so far run in Triton's interpreter and through its compiler
alone, no device having been at hand. The step is that of `train`, on batches that are on the device
already, without the auxiliary loss. Beside it stands the one product that cannot be avoided, x · Eᵀ, in
float32 or, where the step screens, in bfloat16, and in blocks of the same size.
"""

import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigurationError
from ..training import TopK
from ..training.free import free_memory
from ..training.kernels import Kernels, Precision, choose
from ..training.kernels.gpu import PRODUCT_BYTES
from ..training.kernels.gpu_launch import full_precision
from ..training.kernels.reference import Buffers
from ..training.member import create
from ..training.plan import Size, gigabytes, plan
from ..training.schedule import Schedule
from ..training.source import Batch, open_feed
from .timing import interleaved

WIDTHS = (512, 2304, 4096)
LATENTS = (1 << 14, 1 << 16, 1 << 20)
PRECISIONS: tuple[Precision, ...] = ("float32", "screened")
BATCH, K = 4096, 64
STEPS = 5
"""Steps per sample."""
PRODUCT, STEP = "encoder product", "TopK step"

Progress = Callable[[str, int, int], None]


class TopKStep:
    """A TopK dictionary of random directions in training on `kernels`; calling it takes a step on `x`."""

    def __init__(
        self, x: Float[Tensor, "row d"], n_latents: int, k: int, precision: Precision, kernels: Kernels
    ) -> None:
        source = open_feed(x.cpu(), None, seed=0, scale=False, device=x.device).sources[0]
        schedule = Schedule(tokens=1000 * len(x), batch=len(x), lr=1e-4, warmup=0.0, decay=0.0)
        self.batch, self.kernels, self.buffers = Batch(x, x), kernels, Buffers()
        self.member = create(TopK(k=k, n_latents=n_latents, aux=0.0), "gpu", 0, source, schedule, kernels, precision)

    def __call__(self) -> float:
        """One step; its loss."""
        done = self.member.measure(self.batch, 0.5, self.kernels, self.buffers)
        self.member.update(done, len(self.batch.x), 1e-4, self.kernels)
        return done.loss


def measure_gpu(
    *,
    widths: Sequence[int] = WIDTHS,
    n_latents: Sequence[int] = LATENTS,
    precisions: Sequence[Precision] = PRECISIONS,
    batch: int = BATCH,
    k: int = K,
    rounds: int = 5,
    device: str = "cuda",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time TopK steps of every width, number of latents and precision.

    Returns JSON: `machine`, `settings`, and `rows`, two per size (the product, and the step): name, d_in,
    n_latents, batch, k, precision, `tokens_per_second` (median, low, high and n of samples of 5 steps), `ratio` of
    the step's time to the product's, and `peak_bytes` on the device. What does not fit into memory has
    `tokens_per_second` None and says in `note` what it needs. Raises `ConfigurationError` without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigurationError(
            "no CUDA device here: this benchmark needs one, with a PyTorch build for CUDA and Triton. "
            "`sparsescope bench` measures training on the processor."
        )
    where = torch.device(device)
    cases = [(d, n, precision) for d in widths for n in n_latents for precision in precisions]
    rows: list[dict[str, Any]] = []
    for number, (d, n, precision) in enumerate(cases):
        if progress:
            progress(f"d = {d}, {n:,} latents, {precision}", number, len(cases))
        settings = {"d_in": d, "n_latents": n, "batch": batch, "k": k, "precision": precision}
        rows += _case(where, rounds, settings)
    return {"machine": _machine(where), "settings": {"rounds": rounds, "steps": STEPS}, "rows": rows}


def needed(d_in: int, n_latents: int, batch: int, k: int, precision: Precision) -> tuple[int, int]:
    """Bytes that a step needs on the device, about, and on the processor while it is set up.

    >>> needed(512, 16384, batch=4096, k=64, precision="float32")[0] < 2e9
    True
    """
    size = Size(TopK(k=k, n_latents=n_latents, aux=0.0), n_latents, d_in, d_in)
    planned = plan([size], batch, precision=precision)
    # the buffer of products, and at most half as much again for the maxima of groups and what they point at
    row = 4 * n_latents
    return planned.total - planned.finishing - planned.products + max(PRODUCT_BYTES, row) * 3 // 2, 3 * row * d_in


def _case(device: torch.device, rounds: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The two rows of one size, or what kept them from being measured."""
    on_device, on_processor = needed(**settings)
    lacking = _lacking(on_device, device) or _lacking(on_processor, torch.device("cpu"))
    if lacking:
        return [_row(STEP, settings, note=f"does not fit: {lacking}")]
    try:
        return _timed(device, rounds, settings)
    except torch.cuda.OutOfMemoryError:
        return [_row(STEP, settings, note=f"ran out of memory, although about {gigabytes(on_device)} should do")]
    finally:
        torch.cuda.empty_cache()


def _lacking(size: int, device: torch.device) -> str | None:
    free = free_memory(device)
    if free is None or size <= free:
        return None
    return f"needs about {gigabytes(size)} of memory on {device}, {gigabytes(free)} are free"


def _timed(device: torch.device, rounds: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    batch, n, precision = settings["batch"], settings["n_latents"], settings["precision"]
    torch.cuda.reset_peak_memory_stats(device)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(batch, settings["d_in"], generator=generator, device=device)
    step = TopKStep(x, n, settings["k"], precision, choose(device, "gpu"))

    def steps() -> float:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize(device)
        return STEPS * batch

    encoder = step.member.encoder
    factors = (x, encoder.weight) if precision == "float32" else (x.bfloat16(), encoder.screen.rounded)

    def products() -> float:
        for _ in range(STEPS):
            encoder_product(*factors)
        torch.cuda.synchronize(device)
        return STEPS * batch

    steps()
    peak = torch.cuda.max_memory_allocated(device)
    rates = interleaved({PRODUCT: products, STEP: steps}, rounds)
    ratio = rates[PRODUCT].median / rates[STEP].median
    return [
        _row(PRODUCT, settings, tokens_per_second=rates[PRODUCT].describe(), ratio=1.0),
        _row(STEP, settings, tokens_per_second=rates[STEP].describe(), ratio=ratio, peak_bytes=peak),
    ]


def encoder_product(x: Float[Tensor, "row d"], weight: Float[Tensor, "latent d"]) -> None:
    """x · weightᵀ in blocks of rows of at most `PRODUCT_BYTES`, for nothing but the time it takes."""
    rows = max(1, PRODUCT_BYTES // (len(weight) * x.element_size()))
    with full_precision():
        for part in x.split(rows):
            torch.mm(part, weight.t())


def _row(name: str, settings: dict[str, Any], **found: Any) -> dict[str, Any]:
    empty = {"tokens_per_second": None, "ratio": None, "peak_bytes": None, "note": None}
    return {"name": name, **settings, **empty, **found}


def _machine(device: torch.device) -> dict[str, Any]:
    from importlib.metadata import version

    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "system": platform.platform(),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": version("triton")},
    }
