"""Layers on feature maps over a group: ordinary (B, C*|G|, H, W) tensors whose channels come in blocks of |G|."""

from .conv import GroupConv2d, GroupConvTranspose2d, LiftingConv2d
from .dropout import GroupDropout2d
from .head import MapHead, VectorHead
from .linear import GroupLinear
from .norm import GroupBatchNorm2d, GroupInstanceNorm2d, GroupLayerNorm, GroupLayerNorm2d, GroupNorm2d
from .plain import plain
from .pool import GroupPool, SymmetricAvgPool2d, SymmetricBlurPool2d, SymmetricMaxPool2d, SymmetricUpsample2d
from .rectangular import RectangularGroupConv2d, RectangularLiftingConv2d
from .restriction import Restriction
from .separable import SeparableGroupConv2d

__all__ = [
    "GroupBatchNorm2d",
    "GroupConv2d",
    "GroupConvTranspose2d",
    "GroupDropout2d",
    "GroupInstanceNorm2d",
    "GroupLayerNorm",
    "GroupLayerNorm2d",
    "GroupLinear",
    "GroupNorm2d",
    "GroupPool",
    "LiftingConv2d",
    "MapHead",
    "RectangularGroupConv2d",
    "RectangularLiftingConv2d",
    "Restriction",
    "SeparableGroupConv2d",
    "SymmetricAvgPool2d",
    "SymmetricBlurPool2d",
    "SymmetricMaxPool2d",
    "SymmetricUpsample2d",
    "VectorHead",
    "plain",
]
