"""The separable group convolution: first over the stabilizer, then over space."""

from typing import Literal

from torch import Tensor, nn

from ..filters import Basis, lifting_bank
from ..groups import Group
from .conv import GroupConv2d, TiedConv2d


class TurnedDepthwiseConv2d(TiedConv2d):
    """Correlate every channel (c, g) with one filter of its feature, turned by g.

    y[c, g] = x[c, g] * (L_g psi_c): regular to regular representation, no mixing of features or orientations.
    Shapes, arguments, exactness and errors: those of GroupConv2d with in_channels = out_channels = groups.
    """

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        return (self.out_channels, 1, filters)

    @property
    def plain_groups(self) -> int:
        return self.in_channels * self.group.order

    def bank(self) -> Tensor:
        return self._in_layout(lifting_bank(self.weight, self.turned_filters))


class SeparableGroupConv2d(nn.Module):
    """A group convolution whose filter is a product of one over the stabilizer and one over space.

    y[o, g] = (sum_i sum_h w[o, i, g^-1 h] x[i, h]) * (L_g psi_o): regular to regular representation. It has
    C_out (C_in |G| + k(k+1)/2) weights with the harmonic basis, where GroupConv2d has C_out C_in |G| k(k+1)/2.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out*|G|, H', W'), H' as in LiftingConv2d
    Arguments: those of GroupConv2d without `groups`; a 1x1 GroupConv2d (`stabilizer`), then one turned filter a feature
    (`space`).
    Exactness and errors: those of GroupConv2d.
    Source: Knigge, Romero & Bekkers 2022 (arXiv 2110.13059).

    >>> import torch
    >>> SeparableGroupConv2d(8, 16, 3, padding=1, group="p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 64, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Literal["same"] = 0,
        dilation: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        group: str | Group,
        basis: Basis | None = None,
    ) -> None:
        super().__init__()
        self.stabilizer = GroupConv2d(in_channels, out_channels, 1, bias=False, group=group)
        self.space = TurnedDepthwiseConv2d(
            *(out_channels, out_channels, kernel_size, stride, padding, dilation, out_channels, bias, padding_mode),
            group=group,
            basis=basis,
        )

    def plain(self) -> nn.Sequential:
        return nn.Sequential(self.stabilizer.plain(), self.space.plain()).train(self.training)

    def extra_repr(self) -> str:
        space = self.space
        return (
            f"{self.stabilizer.in_channels}, {space.out_channels}, kernel_size={space.kernel_size}, "
            f"stride={space.stride}, padding={space.padding}, dilation={space.dilation}, "
            f"bias={space.bias is not None}, padding_mode={space.padding_mode!r}, group={space.group.name!r}, "
            f"basis={space.basis_name!r}"
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.space(self.stabilizer(x))
