"""The two published networks for PatchCamelyon patches: P4M-DenseNet and the B-spline SE(2,N) network; for patches,
and with the same weights for maps of whole regions.

Sources: Veeling et al. 2018 (arXiv 1806.03962) with basveeling/keras-gcnn; Bekkers 2020 (arXiv 1909.12057) with
ebekkers/gsplinets.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..filters import Basis, default_basis
from ..groups import Group
from ..groups import group as named_group
from ..nn import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupPool,
    LiftingConv2d,
    SymmetricAvgPool2d,
    SymmetricMaxPool2d,
)
from ..nn.checks import check_at_least, check_grid
from ..nn.geometry import Geometry

GROWTHS = {1: 24, 4: 13, 8: 9}  # |G| -> growth of the published P4M-DenseNet and its twins on p4 and Z2
WIDTHS = {1: 40, 4: 20, 8: 14, 12: 11, 16: 10}  # |G| -> features of the published SE(2,N) networks


class DenseBlock(nn.Module):
    """BN, ReLU and a 3x3 group convolution; the map that came in, cropped to what it leaves, and the new features
    behind it: (B, C*|G|, H, W) -> (B, (C + growth)*|G|, H - 2, W - 2)."""

    def __init__(self, features: int, growth: int, group: Group) -> None:
        super().__init__()
        self.norm = GroupBatchNorm2d(features, group=group)
        self.relu = nn.ReLU()
        self.conv = GroupConv2d(features, growth, 3, bias=False, group=group)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., 1:-1, 1:-1], self.conv(self.relu(self.norm(x)))), 1)


class Transition(nn.Module):
    """BN, ReLU, 2x2 average and a 1x1 group convolution of as many features. Published with the average last; both are
    linear and commute, and the convolution has a quarter of the pixels here."""

    def __init__(self, features: int, group: Group) -> None:
        super().__init__()
        self.norm = GroupBatchNorm2d(features, group=group)
        self.relu = nn.ReLU()
        self.pool = SymmetricAvgPool2d()
        self.conv = GroupConv2d(features, features, 1, bias=False, group=group)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(self.relu(self.norm(x))))


class P4MDenseNet(nn.Module):
    """A 3x3 lifting convolution, `depth` dense blocks with a transition between each two, then BN, ReLU, the mean over
    the group, the mean over space and a linear layer. No padding anywhere.

    Shapes: (B, C, H, W) -> (B, num_classes), both sides at least `smallest`; with `dense` (B, num_classes, h, w),
    H = window + (h - 1) * stride: one answer for each window, as it would be for the window alone (in eval mode).
    Published: depth 5, window 96 (94 -> 92|46 -> 44|22 -> 20|10 -> 8|4 -> 2, then its mean), stride 16, smallest 80.
    Exactness: exactly invariant for multiples of 90 degrees and mirrors at every size; maps turn with the picture.
    """

    def __init__(self, in_channels: int, num_classes: int, group: Group, growth: int, depth: int, dense: bool) -> None:
        super().__init__()
        self.depth, self.dense = depth, dense
        self.lift = LiftingConv2d(in_channels, growth, 3, bias=False, group=group)
        self.blocks = nn.Sequential(DenseBlock(growth, growth, group))
        for count in range(2, depth + 1):
            self.blocks.append(Transition(count * growth, group))
            self.blocks.append(DenseBlock(count * growth, growth, group))
        self.norm = GroupBatchNorm2d((depth + 1) * growth, group=group)
        self.relu = nn.ReLU()
        self.project = GroupPool(group, "mean")
        self.head = nn.Linear((depth + 1) * growth, num_classes)
        start_as_he(self)

    @property
    def geometry(self) -> Geometry:
        """Of the dense network. Windows that leave a map of 2x2."""
        return Geometry(6 * 2 ** (self.depth - 1), 2 ** (self.depth - 1))

    @property
    def smallest(self) -> int:
        """The side that leaves one pixel."""
        return 5 * 2 ** (self.depth - 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.dense:
            check_grid("p4m_densenet", x, self.geometry)
        else:
            check_fits("p4m_densenet", x, self.smallest, "enlarge them, or take a smaller depth (each halves it)")
        x = self.project(self.relu(self.norm(self.blocks(self.lift(x)))))
        if self.dense:
            return self.head(F.avg_pool2d(x, 2, 1).movedim(1, 3)).movedim(3, 1)
        return self.head(x.mean((2, 3)))


class SE2PCam(nn.Module):
    """Lifting 5x5, three group convolutions 5x5 and one 1x1, the maximum over theta, then two 1x1 layers. No padding.

    Shapes: (B, C, H, W) -> (B, num_classes) from the centre 88x88 pixels (89 of an odd side); with `dense`
    (B, num_classes, h, w), H = 88 + (h - 1) * 12: one answer for each 88x88 window, as it would be for the window alone
    (in eval mode). 88 -> 84|42 -> 38|19 -> 15|5 -> 1.
    Exactness: exactly invariant for multiples of 90 degrees and mirrors at every size; maps turn with the picture.
    """

    geometry = Geometry(88, 12)

    def __init__(
        self, in_channels: int, num_classes: int, group: Group, width: int, basis: Basis | None, dense: bool
    ) -> None:
        super().__init__()
        self.dense = dense
        layers: list[nn.Module] = [LiftingConv2d(in_channels, width, 5, bias=False, group=group, basis=basis)]
        for pool in (SymmetricMaxPool2d(), SymmetricMaxPool2d(), nn.MaxPool2d(3)):
            layers += [GroupBatchNorm2d(width, group=group), pool, nn.ReLU()]
            layers += [GroupConv2d(width, width, 5, bias=False, group=group, basis=basis)]
        layers += [GroupBatchNorm2d(width, group=group), nn.ReLU()]
        layers += [GroupConv2d(width, 64, 1, bias=False, group=group), GroupBatchNorm2d(64, group=group), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.project = GroupPool(group)
        self.mix = nn.Conv2d(64, 16, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(16, num_classes, 1)
        start_as_he(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.dense:
            check_grid("se2_pcam", x, self.geometry)
        else:
            check_fits("se2_pcam", x, self.geometry.window, "enlarge them")
            x = centre(x, self.geometry.window)
        x = self.project(self.features(x))
        x = self.head(self.relu(self.norm(self.mix(x))))
        return x if self.dense else x.flatten(1)


def check_fits(model: str, x: Tensor, smallest: int, advice: str) -> None:
    if min(x.shape[-2:]) < smallest:
        raise UsageError(
            f"{model}: expected pictures of at least {smallest}x{smallest} pixels, got {x.shape[-2]}x{x.shape[-1]}; "
            + advice
        )


def centre(x: Tensor, side: int) -> Tensor:
    """The middle of the picture, `side` pixels, one more where that is needed to cut as much from opposite sides."""
    rows, columns = ((have - side) // 2 for have in x.shape[-2:])
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]


@torch.no_grad()
def start_as_he(network: nn.Module) -> None:
    """Weights of variance 2 / fan-in (He et al. 2015); the group layers start with 1 / fan-in."""
    for layer in network.modules():
        if isinstance(layer, LiftingConv2d | GroupConv2d):
            layer.weight.mul_(2**0.5)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def nearest_width(where: str, group: Group, target: int, weights: Callable[[int], int]) -> int:
    """The number of features for which `weights` comes nearest to `target`."""
    width = min(range(65), key=lambda width: abs(weights(width) - target))
    if width < 1:
        raise UsageError(
            f"{where}: expected a group over which 1 feature or more comes near to the {target} weights of the plain "
            f"network, got {group.name}, with {weights(1)} for a single one; take a smaller group, or set it to 1"
        )
    return width


def densenet_parameters(in_channels: int, order: int, growth: int, depth: int, filters: int = 9) -> int:
    """Parameters of P4MDenseNet with one output and `filters` basis filters a 3x3 kernel."""
    counts = range(1, depth + 1)
    lift, head = in_channels * growth * filters, (depth + 1) * growth + 1
    blocks = order * filters * sum(counts) * growth**2
    transitions = order * sum(count**2 for count in counts[1:]) * growth**2
    norms = 2 * (sum(counts) + sum(counts[1:]) + depth + 1) * growth
    return lift + blocks + transitions + norms + head


def pcam_weights(in_channels: int, num_classes: int, order: int, width: int, filters: int = 25) -> int:
    """Convolution weights of SE2PCam with `filters` basis filters a 5x5 kernel."""
    return filters * width * (in_channels + 3 * order * width) + 64 * order * width + 16 * (64 + num_classes)


def p4m_densenet(
    in_channels: int = 3,
    num_classes: int = 2,
    group: str = "p4m",
    growth: int | None = None,
    depth: int = 5,
    dense: bool = False,
) -> nn.Module:
    """P4M-DenseNet for PatchCamelyon (Veeling et al. 2018, arXiv 1806.03962), for any group.

    `growth` None: features of the first layer and of every block as published for |G| of 1, 4 and 8: 24, 13 and 9; for
    other groups those whose number of parameters comes nearest to that of Z2. `depth`: dense blocks.
    `dense`: a map of logits with one vector for each window of 96 pixels, 16 apart (attribute `geometry`),
    from the same weights; or set `net.dense = True` on a trained network. Sides must be 96 + k * 16 pixels.
    Against the published form: two outputs with softmax stand for one with sigmoid (num_classes=1 has its parameters:
    123,400, on Z2 111,337); BN has the momentum and eps of torch.

    >>> p4m_densenet(group="p4", growth=2)(torch.zeros(2, 3, 96, 96)).shape
    torch.Size([2, 2])
    """
    chosen = named_group(group)
    check_at_least("p4m_densenet", 1, depth=depth)
    if growth is None:
        growth = GROWTHS.get(chosen.order) or nearest_width(
            "p4m_densenet: growth",
            chosen,
            densenet_parameters(in_channels, 1, GROWTHS[1], depth),
            lambda width: densenet_parameters(in_channels, chosen.order, width, depth, filters_of(None, chosen, 3)),
        )
    check_at_least("p4m_densenet", 1, growth=growth)
    return P4MDenseNet(in_channels, num_classes, chosen, growth, depth, dense)


def se2_pcam(
    in_channels: int = 3,
    num_classes: int = 2,
    group: str = "C8",
    width: int | None = None,
    basis: Basis | None = None,
    dense: bool = False,
) -> nn.Module:
    """The SE(2,N) network for PatchCamelyon of B-spline CNNs (Bekkers 2020, arXiv 1909.12057), for any group.

    `width` None: features as published for |G| of 1, 4, 8, 12 and 16: 40, 20, 14, 11 and 10; for other groups those
    whose convolution weights come nearest to the 126,616 of N = 1.
    `dense`: a map of logits with one vector for each window of 88 pixels, 12 apart (attribute `geometry`),
    from the same weights; or set `net.dense = True` on a trained network. Sides must be 88 + k * 12 pixels.
    Against the published form, whose 5x5 kernels were 21 quadratic B-splines, on the pixels of a disc: `basis` "pixel"
    or "disc" has 25 weights a kernel (126,874 for C8), as its widths were matched; None has 15 harmonics over groups
    that have to be interpolated (79,414 for C8; width=18 has 127,722). BN has the eps of torch.

    >>> se2_pcam(group="C8", width=2)(torch.zeros(2, 3, 96, 96)).shape
    torch.Size([2, 2])
    """
    chosen = named_group(group)
    if width is None:
        width = WIDTHS.get(chosen.order) or nearest_width(
            "se2_pcam: width",
            chosen,
            pcam_weights(in_channels, num_classes, 1, WIDTHS[1]),
            lambda width: pcam_weights(in_channels, num_classes, chosen.order, width, filters_of(basis, chosen, 5)),
        )
    check_at_least("se2_pcam", 1, width=width)
    return SE2PCam(in_channels, num_classes, chosen, width, basis, dense)


def filters_of(basis: Basis | None, group: Group, kernel_size: int) -> int:
    """Basis filters a kernel."""
    harmonic = (basis or default_basis(group)) == "harmonic"
    return kernel_size * (kernel_size + 1) // 2 if harmonic else kernel_size**2
