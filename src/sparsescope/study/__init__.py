"""Studies: every stage from one TOML file, into one run directory.

Names are loaded when first used: reading a recipe or printing help needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contents import Contents as Contents
    from .contents import Control as Control
    from .contents import load_control_model as load_control_model
    from .contents import load_run_model as load_run_model
    from .contents import read_run as read_run
    from .directory import dictionary_paths as dictionary_paths
    from .directory import load_dictionaries as load_dictionaries
    from .directory import open_run as open_run
    from .estimate import Cost as Cost
    from .explaining import explain_run as explain_run
    from .means import Means as Means
    from .recipe import Recipe as Recipe
    from .recipe import read_recipe as read_recipe
    from .recipe import recipes as recipes
    from .stages import run_study as run_study

_HOME = {
    "Contents": "contents",
    "Control": "contents",
    "Cost": "estimate",
    "Means": "means",
    "Recipe": "recipe",
    "dictionary_paths": "directory",
    "explain_run": "explaining",
    "load_control_model": "contents",
    "load_dictionaries": "directory",
    "load_run_model": "contents",
    "open_run": "directory",
    "read_recipe": "recipe",
    "read_run": "contents",
    "recipes": "recipe",
    "run_study": "stages",
}

__all__ = [
    "Contents",
    "Control",
    "Cost",
    "Means",
    "Recipe",
    "dictionary_paths",
    "explain_run",
    "load_control_model",
    "load_dictionaries",
    "load_run_model",
    "open_run",
    "read_recipe",
    "read_run",
    "recipes",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
