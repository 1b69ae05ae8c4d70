"""Any `torch.nn.Module`, read and patched by module path."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from ..errors import SiteError
from ..sites import Site
from .network import Network
from .points import Replacement


@final
class WrappedModule(Network):
    """A network that is no language model: a vision model, a toy model, anything. Get one from `wrap`.

    It has the interface of `LanguageModel`, but its sites are `module:PATH` and `module:PATH:in`, and its
    input is a tensor, or a tuple of tensors passed by position. The module itself is never changed: it runs in
    evaluation mode and is put back into the mode it was in.
    """

    def read(self, inputs: Tensor | tuple[Tensor, ...], sites: Sequence[str | Site]) -> dict[str, Tensor]:
        """The tensors at `sites` in one pass, which stops after the last of them. Detached.

        Raises `SiteError` for a module that does not exist, does not run, or carries no tensor.
        """
        return self._read(lambda: self.module(*_arguments(inputs)), sites)

    def logits(self, inputs: Tensor | tuple[Tensor, ...], replace: Mapping[str, Replacement] | None = None) -> Any:
        """What the network returns, with the tensors at some sites replaced by functions of themselves."""
        return self._replace(lambda: self.module(*_arguments(inputs)), replace or {})

    def width(self, site: str | Site) -> int:
        """Size of the last dimension at a site that has been read before.

        Raises `SiteError` for a site not read yet: what a network of unknown input gives there is not knowable.
        """
        name = str(self.check(site))
        if name not in self._widths:
            raise SiteError(f"the width of {name} in {self.name} is not known before it was read: call read once.")
        return self._widths[name]


def wrap(module: nn.Module, name: str = "custom") -> WrappedModule:
    """Read and replace tensors of any network.

    >>> import torch
    >>> net = wrap(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    >>> net.sites()
    ['module:0', 'module:1']
    >>> x = torch.ones(2, 4)
    >>> net.read(x, ["module:0", "module:1:in"])["module:0"].shape
    torch.Size([2, 3])
    >>> net.logits(x, {"module:0": torch.zeros_like}).sum().item()
    0.0
    """
    return WrappedModule(module, name)


def _arguments(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)
