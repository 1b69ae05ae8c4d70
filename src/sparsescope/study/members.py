"""From lists of settings to the dictionaries they stand for: every sparsity at every size and seed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..dictionaries import FitMethod
    from ..training import Method

Trained = Literal[
    "tied_l1", "untied_l1", "p_anneal", "gated", "jumprelu", "topk", "batchtopk", "matryoshka", "transcoder"
]
Fitted = Literal["neurons", "random", "pca", "ica", "nmf"]
AnyMethod = Literal[Trained, Fitted]

_CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tied_l1": ("TiedL1", ("l1", "target_l0")),
    "untied_l1": ("UntiedL1", ("l1", "target_l0")),
    "p_anneal": ("PAnneal", ("l1", "target_l0")),
    "gated": ("Gated", ("l1", "target_l0")),
    "jumprelu": ("JumpReLU", ("l0", "target_l0")),
    "topk": ("TopK", ("k",)),
    "batchtopk": ("BatchTopK", ("k",)),
    "matryoshka": ("Matryoshka", ("k",)),
    "transcoder": ("Transcoder", ("k",)),
}
"""The class in `sparsescope.training` behind each name, and the ways to ask it for a sparsity."""


def trained_methods(
    names: Sequence[str],
    *,
    l1: Sequence[float] = (),
    l0: Sequence[float] = (),
    target_l0: Sequence[float] = (),
    k: Sequence[int] = (),
    ratio: Sequence[float] = (),
    n_latents: Sequence[int] = (),
    member_seed: Sequence[int] = (),
    skip: bool = False,
    frozen: bool = False,
) -> "list[Method]":
    """One dictionary for each method, sparsity, size and seed; `skip` is for transcoders, `frozen` for topk alone.

    The sparsities of a method are those of the lists `l1`, `l0`, `target_l0` and `k` that are for it.
    Raises `ConfigurationError` when a method has no sparsity or no size, or when something is given
    that no method uses.

    >>> [each.label() for each in trained_methods(["topk"], k=[8, 16], ratio=[2])]
    ['topk-k_8-x2', 'topk-k_16-x2']
    """
    from .. import training

    lists: dict[str, Sequence[Any]] = {"l1": l1, "l0": l0, "target_l0": target_l0, "k": k}
    sizes: list[dict[str, Any]] = [{"ratio": value} for value in ratio] + [{"n_latents": value} for value in n_latents]
    seeds: list[dict[str, Any]] = [{"seed": value} for value in member_seed] or [{}]
    made: list[Method] = []
    others = [name for name in names if name != "topk"]
    if frozen and others:
        raise ConfigurationError(f"frozen is for topk, not for {', '.join(others)}: train those apart.")
    for name in names:
        cls, keys = _CLASSES[name]
        sparsities: list[dict[str, Any]] = [{key: value} for key in keys for value in lists[key]]
        if not sparsities:
            raise ConfigurationError(f"method {name} needs a sparsity: give {' or '.join(keys)}.")
        if not sizes:
            raise ConfigurationError(f"method {name} needs a size: give ratio (latents per dimension) or n_latents.")
        more = {"skip": True} if skip and name == "transcoder" else {"frozen": True} if frozen else {}
        make = getattr(training, cls)
        made += [
            make(**sparsity, **size, **seed, **more) for size in sizes for sparsity in sparsities for seed in seeds
        ]
    _refuse_unused(names, {**lists, "skip": (skip,) if skip else ()})
    return _all_different(made)


def _refuse_unused(names: Sequence[str], given: Mapping[str, Sequence[Any]]) -> None:
    """Refuse what none of the methods has a use for."""
    used = {key for name in names for key in _CLASSES[name][1]} | ({"skip"} if "transcoder" in names else set())
    for key, values in given.items():
        if names and values and key not in used:
            takers = [name for name, (_, keys) in _CLASSES.items() if key in keys] or ["transcoder"]
            listed = " and ".join([", ".join(takers[:-1]), takers[-1]] if len(takers) > 1 else takers)
            instead = " or ".join(_CLASSES[names[0]][1])
            raise ConfigurationError(f"{key} is for {listed}, not for {', '.join(names)}: these take {instead}.")


def check_output_site(names: Sequence[str], output_site: str | None) -> None:
    """Refuse a transcoder without an output site, an output site without one, and a transcoder among others."""
    others = [name for name in names if name != "transcoder"]
    if "transcoder" not in names:
        if output_site is not None:
            raise ConfigurationError(f"output_site is for transcoder, not for {', '.join(names)}: leave it out.")
        return
    if others:
        raise ConfigurationError(
            f"a transcoder reads one site and reconstructs another: train it apart from {', '.join(others)}."
        )
    if output_site is None:
        raise ConfigurationError("method transcoder needs output_site: the site that it reconstructs.")


def fitted_methods(names: Sequence[str], *, k: Sequence[int] = (), ratio: Sequence[float] = ()) -> "list[FitMethod]":
    """Each baseline in full and, for every `k`, in its top-k form. `random` alone has a `ratio`, or several.

    >>> fitted_methods(["pca"], k=[8])
    [PCA(k=None), PCA(k=8)]
    """
    from ..dictionaries import ICA, NMF, PCA, Neurons, Random

    if ratio and names and "random" not in names:
        raise ConfigurationError(
            f"ratio is for random, not for {', '.join(names)}: these have one latent per dimension."
        )
    classes: dict[str, Any] = {"neurons": Neurons, "random": Random, "pca": PCA, "ica": ICA, "nmf": NMF}
    made: list[FitMethod] = []
    for name in names:
        sizes = [{"ratio": value} for value in ratio] if name == "random" and ratio else [{}]
        made += [classes[name](k=sparsity, **size) for size in sizes for sparsity in (None, *k)]
    return _all_different(made)


def any_methods(
    names: Sequence[str],
    *,
    k: Sequence[int] = (),
    ratio: Sequence[float] = (),
    skip: bool = False,
    frozen: bool = False,
    **sizes: Sequence[Any],
) -> "tuple[list[Method], list[FitMethod]]":
    """Methods of both kinds from one set of lists: what is trained, and what is fitted.

    Where both are asked for, each takes of `k` and `ratio` what it has a use for.
    """
    trained = [name for name in names if name in get_args(Trained)]
    fitted = [name for name in names if name in get_args(Fitted)]
    if trained and fitted:
        k_trained = k if any("k" in _CLASSES[name][1] for name in trained) else ()
        ratio_fitted = ratio if "random" in fitted else ()
        return (
            trained_methods(trained, k=k_trained, ratio=ratio, skip=skip, frozen=frozen, **sizes),
            fitted_methods(fitted, k=k, ratio=ratio_fitted),
        )
    given = next((key for key, values in {**sizes, "skip": skip, "frozen": frozen}.items() if values), None)
    if fitted and given is not None:
        raise ConfigurationError(f"{given} is for methods that are trained, not for {', '.join(fitted)}: leave it out.")
    if fitted:
        return [], fitted_methods(fitted, k=k, ratio=ratio)
    return trained_methods(trained, k=k, ratio=ratio, skip=skip, frozen=frozen, **sizes), []


SCHEDULE = ("tokens", "batch", "lr", "warmup", "decay", "scale", "precision", "device", "kernels")
"""What is said once to `train`, for all members."""


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Refuse a schedule that `train` would refuse once it knows the width, and with it the default `lr`."""
    from ..training.schedule import Schedule

    known = {key: schedule[key] for key in ("tokens", "batch", "warmup", "decay")}
    Schedule(**known, lr=1.0 if schedule["lr"] is None else schedule["lr"])


def _all_different(made: list[Any]) -> list[Any]:
    twice = next((each for place, each in enumerate(made) if each in made[:place]), None)
    if twice is not None:
        raise ConfigurationError(f"{twice} is asked for twice: give each value once.")
    return made
