"""Convolutions whose kernel has two sides, 1x7 say: at a quarter turn it lies, and so does its padding.

Two calls of conv2d, one with the kernels as they are and one with those that lie, cost what the kernel costs; a square
one around it would cost k times as much.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..filters import bank_placement, group_filters, lifting_filters, rectangle_basis
from ..groups import Group
from ..groups import group as named_group
from .checks import check_at_least, check_features, check_finite, check_map, check_steps
from .conv import _nearest_divisor, _with_values
from .layout import is_channels_last
from .tables import HasTables

Pair = tuple[int, int]


def interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Channels 0, 2, 4, ... and 1, 3, 5, ...: elements of C4 and D4 with an odd index are those with an odd number of
    quarter turns, and |G| is even."""
    if is_channels_last(even):
        return torch.stack((even.movedim(1, 3), odd.movedim(1, 3)), 4).flatten(3).movedim(3, 1)
    return torch.stack((even, odd), 2).flatten(1, 2)


class InterleavedConv2d(nn.Module):
    """Two convolutions of the same map; the output channels of the first have even numbers, those of the second odd."""

    def __init__(self, even: nn.Conv2d, odd: nn.Conv2d) -> None:
        super().__init__()
        self.even, self.odd = even, odd

    def forward(self, x: Tensor) -> Tensor:
        return interleaved(self.even(x), self.odd(x))


