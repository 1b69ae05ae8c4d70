"""What activations are to everything that reads them: the same whether stored on disk or streamed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from ..errors import ArtifactError, ConfigurationError, SiteError, suggest
from ..text import SPLITS, Tokens

if TYPE_CHECKING:
    from ..models import LanguageModel

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive rows of one split, in the order of the text.

    `document` is the index of the row's document in the text, `context` the number of its context in
    `contexts(split)`, `position` its place in that context: `contexts(split).ids[context, position]`
    is the token that the row belongs to.
    """

    x: Float32[Tensor, "row d"]
    document: Int64[Tensor, " row"]
    position: Int64[Tensor, " row"]
    context: Int64[Tensor, " row"]


class Activations(ABC):
    """Activations of one model on one text at some sites, split by document.

    `config` holds the settings they were made with, `inputs` the fingerprints of model, tokenizer and
    text, `fingerprint` stands for all of it. The same rows exist at every site: row i of one site and
    row i of another belong to the same token.
    """

    sites: list[str]
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    seed: int
    fingerprint: str

    @abstractmethod
    def width(self, site: str) -> int:
        """The number of dimensions at a site."""

    @abstractmethod
    def rows(self, split: str) -> int:
        """The number of rows of a split ("train", "validation" or "test"), the same at every site."""

    @abstractmethod
    def mean(self, site: str) -> Float64[Tensor, " d"]:
        """The mean over the rows of the train split."""

    @abstractmethod
    def mean_square(self, site: str) -> float:
        """The mean of x² over rows and dimensions of the train split."""

    @abstractmethod
    def batches(
        self, site: str, *, batch: int, seed: int = 0, start: int = 0, steps: int | None = None, split: str = "train"
    ) -> Iterator[Float32[Tensor, "batch d"]]:
        """Shuffled rows, `batch` at a time, epoch after epoch; `steps` batches from step `start`, or without end.

        The batch of step t depends on (`seed`, t) alone, and belongs to the same tokens at every site.
        """

    def joint_batches(
        self,
        sites: Sequence[str],
        *,
        batch: int,
        seed: int = 0,
        start: int = 0,
        steps: int | None = None,
        split: str = "train",
    ) -> Iterator[dict[str, Float32[Tensor, "batch d"]]]:
        """The `batches` of several sites side by side: row i belongs to the same token at each of them.

        Raises `ConfigurationError` for no site at all, and whatever `batches` raises.
        """
        readers = {
            site: self.batches(site, batch=batch, seed=seed, start=start, steps=steps, split=split)
            for site in self._known_sites(sites)
        }
        return (dict(zip(readers, rows, strict=True)) for rows in zip(*readers.values(), strict=True))

    @abstractmethod
    def blocks(self, site: str, split: str, *, rows: int = 8192) -> Iterator[Block]:
        """All rows of a split in the order of the text, `rows` at a time (fewer in the last block)."""

    @abstractmethod
    def contexts(self, split: str) -> Tokens:
        """The tokens of a split, one row per context, in the order of the text."""

    @abstractmethod
    def kept(self, split: str) -> Bool[Tensor, "context position"]:
        """Which tokens of `contexts(split)` are rows; rows are in the order of the True places."""

    @property
    def model_name(self) -> str:
        """The name under which the model was loaded."""
        return self.config["model"]

    @property
    def model_fingerprint(self) -> str:
        return self.inputs["model"]

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.inputs["tokenizer"]

    @property
    def context(self) -> int:
        """Tokens per context, padding included."""
        return self.config["context"]

    def check_model(self, model: "LanguageModel") -> None:
        """Raise `ArtifactError`, naming both, when these activations come from another model or tokenizer."""
        for kind, ours, theirs in (
            ("model", self.model_fingerprint, model.fingerprint),
            ("tokenizer", self.tokenizer_fingerprint, model.tokenizer_fingerprint),
        ):
            if ours != theirs:
                raise ArtifactError(
                    f"{self} were made with the {kind} of {self.model_name!r} (fingerprint {ours[:12]}), but the model "
                    f"given is {model.name!r}, whose {kind} has fingerprint {str(theirs)[:12]}: "
                    f"give the model they were made with, or harvest again with {model.name!r}."
                )

    def _known_site(self, site: str) -> str:
        """`site` as text; `SiteError` when there are no activations of it."""
        if str(site) not in self.sites:
            hint = suggest(str(site), self.sites)
            raise SiteError(
                f"{self} have no site {str(site)!r}: they have {', '.join(self.sites)}.{hint} Harvest that site too."
            )
        return str(site)

    def _known_sites(self, sites: Sequence[str]) -> list[str]:
        """Each of `sites` once, as text."""
        if isinstance(sites, str) or not len(sites):
            raise ConfigurationError(
                f"sites are {sites!r}: expected a list with one site or more, such as {self.sites}."
            )
        return list(dict.fromkeys(self._known_site(site) for site in sites))

    def _filled_split(self, split: str) -> str:
        """`split`; an error when there is no such split or no row in it."""
        if not self.rows(split):
            raise ArtifactError(f"{self} have no row in the {split} split: harvest more tokens, or shorter documents.")
        return split


def known_split(split: str) -> str:
    """`split`, when there is one of that name."""
    if split not in SPLITS:
        raise ConfigurationError(
            f"unknown split {split!r}: expected one of {', '.join(SPLITS)}.{suggest(str(split), SPLITS)}"
        )
    return split


def check_reading(batch: int, seed: int, start: int, steps: int | None) -> None:
    """Refuse numbers that cannot be meant."""
    if seed < 0:
        raise ConfigurationError(f"seed is {seed}: expected a whole number, 0 or more.")
    if batch < 1:
        raise ConfigurationError(f"batch is {batch}: expected the number of rows in a batch, 1 or more.")
    if start < 0:
        raise ConfigurationError(f"start is {start}: expected the number of the first step, 0 or more.")
    if steps is not None and steps < 0:
        raise ConfigurationError(f"steps is {steps}: expected the number of batches, 0 or more, or None for no end.")
