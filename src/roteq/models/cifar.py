"""The CIFAR10 networks of G-CNNs: All-CNN-C and the pre-activation ResNets, over Z2, p4, p4m and any other group.

Source: Cohen & Welling 2016 (arXiv 1602.07576), section 8.2, and its public code tscohen/gconv_experiments; the planar
networks: Springenberg et al. 2015 (arXiv 1412.6806) and He et al. 2016 (arXiv 1603.05027).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError, nearest
from ..groups import Group
from ..groups import group as named_group
from ..nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, SymmetricAvgPool2d

WIDTHS: dict[str, dict[str, tuple[int, ...]]] = {  # features of every stage, as published
    "allcnn_c": {"Z2": (96, 192), "C4": (48, 96), "D4": (32, 64)},
    "resnet26": {"Z2": (71, 142, 284), "D4": (25, 50, 100)},
    "resnet44": {"Z2": (32, 64, 128), "D4": (11, 23, 45)},
}
HEADS = ("invariant", "original")
SMALLEST = 4  # halved twice it is one pixel


def widths_for(name: str, group: Group, width: int | None = None) -> tuple[int, ...]:
    """The features of every stage: as published, else those of Z2 over sqrt(|G|), with about as many weights in the
    pixel basis; `width` replaces the first, and the others keep their proportion to it.

    >>> widths_for("resnet44", Group(4, mirrors=True)), widths_for("resnet44", Group(8))
    ((11, 23, 45), (11, 23, 45))
    """
    published = WIDTHS[name].get(group.name)
    widths = published or WIDTHS[name]["Z2"]
    scale = width / widths[0] if width is not None else 1 if published else 1 / math.sqrt(group.order)
    found = tuple(round(scale * features) for features in widths)
    if min(found) < 1:
        origin = "" if width is not None else f" for the {group.order} elements of {group.name}"
        raise UsageError(f"{name}: expected width of at least 1, got {found[0]}{origin}; nearest: width=1")
    return found


def check_size(name: str, x: Tensor) -> None:
    if min(x.shape[-2:]) < SMALLEST:
        raise UsageError(
            f"{name}: expected pictures of at least {SMALLEST}x{SMALLEST} pixels, which are halved twice, "
            f"got {x.shape[-2]}x{x.shape[-1]}; frame them with zeros"
        )


class AllCNNC(nn.Module):
    """Seven 3x3 convolutions (`a` features up to the third, then `b`), two 1x1 ones, BatchNorm and ReLU after each, the
    last too; then the mean over space and group.

    Shapes: (B, C, H, W) -> (B, num_classes), sides of at least 4
    Exactness: invariant exactly for multiples of 90 degrees and mirrors, for even and odd sides. Dropout drops single
    entries, as published: while training only its distribution turns with the picture.
    Raises: UsageError in forward for smaller pictures.
    """

    def __init__(
        self, in_channels: int, num_classes: int, group: Group, widths: tuple[int, ...], *, dropout: bool
    ) -> None:
        super().__init__()
        a, b = widths
        features = (in_channels, a, a, a, b, b, b, b, b, num_classes)
        std = 0.05 if group.order == 1 else 0.035  # as published
        std *= math.sqrt(widths_for("allcnn_c", group)[0] / a)  # the same gain at other widths
        layers: list[nn.Module] = [nn.Dropout(0.2) if dropout else nn.Identity()]
        for i in range(1, 10):
            kernel_size, padding = (3, 1) if i < 8 else (1, 0)
            conv = LiftingConv2d if i == 1 else GroupConv2d
            layer = conv(features[i - 1], features[i], kernel_size, padding=padding, group=group)
            nn.init.normal_(layer.weight, std=std)
            halves = i in (3, 6)
            layers += [SymmetricAvgPool2d()] if halves else []
            layers += [layer, GroupBatchNorm2d(features[i], group=group), nn.ReLU()]
            layers += [nn.Dropout(0.5) if dropout else nn.Identity()] if halves else []
        self.layers = nn.Sequential(*layers)
        self.pool = GroupPool(group, "mean")

    def forward(self, x: Tensor) -> Tensor:
        check_size("allcnn_c", x)
        return self.pool(self.layers(x)).mean((2, 3))


class PreActivationBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), two 3x3 convolutions; where the map is halved the shortcut is a 1x1
    convolution: regular to regular representation.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out*|G|, H, W), or half of both sides
    """

    def __init__(self, in_channels: int, out_channels: int, group: Group, *, halves: bool) -> None:
        super().__init__()
        self.norm1 = GroupBatchNorm2d(in_channels, group=group)
        self.conv1 = GroupConv2d(in_channels, out_channels, 3, padding=1, group=group)
        self.norm2 = GroupBatchNorm2d(out_channels, group=group)
        self.conv2 = GroupConv2d(out_channels, out_channels, 3, padding=1, group=group)
        self.shortcut = GroupConv2d(in_channels, out_channels, 1, group=group) if halves else nn.Identity()
        self.halve = SymmetricAvgPool2d() if halves else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.halve(self.relu(self.norm1(x))))
        y = self.conv2(self.relu(self.norm2(y)))
        return self.shortcut(self.halve(x)) + y


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of pre-activation blocks (the second and third halve the map), BatchNorm, ReLU,
    the mean over space and group, and a linear map.

    head="original" flattens the orientations instead of pooling them, with |G| times the weights: not invariant.

    Shapes: (B, C, H, W) -> (B, num_classes), sides of at least 4
    Exactness: invariant exactly for multiples of 90 degrees and mirrors, in training too, for even and odd sides.
    Raises: UsageError for an unknown head, and in forward for smaller pictures.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        num_classes: int,
        group: Group,
        widths: tuple[int, ...],
        blocks: int,
        head: str,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise UsageError(f"{name}: unknown head {head!r}; {nearest(head, HEADS)}")
        self.name = name
        self.lift = LiftingConv2d(in_channels, widths[0], 3, padding=1, group=group)
        stages, features = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stages.append(PreActivationBlock(features, width, group, halves=stage > 0 and block == 0))
                features = width
        self.blocks = nn.Sequential(*stages)
        self.norm = GroupBatchNorm2d(features, group=group)
        self.relu = nn.ReLU()
        self.pool = GroupPool(group, "mean") if head == "invariant" else nn.Identity()
        self.head = nn.Linear(features if head == "invariant" else features * group.order, num_classes)
        self._init_as_he()

    @torch.no_grad()
    def _init_as_he(self) -> None:
        """Standard deviation sqrt(2 / fan_in): twice the variance that the layers begin with."""
        for layer in self.modules():
            if isinstance(layer, LiftingConv2d | GroupConv2d):
                layer.weight.mul_(math.sqrt(2))
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_size(self.name, x)
        x = self.relu(self.norm(self.blocks(self.lift(x))))
        return self.head(self.pool(x).mean((2, 3)))


