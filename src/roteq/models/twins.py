"""Equivariant twins of the standard networks, by `convert`."""

from typing import Literal

import torch
from torch import nn

from ..conversion import convert
from ..errors import UsageError, nearest
from .baselines import LAYERS, baseline


def twin(
    in_channels: int = 3,
    num_classes: int = 2,
    of: str = "resnet18",
    group: str = "p4m",
    width: Literal["parameters", "channels", "features"] | float = "parameters",
    weights: str | None = None,
    resize: int | None = None,
) -> nn.Module:
    """The group-equivariant twin of a standard network (`roteq.convert`): resnet18, resnet50, densenet121 or alexnet.

    width: "parameters" (as many as the original), "channels" (as many physical channels), "features" (as many features
    as the original has channels; needed for `weights`), or features per channel. The other options are the original's.

    >>> twin(of="resnet18", group="p4", width="channels")(torch.zeros(2, 3, 48, 48)).shape
    torch.Size([2, 2])
    """
    if of not in LAYERS:
        raise UsageError(f"twin: unknown network {of!r}; {nearest(of, LAYERS)}")
    if weights is not None and width != "features":
        raise UsageError(f"twin: weights need width='features', where every filter has its place; got width={width!r}")
    original = baseline(of, in_channels, num_classes, weights, False, resize)
    return convert(original, group, sample=torch.zeros(1, in_channels, 64, 64), width=width)
