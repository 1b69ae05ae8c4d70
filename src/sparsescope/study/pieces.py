"""Pieces of a study that were made one by one: a store, dictionaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..activations import ActivationStore, load_store
from ..artifact import open_artifact
from ..errors import ConfigurationError
from ..metrics import place_of
from .directory import ACTIVATIONS, DICTIONARIES, load_dictionaries
from .recipe import Recipe
from .tables import Controls

KINDS = ("dictionary", "dictionaries")


@dataclass(frozen=True)
class Pieces:
    """What was made before: a store in place of the harvest, dictionaries in place of training and fitting."""

    store: ActivationStore | None
    dictionaries: tuple[Path, ...]

    @classmethod
    def open(cls, activations: str | Path | None, dictionaries: Sequence[str | Path]) -> "Pieces":
        """Verify every file of every piece. Raises `ArtifactError`."""
        names = [Path(path).resolve().name for path in dictionaries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"two of the dictionaries given lie in directories named {twice[0]!r}, and a run keeps them by "
                "that name: rename one of them."
            )
        if dictionaries and activations is None:
            raise ConfigurationError(
                "dictionaries were given without activations: give the store they shall be measured on."
            )
        for path in dictionaries:
            if (kind := open_artifact(path, verify=False).kind) not in KINDS:
                raise ConfigurationError(
                    f"{path} is of kind {kind!r}: expected dictionaries, as `train` or `fit` write them."
                )
        found = load_dictionaries(dictionaries) if dictionaries else []
        store = None if activations is None else load_store(activations)
        for dictionary in found:
            if store is not None:
                place_of(dictionary, store)
        return cls(store, tuple(Path(path) for path in dictionaries))

    def settle(self, recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
        """The recipe with what the pieces decide: text, sites and model are the store's; dictionaries end the training.

        Controls that would have to read text end with the harvest, those that are trained with the training.
        `given` are the keys that the caller named. Raises `ConfigurationError` for one that the store
        has already decided; a `model` may be named, and is compared with the store's later on.
        """
        if self.dictionaries:
            recipe = replace(recipe, train=(), fit=(), controls=Controls())
        if self.store is None:
            return recipe
        if recipe.controls.frozen_decoder:
            recipe = replace(recipe, controls=Controls(frozen_decoder=True, train=recipe.controls.train))
        else:
            recipe = replace(recipe, controls=Controls())
        made = self.store.config
        decided: dict[str, Any] = {
            "text": (made["text"],),
            "site": tuple(self.store.sites),
            "tokens": made["tokens"],
            "context": made["context"],
        }
        if given.get("model") is None:
            decided |= {"model": made["model"], "revision": made["revision"], "model_dtype": made["model_dtype"]}
        refused = [key for key in decided if given.get(key) is not None]
        if refused:
            raise ConfigurationError(
                f"{refused[0]} was given together with activations, which have it already "
                f"({decided[refused[0]]}): leave it out, or leave the activations out."
            )
        return replace(recipe, **decided)

    def inputs(self) -> dict[str, str]:
        """Fingerprints by role, for the run's manifest."""
        found = {} if self.store is None else {ACTIVATIONS: self.store.fingerprint}
        for path in self.dictionaries:
            found[f"{DICTIONARIES}/{path.resolve().name}"] = open_artifact(path, verify=False).fingerprint
        return found
