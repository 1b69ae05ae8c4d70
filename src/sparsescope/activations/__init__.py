"""Activations: harvested to disk or streamed, split by document, read in a true shuffle."""

from .base import Activations, Block
from .harvesting import harvest
from .store import ActivationStore, load_store
from .streaming import StreamingActivations, stream

__all__ = ["ActivationStore", "Activations", "Block", "StreamingActivations", "harvest", "load_store", "stream"]
