"""Training: one LightningModule, one `fit()`."""

from .config import TrainConfig
from .module import Classifier
from .run import fit, fit_one_batch
from .segmenter import Segmenter

__all__ = ["Classifier", "Segmenter", "TrainConfig", "fit", "fit_one_batch"]
