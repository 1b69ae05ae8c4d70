"""The dictionaries of a run by name, each loaded when it is first used."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ..artifact import MANIFEST, open_artifact, read_json
from ..dictionaries import Dictionary, load_dictionary
from .directory import CONTROLS, DICTIONARIES, EVALUATION, FROZEN_DECODER, dictionary_paths
from .presentation import NUMBERS

KEPT = 512 * 2**20
"""Bytes of dictionaries that are kept in memory; those that were not used for longest go first."""


class Shelved(Mapping[str, Dictionary]):
    """Dictionaries by name, each loaded when it is first asked for. Used by one thread at a time.

    shelved = Shelved({"a": Path("saes/0")}, torch.device("cpu"))
    shelved["a"].n_latents
    """

    def __init__(self, paths: Mapping[str, Path], device: torch.device, kept: int = KEPT) -> None:
        self._paths, self._device, self._most = dict(paths), device, kept
        self._held: OrderedDict[str, Dictionary] = OrderedDict()

    def __getitem__(self, name: str) -> Dictionary:
        if name not in self._held:
            self._held[name] = load_dictionary(self._paths[name], verify=False).to(self._device)
        self._held.move_to_end(name)
        while len(self._held) > 1 and sum(map(_bytes, self._held.values())) > self._most:
            self._held.popitem(last=False)
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths


def dictionaries_of(run: Path) -> dict[str, Path]:
    """The dictionaries for the model that a run studied, by the names that its feature database has for them.

    Those of a random model are left out: they belong to that. Nothing is loaded.
    """
    evaluated = read_json(run / EVALUATION / NUMBERS)["dictionaries"]
    found = _by_name([run / entry["path"] for entry in evaluated], run / DICTIONARIES)
    frozen = run / CONTROLS / FROZEN_DECODER / DICTIONARIES
    if frozen.is_dir():
        paths = [path for file in sorted(frozen.glob(f"*/{MANIFEST}")) for path in dictionary_paths(file.parent)]
        found |= {f"{name} (frozen decoder)": path for name, path in _by_name(paths, frozen).items()}
    return found


def _by_name(paths: Sequence[Path], home: Path) -> dict[str, Path]:
    """Paths by the names in their manifests; of dictionaries that share one, by their place below `home` as well."""
    places = [path.relative_to(home).as_posix() for path in paths]
    records = [open_artifact(path, "dictionary", verify=False).manifest["dictionary"] for path in paths]
    names = [record["provenance"]["name"] or place for record, place in zip(records, places, strict=True)]
    return {
        name if names.count(name) == 1 else f"{name} ({place})": path
        for name, place, path in zip(names, places, paths, strict=True)
    }


def _bytes(dictionary: Dictionary) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in dictionary.tensors().values())
