"""Fitting a classical method to activations."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..artifact import drafting, start
from ..errors import ConfigurationError, NumericalError
from .base import Dictionary, Provenance
from .files import KIND, finish, load_dictionary
from .linear import ICADictionary, PCADictionary
from .methods import FitMethod
from .nmf import NMFDictionary
from .rows import Progress, Rows, open_rows

if TYPE_CHECKING:
    from ..activations.base import Activations


def fit(
    store: "Activations | Float[Tensor, 'row d']",
    site: str | None,
    method: FitMethod,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    rows: int | None = None,
    full: Dictionary | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Dictionary:
    """Fit a baseline on the training rows of a store's site, or on the rows of a tensor (site None).

    `method` is one of `PCA`, `ICA`, `NMF`, `Neurons`, `Random`; `rows` how many rows are used (None:
    the method's default, or all there are if fewer). With `out` the dictionary is also written there.
    `full`, the same fit with `k` unset, saves the work of fitting again for a top-k form of PCA, ICA
    or NMF: the result is the same to the bit.

    Raises `ConfigurationError` when the rows are too few for the method, `NumericalError` when they
    hold a NaN or an infinity, `ArtifactError` when `out` holds something already (with `resume`: when
    it holds something else).

    >>> from sparsescope.dictionaries.methods import PCA
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + 5
    >>> pca = fit(x, None, PCA())
    >>> torch.allclose(pca.reconstruct(x), x, atol=1e-5)
    True
    """
    if not isinstance(method, FitMethod):
        raise ConfigurationError(f"method is {method!r}, expected one of PCA(), ICA(), NMF(), Neurons(), Random().")
    data = open_rows(store, site)
    used = _rows(data, method, rows)
    method.check(data.width, used)
    origin = Provenance(
        site=data.site, name=method.label(), seed=seed, k=method.k, activations=data.fingerprint, model=data.model
    )

    def compute() -> Dictionary:
        if full is None:
            found = method.compute(data, used, seed, progress or _silent)
        else:
            found = _top_k_form(full, method, origin, used)
        return _checked(found, data).with_provenance(**asdict(origin))

    if out is None:
        return compute()
    settings = {**asdict(method), "rows": used}
    config = {"method": method.method, "settings": settings, "provenance": asdict(origin)}
    draft = start(out, KIND, config, seed, {"activations": data.fingerprint}, resume)
    if not draft.done:
        with drafting(draft):
            finish(compute(), draft)
    return load_dictionary(out)


def _rows(data: Rows, method: FitMethod, rows: int | None) -> int:
    """How many rows to fit on. Raises `ConfigurationError` when that is more than there are."""
    if rows is None:
        return min(data.count, method.default_rows or data.count)
    if not 1 <= rows <= data.count:
        raise ConfigurationError(
            f"rows = {rows:,}, expected 1 to {data.count:,}, the training rows of {data.name}: "
            "ask for fewer, or harvest more tokens."
        )
    return rows


def _top_k_form(full: Dictionary, method: FitMethod, origin: Provenance, rows: int) -> Dictionary:
    """`full` with `k` set. Raises `ConfigurationError` when it is another fit than the one asked for."""
    if not isinstance(full, PCADictionary | ICADictionary | NMFDictionary) or full.k is not None or method.k is None:
        raise ConfigurationError(
            f"full is {full!r} for {method}, expected a PCA, ICA or NMF without k, for a method with k: leave it out."
        )
    theirs, ours = full.provenance, origin
    for name, found, wanted in (
        ("method", full.method, method.method),
        ("site", theirs.site, ours.site),
        ("seed", theirs.seed, ours.seed),
        ("rows", full.rows, rows),
        ("activations", theirs.activations, ours.activations),
    ):
        if found != wanted:
            raise ConfigurationError(f"full was fitted with {name} = {found!r}, asked for is {wanted!r}: leave it out.")
    return replace(full, k=method.k)


def _checked(dictionary: Dictionary, data: Rows) -> Dictionary:
    for name, tensor in dictionary.tensors().items():
        if not torch.isfinite(tensor).all():
            raise NumericalError(
                f"fitting {dictionary.method} to {data.name} gave {name} that are not finite: the values are too large "
                "or too small for float32. Rescale the activations, or leave massive ones out."
            )
    return dictionary


def _silent(stage: str, done: int, total: int) -> None:
    """For callers who do not ask to hear of progress."""
