"""Language models and other networks: load, read several sites in one pass, replace, logits.

The only package that imports transformers, and only inside functions.
"""

from .language import LanguageModel
from .load import load_model, random_model
from .wrapped import WrappedModule, wrap

__all__ = ["LanguageModel", "WrappedModule", "load_model", "random_model", "wrap"]
