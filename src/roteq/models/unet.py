"""A U-Net over any group: maps that turn with the picture, exactly at every size.

Source: the shape of Ronneberger et al. 2015 (arXiv 1505.04597), the layers of Bekkers et al. 2018 (arXiv 1804.03393).
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError, nearest
from ..filters import Basis, default_basis, make_basis
from ..groups import Group
from ..groups import group as named_group
from ..nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d
from ..nn.checks import check_at_least
from ..nn.geometry import Geometry
from ..nn.steps import mean_of_neighbours

WIDTH = 12  # features of the first level of the plain network; the others come as near to its parameters as they can
OUTPUTS = ("map", "vectors")


class Halve(nn.Module):
    """Every second pixel of a local mean, symmetric about the centre: 1 1 on even sides, 1 2 1 about the pixels 0, 2, 4
    ... of odd ones, whose border is continued.

    Shapes: (B, C, H, W) -> (B, C, (H+1) // 2, (W+1) // 2). Exact for multiples of 90 degrees and mirrors.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (side % 2 for side in x.shape[-2:])
        if rows or columns:
            x = mean_of_neighbours(F.pad(x, (columns, columns, rows, rows), mode="replicate"), 1 + rows, 1 + columns)
        return F.avg_pool2d(x, 2)


class Double(nn.Module):
    """Undo `Halve` bilinearly: 2n pixels, or 2n - 1 where the map `like` has an odd side."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        for dim in (-2, -1):
            size = list(x.shape[-2:])
            size[dim] = like.shape[dim]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=bool(size[dim] % 2))
        return x


class Stage(nn.Sequential):
    """Two 3x3 convolutions, each with BN and ReLU, zeros outside the map."""

    def __init__(self, first: nn.Module, width: int, group: Group, basis: Basis | None) -> None:
        second = GroupConv2d(width, width, 3, padding=1, bias=False, group=group, basis=basis)
        norms = (GroupBatchNorm2d(width, group=group) for _ in range(2))
        super().__init__(first, next(norms), nn.ReLU(), second, next(norms), nn.ReLU())


class GUNet(nn.Module):
    """`levels` stages down, as many less one up, each with the map of its level from the way down, then the maximum
    over the group, BN and a 1x1 convolution. Features double from level to level.

    Shapes: (B, C, H, W) -> (B, num_classes, H, W); with output "vectors" (attribute `output`, which may be set on a
    trained network) (B, 2*num_classes, H, W): for each class the same sum of the argmax fields of the features.
    Exactness: exactly equivariant for multiples of 90 degrees and mirrors of the group, at every size: zeros are added
    on both sides until a side is 0 (even ones) or 1 (odd ones) modulo 2^(levels - 1), where every step down and up is
    symmetric, and cut off again.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        group: Group,
        width: int,
        levels: int,
        basis: Basis | None,
        output: str,
    ) -> None:
        super().__init__()
        widths, self.output = [width * 2**level for level in range(levels)], output
        lift = LiftingConv2d(in_channels, width, 3, padding=1, bias=False, group=group, basis=basis)
        self.down, self.up = nn.ModuleList([Stage(lift, width, group, basis)]), nn.ModuleList()

        def stage(before: int, after: int) -> Stage:
            first = GroupConv2d(before, after, 3, padding=1, bias=False, group=group, basis=basis)
            return Stage(first, after, group, basis)

        for before, after in pairwise(widths):
            self.down.append(stage(before, after))
            self.up.insert(0, stage(before + after, before))
        self.halve, self.enlarge = Halve(), Double()
        self.group = group
        self.project, self.directions = GroupPool(group), GroupPool(group, "argmax")
        # maxima of ReLUs are large and of one sign: centred, or the head would have to live on its bias
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.head.weight, std=0.1 / width**0.5)  # the first loss is next to ln(num_classes)
        nn.init.zeros_(self.head.get_parameter("bias"))
        self.geometry = unet_geometry(levels)

    def forward(self, x: Tensor) -> Tensor:
        if self.output not in OUTPUTS:
            raise UsageError(f"g_unet: unknown output {self.output!r}; {nearest(self.output, OUTPUTS)}")
        rows, columns = (self.geometry.framing(side) for side in x.shape[-2:])
        x, maps = F.pad(x, (columns, columns, rows, rows)), []
        for level, stage in enumerate(self.down):
            x = stage(self.halve(x) if level else x)
            maps.append(x)
        maps.pop()
        for stage in self.up:
            like = maps.pop()
            x = stage(torch.cat((like, self.enlarge(x, like)), 1))
        x = self.vectors(x) if self.output == "vectors" else self.head(self.norm(self.project(x)))
        return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]

    def vectors(self, x: Tensor) -> Tensor:
        """What the head makes of vectors in place of features: each as long as its strongest element is above the mean
        of all, so that there is no direction where all are alike."""
        blocks = x.unflatten(1, (-1, self.group.order))
        fields = self.directions((blocks - blocks.mean(2, keepdim=True)).flatten(1, 2))
        parts = fields.unflatten(1, (-1, 2)).unbind(2)  # x and y of every feature
        norm = self.norm
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.head.weight * scale[:, None, None]
        return torch.stack([F.conv2d(part, weight) for part in parts], 2).flatten(1, 2)


def unet_geometry(levels: int) -> Geometry:
    """What one answer sees: two 3x3 convolutions on every level, down and up, and the steps between."""
    radius = 2 * 2 ** (levels - 1)  # of the lowest stage, in pixels
    for level in reversed(range(levels - 1)):
        step = 2**level
        radius += 2 * step  # bilinear, up: two neighbours of the lower map, up to 2 of its pixels away with the mean
        radius += 4 * step  # two stages of two convolutions
    return Geometry(window=2 * radius + 1, padding=radius, grid=2 ** (levels - 1))


def parameters_of(in_channels: int, num_classes: int, order: int, width: int, levels: int, filters: int) -> int:
    """Parameters of GUNet with `filters` basis filters a 3x3 kernel."""
    widths = [width * 2**level for level in range(levels)]
    pairs = list(pairwise(widths))
    kernels = width * width + sum(a * (b + a) + b * (a + b + b) for b, a in pairs)
    norms = 4 * (sum(widths) + sum(widths[:-1])) + 2 * width
    return filters * (in_channels * width + order * kernels) + norms + num_classes * (width + 1)


def g_unet(
    in_channels: int = 3,
    num_classes: int = 2,
    group: str = "p4m",
    width: int | None = None,
    levels: int = 3,
    basis: Basis | None = None,
    output: Literal["map", "vectors"] = "map",
) -> nn.Module:
    """A U-Net for any group; its plain twin is the one over Z2.

    `width` None: the features of the first level that bring it nearest to the parameters of 12 features over Z2.
    `levels`: resolutions, each half of the one before. `output` "vectors": an orientation field for each class.

    >>> g_unet(1, 2, "p4", width=2)(torch.zeros(2, 1, 33, 40)).shape
    torch.Size([2, 2, 33, 40])
    """
    chosen = named_group(group)
    check_at_least("g_unet", 1, levels=levels)
    filters = make_basis(basis or default_basis(chosen), chosen, 3).shape[1]
    if width is None:
        target = parameters_of(in_channels, num_classes, 1, WIDTH, levels, 9)
        width = min(
            range(1, 65),
            key=lambda w: abs(parameters_of(in_channels, num_classes, chosen.order, w, levels, filters) - target),
        )
    check_at_least("g_unet", 1, width=width)
    return GUNet(in_channels, num_classes, chosen, width, levels, basis, output)
