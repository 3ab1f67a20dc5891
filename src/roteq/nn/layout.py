"""The memory layout of a map: what comes in channels_last goes out channels_last."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """channels_last and not contiguous as well (maps of one channel or one pixel are both)."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
