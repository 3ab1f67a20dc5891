"""Trained networks at work: load them, ask them about patches or whole images, keep the answers."""

from .maps import predict_map
from .patches import Predictions, load_classifier, predict, unfamiliar

__all__ = ["Predictions", "load_classifier", "predict", "predict_map", "unfamiliar"]
