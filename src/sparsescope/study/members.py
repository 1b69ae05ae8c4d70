"""From lists of settings to the dictionaries they stand for: every sparsity at every size and seed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..dictionaries import FitMethod
    from ..training import Method

Trained = Literal["tied_l1", "untied_l1", "topk"]
Fitted = Literal["neurons", "random", "pca", "ica", "nmf"]
AnyMethod = Literal["tied_l1", "untied_l1", "topk", "neurons", "random", "pca", "ica", "nmf"]


def trained_methods(
    names: Sequence[str],
    *,
    l1: Sequence[float] = (),
    target_l0: Sequence[float] = (),
    k: Sequence[int] = (),
    ratio: Sequence[float] = (),
    n_latents: Sequence[int] = (),
    member_seed: Sequence[int] = (),
) -> "list[Method]":
    """One autoencoder for each method, sparsity (`l1` and `target_l0`, or `k`), size and seed.

    Raises `ConfigurationError` when a method has no sparsity or no size, or when a list is given that
    no method uses.

    >>> [each.label() for each in trained_methods(["topk"], k=[8, 16], ratio=[2])]
    ['topk-k_8-x2', 'topk-k_16-x2']
    """
    from ..training import TiedL1, TopK, UntiedL1

    sizes: list[dict[str, Any]] = [{"ratio": value} for value in ratio] + [{"n_latents": value} for value in n_latents]
    seeds: list[dict[str, Any]] = [{"seed": value} for value in member_seed] or [{}]
    sparsities: dict[str, list[dict[str, Any]]] = {
        "l1": [{"l1": value} for value in l1] + [{"target_l0": value} for value in target_l0],
        "k": [{"k": value} for value in k],
    }
    classes = {"tied_l1": (TiedL1, "l1"), "untied_l1": (UntiedL1, "l1"), "topk": (TopK, "k")}
    made: list[Method] = []
    for name in names:
        cls, key = classes[name]
        if not sparsities[key]:
            needed = "k" if key == "k" else "l1 or target_l0"
            raise ConfigurationError(f"method {name} needs a sparsity: give {needed}.")
        if not sizes:
            raise ConfigurationError(f"method {name} needs a size: give ratio (latents per dimension) or n_latents.")
        made += [cls(**sparsity, **size, **seed) for size in sizes for sparsity in sparsities[key] for seed in seeds]
    used = {classes[name][1] for name in names}
    if names and "l1" not in used and (l1 or target_l0):
        raise ConfigurationError(
            f"{'l1' if l1 else 'target_l0'} is for tied_l1 and untied_l1, not for {', '.join(names)}."
        )
    if names and "k" not in used and k:
        raise ConfigurationError(f"k is for topk, not for {', '.join(names)}: give l1 or target_l0.")
    return _all_different(made)


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
    names: Sequence[str], *, k: Sequence[int] = (), ratio: Sequence[float] = (), **sizes: Sequence[Any]
) -> "tuple[list[Method], list[FitMethod]]":
    """Methods of both kinds from one set of lists: what is trained, and what is fitted.

    Where both are asked for, each takes of `k` and `ratio` what it has a use for.
    """
    trained = [name for name in names if name in get_args(Trained)]
    fitted = [name for name in names if name in get_args(Fitted)]
    if trained and fitted:
        k_trained = k if "topk" in trained else ()
        ratio_fitted = ratio if "random" in fitted else ()
        return (
            trained_methods(trained, k=k_trained, ratio=ratio, **sizes),
            fitted_methods(fitted, k=k, ratio=ratio_fitted),
        )
    if fitted and (given := next((key for key, values in sizes.items() if values), None)):
        raise ConfigurationError(f"{given} is for methods that are trained, not for {', '.join(fitted)}: leave it out.")
    if fitted:
        return [], fitted_methods(fitted, k=k, ratio=ratio)
    return trained_methods(trained, k=k, ratio=ratio, **sizes), []


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
