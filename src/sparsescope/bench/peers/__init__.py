"""Other libraries' training steps, each as its own trainer takes it.

Every class here builds one library's model and takes steps with that library's own code. Settings are
the library's defaults but for what a comparison must share: sizes, k, seed, learning rate and its
schedule. Where a library offers only a loop over a language model, the loop's body is repeated here.
"""

from importlib import import_module
from typing import Any

import torch

from ...errors import ConfigurationError
from ..contenders import LIBRARIES
from .dictionary_learning import DictionaryLearning
from .overcomplete import Overcomplete, autoencoders
from .saelens import SAELens
from .sparsify import Sparsify
from .task import Learned as Learned
from .task import Task as Task
from .task import Trainee as Trainee

PEERS: dict[str, Any] = {
    "SAELens": SAELens,
    "dictionary_learning": DictionaryLearning,
    "sparsify": Sparsify,
    "overcomplete": Overcomplete,
}


def start_peer(library: str, task: Task) -> Trainee:
    """A library's model for this task, at step 0. Raises `ConfigurationError` for what the library has not."""
    if library not in PEERS:
        raise ConfigurationError(f"unknown library {library!r}, expected one of {', '.join(PEERS)}.")
    torch.manual_seed(task.seed)
    peer = PEERS[library]
    if task.method not in peer.methods:
        raise ConfigurationError(f"{library} has no method {task.method!r}, only {', '.join(peer.methods)}.")
    return peer(task)


def load(library: str) -> None:
    """Import a library, which takes seconds and hundreds of megabytes that are not part of any step."""
    autoencoders() if library == "overcomplete" else import_module(LIBRARIES[library].module)
