"""The harmonic-basis network for rotated MNIST, on rotations, on mirrors, or on mirrors up to a layer.

Source: Weiler & Cesa 2019 (arXiv 1911.08251), the final networks for rotated MNIST; their code:
QUVA-Lab/e2cnn_experiments.
"""

from math import ceil, inf, sqrt

from torch import Tensor, nn

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group
from ..nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, Restriction, SymmetricMaxPool2d

CHANNELS = (24, 32, 36, 36, 64, 96)  # features of the six convolutions on a group of 16 elements
FIRST, LAST = 9, 5  # kernels of the first and of the last; those in between are 7x7 as published
POOLED = (2, 4)  # the layers that halve the map: 28 -> 20 -> 10 -> 5 -> 1
HIDDEN = 96
DROPOUT = 0.3


class E2MNIST(nn.Module):
    """Six convolutions with harmonic kernels, each with BatchNorm and ELU, the map halved after the second and fourth;
    the maximum over the group, the mean over space, three fully connected layers.

    Restriction follows the convolution `restrict_at`, so BatchNorm already keeps statistics for the subgroup.

    Shapes: (B, C, H, W) -> (B, num_classes). The first and the last convolution have no padding: 28x28 ends in one
    pixel, larger pictures in the mean of several; in the original it is the maximum, which is further from invariance
    (untrained, 3x3 pixels, C8 at 45 degrees: 0.50 instead of 0.32).
    Exactness: invariant exactly for those quarter turns and mirrors that the subgroup has, approximately for its other
    elements.
    Raises: UsageError in forward for pictures that are too small for the last kernel.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        group: Group,
        subgroup: Group,
        restrict_at: int,
        width: float,
        kernel: int,
    ) -> None:
        super().__init__()
        kernels = (FIRST, kernel, kernel, kernel, kernel, min(kernel, LAST))
        self.smallest = kernels[0] - 1 + 4 * kernels[-1]
        layers: list[nn.Module] = []
        features = in_channels
        for number, (size, out) in enumerate(zip(kernels, CHANNELS, strict=True), 1):
            out = features_of(out, group, width)
            conv = LiftingConv2d if number == 1 else GroupConv2d
            padding = 0 if number in (1, len(kernels)) else size // 2
            layers.append(conv(features, out, size, padding=padding, bias=False, group=group, basis="harmonic"))
            features = out
            if number == restrict_at and subgroup != group:
                layers.append(Restriction(group, subgroup))
                features, group = out * group.order // subgroup.order, subgroup
            layers.append(GroupBatchNorm2d(features, group=group))
            layers += [SymmetricMaxPool2d()] if number in POOLED else []
            layers += [GroupPool(group)] if number == len(kernels) else []
            layers.append(nn.ELU())
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            *(nn.Dropout(DROPOUT), nn.Linear(features, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ELU()),
            *(nn.Dropout(DROPOUT), nn.Linear(HIDDEN, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ELU()),
            *(nn.Dropout(DROPOUT), nn.Linear(HIDDEN, num_classes)),
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < self.smallest:
            raise UsageError(
                f"e2_mnist: expected pictures of at least {self.smallest}x{self.smallest} pixels, got "
                f"{height}x{width}; pad or enlarge them (the smallest for kernel=3: {FIRST - 1 + 4 * 3})"
            )
        return self.head(self.features(x).mean((2, 3)))


def features_of(channels: int, group: Group, width: float) -> int:
    """As many features as keep the number of weights of a layer, C_out C_in |G| P, that it has on 16 elements; rounded
    down, as in the original.

    >>> [features_of(channels, named_group("D16"), 1.0) for channels in CHANNELS]
    [16, 22, 25, 25, 45, 67]
    """
    return int(channels * width / sqrt(group.order / 16))


def e2_mnist(
    in_channels: int = 1,
    num_classes: int = 10,
    group: str = "C16",
    restrict: str | None = None,
    restrict_at: int = 5,
    width: float = 1.0,
    kernel: int = 7,
) -> nn.Module:
    """The harmonic E(2)-CNN for rotated MNIST (Weiler & Cesa 2019); published: 0.682 % error with D16|5C16.

    `restrict`: the subgroup as which features are read from the convolution `restrict_at` (1 ... 5) on; published:
    group="D16", restrict="C16". `width` multiplies all numbers of features, rounded down. `kernel`: the size of the
    kernels after the first (the last: at most 5); 3 and 5 with a small width train on a CPU. The plain twin with as
    many weights is group="Z2".

    >>> import torch
    >>> e2_mnist(group="D4", restrict="C4", width=0.1, kernel=3).eval()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Raises: UsageError for what is no subgroup, a layer that cannot be restricted, an even kernel or one below 3, a
    width that leaves a layer without features.
    """
    whole = named_group(group)
    subgroup = whole if restrict is None else named_group(restrict)
    if not 1 <= restrict_at < len(CHANNELS):
        raise UsageError(f"e2_mnist: expected restrict_at to be 1, 2, 3, 4 or 5, got {restrict_at}")
    if kernel < 3 or kernel % 2 == 0:
        raise UsageError(f"e2_mnist: expected an odd kernel of at least 3 (published: 7), got {kernel}")
    least = ceil(1000 * sqrt(whole.order / 16) / min(CHANNELS)) / 1000
    if not least <= width < inf:
        raise UsageError(
            f"e2_mnist: expected a width of at least {least}, which leaves the first layer one feature on "
            f"{whole.name}, got {width}"
        )
    return E2MNIST(in_channels, num_classes, whole, subgroup, restrict_at, width, kernel)
