"""The end of a network: an invariant vector, or a map that turns with the picture."""

from typing import Literal

from torch import Tensor, nn

from ..groups import Group
from .checks import check_features
from .conv import GroupConv2d
from .pool import GroupPool


class VectorHead(nn.Module):
    """An invariant vector of the whole picture: pool over the group, average over space, then a linear map.

    y = W mean_x max_g f[g](x) + b: regular to trivial representation, for logits and embeddings.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out)
    Exactness: invariant for every element under which its input is equivariant.
    Raises: UsageError for features of another group.

    >>> import torch
    >>> VectorHead(8, 2, group="p4")(torch.zeros(3, 32, 9, 9)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        *,
        group: str | Group,
        pool: Literal["max", "mean"] = "max",
    ) -> None:
        super().__init__()
        self.pool = GroupPool(group, pool)
        self.linear = nn.Linear(in_channels, out_channels, bias)

    def extra_repr(self) -> str:
        linear = self.linear
        return (
            f"{linear.in_features}, {linear.out_features}, bias={linear.bias is not None}, "
            f"group={self.pool.group.name!r}, pool={self.pool.mode!r}"
        )

    def forward(self, x: Tensor) -> Tensor:
        check_features("VectorHead", x, self.linear.in_features, self.pool.group)
        return self.linear(self.pool(x).mean((2, 3)))


class MapHead(nn.Module):
    """A map that turns with the picture: a 1x1 group convolution, then a pool over the group.

    y[o](x) = max_g sum_i sum_h w[o, i, g^-1 h] f[i, h](x) + b[o]: regular to trivial representation, for dense
    predictions; with pool="argmax" a vector field (see GroupPool).

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out, H, W), vectors (B, 2*C_out, H, W)
    Exactness: equivariant for every element under which its input is.
    Raises: UsageError for features of another group.

    >>> import torch
    >>> MapHead(8, 2, group="p4")(torch.zeros(3, 32, 9, 9)).shape
    torch.Size([3, 2, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        *,
        group: str | Group,
        pool: Literal["max", "mean", "argmax"] = "max",
    ) -> None:
        super().__init__()
        self.mix = GroupConv2d(in_channels, out_channels, 1, bias=bias, group=group)
        self.pool = GroupPool(group, pool)

    def extra_repr(self) -> str:
        mix = self.mix
        return (
            f"{mix.in_channels}, {mix.out_channels}, bias={mix.bias is not None}, group={mix.group.name!r}, "
            f"pool={self.pool.mode!r}"
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.mix(x))
