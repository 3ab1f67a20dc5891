"""Layers on feature maps over a group: ordinary (B, C*|G|, H, W) tensors whose channels come in blocks of |G|."""

from .conv import GroupConv2d, LiftingConv2d
from .norm import GroupBatchNorm2d
from .plain import plain
from .pool import GroupPool, SymmetricMaxPool2d

__all__ = ["GroupBatchNorm2d", "GroupConv2d", "GroupPool", "LiftingConv2d", "SymmetricMaxPool2d", "plain"]
