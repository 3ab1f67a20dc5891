"""The covariance test: a lifting and a group convolution, asked whether their maps turn with the picture."""

from .layers import Layers, control_of, layers_of, untrained
from .measuring import measure
from .pictures import CovariancePictures, picture

__all__ = ["CovariancePictures", "Layers", "control_of", "layers_of", "measure", "picture", "untrained"]