def allcnn_c(
    in_channels: int = 3, num_classes: int = 10, group: str = "p4m", width: int | None = None, dropout: bool = True
) -> nn.Module:
    """All-CNN-C for CIFAR10 (Cohen & Welling 2016): test error 9.44 % over Z2, 8.84 over p4, 7.59 over p4m.

    Parameters: 1,372,254, 1,371,006 and 1,219,678. With augmentation by shifts and mirrors 8.86, 7.67 and 7.04 %.
    `width` None: as published, else that of Z2 over sqrt(|G|). `dropout`: 0.2 on the image, 0.5 after layers 3 and 6.
    Against the original: layers 3 and 6 average pairs of pixels and then convolve, because its strided convolutions are
    not equivariant on even maps. Kept from it: ReLU after the last BatchNorm, so that no logit is negative.

    >>> sum(p.numel() for p in allcnn_c(group="p4").parameters())
    1371006
    """
    chosen = named_group(group)
    return AllCNNC(in_channels, num_classes, chosen, widths_for("allcnn_c", chosen, width), dropout=dropout)


def resnet26(
    in_channels: int = 3,
    num_classes: int = 10,
    group: str = "p4m",
    width: int | None = None,
    head: Literal["invariant", "original"] = "invariant",
) -> nn.Module:
    """The wide ResNet26 for CIFAR10 (Cohen & Welling 2016): test error 8.95 % over Z2, 5.74 over p4m.

    Four blocks a stage; 7,236,046 and 7,166,110 parameters. With augmentation by shifts and mirrors 5.27 and 4.19 %.
    Arguments and differences from the original: those of resnet44; its head makes 7,173,110 over p4m.

    >>> sum(p.numel() for p in resnet26().parameters())
    7166110
    """
    chosen = named_group(group)
    return CifarResNet("resnet26", in_channels, num_classes, chosen, widths_for("resnet26", chosen, width), 4, head)


def resnet44(
    in_channels: int = 3,
    num_classes: int = 10,
    group: str = "p4m",
    width: int | None = None,
    head: Literal["invariant", "original"] = "invariant",
) -> nn.Module:
    """ResNet44 for CIFAR10 (Cohen & Welling 2016): test error 9.45 % over Z2, 6.46 over p4m.

    Seven blocks a stage; 2,639,434 and 2,619,728 parameters. With augmentation by shifts and mirrors 5.61 and 4.94 %.
    `width` None: as published, else that of Z2 over sqrt(|G|).
    Against the original: its head flattens the orientations (head="original": 2,622,878 parameters over p4m, not
    invariant); its strided convolutions are not equivariant on even maps (here pairs of pixels are averaged before the
    convolution); its last BatchNorm normalises with the statistics of the batch in evaluation too.

    >>> sum(p.numel() for p in resnet44().parameters())
    2619728
    """
    chosen = named_group(group)
    return CifarResNet("resnet44", in_channels, num_classes, chosen, widths_for("resnet44", chosen, width), 7, head)
