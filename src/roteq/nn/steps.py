"""Strided steps of any network, made equivariant at every size of map.

A step of stride s may leave r pixels of a map over on one side (docs/pitfalls); then it has r + 1 alignments of equal
right. "centred": the step works on the mean of r + 1 neighbours (a max pool on all of them), so that its grid is
symmetric; it has as many outputs. "turned": every orientation takes an alignment of its own, the original's turned with
it; nothing is averaged, and a network whose filters stand at the identity still computes exactly the average of the
original over the group, but the maps of different orientations lie on grids that are shifted by a part of a step.
"""

import math
from contextlib import suppress
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group
from .checks import check_blocks, check_map

Steps = Literal["symmetric", "centred", "turned"]
Pair = tuple[int, int]


def pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def pixels_left(side: int, extent: int, stride: int, padding: int) -> int:
    """Pixels that steps of this stride leave over on one side."""
    return (side + 2 * padding - extent) % stride


def all_left(x: Tensor, extent: Pair, stride: Pair, padding: Pair) -> Pair:
    """Pixels left over, of height and width."""
    rows, columns = (pixels_left(*sizes) for sizes in zip(x.shape[-2:], extent, stride, padding, strict=True))
    return rows, columns


def mean_of_neighbours(x: Tensor, rows: int, columns: int) -> Tensor:
    """The mean over rows x columns pixels, at every position. (torch's average pool at stride 1 takes up to 40 times as
    long on the CPU.)

    Shapes: (B, C, H, W) -> (B, C, H - rows + 1, W - columns + 1)
    """
    if rows * columns == 1:
        return x
    if torch.is_grad_enabled() and not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
        with suppress(RuntimeError):  # inside torch.func it has no rule
            return _MeanOfNeighbours.apply(x, rows, columns)
    return _mean_of_neighbours(x, rows, columns)


def _mean_of_neighbours(x: Tensor, rows: int, columns: int) -> Tensor:
    for dim, n in ((-1, columns), (-2, rows)):
        if n > 1:
            size = x.shape[dim] - n + 1
            total = x.narrow(dim, 0, size) + x.narrow(dim, 1, size)
            for begin in range(2, n):
                total = total + x.narrow(dim, begin, size)
            x = total * (1 / n)
    return x


