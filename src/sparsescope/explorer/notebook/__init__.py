"""The features of a run in a notebook: looked up by dictionary and number, shown where they are evaluated."""

from .feature import Context, Feature
from .features import Features, FeatureShelf, Found, load_features
from .view import View

__all__ = ["Context", "Feature", "FeatureShelf", "Features", "Found", "View", "load_features"]
