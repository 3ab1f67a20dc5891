"""Two layers to test: fresh ones, those of a network, or those of a plain CNN as the control."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..filters import Basis
from ..groups import Group
from ..groups import group as named_group
from ..nn import GroupConv2d, GroupConvTranspose2d, LiftingConv2d

LARGEST = 64  # elements: what a sheet of kernels can show
Named = tuple[str, nn.Module]


@dataclass(frozen=True)
class Layers:
    """A lifting and a group convolution, at stride 1 and without padding, in float64 on the CPU."""

    group: Group
    lifting: nn.Module
    convolution: nn.Module
    label: str
    names: tuple[str, str] = ("lifting", "group convolution")
    promised: bool = True  # False: a plain CNN, whose channels are read as if they were blocks

    def whole(self, x: Tensor) -> Tensor:
        return self.convolution(self.lifting(x))

    @property
    def banks(self) -> tuple[Tensor, Tensor]:
        """(F1, |G|, C, k, k) and (F2, |G|, F1, |G|, k, k); C and F1 divided by the layer's `groups`."""
        first, second = (
            _bank(layer).unflatten(0, (-1, self.group.order)) for layer in (self.lifting, self.convolution)
        )
        return first, second.unflatten(2, (-1, self.group.order))

    @property
    def channels(self) -> int:
        return int(self.lifting.in_channels)  # type: ignore[arg-type]

    @property
    def features(self) -> tuple[int, int]:
        first, second = self.banks
        return len(first), len(second)

    @property
    def kernel_sizes(self) -> tuple[int, int]:
        first, second = self.banks
        return first.shape[-1], second.shape[-1]

    @property
    def dilations(self) -> tuple[int, int]:
        first, second = (_number(layer.dilation) for layer in (self.lifting, self.convolution))
        return first, second

    @property
    def extents(self) -> tuple[int, int]:
        """Pixels that each dilated kernel covers."""
        first, second = (d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel_sizes, strict=True))
        return first, second


def untrained(
    group: str | Group = "C8",
    *,
    kernel_size: int = 5,
    basis: Basis | None = None,
    features: tuple[int, int] = (3, 5),
    channels: int = 5,
    seed: int = 0,
) -> Layers:
    """The layers of the founding test, or of any other group, size and basis, freshly initialised.

    Raises: UsageError for impossible arguments, and for groups of more than 64 elements.
    """
    group = named_group(group)
    if group.order > LARGEST:
        nearest = f"D{LARGEST // 2}" if group.mirrors else f"C{LARGEST}"
        raise UsageError(
            f"group: expected at most {LARGEST} elements, got {group.order} ({group.name}); nearest: {nearest}"
        )
    first, second = features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lifting = LiftingConv2d(channels, first, kernel_size, group=group, basis=basis)
        convolution = GroupConv2d(first, second, kernel_size, group=group, basis=basis)
    return Layers(group, _alone(lifting), _alone(convolution), f"untrained {group.name}, {lifting.basis_name} basis")


def layers_of(network: nn.Module, label: str, group: str | Group | None = None) -> Layers:
    """The first lifting convolution of a network and the first group convolution that reads its features, with their
    weights. Of a plain CNN (a network over the trivial group is one too): the first two convolutions that follow each
    other, their channels read as if they were blocks of `group` (None: C8); channels that fill no block are left out.

    Raises: UsageError if there are no such layers, or if `group` is not that of the network.

    >>> from roteq.models import create
    >>> layers_of(create("se2cnn", group="C4"), "se2cnn C4").names
    ('lift', 'conv2')
    """
    modules = list(network.named_modules())
    lifted = next(((name, x) for name, x in modules if isinstance(x, LiftingConv2d) and x.group.order > 1), None)
    if lifted is None:
        return _plain_layers(modules, label, named_group("C8" if group is None else group))
    name, lifting = lifted
    if group is not None and named_group(group) != lifting.group:
        raise UsageError(
            f"group: expected {lifting.group.name}, that of {label}, got {named_group(group).name}; leave it out"
        )
    for other, layer in modules:
        if (
            isinstance(layer, GroupConv2d)
            and not isinstance(layer, GroupConvTranspose2d)
            and (layer.group, layer.in_channels) == (lifting.group, lifting.out_channels)
        ):
            return Layers(lifting.group, _alone(lifting), _alone(layer), label, (name, other))
    raise UsageError(
        f"{label}: expected a group convolution on {lifting.group.name} that reads the {lifting.out_channels} features "
        f"of {name}, found none; the covariance test needs a lifting and a group convolution"
    )


