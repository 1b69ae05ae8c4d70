"""What a harvest is going to read: checked settings, and the text cut into units of work.

A unit is a fixed number of contexts of one split (fewer in a split's last unit): what goes into one
shard. Model batches never cross units, so a unit gives the same bytes whether or not others are
skipped because they are already on disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from typing_extensions import Self

from ..errors import ConfigurationError, ModelError, suggest
from ..text import SPLITS, Text, Tokens, bos_policy, pack
from .base import DTYPES

if TYPE_CHECKING:
    from ..models import LanguageModel

MASSIVE = ("keep", "drop")
_SHARD_BYTES = 32 << 20  # of all sites together: what is held while a shard is being filled
_SHARD_TOKENS = (4096, 65536)


@dataclass(frozen=True, eq=False)
class Unit:
    """Contexts of one split that are read and written together. `shard` counts within the split."""

    split: str
    shard: int
    tokens: Tokens


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """The settings of `harvest` and `stream`. Build it with `Plan.checked`."""

    model: "LanguageModel"
    text: Text
    sites: Sequence[str]
    tokens: int | None
    context: int
    batch: int
    dtype: str
    seed: int
    bos: str
    massive: str
    include_bos: bool
    shard_tokens: int | None

    @classmethod
    def checked(cls, **settings: Any) -> Self:
        """The settings with sites in their stable form, the BOS policy and the shard size settled.

        Raises `ConfigurationError`, `SiteError` or `ModelError` for settings that cannot work.
        """
        plan = cls(**settings)
        plan._check()
        model = plan.model
        if model.tokenizer is None:
            raise ModelError(f"{model.name!r} has no tokenizer, so it cannot read text: load a model that has one.")
        sites = [str(model.check(site)) for site in plan.sites]
        if not sites or len(set(sites)) < len(sites):
            raise ConfigurationError(f"sites are {sites}: expected one or more, each once.")
        limit = model.context_limit
        if limit is not None and plan.context > limit:
            raise ConfigurationError(
                f"context is {plan.context}, but {model.name!r} reads at most {limit} tokens at once."
            )
        plan = replace(plan, sites=sites, bos=bos_policy(model.tokenizer, plan.bos))
        low, high = _SHARD_TOKENS
        return replace(plan, shard_tokens=plan.shard_tokens or min(max(_SHARD_BYTES // plan.row_bytes(), low), high))

    def _check(self) -> None:
        if isinstance(self.sites, str):
            raise ConfigurationError(f"sites is the string {self.sites!r}: expected a list such as [{self.sites!r}].")
        _choice("dtype", self.dtype, DTYPES)
        _choice("massive", self.massive, MASSIVE)
        for name in ("context", "batch", "tokens", "shard_tokens"):
            value = getattr(self, name)
            if value is None and name in ("tokens", "shard_tokens"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}: expected a whole number, 1 or more.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigurationError(f"seed is {self.seed!r}: expected a whole number, 0 or more.")

    def config(self) -> dict[str, Any]:
        """Everything that decides what the activations are, as JSON."""
        model = self.model
        head = {
            "model": model.name,
            "revision": model.revision,
            "model_dtype": str(model.dtype).removeprefix("torch."),
            "text": self.text.name,
        }
        skipped = {"model", "text", "seed"}
        return head | {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what the activations are made from."""
        return {
            "model": self.model.fingerprint,
            "tokenizer": self.model.tokenizer_fingerprint or "none",
            "text": self.text.fingerprint,
        }

    def row_bytes(self) -> int:
        """What the activations of one token take, all sites together."""
        return sum(self.model.width(site) for site in self.sites) * DTYPES[self.dtype].itemsize

    def units(self, only: Iterable[str] = SPLITS) -> Iterator[Unit]:
        """The text in units, in the order in which they become full, then what is left of each split."""
        per_unit = max(1, (self.shard_tokens or 0) // (self.batch * self.context)) * self.batch
        waiting: dict[str, list[Tokens]] = {split: [] for split in only}
        shards = dict.fromkeys(waiting, 0)

        def unit(split: str) -> Unit:
            whole = Unit(split, shards[split], Tokens.join(waiting[split]))
            shards[split] += 1
            waiting[split] = []
            return whole

        tokenizer = self.model.tokenizer
        for context in pack(
            self.text, tokenizer, context=self.context, bos=self.bos, tokens=self.tokens, seed=self.seed
        ):
            split = SPLITS[int(context.split[0])]
            if split in waiting:
                waiting[split].append(context)
                if len(waiting[split]) == per_unit:
                    yield unit(split)
        yield from (unit(split) for split in waiting if waiting[split])


def take(tokens: Tokens, which: slice | Tensor) -> Tokens:
    """Some of the contexts."""
    return Tokens(**{f.name: getattr(tokens, f.name)[which] for f in fields(Tokens)})


def _choice(name: str, value: str, valid: Iterable[str]) -> None:
    if value not in valid:
        raise ConfigurationError(
            f"{name} is {value!r}: expected one of {', '.join(valid)}.{suggest(str(value), valid)}"
        )