class _MeanOfNeighbours(torch.autograd.Function):
    """Its gradient is a mean of neighbours again, of the gradient in a frame of zeros; that of slices would fill and
    add whole maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, columns: int) -> Tensor:
        ctx.window = rows, columns
        return _mean_of_neighbours(x, rows, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rows, columns = ctx.window
        framed = F.pad(gradient, (columns - 1, columns - 1, rows - 1, rows - 1))
        return mean_of_neighbours(framed, rows, columns), None, None


def centred(x: Tensor, extent: Pair, stride: Pair, padding: Pair) -> Tensor:
    """What a step works on so that its grid is symmetric: the mean of r + 1 neighbours. Where it is symmetric already,
    x itself.

    Shapes: (B, C, H, W) -> (B, C, H - r, W - r')
    """
    rows, columns = all_left(x, extent, stride, padding)
    return mean_of_neighbours(x, rows + 1, columns + 1)


def can_turn(group: Group) -> bool:
    """Does every element of the group take the corner where pixels are left over to a corner, consistently?"""
    return len(group.exact_elements) == group.order or (not group.mirrors and group.rotations % 4 == 0)


@cache
def corners(group: Group) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """The elements by the corner to which they take the lower right one, where torch's steps leave pixels over: (axes
    to flip so that this corner is the lower right one, elements). Those between quarter turns go with the one before.

    >>> corners(Group(4))
    (((), (0,)), ((-2,), (1,)), ((-2, -1), (2,)), ((-1,), (3,)))
    """
    if not can_turn(group):
        raise UsageError(
            f"steps='turned': expected a group of quarter turns and mirrors, or C_N with N a multiple of 4, got "
            f"{group.name}; use steps='centred'"
        )
    found: dict[tuple[int, ...], list[int]] = {}
    for g in range(group.order):
        turn = g % group.rotations * 4 // group.rotations
        corner = (-1 - 1j if group.is_mirror(g) else 1 - 1j) * 1j**turn  # x + iy: a mirror first takes x to -x
        found.setdefault((-2,) * (corner.imag > 0) + (-1,) * (corner.real < 0), []).append(g)
    return tuple((flips, tuple(elements)) for flips, elements in found.items())


def in_order(parts: list[Tensor], group: Group) -> Tensor:
    """Maps (B, C, elements, H, W) of the elements of each corner -> (B, C*|G|, H, W)."""
    elements = [g for _, some in corners(group) for g in some]
    source = torch.tensor([elements.index(g) for g in range(group.order)], device=parts[0].device)
    return torch.cat(parts, 2).index_select(2, source).flatten(1, 2)


def turned_convolution(
    x: Tensor,
    bank: Tensor,
    bias: Tensor | None,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
    groups: int,
    *,
    group: Group,
) -> Tensor:
    """F.conv2d with a bank (C_out*|G|, ...), every orientation aligned at its own corner."""
    parts, depthwise = [], groups == x.shape[1] == len(bank)
    for flips, elements in corners(group):
        rows = torch.tensor(elements, device=bank.device)
        some = bank.unflatten(0, (-1, group.order)).index_select(1, rows).flatten(0, 1)
        shift = None if bias is None else bias.view(-1, group.order).index_select(1, rows).flatten()
        if depthwise:
            own = x.unflatten(1, (-1, group.order)).index_select(2, rows).flatten(1, 2)
            y = F.conv2d(own.flip(flips), some.flip(flips), shift, stride, padding, dilation, len(some))
        else:
            y = F.conv2d(x.flip(flips), some.flip(flips), shift, stride, padding, dilation, groups)
        parts.append(y.flip(flips).unflatten(1, (-1, len(elements))))
    return in_order(parts, group)


class TurnedSteps(nn.Module):
    """A pool of torch's own on a regular map, every orientation aligned at its own corner (see "turned" above).

    Shapes: those of the pool, on (B, C*|G|, H, W)
    Exactness: exact for multiples of 90 degrees and mirrors, at every size.
    Raises: UsageError for features of another group, or a group whose elements do not take corners to corners.

    >>> TurnedSteps(nn.MaxPool2d(3, 2, 1), "p4")(torch.zeros(1, 8, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, pool: nn.Module, group: str | Group) -> None:
        super().__init__()
        self.pool, self.group = pool, named_group(group)
        corners(self.group)

    def forward(self, x: Tensor) -> Tensor:
        check_blocks("TurnedSteps", x, self.group)
        blocks, parts = x.unflatten(1, (-1, self.group.order)), []
        for flips, elements in corners(self.group):
            some = blocks.index_select(2, torch.tensor(elements, device=x.device))
            y = self.pool(some.flatten(1, 2).flip(flips)).flip(flips)
            parts.append(y.unflatten(1, (-1, len(elements))))
        return in_order(parts, self.group)


class Centred(nn.Module):
    """What stands before a strided convolution of torch's own so that its steps are symmetric at every size."""

    def __init__(self, extent: int, stride: int, padding: int) -> None:
        super().__init__()
        self.extent, self.stride, self.padding = extent, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return centred(x, pair(self.extent), pair(self.stride), pair(self.padding))

    def extra_repr(self) -> str:
        return f"extent={self.extent}, stride={self.stride}, padding={self.padding}"


class TurnedConv2d(nn.Module):
    """A convolution of torch's own over the physical channels of a group, every orientation aligned at its own
    corner."""

    def __init__(self, conv: nn.Conv2d, group: Group) -> None:
        super().__init__()
        self.conv, self.group = conv, group

    def forward(self, x: Tensor) -> Tensor:
        conv, padding = self.conv, pair(self.conv.padding)  # type: ignore[arg-type]
        if conv.padding_mode != "zeros":
            x, padding = F.pad(x, [padding[0]] * 4, mode=conv.padding_mode), (0, 0)
        sizes = pair(conv.stride), padding, pair(conv.dilation), conv.groups
        return turned_convolution(x, conv.weight, conv.bias, *sizes, group=self.group)


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

    def steps(self, x: Tensor) -> tuple[Pair, Pair]:
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
    """nn.MaxPool2d at every size of map: where its steps leave pixels over, of a window larger by as many.

    Shapes: (B, C, H, W) -> those of nn.MaxPool2d with the same arguments.
    Exactness: exact for multiples of 90 degrees and mirrors, for square kernels and strides; equal to nn.MaxPool2d
    wherever that is exact.

    >>> CentredMaxPool2d(3, 2, 1)(torch.zeros(1, 1, 8, 9)).shape
    torch.Size([1, 1, 4, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        padding, left = self.steps(x)
        if self.dilation == (1, 1):  # all alignments at once; a mean before it would be one more map to keep
            kernel = self.kernel_size[0] + left[0], self.kernel_size[1] + left[1]
        else:
            x, kernel = mean_of_neighbours(x, left[0] + 1, left[1] + 1), self.kernel_size
        if self._exceeds(padding):
            x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=-math.inf), (0, 0)
        return F.max_pool2d(x, kernel, self.stride, padding, self.dilation)


class CentredAvgPool2d(_CentredPool2d):
    """nn.AvgPool2d at every size of map: where its steps are not symmetric, of the mean of neighbours.

    Shapes: (B, C, H, W) -> those of nn.AvgPool2d with the same arguments.
    Exactness: as CentredMaxPool2d.

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
        padding, left = self.steps(x)
        x = mean_of_neighbours(x, left[0] + 1, left[1] + 1)
        if padding == self.padding or not self._exceeds(padding):
            include = self.count_include_pad and padding == self.padding  # what ceil_mode adds is never counted
            return F.avg_pool2d(x, self.kernel_size, self.stride, padding, False, include)
        total, count = (
            F.avg_pool2d(F.pad(v, (padding[1], padding[1], padding[0], padding[0])), self.kernel_size, self.stride)
            for v in (x, torch.ones_like(x[:1, :1]))
        )
        return total / count
