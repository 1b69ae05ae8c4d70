"""Worlds: synthetic activations whose true features are known."""

from .planted import PlantedWorld as PlantedWorld
