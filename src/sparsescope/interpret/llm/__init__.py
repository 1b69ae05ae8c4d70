"""Explanations and simulations by language models: behind an OpenAI-compatible endpoint, or loaded here."""

from .client import Client
from .cost import Cost, Prices
from .explainer import LLMExplainer
from .local import LocalExplainer, LocalSimulator
from .simulator import LLMSimulator

__all__ = ["Client", "Cost", "LLMExplainer", "LLMSimulator", "LocalExplainer", "LocalSimulator", "Prices"]
