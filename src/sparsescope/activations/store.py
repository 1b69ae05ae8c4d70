"""Activations on disk, read without ever loading them whole.

Layout of the artifact (kind "activations"):

    tokens/SPLIT-00000.safetensors   ids, document, source, start, end, bos    (context, position)
    rows/SPLIT-00000.safetensors     keep (context, position): which tokens are rows
    SITE/SPLIT-00000.safetensors     x (row, d)                                 site percent-encoded
    moments.safetensors              the mean of each site, float64
    tokens.json, shards.jsonl        what each shard holds, in order
"""

import json
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..artifact import Artifact, open_artifact
from ..errors import ArtifactError, ConfigurationError
from ..text import SPLITS, Tokens
from .base import DTYPES, Activations, Block, check_reading, known_split
from .shuffle import shuffled

KIND, MOMENTS, SHARDS = "activations", "moments.safetensors", "shards.jsonl"
_BITS, _VIEWS = {2: np.int16, 4: np.int32}, {2: torch.int16, 4: torch.int32}
COLUMNS = ("ids", "document", "source", "start", "end", "bos")


def shard_name(folder: str, split: str, shard: int) -> str:
    """The file of a shard, e.g. `rows/train-00003.safetensors`; the folder may be a site."""
    return f"{quote(folder, safe='')}/{split}-{shard:05d}.safetensors"


def load_store(path: str | Path, verify: bool = True) -> "ActivationStore":
    """Open a store, comparing every file with its checksum unless told not to.

    Raises `ArtifactError` when it is missing, unfinished, damaged or of another kind.
    """
    return ActivationStore(open_artifact(path, KIND, verify=verify))


