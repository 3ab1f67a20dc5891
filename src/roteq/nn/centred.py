"""Strided steps of any network, made symmetric about the centre of the map at every size.

A step of stride s that leaves r pixels of a map over on one side (docs/pitfalls) has r + 1 alignments of equal right.
Their mean is symmetric, has the same number of outputs, and is what averaging over turns and mirrors sees anyway.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_map

Pair = tuple[int, int]


def pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def pixels_left(side: int, extent: int, stride: int, padding: int) -> int:
    """Pixels that steps of this stride leave over on one side."""
    return (side + 2 * padding - extent) % stride


def centred(x: Tensor, extent: Pair, stride: Pair, padding: Pair) -> Tensor:
    """x after a mean over r + 1 neighbours: a linear step that follows is then the mean of its r + 1 alignments. Where
    the step is symmetric already, x itself.

    Shapes: (B, C, H, W) -> (B, C, H - r, W - r')
    """
    left = [pixels_left(*sizes) for sizes in zip(x.shape[-2:], extent, stride, padding, strict=True)]
    return F.avg_pool2d(x, (left[0] + 1, left[1] + 1), 1) if any(left) else x


class Centred(nn.Module):
    """What stands before a strided convolution of torch's own so that its steps are symmetric at every size."""

    def __init__(self, extent: int, stride: int, padding: int) -> None:
        super().__init__()
        self.extent, self.stride, self.padding = extent, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return centred(x, pair(self.extent), pair(self.stride), pair(self.padding))

    def extra_repr(self) -> str:
        return f"extent={self.extent}, stride={self.stride}, padding={self.padding}"


class _CentredPool2d(nn.Module):
    """Takes the arguments of torch's pool, ceil_mode included, and gives maps of the same size."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.dilation = pair(kernel_size), pair(padding), pair(dilation)
        self.stride = self.kernel_size if stride is None else pair(stride)
        self.ceil_mode = ceil_mode

    def _steps(self, x: Tensor) -> tuple[Pair, Pair]:
        """Padding and pixels left over of each side; the extra window of ceil_mode is one of more padding."""
        check_map(type(self).__name__, x)
        paddings, lefts = [], []
        for side, kernel, stride, padding, dilation in zip(
            x.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            extent = dilation * (kernel - 1) + 1
            steps = (side + 2 * padding - extent) / stride
            # torch drops a last window that would begin in the padding beyond the map
            extra = self.ceil_mode and steps % 1 > 0 and math.ceil(steps) * stride < side + padding
            n = math.floor(steps) + extra + 1
            missing = max((n - 1) * stride + extent - side - 2 * padding, 0)
            padding += (missing + 1) // 2
            paddings.append(padding)
            lefts.append(side + 2 * padding - extent - (n - 1) * stride)
        return (paddings[0], paddings[1]), (lefts[0], lefts[1])

    def _exceeds(self, padding: Pair) -> bool:
        """More padding than torch's pools allow."""
        return any(2 * p > kernel for p, kernel in zip(padding, self.kernel_size, strict=True))

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class CentredMaxPool2d(_CentredPool2d):
    """nn.MaxPool2d at every size of map: where its steps are not symmetric, the mean of its alignments.

    Shapes: (B, C, H, W) -> those of nn.MaxPool2d with the same arguments.
    Exactness: exact for multiples of 90 degrees and mirrors, for square kernels and strides; equal to nn.MaxPool2d
    wherever that is exact.

    >>> import torch
    >>> CentredMaxPool2d(3, 2, 1)(torch.zeros(1, 1, 8, 9)).shape
    torch.Size([1, 1, 4, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        padding, left = self._steps(x)
        if self._exceeds(padding):
            x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=-math.inf), (0, 0)
        if left == (0, 0):
            return F.max_pool2d(x, self.kernel_size, self.stride, padding, self.dilation)
        x = F.max_pool2d(x, self.kernel_size, 1, padding, self.dilation)
        return F.avg_pool2d(x, (left[0] + 1, left[1] + 1), self.stride)


class CentredAvgPool2d(_CentredPool2d):
    """nn.AvgPool2d at every size of map: where its steps are not symmetric, the mean of its alignments.

    Shapes: (B, C, H, W) -> those of nn.AvgPool2d with the same arguments.
    Exactness: as CentredMaxPool2d.

    >>> import torch
    >>> CentredAvgPool2d(2)(torch.zeros(1, 1, 9, 9)).shape
    torch.Size([1, 1, 4, 4])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        padding, left = self._steps(x)
        stride = self.stride if left == (0, 0) else (1, 1)
        if padding == self.padding or not self._exceeds(padding):
            include = self.count_include_pad and padding == self.padding  # what ceil_mode adds is never counted
            x = F.avg_pool2d(x, self.kernel_size, stride, padding, False, include)
        else:
            total, count = (
                F.avg_pool2d(F.pad(v, (padding[1], padding[1], padding[0], padding[0])), self.kernel_size, stride)
                for v in (x, torch.ones_like(x[:1, :1]))
            )
            x = total / count
        return x if left == (0, 0) else F.avg_pool2d(x, (left[0] + 1, left[1] + 1), self.stride)
