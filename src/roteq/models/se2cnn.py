"""SE2CNN: the 5-layer SE(2,N) network of the founding study, as it was and as it should have been; and its plain twin.

Source: Bekkers et al. 2018 (arXiv 1804.03393) and its public code tueimage/SE2CNN.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..filters import Basis, make_basis
from ..groups import Group
from ..groups import group as named_group
from ..nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, SymmetricMaxPool2d
from ..nn.checks import check_grid
from ..nn.geometry import Geometry

STUDY_WEIGHTS = 50_404  # of the founding network; the default form chooses its width to come nearest to it
STUDY_SIZES = ((36, 36), (32, 32), (28, 28))  # of the pathology patches, of the padded digits, of digits
HIDDEN = 128
SMALLEST = 32  # smaller pictures are framed: three 5x5 convolutions and two poolings must fit


class SE2CNN(nn.Module):
    """Lifting 5x5, two group convolutions 5x5 with `width`, 2 and 4 times as many features, projection over the group,
    then two 1x1 layers and the mean over space: logits that do not change when the picture is turned.

    Shapes: (B, C, H, W) -> (B, num_classes), any H and W; below 32 pixels the picture is framed with zeros; with
    `dense` (B, num_classes, h, w), H = 32 + (h - 1) * 4: one answer for each 32x32 window, as it would be for the
    window alone (in eval mode). 32 -> 28|14 -> 10|5 -> 1.
    Exactness: invariant exactly for multiples of 90 degrees and mirrors, approximately for other angles.
    Against the founding network: BatchNorm after each convolution; the third layer is a group convolution (there the
    orientations were merged into channels); projection over theta; the mean over space instead of one corner.
    """

    geometry = Geometry(SMALLEST, 4)

    def __init__(
        self, in_channels: int, num_classes: int, group: Group, width: int, basis: Basis, dense: bool = False
    ) -> None:
        super().__init__()
        self.dense = dense
        widths = (width, 2 * width, 4 * width)
        self.lift = LiftingConv2d(in_channels, widths[0], 5, bias=False, group=group, basis=basis)
        self.norm1 = GroupBatchNorm2d(widths[0], group=group)
        self.conv2 = GroupConv2d(widths[0], widths[1], 5, bias=False, group=group, basis=basis)
        self.norm2 = GroupBatchNorm2d(widths[1], group=group)
        self.conv3 = GroupConv2d(widths[1], widths[2], 5, bias=False, group=group, basis=basis)
        self.norm3 = GroupBatchNorm2d(widths[2], group=group)
        self.pool = SymmetricMaxPool2d()
        self.project = GroupPool(group)
        self.conv4 = nn.Conv2d(widths[2], HIDDEN, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(HIDDEN)
        self.head = nn.Linear(HIDDEN, num_classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.dense:
            check_grid("se2cnn", x, self.geometry)
        else:
            x = frame(x, SMALLEST)
        x = self.relu(self.pool(self.norm1(self.lift(x))))
        x = self.relu(self.pool(self.norm2(self.conv2(x))))
        x = self.project(self.relu(self.norm3(self.conv3(x))))
        x = self.relu(self.norm4(self.conv4(x)))
        return self.head(x.movedim(1, 3)).movedim(3, 1) if self.dense else self.head(x.mean((2, 3)))


def frame(x: Tensor, smallest: int) -> Tensor:
    """Pad with zeros, the same on opposite sides, until both sides have at least `smallest` pixels."""
    height, width = x.shape[-2:]
    rows, columns = (max(0, -(-(smallest - side) // 2)) for side in (height, width))
    return F.pad(x, (columns, columns, rows, rows)) if rows or columns else x


def published_basis(group: Group) -> Basis:
    """The pixel basis, under a disc where elements are interpolated: as SE(2)-CNNs and G-CNNs turn their kernels."""
    return "pixel" if len(group.exact_elements) == group.order else "disc"


def weights_of(in_channels: int, order: int, width: int, filters: int = 25) -> int:
    """Convolution weights of SE2CNN up to the classifier, with `filters` basis filters a kernel."""
    return filters * width * (in_channels + order * (2 * width + 8 * width)) + 4 * width * HIDDEN


def width_for(in_channels: int, order: int, weights: int, filters: int = 25) -> int:
    """The width whose number of weights comes nearest to `weights`."""
    return min(range(1, 257), key=lambda width: abs(weights_of(in_channels, order, width, filters) - weights))


def se2cnn(
    in_channels: int = 3,
    num_classes: int = 2,
    group: str = "C12",
    width: int | None = None,
    basis: Basis | None = None,
    dense: bool = False,
) -> nn.Module:
    """The rotation-invariant SE(2,N)-CNN for any C_N or D_N and any picture size.

    `width` None: as many features as bring it nearest to the 50,404 weights of the founding network: 4, 8, 16 for C12.
    `basis` None: kernels turn as published, by bilinear interpolation; "harmonic" does better in between.
    `dense`: a map of logits with one vector for each window of 32 pixels, 4 apart (attribute `geometry`), from the same
    weights; or set `net.dense = True` on a trained network. Sides must be 32 + k * 4 pixels.

    >>> import torch
    >>> se2cnn(1, 2, "C12")(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 2])
    """
    chosen = named_group(group)
    if width is not None and width < 1:
        raise UsageError(f"se2cnn: expected width of at least 1, got {width}")
    basis = basis or published_basis(chosen)
    width = width or width_for(in_channels, chosen.order, STUDY_WEIGHTS, make_basis(basis, chosen, 5).shape[1])
    return SE2CNN(in_channels, num_classes, chosen, width, basis, dense)


def cnn(
    in_channels: int = 3,
    num_classes: int = 2,
    group: str = "C12",
    match: Literal["parameters", "channels"] = "parameters",
    dense: bool = False,
) -> nn.Module:
    """The same network over the trivial group: the control of se2cnn(group=group).

    `match="parameters"`: the width with the nearest number of weights; `"channels"`: as many physical channels, the
    width of the twin times |G| (much more weights, the same work for the hardware). `dense`: as in se2cnn.
    """
    twin = named_group(group)
    width = width_for(in_channels, twin.order, STUDY_WEIGHTS)
    if match == "parameters":
        same = width_for(in_channels, 1, weights_of(in_channels, twin.order, width))
        return SE2CNN(in_channels, num_classes, Group(1), same, "pixel", dense)
    if match == "channels":
        return SE2CNN(in_channels, num_classes, Group(1), width * twin.order, "pixel", dense)
    raise UsageError(f"cnn: expected match 'parameters' or 'channels', got {match!r}")


class SE2CNNStudy(nn.Module):
    """The founding network, every kernel and map shape as in its log (docs/why): no normalisation, orientations merged
    into channels from the third layer on, the answer read at one corner. Not invariant; kept to be measured.

    Shapes: (B, 1, 36, 36) -> (B, num_classes): 36 -> 32|16 -> 12|6 -> 2 -> 2 -> 2, read at [0, 0]; or 32x32, as in the
    MNIST demonstration of its authors: 32 -> 28|14 -> 10|5 -> 1 -> 1 -> 1. Digits of 28x28 are framed to 32x32.
    """

    def __init__(self, in_channels: int, num_classes: int, group: Group) -> None:
        super().__init__()
        self.lift = LiftingConv2d(in_channels, 4, 5, group=group, basis="disc")
        self.conv2 = GroupConv2d(4, 8, 5, group=group, basis="disc")
        self.conv3 = nn.Conv2d(8 * group.order, 16, 5)
        self.conv4 = nn.Conv2d(16, 128, 1)
        self.conv5 = nn.Conv2d(128, num_classes, 1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        for layer in (self.lift, self.conv2, self.conv3, self.conv4, self.conv5):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
            nn.init.constant_(layer.get_parameter("bias"), 0.01)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) not in STUDY_SIZES:
            raise UsageError(
                f"se2cnn_study: expected pictures of 36x36, 32x32 or 28x28 pixels, got {x.shape[-2]}x{x.shape[-1]}; "
                "crop them, or use se2cnn"
            )
        x = frame(x, SMALLEST)
        x = self.relu(self.pool(self.lift(x)))
        x = self.relu(self.pool(self.conv2(x)))
        x = self.relu(self.conv4(self.relu(self.conv3(x))))
        return self.conv5(x)[:, :, 0, 0]


def se2cnn_study(in_channels: int = 1, num_classes: int = 2, group: str = "C12") -> nn.Module:
    """The 5-layer network of the founding study (50,404 weights at C12, one channel, two classes), to reproduce it.

    >>> net = se2cnn_study()
    >>> sum(p.numel() for name, p in net.named_parameters() if name.endswith("weight"))
    50404
    """
    return SE2CNNStudy(in_channels, num_classes, named_group(group))
