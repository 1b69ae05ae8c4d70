"""Reading explanations that Neuronpedia exported, and finding out whether they are of this dictionary.

An export is a set of files `v1/MODEL/SOURCE/explanations/batch-N.jsonl.gz`, one JSON object on a line; what
its API exports is one array of the same objects. Of each, `modelId`, `layer` (the source, such as
"6-res-jb"), `index` (the latent), `description`, `typeName` and `explanationModelName` are used.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, ConfigurationError
from .neuronpedia import PREFIX

_GZIP = b"\x1f\x8b"
_INDEX = re.compile(r"[0-9]{1,9}")
_UNNAMED = "unnamed"  # the method of explanations that do not say it: people wrote them


@dataclass(frozen=True)
class Foreign:
    """An explanation from elsewhere: of which latent, the text, by which method and language model, its id there."""

    latent: int
    text: str
    type: str | None
    model: str | None
    id: str | None

    @property
    def explainer(self) -> str:
        """What it is stored under.

        >>> Foreign(7, "closing brackets", "oai_token-act-pair", "gpt-4o-mini", None).explainer
        'neuronpedia:oai_token-act-pair/gpt-4o-mini'
        """
        return PREFIX + "/".join(part for part in (self.type or _UNNAMED, self.model) if part)


@dataclass(frozen=True)
class Export:
    """The explanations of one dictionary: `model` and `source` as Neuronpedia names them; `empty` had no text."""

    model: str
    source: str
    explanations: Sequence[Foreign]
    empty: int

    @property
    def layer(self) -> int | None:
        """The layer that the source is named by; None where its name begins with no number.

        >>> Export("gpt2-small", "6-res-jb", (), 0).layer
        6
        """
        found = re.match(r"(\d{1,9})-", self.source)
        return int(found[1]) if found else None

    def by_explainer(self) -> dict[str, dict[int, tuple[str, dict[str, Any]]]]:
        """(text, body) by latent by explainer. A second one of a latent by the same method is stored under '... #2'."""
        found: dict[str, dict[int, tuple[str, dict[str, Any]]]] = {}
        for each in self.explanations:
            name, number = each.explainer, 1
            while each.latent in found.get(name, {}):
                number += 1
                name = f"{each.explainer} #{number}"
            there = {"id": each.id, "type": each.type, "model": each.model, "of": f"{self.model}/{self.source}"}
            found.setdefault(name, {})[each.latent] = (each.text, {"neuronpedia": there})
        return found


def read_export(paths: Sequence[str | Path]) -> Export:
    """All explanations in the files: JSON Lines, compressed or not, or a JSON array.

    Raises `ArtifactError`, with the file and the line, when one cannot be read or lacks what is needed, and
    when the files are of two dictionaries.
    """
    found: list[Foreign] = []
    empty, sources = 0, dict[tuple[str, str], str]()
    for path in map(Path, paths):
        for where, row in _rows(path):
            sources.setdefault((_text(row, "modelId", where), _text(row, "layer", where)), where)
            if len(sources) > 1:
                (one, first), (other, second) = sources.items()
                raise ArtifactError(
                    f"the files are of two dictionaries: {'/'.join(one)} ({first}) and {'/'.join(other)} ({second}). "
                    "Give the files of one at a time."
                )
            each = _explanation(row, where)
            if each.text.strip():
                found.append(each)
            else:
                empty += 1
    if not found:
        raise ArtifactError(
            f"there is no explanation in {', '.join(map(str, paths))}: expected Neuronpedia's "
            "v1/MODEL/SOURCE/explanations/batch-N.jsonl.gz."
        )
    (model, source), *_ = sources
    return Export(model, source, found, empty)


def check_fit(export: Export, *, name: str, latents: int, model: str, layer: int | None) -> None:
    """Raise `ConfigurationError` unless the explanations can be of the dictionary `name`.

    Its model must be called the same, its layer must be the same (where both have one), and it must have
    every latent that is explained. Whether the weights are the same nobody can tell from explanations.
    """
    about = f"the explanations are of {export.model}/{export.source}"
    if export.model != model:
        raise ConfigurationError(
            f"{about}, but the model of this run is called {model!r}. If they are the same model under two names, "
            f"say so with --model-id {export.model}."
        )
    if None not in (export.layer, layer) and export.layer != layer:
        raise ConfigurationError(
            f"{about}, of layer {export.layer}, but {name!r} is of layer {layer}: choose another with --dictionary."
        )
    beyond = max(each.latent for each in export.explanations)
    if beyond >= latents:
        raise ConfigurationError(
            f"{about} and go up to latent {beyond:,}, but {name!r} has {latents:,} latents: it is another dictionary. "
            "Choose the right one with --dictionary."
        )


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a file, and where it stands."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ArtifactError(
            f"cannot read {path}: {error}. Expected JSON Lines from Neuronpedia, compressed by gzip or not: download "
            "it again."
        ) from error
    if text.lstrip().startswith("["):
        parts = [(f"{path}", text)]
    else:
        parts = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for where, part in parts:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: this is no JSON ({error}). Download the file again.") from error
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise ArtifactError(f"{where}: expected a JSON object, got {json.dumps(row)[:60]}.")
            yield where, row


def _explanation(row: dict[str, Any], where: str) -> Foreign:
    index = str(row.get("index"))
    if not _INDEX.fullmatch(index):
        raise ArtifactError(f'{where}: expected "index" to be the number of a latent, got {index[:60]!r}.')
    return Foreign(
        latent=int(index),
        text=_text(row, "description", where),
        type=_optional(row, "typeName", where),
        model=_optional(row, "explanationModelName", where),
        id=_optional(row, "id", where),
    )


def _optional(row: dict[str, Any], key: str, where: str) -> str | None:
    return None if row.get(key) is None else _text(row, key, where) or None


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ArtifactError(f"{where}: expected {key!r} to be text, got {json.dumps(value)[:60]}.")
    return value
