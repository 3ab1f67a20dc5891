"""The memory layout of a map: what comes in channels_last goes out channels_last.

Also inside vmap, where torch knows of no memory_format.
"""

from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """The channels of a pixel are neighbours in memory, and not just because there is one channel or one pixel."""
    return not x.is_contiguous() and x.stride(1) == 1


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """y, channels_last if x is."""
    return y.movedim(1, 3).contiguous().movedim(3, 1) if is_channels_last(x) else y
