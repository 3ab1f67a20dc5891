"""Any convolutional network becomes its group-equivariant twin; any model at all, its average over the group."""

from .symmetrized import Symmetrized
from .twin import convert

__all__ = ["Symmetrized", "convert"]
