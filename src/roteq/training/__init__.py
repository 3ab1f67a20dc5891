"""Training: one LightningModule, one `fit()`."""

from .config import TrainConfig
from .module import Classifier
from .run import fit

__all__ = ["Classifier", "TrainConfig", "fit"]
