"""What stands in a twin where torch's layers, or a network's own, have no counterpart in roteq.nn."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..filters import bank_placement, group_bank, lifting_bank, make_basis
from ..groups import Group
from ..nn import GroupConv2d


def fold(x: Tensor, order: int) -> Tensor:
    """A regular map (B, C*|G|, H, W) as a plain one of C channels, (B, C, |G|*H, W): a view. A vector (B, C*|G|) as
    (B, C, |G|)."""
    if x.ndim == 4:
        return x.reshape(x.shape[0], -1, order * x.shape[2], x.shape[3])
    return x.unflatten(1, (-1, order))


def unfold(x: Tensor, order: int) -> Tensor:
    """The inverse of `fold`."""
    if x.ndim == 4:
        return x.reshape(x.shape[0], -1, x.shape[2] // order, x.shape[3])
    return x.flatten(1, 2)


class OnBlocks(nn.Module):
    """A layer that knows C channels, on all orientations of C features at once: they lie beside each other in space.

    Right for whatever treats all pixels alike: norms over batch and space (whose statistics are then shared over the
    group), norms over the channels of a pixel, shuffles of channels.
    Shapes: (B, C*|G|, H, W) -> (B, C'*|G|, H, W), or vectors
    """

    def __init__(self, layer: nn.Module, group: Group) -> None:
        super().__init__()
        self.layer, self.order = layer, group.order

    def forward(self, x: Tensor) -> Tensor:
        return unfold(self.layer(fold(x, self.order)), self.order)


class OnOrientations(nn.Module):
    """A layer that knows C channels, on every orientation by itself, as if each were another picture of the batch.

    Shapes: (B, C*|G|, H, W) -> (B, C'*|G|, H, W)
    """

    def __init__(self, layer: nn.Module, group: Group) -> None:
        super().__init__()
        self.layer, self.order = layer, group.order

    def forward(self, x: Tensor) -> Tensor:
        pictures = x.unflatten(1, (-1, self.order)).transpose(1, 2).flatten(0, 1)
        return self.layer(pictures).unflatten(0, (-1, self.order)).transpose(1, 2).flatten(1, 2)


class MeanOverGroup(nn.Module):
    """The mean over the |G| entries of every feature, along any axis: regular to trivial representation.

    Shapes: (B, C*|G|, ...) -> (B, C, ...)
    """

    def __init__(self, group: Group, dim: int = 1) -> None:
        super().__init__()
        self.group, self.dim = group, dim

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, (-1, self.group.order)).mean(self.dim + (self.dim >= 0))

    def extra_repr(self) -> str:
        return f"{self.group.name!r}, dim={self.dim}"


class LinearOfMap(nn.Module):
    """A linear map of a whole flattened map, as the group convolution of that map's size.

    Shapes: (B, C*|G|*h*w) -> (B, C'*|G|)
    """

    def __init__(self, conv: GroupConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        side = self.conv.kernel_size if isinstance(self.conv, GroupConv2d) else self.conv.kernel_size[0]
        return self.conv(x.unflatten(1, (-1, side, side))).flatten(1)


class RepeatOverGroup(nn.Module):
    """A parameter with one value a feature, written out for every physical channel: a parametrization."""

    def __init__(self, group: Group, dim: int) -> None:
        super().__init__()
        self.order, self.dim = group.order, dim

    def forward(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.order, self.dim)


class TiedBank(nn.Module):
    """Filters tied by the group, (C_out, C_in, |G|, P) or lifting (C_out, C_in, P), written out as the bank
    (C_out*|G|, C_in*|G|, k, k), for a layer that does more with its filters than convolve: a parametrization."""

    table: Tensor
    placement: Tensor

    def __init__(self, group: Group, kernel_size: int, in_channels: int, *, flat: bool = False) -> None:
        super().__init__()
        basis = make_basis("pixel", group, kernel_size)
        self.flat = flat  # a linear map has no pixels
        self.register_buffer("table", basis.transpose(0, 1).contiguous().to(torch.get_default_dtype()), False)
        self.register_buffer("placement", bank_placement(group, in_channels), False)

    def forward(self, weight: Tensor) -> Tensor:
        table = self.table.to(weight.dtype)
        bank = lifting_bank(weight, table) if weight.ndim == 3 else group_bank(weight, table, self.placement)
        return bank.flatten(1) if self.flat else bank


def tie(module: nn.Module, name: str, raw: Tensor, how: nn.Module) -> None:
    """Let `module.name` be written out from `raw`, which is what is learnt and saved."""
    learnt = isinstance(getattr(module, name), nn.Parameter)
    delattr(module, name)
    if learnt:
        setattr(module, name, nn.Parameter(raw))
    else:
        module.register_buffer(name, raw)
    parametrize.register_parametrization(module, name, how, unsafe=True)
