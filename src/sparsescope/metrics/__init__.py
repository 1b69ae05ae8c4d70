"""Every number, defined once: reconstruction, splicing into the model, geometry, statistics."""

from .evaluate import evaluate, evaluate_all
from .evaluation import Evaluation
from .geometry import capacity, match, max_cosine, mmcs, neurons_per_latent, recovery
from .places import Place, place_of
from .reconstruction import Reconstruction, fvu
from .splicing import Losses, constant, losses, splice
from .statistics import Estimate, Moments, moments, ratio_of_sums, resampled_sums

__all__ = [
    "Estimate",
    "Evaluation",
    "Losses",
    "Moments",
    "Place",
    "Reconstruction",
    "capacity",
    "constant",
    "evaluate",
    "evaluate_all",
    "fvu",
    "losses",
    "match",
    "max_cosine",
    "mmcs",
    "moments",
    "neurons_per_latent",
    "place_of",
    "ratio_of_sums",
    "recovery",
    "resampled_sums",
    "splice",
]
