"""Training: one LightningModule, one `fit()`."""

from .config import TrainConfig
from .module import Classifier
from .run import fit, fit_one_batch

__all__ = ["Classifier", "TrainConfig", "fit", "fit_one_batch"]
