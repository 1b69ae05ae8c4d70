"""A language model whose activations can be read and replaced by site."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..artifact import digest
from ..errors import ModelError, SiteError
from ..sites import LAYERED, Site
from .architectures import Architecture, find_architecture
from .checkpoint import config_digest
from .network import Network
from .points import Point, Replacement

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
TokenIds = Int[Tensor, "batch seq"]


@final
class LanguageModel(Network):
    """A `transformers` model with frozen weights. Get one from `load_model`, or give a model made in memory, which
    then belongs to this object: it is put into evaluation mode, its weights are frozen, its cache is off.

    Attributes: `name` and `revision` (commit of a hub model) say where it came from; `fingerprint` is a SHA-256
    over its config and weights; `tokenizer` is a fast tokenizer, or None where the model has none;
    `context_limit` the longest sequence in tokens (None: unlimited); `vocabulary` the number of token ids;
    `n_layers`, `device`, `dtype` (torch objects); `module` the transformers model itself.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str = "model",
        *,
        tokenizer: Any = None,
        revision: str | None = None,
        fingerprint: str | None = None,
    ):
        super().__init__(module, name, revision)
        self.tokenizer = tokenizer
        self.tokenizer_fingerprint = None if tokenizer is None else fingerprint_of_tokenizer(tokenizer)
        model: Any = module
        config = model.config
        self._fingerprint = fingerprint or digest([config_digest(config.to_dict()), super().fingerprint])
        self._row = find_architecture(config)
        self._blocks = _block_path(module, self._row)
        self.n_layers = len(model.get_submodule(self._blocks)) if self._row else 0
        self.context_limit = _context_limit(config, self._row)
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._has_head = model.get_output_embeddings() is not None
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters
        for part in (config, config.get_text_config()):
            part.use_cache = False
            # Padding is what attention_mask says. With a padding id, transformers guesses at it, and logs warnings.
            part.pad_token_id = None
        module.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over config and weights: of the files, or of the tensors of a model made in memory."""
        return self._fingerprint

    def sites(self) -> list[str]:
        """Every named site; for an architecture that is not in the table, every `module:PATH`."""
        if self._row is None:
            return super().sites()
        layered = [name for name in LAYERED if name in self._row.places]
        return ["embed", *(f"{name}.{layer}" for name in layered for layer in range(self.n_layers))]

    def width(self, site: str | Site) -> int:
        """Size of the last dimension at a site, found once by reading one token."""
        name = str(self.check(site))
        if name not in self._widths:
            self.read(torch.zeros(1, 1, dtype=torch.long), [name])
        return self._widths[name]

    def read(
        self, ids: TokenIds, sites: Sequence[str | Site], attention_mask: Int[Tensor, "batch seq"] | None = None
    ) -> dict[str, Float[Tensor, "batch seq width"]]:
        """Activations at `sites`, by name, from one pass which stops after the last of them.

        Neither later blocks nor the output head are computed. `attention_mask` is 1 at tokens, 0 at padding; what
        is read at padding means nothing. The tensors are detached, on the model's device and in its dtype.

        Raises `SiteError` for a site the model does not have, `ModelError` for ids that do not fit it.

        >>> from sparsescope.models import load_model
        >>> lm = load_model("builtin:tiny-random")
        >>> lm.read(torch.tensor([[1, 2, 3]]), ["resid_post.0"])["resid_post.0"].shape[:2]
        torch.Size([1, 3])
        """
        inputs = self._inputs(ids, attention_mask)
        values = self._read(lambda: self.module(**inputs), sites)
        # OPT runs its MLP on (batch * seq, width).
        return {name: self._unflattened(name, value, ids.shape) for name, value in values.items()}

    def logits(
        self,
        ids: TokenIds,
        replace: Mapping[str, Replacement] | None = None,
        attention_mask: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq vocabulary"]:
        """Output of the head, with the activations at some sites replaced by functions of themselves.

        A function gets (batch, seq, width) and returns the same shape. Gradients flow from the logits to
        whatever the functions use; the model's own weights are frozen. Replacing an activation by itself
        changes nothing, bit for bit. `resid_mid.L` replaces the residual stream, not only the MLP's view of it.

        Raises `SiteError`, `ModelError` as `read`; `ModelError` also when the model has no output head.

        >>> from sparsescope.models import load_model
        >>> lm = load_model("builtin:tiny-random")
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> torch.equal(lm.logits(ids), lm.logits(ids, {"resid_post.0": lambda x: x}))
        True
        """
        if not self._has_head:
            raise ModelError(
                f"{self.name} has no output head, so it has no logits: load a checkpoint with a language modelling "
                "head, or only read its activations."
            )
        inputs = self._inputs(ids, attention_mask)
        shaped = {str(site): self._in_shape(str(site), change, ids.shape) for site, change in (replace or {}).items()}
        output = self._replace(lambda: self.module(**inputs), shaped)
        return output.logits

    def unembedding(self) -> Float[Tensor, "width vocabulary"] | None:
        """The matrix that turns what the last normalisation gives into logits; None without an output head.

        The gain of that normalisation is not in it: a change of the residual stream by v changes the logits by
        about (gain · v) @ unembedding / (norm of the stream).
        """
        head: Any = self.module.get_output_embeddings()  # type: ignore[operator]
        return None if head is None else head.weight.detach().T

    def _point(self, site: Site) -> Point:
        if site.quantity == "module" or self._row is None:
            return super()._point(site)
        quantity, layer = ("resid_pre", 0) if site.quantity == "embed" else (site.quantity, site.layer)
        if quantity not in self._row.places:
            raise SiteError(f"{self.name} has no site '{site}': its blocks have no {quantity}. {self._valid()}")
        if layer is None or layer >= self.n_layers:
            raise SiteError(
                f"{self.name} has no site '{site}': it has {self.n_layers} layers, 0 to {self.n_layers - 1}. "
                + self._valid()
            )
        path, _, where = self._row.places[quantity].partition(":")
        full = ".".join(part for part in (self._blocks, str(layer), path) if part)
        return Point(full, at_input=where in ("in", "stream"), stream=where == "stream")

    def _valid(self) -> str:
        assert self._row is not None
        names = [f"{name}.L" for name in LAYERED if name in self._row.places]
        return f"Valid: embed, {', '.join(names)} with L from 0 to {self.n_layers - 1}, module:PATH, module:PATH:in."

    def _unflattened(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        flat = value.ndim == 2 and not name.startswith("module:")
        return value.view(*shape, -1) if flat else value

    def _in_shape(self, name: str, function: Replacement, shape: torch.Size) -> Replacement:
        """The function, given (batch, seq, width) also where the model itself runs on flat rows."""

        def shaped(value: Tensor) -> Tensor:
            given = self._unflattened(name, value, shape)
            new = function(given)
            return new.reshape(value.shape) if isinstance(new, Tensor) and new.shape == given.shape else new

        return shaped

    def _inputs(self, ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor]:
        """Checked keyword arguments of the transformers model."""
        self._check_ids(ids)
        inputs = {"input_ids": ids.to(self.device, torch.long)}
        if attention_mask is None:
            return inputs
        if attention_mask.shape != ids.shape:
            raise ModelError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {tuple(ids.shape)} as the ids: "
                "give 1 for every token and 0 for padding."
            )
        mask = attention_mask.to(self.device, torch.long)
        inputs["attention_mask"] = mask
        starts_late = bool((mask[:, 0] == 0).any())
        if starts_late and not (self._row and self._row.counts_past_padding):
            if not self._takes_positions:
                raise ModelError(f"{self.name} cannot be padded on the left (it takes no positions): pad on the right.")
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return inputs

    def _check_ids(self, ids: Tensor) -> None:
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in _INTEGERS or ids.numel() == 0:
            given = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ModelError(
                f"ids is {given}, expected an integer tensor of shape (batch, seq) with at least one token."
            )
        if self.context_limit is not None and ids.shape[1] > self.context_limit:
            raise ModelError(
                f"the sequence has {ids.shape[1]:,} tokens, {self.name} takes at most {self.context_limit:,}: "
                "use a shorter context."
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocabulary:
            raise ModelError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {self.name} (0 to "
                f"{self.vocabulary - 1:,}): the text was tokenized for another model."
            )


def fingerprint_of_tokenizer(tokenizer: Any) -> str:
    """SHA-256 over what decides the tokens: vocabulary, merges, normalisation, special tokens.

    Truncation and padding are left out: they change as a tokenizer is used.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend = {key: value for key, value in backend.items() if key not in ("truncation", "padding")}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps([backend, special], sort_keys=True).encode()).hexdigest()


def _block_path(module: nn.Module, row: Architecture | None) -> str:
    """Path of the list of blocks from the outermost module, which may have a head around the base model."""
    if row is None:
        return ""
    for path, _ in module.named_modules():
        if path == row.blocks or path.endswith(f".{row.blocks}"):
            return path
    raise ModelError(
        f"a {row.model_type} model without {row.blocks!r}: this version of transformers builds it in another way than "
        "sparsescope knows. Install a version that pyproject.toml names."
    )


def _context_limit(config: Any, row: Architecture | None) -> int | None:
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and row is not None and row.counts_past_padding:
        return limit - config.pad_token_id - 1
    return limit