class ActivationStore(Activations):
    """Activations on disk: memory-mapped, shuffled over all rows, the same for the same arguments.

    Get one from `harvest` or `load_store`. Memory used does not grow with the number of rows, apart
    from `contexts`.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.path = artifact.path
        self.config = artifact.config
        self.inputs = artifact.manifest["inputs"]
        self.seed = artifact.manifest["seed"]
        self.fingerprint = artifact.fingerprint
        self.sites: list[str] = list(self.config["sites"])
        self._counts = _row_counts(self.path)
        self._open: dict[tuple[str, str, int], np.ndarray] = {}

    def __repr__(self) -> str:
        return f"the activations in {self.path}"

    @property
    def summary(self) -> dict[str, Any]:
        """What was counted: rows, contexts, documents per split, BOS and massive rows, medians, mean squares."""
        return dict(self._artifact.manifest["summary"])

    def width(self, site: str) -> int:
        return self.summary["sites"][self._known_site(site)]["width"]

    def rows(self, split: str) -> int:
        return int(self._edges(split)[-1])

    def mean(self, site: str) -> Float64[Tensor, " d"]:
        return self._means[self._known_site(site)].clone()

    def mean_square(self, site: str) -> float:
        return self.summary["sites"][self._known_site(site)]["mean_square"]

    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float32[Tensor, "batch d"]]:
        """Batches of rows drawn from the whole split: each epoch is a new permutation of all rows.

        The batch of step t depends on (`seed`, t) and nothing else, so `start=t` goes on exactly where
        a reader stopped before step t. Steps run on into further epochs; without `steps`, for ever.
        """
        site, split = self._known_site(site), self._filled_split(split)
        check_reading(batch, seed, start, steps)
        return self._batches(site, batch, seed, start, steps, split)

    def _batches(
        self, site: str, batch: int, seed: int, start: int, steps: int | None, split: str
    ) -> Iterator[Float32[Tensor, "batch d"]]:
        step, rows = start, self.rows(split)
        while steps is None or step < start + steps:
            yield self._gather(site, split, shuffled(step * batch, batch, rows, seed))
            step += 1

    def _gather(self, site: str, split: str, rows: Int64[np.ndarray, " n"]) -> Float32[Tensor, "n d"]:
        """Rows by number, in the order asked for; each shard is visited once, front to back."""
        order = np.argsort(rows)
        ascending, edges = rows[order], self._edges(split)
        bounds = np.searchsorted(ascending, edges)
        dtype = DTYPES[self.config["dtype"]]
        # NumPy knows no bfloat16, and its `take` has half the overhead of torch's: the bits are moved as integers.
        # "clip" only lets it write into `out` directly: no index is out of range.
        collected = np.empty((len(rows), self.width(site)), dtype=_BITS[dtype.itemsize])
        for shard in np.flatnonzero(np.diff(bounds)).tolist():
            inside = slice(*bounds[shard : shard + 2].tolist())
            local = ascending[inside] - edges[shard]
            np.take(self._bits(site, split, shard), local, axis=0, out=collected[inside], mode="clip")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return torch.from_numpy(collected).view(dtype).index_select(0, torch.from_numpy(place)).float()

    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        site, split = self._known_site(site), self._filled_split(split)
        if rows < 1:
            raise ConfigurationError(f"rows is {rows}: expected the number of rows in a block, 1 or more.")
        return self._blocks(site, split, rows)

    def _blocks(self, site: str, split: str, size: int) -> Iterator[Block]:
        for first in range(0, self.rows(split), size):
            parts = list(self._pieces(site, split, first, min(first + size, self.rows(split))))
            x, document, position, context = (torch.cat(column) for column in zip(*parts, strict=True))
            yield Block(x.float(), document, position, context)

    def _pieces(self, site: str, split: str, first: int, last: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """x, document, position and context of rows `first` to `last`, shard by shard."""
        edges = self._edges(split).tolist()
        shard = bisect_right(edges, first) - 1
        while first < last:
            end = min(last, edges[shard + 1])
            inside = slice(first - edges[shard], end - edges[shard])
            x = self._shard(site, split, shard)[inside]
            document, position, context = (column[inside] for column in self._places(split, shard))
            yield x, document, position, context
            first, shard = end, shard + 1

    def _places(self, split: str, shard: int) -> tuple[Tensor, Tensor, Tensor]:
        """document, position and context of every row of a shard."""
        context, position = self._read(shard_name("rows", split, shard), "keep").nonzero(as_tuple=True)
        document = self._read(shard_name("tokens", split, shard), "document")[context, position]
        return document.long(), position, context + int(self._edges(split, "contexts")[shard])

    def contexts(self, split: str) -> Tokens:
        shards = self._token_shards(split)
        columns = [
            torch.cat([self._read(shard_name("tokens", split, shard), name) for shard in shards]) for name in COLUMNS
        ]
        number = torch.full((len(columns[0]),), SPLITS.index(split))
        wide = (column if column.dtype == torch.bool else column.long() for column in columns)
        return Tokens(**dict(zip(COLUMNS, wide, strict=True)), split=number)

    def kept(self, split: str) -> Bool[Tensor, "context position"]:
        """Which tokens of `contexts(split)` are rows; row order is the order of the True places."""
        return torch.cat([self._read(shard_name("rows", split, shard), "keep") for shard in self._token_shards(split)])

    def _token_shards(self, split: str) -> range:
        return range(len(self._counts[self._filled_split(split)]))

    def _edges(self, split: str, of: str = "rows") -> Int64[np.ndarray, " shard"]:
        """The number of the first row (or context) of each shard, and how many there are at the end."""
        return self._all_edges[known_split(split), of]

    @cached_property
    def _all_edges(self) -> dict[tuple[str, str], Int64[np.ndarray, " shard"]]:
        return {
            (split, of): np.cumsum([0] + [entry[of] for entry in entries], dtype=np.int64)
            for split, entries in self._counts.items()
            for of in ("rows", "contexts")
        }

    @cached_property
    def _means(self) -> dict[str, Tensor]:
        return self._artifact.load(MOMENTS)

    def _shard(self, site: str, split: str, shard: int) -> Float[Tensor, "row d"]:
        """One shard as a view of the file: pages come into memory when they are touched."""
        name = shard_name(site, split, shard)
        x, rows = self._read(name, "x"), self._counts[split][shard]["rows"]
        if len(x) != rows:
            raise ArtifactError(f"{self.path / name} has {len(x):,} rows, expected {rows:,}: harvest again.")
        return x

    def _bits(self, site: str, split: str, shard: int) -> np.ndarray:
        """A shard, kept open, as integers of the width of its dtype."""
        key = (site, split, shard)
        if key not in self._open:
            x = self._shard(site, split, shard)
            self._open[key] = x.view(_VIEWS[x.dtype.itemsize]).numpy()
        return self._open[key]

    def _read(self, name: str, tensor: str) -> Tensor:
        try:
            with safe_open(self.path / name, "pt") as file:
                return file.get_tensor(tensor)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                f"cannot read {self.path / name}: {error}. Harvest again, or restore it from a copy."
            ) from None


def _row_counts(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What each shard holds, by split, in order."""
    try:
        entries = [json.loads(line) for line in (path / SHARDS).read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read {path / SHARDS}: {error}. Harvest again, or restore it from a copy."
        ) from None
    return {split: [entry for entry in entries if entry["split"] == split] for split in SPLITS}
