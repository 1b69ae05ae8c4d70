"""What can be trained: frozen descriptions of a method and its size, checked when they are made.

A method says what a dictionary shall be (its sparsity, its number of latents, its own seed); how it
is trained (rows, batch, learning rate) is said once, to `train`, for all members of an ensemble.
"""

import math
from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from ..artifact import digest
from ..errors import ConfigurationError


class Method(ABC):
    """Abstract base. A subclass is a frozen dataclass with at least `ratio`, `n_latents` and `seed`."""

    method: ClassVar[str]
    ratio: float | None
    n_latents: int | None
    seed: int | None

    def latents(self, d: int) -> int:
        """The number of latents on activations of width `d`: `n_latents`, or round(`ratio` · d).

        Raises `ConfigurationError` when that is none at all, or fewer than the sparsity asked for.
        """
        count = self.n_latents if self.n_latents is not None else round((self.ratio or 0) * d)
        if count < 1:
            raise ConfigurationError(f"{self} has no latents at width {d}: give a larger ratio, or n_latents.")
        _check_sparsity(self, count)
        return count

    @property
    def wanted(self) -> float | None:
        """Active latents per row that are asked for: `k` or `target_l0`; None where l1 decides."""
        fields = self.settings()
        return fields.get("k") or fields.get("target_l0")

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON, with the method's name: what is written to a manifest."""
        return {"method": self.method, **vars(self)}

    def init_seed(self, seed: int) -> int:
        """The seed of this member's initial weights: it depends on `seed` and the fields alone.

        So a member starts the same whatever stands beside it in an ensemble. Its own `seed`, where
        given, takes the place of the run's.
        """
        own = {**self.settings(), "seed": seed if self.seed is None else self.seed}
        return int(digest(own)[:15], 16)

    def label(self) -> str:
        """A short name for reports: 'tied_l1-l0_16-x4', 'topk-k_16-m512-s1'."""
        given = [f"{key}_{value:g}" for key, value in self.settings().items() if key in _SPARSITY and value is not None]
        size = f"m{self.n_latents}" if self.n_latents is not None else f"x{self.ratio:g}"
        return "-".join([self.method, *(part.replace("target_", "") for part in given), size, *self._seed_label()])

    def _seed_label(self) -> list[str]:
        return [] if self.seed is None else [f"s{self.seed}"]


_SPARSITY = ("l1", "target_l0", "k")
_FOLLOW = {"l1": "expected a number of 0 or more", "target_l0": "expected a number above 0"}


@dataclass(frozen=True)
class TiedL1(Method):
    """The paper's autoencoder: c = ReLU(M x + b), x̂ = Mᵀ c, rows of M of unit norm, no decoder bias.

    It minimises mean((x − x̂)²) over rows and dimensions plus `l1` · ‖c‖₁ (mean over rows), on
    activations of unit mean square unless `train` is told otherwise. Source: arXiv 2309.08600 §2.

    Give either `l1`, or `target_l0`: then training moves l1 until that many latents are active per
    row. Give either `ratio` (latents per dimension) or `n_latents`. `seed` fixes this member's
    initial weights apart from the run's seed. Raises `ConfigurationError` for anything else.

    >>> TiedL1(target_l0=16, ratio=4).latents(256)
    1024
    """

    l1: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None

    method: ClassVar[str] = "tied_l1"

    def __post_init__(self) -> None:
        _check_l1(self)


@dataclass(frozen=True)
class UntiedL1(Method):
    """The paper's autoencoder for MLP sites: c = ReLU(E x + b), x̂ = Dᵀ c, rows of D of unit norm.

    Objective and arguments are those of `TiedL1`. There is no decoder bias; E starts equal to D.

    >>> UntiedL1(l1=3.2e-4, ratio=1).latents(512)
    512
    """

    l1: float | None = None
    target_l0: float | None = None
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None

    method: ClassVar[str] = "untied_l1"

    def __post_init__(self) -> None:
        _check_l1(self)


@dataclass(frozen=True)
class TopK(Method):
    """c = the `k` largest of E (x − b) + e, negatives set to zero; x̂ = Dᵀ c + b, rows of D of unit norm.

    It minimises mean((x − x̂)²) alone. E starts equal to D and b at the mean of the activations.
    Source: Gao et al. 2024, arXiv 2406.04093 §2.3 (without the auxiliary loss).

    >>> TopK(k=16, n_latents=512).latents(64)
    512
    """

    k: int
    ratio: float | None = None
    n_latents: int | None = None
    seed: int | None = None

    method: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        if not _whole(self.k) or self.k < 1:
            raise ConfigurationError(f"TopK: k = {self.k!r}, expected a whole number of 1 or more.")
        _check_size(self)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_l1(method: TiedL1 | UntiedL1) -> None:
    name = type(method).__name__
    if (method.l1 is None) == (method.target_l0 is None):
        raise ConfigurationError(
            f"{name}: l1 = {method.l1}, target_l0 = {method.target_l0}: give exactly one of the two. "
            "target_l0 is the number of active latents per row; l1 the weight of the penalty."
        )
    for key, expected in _FOLLOW.items():
        value = getattr(method, key)
        if value is not None and (not _number(value) or value < 0 or (key == "target_l0" and value == 0)):
            raise ConfigurationError(f"{name}: {key} = {value!r}, {expected}.")
    for key in _FOLLOW:
        _as_float(method, key)
    _check_size(method)


def _as_float(method: Method, key: str) -> None:
    """8 and 8.0 are one and the same request: keep it in one form, since seeds depend on it."""
    if getattr(method, key) is not None:
        object.__setattr__(method, key, float(getattr(method, key)))


def _check_size(method: Method) -> None:
    name = type(method).__name__
    if (method.ratio is None) == (method.n_latents is None):
        raise ConfigurationError(
            f"{name}: ratio = {method.ratio}, n_latents = {method.n_latents}: give exactly one of the two. "
            "ratio is latents per dimension of the activations."
        )
    if method.ratio is not None and (not _number(method.ratio) or method.ratio <= 0):
        raise ConfigurationError(f"{name}: ratio = {method.ratio!r}, expected a number above 0.")
    _as_float(method, "ratio")
    if method.n_latents is not None and (not _whole(method.n_latents) or method.n_latents < 1):
        raise ConfigurationError(f"{name}: n_latents = {method.n_latents!r}, expected a whole number of 1 or more.")
    if method.seed is not None and (not _whole(method.seed) or method.seed < 0):
        raise ConfigurationError(f"{name}: seed = {method.seed!r}, expected a whole number of 0 or more, or None.")
    if method.n_latents is not None:
        _check_sparsity(method, method.n_latents)


def _check_sparsity(method: Method, count: int) -> None:
    if method.wanted is not None and method.wanted > count:
        what = "k" if isinstance(method, TopK) else "target_l0"
        raise ConfigurationError(
            f"{type(method).__name__}: {what} = {method.wanted:g} of only {count} latents: "
            "ask for fewer active latents, or for more latents."
        )
