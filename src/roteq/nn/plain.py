"""Leave the library: the same network made of torch's own layers."""

import copy

from torch import nn

from .conv import GroupConv2d, LiftingConv2d
from .norm import GroupBatchNorm2d, plain_batch_norm


def plain(module: nn.Module) -> nn.Module:
    """A copy with every tied convolution written out as nn.Conv2d and every group batch norm as nn.BatchNorm2d.

    It computes the same in eval mode and as fast as any CNN of as many physical channels; trained further, its filters
    drift apart and it is no longer equivariant.

    >>> import torch
    >>> plain(LiftingConv2d(1, 8, kernel_size=3, group="p4"))
    Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1))
    """
    if isinstance(module, LiftingConv2d | GroupConv2d):
        return _plain_conv(module)
    if isinstance(module, GroupBatchNorm2d):
        return plain_batch_norm(module)
    twin = copy.copy(module) if not list(module.children()) else copy.deepcopy(module)
    for name, child in module.named_children():
        setattr(twin, name, plain(child))
    return twin


def _plain_conv(layer: LiftingConv2d | GroupConv2d) -> nn.Conv2d:
    bank = layer.bank().detach()
    conv = nn.Conv2d(
        bank.shape[1],
        bank.shape[0],
        layer.kernel_size,
        padding=layer.padding,
        bias=layer.bias is not None,
        device=bank.device,
        dtype=bank.dtype,
    )
    conv.load_state_dict({"weight": bank} | ({} if layer.bias is None else {"bias": layer.plain_bias().detach()}))  # type: ignore[union-attr]
    return conv.train(layer.training)
