"""A Site names one tensor inside a network: which quantity, of which layer.

The string form is stable and is what manifests, flags and reports show:

    embed                  output of the embedding, input of block 0
    resid_pre.L            residual stream before block L
    resid_mid.L            residual stream between attention and MLP (sequential blocks only)
    resid_post.L           residual stream after block L, before any final norm
    mlp_in.L               input of the MLP (after its norm)
    mlp_out.L              what the MLP adds to the residual stream
    mlp_act.L              hidden layer of the MLP, after the nonlinearity (after gating, where gated)
    attn_out.L             what attention adds to the residual stream
    attn_z.L               heads concatenated, before the output projection
    module:PATH            output of any module of any network
    module:PATH:in         its (first) input

Which of these a given model has is decided by `sparsescope.models`; an unknown one is an error that
lists the valid ones, and a site never resolves to another.
"""

import re
from dataclasses import dataclass

from .errors import SiteError, suggest

LAYERED = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "mlp_in",
    "mlp_out",
    "mlp_act",
    "attn_out",
    "attn_z",
)
_IN_A_LAYER = ("resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_in", "mlp_act", "mlp_out", "resid_post")
"""In the order of the forward pass; blocks that compute attention and MLP side by side begin with attention too."""
_FORMS = "embed, " + ", ".join(f"{name}.L" for name in LAYERED) + ", module:PATH, module:PATH:in"


@dataclass(frozen=True)
class Site:
    """One tensor of a network. Build it with `Site.parse`; `str(site)` gives the text back.

    `quantity` is one of `embed`, the layered names above, or `module`; `layer` is set for layered
    quantities only; `path` and `at_input` for modules only.

    >>> Site.parse("resid_post.2")
    Site(quantity='resid_post', layer=2, path=None, at_input=False)
    >>> str(Site.parse("module:encoder.layer.0:in"))
    'module:encoder.layer.0:in'
    """

    quantity: str
    layer: int | None = None
    path: str | None = None
    at_input: bool = False

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read a site's string form. Raises `SiteError` when it has none of the forms above."""
        if isinstance(text, Site):
            return text
        if not isinstance(text, str):
            raise SiteError(f"a site is a string such as 'resid_post.2', not {text!r}.")
        if text == "embed":
            return cls("embed")
        if text.startswith("module:"):
            path = text[len("module:") :]
            at_input = path.endswith(":in")
            path = path[: -len(":in")] if at_input else path
            if path and ":" not in path:
                return cls("module", path=path, at_input=at_input)
        match = re.fullmatch(r"([a-z_]+)\.(0|[1-9][0-9]*)", text)
        if match and match[1] in LAYERED:
            return cls(match[1], layer=int(match[2]))
        hint = suggest(text.split(".")[0], ("embed", *LAYERED))
        raise SiteError(f"unknown site {text!r}: expected one of {_FORMS}.{hint}")

    def precedes(self, other: "Site") -> bool | None:
        """Whether a forward pass comes to this site before `other`; None where their names do not tell.

        >>> Site.parse("mlp_in.2").precedes(Site.parse("mlp_out.2"))
        True
        >>> Site.parse("resid_post.3").precedes(Site.parse("resid_mid.3"))
        False
        """
        if self == other:
            return False
        if "module" in (self.quantity, other.quantity):
            return None
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, int]:
        """Layer, and place in the layer. `embed` is what enters the first one."""
        return (self.layer or 0, 0 if self.quantity == "embed" else _IN_A_LAYER.index(self.quantity))

    def __str__(self) -> str:
        if self.quantity == "module":
            return f"module:{self.path}{':in' if self.at_input else ''}"
        return self.quantity if self.layer is None else f"{self.quantity}.{self.layer}"
