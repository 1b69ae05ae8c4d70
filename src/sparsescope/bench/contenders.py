"""Who is measured: our methods and those of the libraries in use, each as a value that JSON can hold."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal

OURS = "sparsescope"
FLOOR = "encoder product"
TUNED = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"
"""GLIBC_TUNABLES with which freed memory is kept for the next step: otherwise every step that allocates
large temporaries has them mapped and cleared anew by the system, which costs the libraries up to half their time."""
INSTALL = "pip install 'sparsescope[bench]'"


@dataclass(frozen=True)
class Library:
    """Where a library is to be found: the module that is imported, the name it is installed by."""

    module: str
    distribution: str

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        if find_spec(self.module) is None:
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "unknown"


LIBRARIES = {
    "SAELens": Library("sae_lens", "sae-lens"),
    "dictionary_learning": Library("dictionary_learning", "dictionary-learning"),
    "sparsify": Library("sparsify", "eai-sparsify"),
    "overcomplete": Library("overcomplete", "overcomplete"),
}


@dataclass(frozen=True)
class Contender:
    """One training step to be timed.

    `method` is "product", "topk", "batchtopk", "matryoshka" or "l1" (ours is tied). `l0` is what an l1
    method is held at; None lets it begin dense. `precision` "bf16" means that our selection is
    screened in a shorter format and computed in float32. `memory` "tuned" sets `TUNED`. `members` train on every
    batch, and their time is divided by their number. `choice` is what else a library lets one choose.
    """

    name: str
    library: str
    method: str
    precision: Literal["float32", "bf16"] = "float32"
    memory: Literal["default", "tuned"] = "default"
    data: Literal["plain", "outliers"] = "plain"
    l0: float | None = None
    members: int = 1
    batch: int | None = None
    choice: str | None = None

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return asdict(self)

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here, or None."""
        library = LIBRARIES.get(self.library)
        if library is None or library.version is not None:
            return None
        return f"not installed: {INSTALL}"


def contenders(quick: bool, *, n_latents: int, ensemble: bool) -> list[Contender]:
    """Everything to be measured at one size, the floor first. `quick` leaves out variations."""
    floor = Contender(FLOOR, "torch", "product")
    found = [floor, *_ours(quick), *_peers(quick)]
    if ensemble:
        found += [replace(floor, batch=2048), *_ensemble(quick)]
    return [_named(each, n_latents) for each in found]


def _named(contender: Contender, n_latents: int) -> Contender:
    """Sparsities that a dictionary of this size does not have are left out of sight by asking for fewer."""
    if contender.l0 is not None and contender.l0 > n_latents / 4:
        return replace(contender, l0=n_latents / 4)
    return contender


def _ours(quick: bool) -> Iterator[Contender]:
    topk = Contender("TopK", OURS, "topk", "bf16")
    yield topk
    yield replace(topk, precision="float32")
    yield Contender("TopK without a compiler", OURS, "topk", choice="reference")
    yield Contender("BatchTopK", OURS, "batchtopk", "bf16")
    yield Contender("tied L1", OURS, "l1", "bf16", l0=41)
    yield Contender("tied L1", OURS, "l1", l0=41)
    if quick:
        return
    yield replace(topk, memory="tuned")
    yield replace(topk, data="outliers")
    yield Contender("BatchTopK", OURS, "batchtopk")
    yield Contender("Matryoshka", OURS, "matryoshka", "bf16")
    for l0 in (20, 60):
        yield Contender("tied L1", OURS, "l1", "bf16", l0=l0)
        yield Contender("tied L1", OURS, "l1", l0=l0)
    yield Contender("tied L1, first dense phase", OURS, "l1")
    yield Contender("tied L1 without a compiler", OURS, "l1", l0=41, choice="reference")


def _ensemble(quick: bool) -> Iterator[Contender]:
    yield Contender("16 tied L1, per member", OURS, "l1", "bf16", l0=41, members=16, batch=2048)
    if not quick:
        yield Contender("16 tied L1, per member", OURS, "l1", l0=41, members=16, batch=2048)


def _peers(quick: bool) -> Iterator[Contender]:
    signum = Contender("TopK, signum", "sparsify", "topk", choice="signum")
    yield signum
    yield replace(signum, memory="tuned")
    yield Contender("TopK", "SAELens", "topk")
    yield Contender("TopK", "dictionary_learning", "topk")
    yield Contender("BatchTopK", "dictionary_learning", "batchtopk")
    yield Contender("standard L1", "dictionary_learning", "l1", l0=41)
    yield Contender("TopK", "overcomplete", "topk")
    if quick:
        return
    adam = Contender("TopK, adam", "sparsify", "topk", choice="adam")
    yield adam
    yield replace(adam, memory="tuned")
    yield Contender("BatchTopK", "SAELens", "batchtopk")
    yield Contender("standard L1", "SAELens", "l1", l0=41)
    yield Contender("Matryoshka", "dictionary_learning", "matryoshka")
    yield Contender("BatchTopK", "overcomplete", "batchtopk")
    yield Contender("L1", "overcomplete", "l1", l0=41)
