"""The networks for rotated MNIST of Cohen & Welling 2016 (arXiv 1602.07576; code: tscohen/gconv_experiments)."""

from torch import Tensor, nn

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group
from ..nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, SymmetricMaxPool2d

LAYERS = 6
SMALLEST = 28  # 28 26 24|12 10 8 6 4 1


class RotatedMNISTNet(nn.Module):
    """Six 3x3 convolutions without padding, each with BatchNorm and ReLU, a 2x2 max pool after the second, a 4x4
    convolution to the classes, then the maximum over the group and over space.

    pooled: every layer is a lifting convolution whose features are pooled over the group at once, so the next layer
    sees an image again ("rotation pooling"); else the first layer lifts and the others are group convolutions.
    dropout: after each layer but the second.

    Shapes: (B, C, H, W) -> (B, num_classes), sides of at least 28
    Exactness: invariant exactly for the multiples of 90 degrees and mirrors of the group, at every size.
    Raises: UsageError in forward for pictures below 28 pixels.
    """

    def __init__(
        self, in_channels: int, num_classes: int, group: Group, width: int, *, pooled: bool = False, dropout: float = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(LAYERS):
            conv = LiftingConv2d if pooled or i == 0 else GroupConv2d
            layers += [conv(width if i else in_channels, width, 3, group=group)]
            layers += [GroupBatchNorm2d(width, group=group), nn.ReLU()]
            layers += [GroupPool(group)] if pooled else []
            layers += [SymmetricMaxPool2d()] if i == 1 else []
            layers += [nn.Dropout(dropout)] if dropout and i != 1 else []
        self.features = nn.Sequential(*layers)
        self.top = (LiftingConv2d if pooled else GroupConv2d)(width, num_classes, 4, group=group)
        self.project = GroupPool(group)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < SMALLEST:
            raise UsageError(
                f"expected pictures of at least {SMALLEST}x{SMALLEST} pixels, because this network pads nothing, "
                f"got {height}x{width}"
            )
        return self.project(self.top(self.features(x))).amax((2, 3))


def z2cnn(in_channels: int = 1, num_classes: int = 10, width: int = 20, dropout: float = 0.3) -> nn.Module:
    """Z2CNN, the plain network for rotated MNIST (Cohen & Welling 2016), 21,750 parameters; published: 5.03 +- .20 %.

    >>> sum(p.numel() for p in z2cnn().parameters())
    21750
    """
    return RotatedMNISTNet(in_channels, num_classes, Group(1), _checked("z2cnn", width), dropout=dropout)


def p4cnn_rotation_pooling(
    in_channels: int = 1, num_classes: int = 10, group: str = "p4", width: int = 20
) -> nn.Module:
    """P4CNN with rotation pooling (Cohen & Welling 2016), 21,750 parameters; published: 3.21 +- .12 %.

    Pooling over the group after every layer forgets how the features are turned against each other.

    >>> sum(p.numel() for p in p4cnn_rotation_pooling().parameters())
    21750
    """
    width = _checked("p4cnn_rotation_pooling", width)
    return RotatedMNISTNet(in_channels, num_classes, named_group(group), width, pooled=True)


def p4cnn(in_channels: int = 1, num_classes: int = 10, group: str = "p4", width: int = 10) -> nn.Module:
    """P4CNN, the G-CNN for rotated MNIST (Cohen & Welling 2016), 24,680 parameters; published: 2.28 +- .04 %.

    >>> sum(p.numel() for p in p4cnn().parameters())
    24680
    """
    return RotatedMNISTNet(in_channels, num_classes, named_group(group), _checked("p4cnn", width))


def _checked(name: str, width: int) -> int:
    if width < 1:
        raise UsageError(f"{name}: expected width of at least 1, got {width}")
    return width
