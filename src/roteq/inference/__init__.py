"""Trained networks at work: load them, ask them about patches, keep the answers."""

from .patches import Predictions, load_classifier, predict, unfamiliar

__all__ = ["Predictions", "load_classifier", "predict", "unfamiliar"]