class _RectangularConv2d(HasTables):
    """What both have in common: one filter bank, of which every second filter lies if the group has quarter turns."""

    turned_filters: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: int = 1,
        padding: int | Pair | Literal["same"] = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        group: str | Group,
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        numbers = {"in_channels": in_channels, "out_channels": out_channels, "stride": stride, "dilation": dilation}
        check_at_least(layer, 1, **numbers, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise UsageError(
                f"{layer}: expected groups to divide in_channels and out_channels, got groups={groups} for "
                f"{in_channels} and {out_channels}; nearest: {_nearest_divisor(groups, in_channels, out_channels)}"
            )
        self.group = named_group(group)
        if len(self.group.exact_elements) < self.group.order:
            raise UsageError(
                f"{layer}: expected a group that keeps rectangles on the grid (Z2, C2, C4, D1, D2, D4), got "
                f"{self.group.name}; nearest: {'D4' if self.group.mirrors else 'C4'}, or a square kernel"
            )
        self.kernel_size = self._pair(kernel_size, "kernel_size", 1)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.stride, self.dilation = stride, dilation
        self.padding = self._same_padding() if padding == "same" else self._pair(padding, "padding", 0)
        self._check_padding()
        pixels = self.kernel_size[0] * self.kernel_size[1]
        self.weight = nn.Parameter(torch.empty(self._weight_shape(pixels)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._register_tables()
        self.reset_parameters()

    @classmethod
    def _pair(cls, value: Any, name: str, least: int) -> Pair:
        pair = (value, value) if isinstance(value, int) else value
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"{cls.__name__}: expected {name} (height, width), got {value!r}")
        check_at_least(cls.__name__, least, **{f"{name}[{i}]": side for i, side in enumerate(pair)})
        return pair[0], pair[1]

    @property
    def has_quarter_turns(self) -> bool:
        return self.group.rotations == 4

    @property
    def extent(self) -> Pair:
        """Height and width that the dilated kernel covers."""
        height, width = (self.dilation * (side - 1) + 1 for side in self.kernel_size)
        return height, width

    def _same_padding(self) -> Pair:
        height, width = self.extent
        if height % 2 == 0 or width % 2 == 0 or self.stride > 1:
            raise UsageError(
                f"{type(self).__name__}: expected odd sides and stride 1 for padding='same', got a kernel that covers "
                f"{height}x{width} and stride {self.stride}; an even side would move the map by half a pixel"
            )
        return height // 2, width // 2

    def _check_padding(self) -> None:
        """The kernel and the kernel that lies must write maps of one size, about one centre."""
        (height, width), (over, beside) = self.extent, self.padding
        if not self.has_quarter_turns or height - 2 * over == width - 2 * beside:
            return
        more, odd = divmod(width - height, 2)  # padding that the width needs and the height does not
        choice = (over, over + more) if over + more >= 0 else (beside - more, beside)
        raise UsageError(
            f"{type(self).__name__}: expected padding with which a kernel of {height}x{width} pixels writes maps of "
            "one size before and after a quarter turn (height - 2*padding[0] = width - 2*padding[1]), got "
            f"{self.padding}; " + ("use sides that are both odd or both even" if odd else f"nearest: {choice}")
        )

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        raise NotImplementedError

    def bank(self) -> Tensor:
        """The turned filters, (physical channels out, physical in / groups, pixels); see `parts` for their shape."""
        raise NotImplementedError

    def parts(self) -> list[tuple[slice, Pair, Pair]]:
        """Which channels are written by kernels of which size with which padding: those as they are, those that lie."""
        if not self.has_quarter_turns:
            return [(slice(None), self.kernel_size, self.padding)]
        lying = slice(1, None, 2), self.kernel_size[::-1], self.padding[::-1]
        return [(slice(0, None, 2), self.kernel_size, self.padding), lying]

    def _register_tables(self) -> None:
        basis = rectangle_basis(self.group, *self.kernel_size).transpose(0, 1)  # (P, |G|, pixels) in memory
        table = torch.empty(basis.shape, dtype=self.weight.dtype, device=self.weight.device).copy_(basis)
        self.register_buffer("turned_filters", table, persistent=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_finite(type(self).__name__, state_dict.get(prefix + "weight", self.weight))
        super()._load_from_state_dict(state_dict, prefix, *args)
        table = self.turned_filters
        if (table.device, table.dtype) != (self.weight.device, self.weight.dtype):  # loaded with assign=True
            self._register_tables()

    def reset_parameters(self) -> None:
        """Unit output variance for white input of unit variance. Bias 0."""
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def plain_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias[:, None].expand(-1, self.group.order).flatten()

    def _check_input(self, x: Tensor) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_tracing():  # there a size is a tensor, and every comparison a warning
            self._check_input(x)
            check_steps(type(self).__name__, x, self.extent, self.stride, self.padding)
            check_finite(type(self).__name__, self.weight)
        bank, bias = self.bank(), self.plain_bias()
        maps = [
            F.conv2d(
                *(x, bank[channels].unflatten(2, kernel), None if bias is None else bias[channels]),
                *(self.stride, padding, self.dilation, self.groups),
            )
            for channels, kernel, padding in self.parts()
        ]
        return interleaved(*maps) if len(maps) == 2 else maps[0]

    def plain(self) -> nn.Module:
        """The nn.Conv2d over physical channels that computes the same, or two of them (`InterleavedConv2d`)."""
        check_finite(type(self).__name__, self.weight)
        bank, bias, convs = self.bank().detach(), self.plain_bias(), []
        for channels, kernel, padding in self.parts():
            weight = bank[channels].unflatten(2, kernel)
            conv = nn.Conv2d(
                *(weight.shape[1] * self.groups, weight.shape[0], kernel, self.stride, padding, self.dilation),
                *(self.groups, bias is not None),
                device="meta",
            )
            convs.append(_with_values(conv, weight.contiguous(), None if bias is None else bias[channels]))
        return (InterleavedConv2d(*convs) if len(convs) == 2 else convs[0]).train(self.training)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"group={self.group.name!r}"
        )


class RectangularLiftingConv2d(_RectangularConv2d):
    """Correlate an image with every turned and mirrored copy of a filter whose sides differ.

    y[g] = x * (L_g psi): trivial to regular representation. It computes what LiftingConv2d does with the filter in the
    middle of a square of zeros.

    Shapes and arguments: those of RectangularGroupConv2d, but `in_channels` are physical.
    Exactness and errors: those of RectangularGroupConv2d.

    >>> RectangularLiftingConv2d(3, 8, (1, 7), padding="same", group="p4")(torch.zeros(2, 3, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, filters)

    def bank(self) -> Tensor:
        return lifting_filters(self.weight, self.turned_filters)

    def _check_input(self, x: Tensor) -> None:
        check_map("RectangularLiftingConv2d", x)
        if x.shape[1] != self.in_channels:
            raise UsageError(
                f"RectangularLiftingConv2d: expected an image of {self.in_channels} channels, got {x.shape[1]}; "
                "a map that is lifted already goes into RectangularGroupConv2d"
            )


class RectangularGroupConv2d(_RectangularConv2d):
    """Correlate features on the group with every translated, turned and mirrored copy of a filter whose sides differ.

    y[g] = sum_h x[h] * (L_g psi)[h] with (L_g psi)[h](x) = psi[g^-1 h](g^-1 x): regular to regular representation. It
    computes what GroupConv2d does with the filter in the middle of a square of zeros, at the cost of the rectangle.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out*|G|, H', W'), H' = (H + 2*padding[0] - height) / stride + 1 and so W'
    Arguments: those of nn.Conv2d with zero padding; one stride and one dilation for both sides. kernel_size and padding
    are (height, width) of the filter of the identity; they turn with it. padding may be "same". With quarter turns
    height - 2*padding[0] = width - 2*padding[1], or maps of two sizes would be written.
    Exactness: exact, for the groups whose elements are all exact: Z2, C2, C4, D1, D2, D4.
    Raises: UsageError for other groups, impossible arguments, features of another group, maps on which a stride is not
    symmetric, weights that are not finite (seen on the CPU and when they are loaded).

    >>> RectangularGroupConv2d(8, 16, (1, 7), padding=(0, 3), group="p4m")(torch.zeros(2, 64, 9, 9)).shape
    torch.Size([2, 128, 9, 9])
    """

    placement: Tensor

    def _register_tables(self) -> None:
        super()._register_tables()
        placement = bank_placement(self.group, self.in_channels // self.groups)
        self.register_buffer("placement", placement.to(self.weight.device), persistent=False)

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, self.group.order, filters)

    def bank(self) -> Tensor:
        return group_filters(self.weight, self.turned_filters, self.placement)

    def _check_input(self, x: Tensor) -> None:
        check_features("RectangularGroupConv2d", x, self.in_channels, self.group)