def control_of(layers: Layers, seed: int = 0) -> Layers:
    """An untrained plain CNN of as many physical channels and kernels as large: known to be bad."""
    (first, second), (k1, k2), (d1, d2) = layers.features, layers.kernel_sizes, layers.dilations
    order = layers.group.order
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        one = nn.Conv2d(layers.channels, first * order, k1, dilation=d1, bias=False)
        two = nn.Conv2d(first * order, second * order, k2, dilation=d2, bias=False)
    return Layers(layers.group, _alone(one), _alone(two), "plain CNN", promised=False)


def _alone(layer: nn.Module) -> nn.Module:
    """A copy at stride 1 and without padding, in float64 on the CPU."""
    twin = copy.deepcopy(layer).cpu().double().eval().requires_grad_(False)
    twin.stride, twin.padding = 1, 0  # type: ignore[assignment]
    return twin


def _bank(layer: nn.Module) -> Tensor:
    bank = layer.weight if isinstance(layer, nn.Conv2d) else layer.bank()  # type: ignore[operator]
    return bank.detach()


def _number(dilation: Any) -> int:
    return dilation[0] if isinstance(dilation, tuple) else dilation


def _plain_layers(modules: list[Named], label: str, group: Group) -> Layers:
    found: list[tuple[str, nn.Conv2d]] = []
    for name, layer in modules:
        conv = layer.plain() if isinstance(layer, LiftingConv2d | GroupConv2d) else layer
        if isinstance(conv, nn.Conv2d) and conv.groups == 1 and conv.kernel_size[0] == conv.kernel_size[1]:
            found.append((name, conv))
    for i, (name, first) in enumerate(found):
        for other, second in found[i + 1 :]:
            if second.in_channels == first.out_channels:
                one, two = _whole_blocks(first, second, label, group)
                names = _counted(name, first, one), _counted(other, second, two)
                return Layers(group, one, two, label, names, promised=False)
    raise UsageError(
        f"{label}: expected a network with two square convolutions, the second reading what the first wrote, found "
        f"{'no convolution' if not found else 'no such pair'}; the covariance test is about convolutions"
    )


def _counted(name: str, conv: nn.Conv2d, cut: nn.Module) -> str:
    left_out = conv.out_channels != cut.out_channels
    return f"{name} (the first {cut.out_channels} of its {conv.out_channels} channels)" if left_out else name


def _whole_blocks(first: nn.Conv2d, second: nn.Conv2d, label: str, group: Group) -> list[nn.Module]:
    """Both, without the channels that fill no block of |G|."""
    fewest = min(first.out_channels, second.out_channels)
    if fewest < group.order:
        raise UsageError(
            f"group: expected at most {fewest} elements, the channels of {label}, which are read as a block, got "
            f"{group.order} ({group.name}); nearest: C{fewest}"
        )
    out, cut = first.in_channels, []
    for conv in (first, second):
        into, out = out, conv.out_channels - conv.out_channels % group.order
        twin = nn.Conv2d(into, out, conv.kernel_size[0], dilation=conv.dilation[0], bias=conv.bias is not None)
        values = {"weight": conv.weight[:out, :into]} | ({} if conv.bias is None else {"bias": conv.bias[:out]})
        twin.load_state_dict(values)
        cut.append(_alone(twin))
    return cut
