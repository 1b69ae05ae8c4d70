"""The classical methods that can be fitted: frozen descriptions, checked when they are made."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import ConfigurationError
from .base import Dictionary, unit_rows
from .linear import ICADictionary, NeuronDictionary, PCADictionary, RandomDirections
from .nmf import NMFDictionary
from .rows import Progress, Rows, streaming_covariance

RANK_TOLERANCE = 1e-12
"""A direction counts as empty when its variance is below this share of the largest (float32's own noise)."""

FLOAT32_TOLERANCE = 1e-5
"""FastICA iterates in float32, in less than half the time, unless a tolerance below this is asked for."""


@dataclass(frozen=True)
class FitMethod(ABC):
    """Abstract base. A subclass is a frozen dataclass; `k` unset is the full form, else the top-k form."""

    k: int | None = None

    method: ClassVar[str]
    default_rows: ClassVar[int | None] = None
    """How many training rows are read where the caller does not say; None for all."""

    def __post_init__(self) -> None:
        for name in ("k", "components", "n_latents", "max_iter"):
            value = getattr(self, name, None)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigurationError(f"{self}: {name} = {value!r}, expected a whole number, 1 or more.")
        for name in ("ratio", "tol"):
            value = getattr(self, name, 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigurationError(f"{self}: {name} = {value!r}, expected a number above 0.")

    @abstractmethod
    def largest_k(self, width: int) -> int:
        """How many components there are to choose from at this width."""

    @abstractmethod
    def compute(self, data: Rows, rows: int, seed: int, progress: Progress) -> Dictionary:
        """Fit on `rows` of the rows."""

    def check(self, width: int, rows: int) -> None:
        """Raise `ConfigurationError` when there are too few rows or dimensions for what is asked."""
        most = self.largest_k(width)
        if self.k is not None and self.k > most:
            raise ConfigurationError(f"{self}: k = {self.k}, expected at most {most}, its components at width {width}.")

    def label(self) -> str:
        """A short name for reports.

        >>> PCA(k=8).label(), Random(ratio=4).label()
        ('pca-k_8', 'random-x4')
        """
        given = {"k_": self.k, "m": getattr(self, "components", None)}
        return "-".join([self.method, *(f"{key}{value}" for key, value in given.items() if value is not None)])

    def _need(self, rows: int, least: int, components: int) -> None:
        if rows < least:
            raise ConfigurationError(
                f"{self}: {rows:,} rows are too few for {components} components, expected at least {least:,}: "
                "harvest more tokens, or ask for fewer components where the method lets you."
            )


@dataclass(frozen=True)
class Neurons(FitMethod):
    """The basis that the activations come in. With `k`: the k dimensions furthest from their means, signed."""

    method: ClassVar[str] = "neurons"

    def largest_k(self, width: int) -> int:
        return width

    def compute(self, data: Rows, rows: int, seed: int, progress: Progress) -> NeuronDictionary:
        return NeuronDictionary(bias=_centre(data, self.k, rows, seed), k=self.k)


@dataclass(frozen=True)
class Random(FitMethod):
    """Directions drawn uniformly from the sphere: `n_latents` of them, or else `ratio` · d."""

    ratio: float = 2.0
    n_latents: int | None = None

    method: ClassVar[str] = "random"

    def largest_k(self, width: int) -> int:
        return max(1, round(self.ratio * width)) if self.n_latents is None else self.n_latents

    def label(self) -> str:
        size = f"x{self.ratio:g}" if self.n_latents is None else f"m{self.n_latents}"
        return f"{super().label()}-{size}"

    def compute(self, data: Rows, rows: int, seed: int, progress: Progress) -> RandomDirections:
        count = self.largest_k(data.width)
        drawn = torch.randn(count, data.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return RandomDirections(
            directions=unit_rows(drawn)[0].float(), bias=_centre(data, self.k, rows, seed), k=self.k
        )


@dataclass(frozen=True)
class PCA(FitMethod):
    """All principal components, from a covariance summed in float64 while the rows stream by."""

    method: ClassVar[str] = "pca"

    def largest_k(self, width: int) -> int:
        return width

    def check(self, width: int, rows: int) -> None:
        super().check(width, rows)
        self._need(rows, width + 1, width)  # the mean takes one degree of freedom

    def compute(self, data: Rows, rows: int, seed: int, progress: Progress) -> PCADictionary:
        mean, covariance = streaming_covariance(data, rows, seed, progress)
        vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1).T
        # An eigenvector's sign is arbitrary: make the largest entry positive, on every machine.
        vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
        return PCADictionary(components=vectors.float().contiguous(), bias=mean.float(), k=self.k, rows=rows)


@dataclass(frozen=True)
class ICA(FitMethod):
    """scikit-learn's FastICA (parallel, log cosh) on 50,000 rows unless told otherwise.

    `components` None stands for as many as the data have dimensions with variance. `tol` is ten times
    looser than scikit-learn's: on activations of width 192 it needs a quarter of the time, and the
    error of the top-k form changes in the third digit.
    """

    components: int | None = None
    tol: float = 1e-3
    max_iter: int = 200

    method: ClassVar[str] = "ica"
    default_rows: ClassVar[int | None] = 50_000

    def largest_k(self, width: int) -> int:
        return width if self.components is None else self.components

    def check(self, width: int, rows: int) -> None:
        super().check(width, rows)
        if self.largest_k(width) > width:
            raise ConfigurationError(f"{self}: components = {self.components}, expected at most the width, {width}.")
        self._need(rows, self.largest_k(width) + 1, self.largest_k(width))

    def compute(self, data: Rows, rows: int, seed: int, progress: Progress) -> ICADictionary:
        from sklearn.decomposition import FastICA

        x = data.sample(rows, seed).to(torch.float64)
        mean = x.mean(0)
        x -= mean
        axes, spread = self._principal(x)
        progress("ica", 0, self.max_iter)
        working = torch.float32 if self.tol >= FLOAT32_TOLERANCE else torch.float64
        # Whitened here: scikit-learn's own whitening multiplies by sign(eigenvectors[0]), which is zero,
        # and loses the component, where the data already lie along their principal axes.
        ica = FastICA(whiten=False, max_iter=self.max_iter, tol=self.tol, random_state=seed)
        with _convergence() as converged:
            ica.fit((x @ axes.T / spread).to(working).numpy())
        progress("ica", self.max_iter, self.max_iter)
        left, _, right = torch.linalg.svd(torch.from_numpy(ica.components_).to(torch.float64))
        rotation = left @ right  # the nearest orthogonal matrix: found in float32, exact in float64
        mixing, norms = unit_rows(rotation * spread @ axes)
        analysis = rotation / spread @ axes * norms[:, None]
        order = norms.argsort(descending=True)
        return ICADictionary(
            components=mixing[order].float(),
            analysis=analysis[order].float(),
            bias=mean.float(),
            k=self.k,
            converged=converged[0],
            rows=rows,
        )

    def _principal(self, x: Float64[Tensor, "row d"]) -> tuple[Float64[Tensor, "component d"], Float64[Tensor, " d"]]:
        """The principal axes of centred rows and the standard deviation along each."""
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        rank = int((values > RANK_TOLERANCE * values[-1]).sum()) if values[-1] > 0 else 0
        wanted = rank if self.components is None else self.components
        if rank == 0 or wanted > rank or (self.k or 0) > wanted:
            raise ConfigurationError(
                f"{self}: the activations vary in {rank} of {x.shape[1]} dimensions, expected at least "
                f"{max(wanted, self.k or 1)}: ask for fewer components, or a smaller k."
            )
        kept = vectors[:, -wanted:].flip(1).T
        return kept * torch.where(kept[:, :1] < 0, -1, 1), values[-wanted:].flip(0).sqrt()


@dataclass(frozen=True)
class NMF(FitMethod):
    """scikit-learn's MiniBatchNMF (random start, Frobenius) on 20,000 shifted rows unless told otherwise.

    `components` None stands for as many as dimensions. It runs `max_iter` passes unless `tol` is met;
    scikit-learn's own early stop is off, as it ends after a few passes with nearly twice the error.
    """

    components: int | None = None
    tol: float = 1e-4
    max_iter: int = 50

    method: ClassVar[str] = "nmf"
    default_rows: ClassVar[int | None] = 20_000

    def largest_k(self, width: int) -> int:
        return width if self.components is None else self.components

    def check(self, width: int, rows: int) -> None:
        super().check(width, rows)
        self._need(rows, self.largest_k(width), self.largest_k(width))

    def compute(self, data: Rows, rows: int, seed: int, progress: Progress) -> NMFDictionary:
        from sklearn.decomposition import MiniBatchNMF

        x = data.sample(rows, seed).float()
        shift = x.amin(0)
        x -= shift
        if not x.any():
            raise ConfigurationError(f"{self}: the activations do not vary: there is nothing to factorise.")
        progress("nmf", 0, self.max_iter)
        nmf = MiniBatchNMF(
            n_components=self.largest_k(data.width),
            init="random",
            max_iter=self.max_iter,
            max_no_improvement=None,
            tol=self.tol,
            random_state=seed,
        )
        with _convergence() as converged:
            nmf.fit((x / x.mean()).numpy())  # codes are found anew, so the scale does not matter
        progress("nmf", self.max_iter, self.max_iter)
        directions = unit_rows(torch.from_numpy(nmf.components_))[0].float()
        return NMFDictionary(directions=directions, bias=shift, k=self.k, converged=converged[0], rows=rows)


def _centre(data: Rows, k: int | None, rows: int, seed: int) -> Float[Tensor, " d"]:
    """The bias of neurons and random directions: the mean in the top-k form, else zero."""
    if k is None:
        return torch.zeros(data.width)
    mean = data.mean() if rows == data.count else data.sample(rows, seed).to(torch.float64).mean(0)
    return mean.float()


@contextmanager
def _convergence() -> Iterator[list[bool]]:
    """Catch scikit-learn's warning that a fit did not converge, so that it can be recorded: [False] then."""
    from sklearn.exceptions import ConvergenceWarning

    converged = [True]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield converged
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged[0] = False
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
