"""Studies: every stage from one TOML file, into one run directory.

Names are loaded when first used: reading a recipe or printing help needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .directory import dictionary_paths as dictionary_paths
    from .directory import load_dictionaries as load_dictionaries
    from .directory import open_run as open_run
    from .estimate import Cost as Cost
    from .recipe import Recipe as Recipe
    from .recipe import read_recipe as read_recipe
    from .recipe import recipes as recipes
    from .stages import run_study as run_study

_HOME = {
    "Cost": "estimate",
    "Recipe": "recipe",
    "dictionary_paths": "directory",
    "load_dictionaries": "directory",
    "open_run": "directory",
    "read_recipe": "recipe",
    "recipes": "recipe",
    "run_study": "stages",
}

__all__ = [
    "Cost",
    "Recipe",
    "dictionary_paths",
    "load_dictionaries",
    "open_run",
    "read_recipe",
    "recipes",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
