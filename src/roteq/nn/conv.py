"""Lifting and group convolution: one conv2d each, whose filter bank is tied by the group.

Source: Cohen & Welling 2016 (arXiv 1602.07576), section 6; Bekkers et al. 2018 (arXiv 1804.03393), section 2.
"""

import math
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError, nearest
from ..filters import Basis, bank_placement, default_basis, group_bank, lifting_bank, make_basis
from ..groups import Group
from ..groups import group as named_group
from .checks import check_at_least, check_features, check_finite, check_map, check_steps
from .layout import in_layout_of, is_channels_last
from .steps import Centred, Steps, TurnedConv2d, all_left, centred, corners, pair, turned_convolution
from .tables import HasTables

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _nearest_divisor(wanted: int, *numbers: int) -> int:
    common = math.gcd(*numbers)
    return min((d for d in range(1, common + 1) if common % d == 0), key=lambda d: abs(d - wanted))


def _with_values(conv: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The convolution with these values, dtype and device, copied."""
    values = {"weight": weight.clone()} | ({} if bias is None else {"bias": bias.detach().clone()})
    conv.load_state_dict(values, assign=True)
    return conv


class TiedConv2d(HasTables):
    """What all convolutions share: a basis, a bias per feature, and one conv2d with the tied filter bank."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    turned_filters: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Literal["same"] = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        group: str | Group,
        basis: Basis | None = None,
        steps: Steps = "symmetric",
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        check_at_least(
            layer,
            1,
            in_channels=in_channels,
            out_channels=out_channels,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        if in_channels % groups or out_channels % groups:
            raise UsageError(
                f"{layer}: expected groups to divide in_channels and out_channels, got groups={groups} for "
                f"{in_channels} and {out_channels}; nearest: {_nearest_divisor(groups, in_channels, out_channels)}"
            )
        if padding_mode not in PADDING_MODES:
            raise UsageError(f"{layer}: unknown padding_mode {padding_mode!r}; {nearest(padding_mode, PADDING_MODES)}")
        self.group = named_group(group)
        self.basis_name: Basis = basis or default_basis(self.group)
        # refuses a wrong kernel before all else
        filters = make_basis(self.basis_name, self.group, kernel_size).shape[1]
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding = self._same_padding() if padding == "same" else padding
        check_at_least(layer, 0, padding=self.padding)
        if steps not in get_args(Steps):
            raise UsageError(f"{layer}: unknown steps {steps!r}; {nearest(steps, get_args(Steps))}")
        if steps == "turned":
            corners(self.group)
        self.padding_mode, self.steps = padding_mode, steps
        self.channels_last = False
        self.weight = nn.Parameter(torch.empty(self._weight_shape(filters)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._register_tables()
        self.reset_parameters()

    @property
    def extent(self) -> int:
        """Pixels that the dilated kernel covers."""
        return self.dilation * (self.kernel_size - 1) + 1

    def _same_padding(self) -> int:
        if self.extent % 2 == 0 or self.stride > 1:
            raise UsageError(
                f"{type(self).__name__}: expected an odd kernel and stride 1 for padding='same', got a kernel that "
                f"covers {self.extent} pixels and stride {self.stride}; an even kernel has its centre between pixels, "
                f"so the map would move by half a pixel; nearest: kernel_size {self.kernel_size - 1} or "
                f"{self.kernel_size + 1}, or a number as padding"
            )
        return self.extent // 2

    def _register_tables(self) -> None:
        basis = make_basis(self.basis_name, self.group, self.kernel_size).transpose(0, 1)  # (P, |G|, k*k) in memory
        table = torch.empty(basis.shape, dtype=self.weight.dtype, device=self.weight.device).copy_(basis)
        self.register_buffer("turned_filters", table, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`.to(memory_format=torch.channels_last)` is for the filters, as in nn.Conv2d: the bank follows it."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        probe = torch.empty(1, 2, 2, 2, dtype=self.weight.dtype, device=self.weight.device, memory_format=layout)
        self.channels_last = is_channels_last(fn(probe))
        super()._apply(fn, recurse)
        self.weight.data = self.weight.data.contiguous()
        return self

    @property
    def basis(self) -> Tensor:
        """The turned basis filters, (|G|, P, k*k)."""
        return self.turned_filters.transpose(0, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        check_finite(type(self).__name__, state_dict.get(prefix + "weight", self.weight))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if (self.basis.device, self.basis.dtype) != (self.weight.device, self.weight.dtype):  # loaded with assign=True
            self._register_tables()

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        raise NotImplementedError

    def bank(self) -> Tensor:
        """The filters of the equivalent plain convolution, (physical channels out, physical in / groups, k, k)."""
        raise NotImplementedError

    def _in_layout(self, bank: Tensor) -> Tensor:
        return bank.contiguous(memory_format=torch.channels_last) if self.channels_last else bank

    @property
    def plain_groups(self) -> int:
        """`groups` of the equivalent plain convolution."""
        return self.groups

    def reset_parameters(self) -> None:
        """Unit output variance for white input of unit variance: 1 / std^2 is the energy of the turned filters, summed
        over input channels, group elements and pixels and averaged over orientations. Bias 0."""
        energy = make_basis(self.basis_name, self.group, self.kernel_size).square().sum((1, 2)).mean().item()
        fan_in = self.weight[0, ..., 0].numel() * energy  # C_in / groups * |G| * energy
        nn.init.normal_(self.weight, std=fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def plain_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias[:, None].expand(-1, self.group.order).flatten()

    def _check_input(self, x: Tensor) -> None:
        check_features(type(self).__name__, x, self.in_channels, self.group)
        self._check_steps(x)
        check_finite(type(self).__name__, self.weight)

    def _check_steps(self, x: Tensor) -> None:
        check_steps(type(self).__name__, x, self.extent, self.stride if self.steps == "symmetric" else 1, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_tracing():  # there a size is a tensor, and every comparison a warning
            self._check_input(x)
        steps = pair(self.extent), pair(self.stride), pair(self.padding)
        stride = self.stride
        if self.steps == "centred":
            x = centred(x, *steps)
            if self.extent == 1 and not self.padding:  # a smaller map to keep for the gradient
                x, stride = x[:, :, ::stride, ::stride], 1
        convolve = F.conv2d
        if self.steps == "turned" and all_left(x, *steps) != (0, 0):
            convolve = partial(turned_convolution, group=self.group)
        padding = self.padding
        if self.padding_mode != "zeros" and padding:
            padded = F.pad(x, [padding] * 4, mode=self.padding_mode)
            x, padding = in_layout_of(x, padded), 0  # "circular" forgets it
        return convolve(x, self.bank(), self.plain_bias(), stride, padding, self.dilation, self.plain_groups)

    def plain(self) -> nn.Module:
        """The nn.Conv2d over physical channels that computes the same, with what its steps need around it."""
        check_finite(type(self).__name__, self.weight)
        bank, bias = self.bank().detach(), self.plain_bias()
        conv = nn.Conv2d(
            bank.shape[1] * self.plain_groups,
            bank.shape[0],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.plain_groups,
            bias is not None,
            self.padding_mode,  # type: ignore[arg-type]
            device="meta",
        )
        twin: Any = _with_values(conv, bank, bias).train(self.training)
        if self.stride == 1 or self.steps == "symmetric":
            return twin
        if self.steps == "turned":
            return TurnedConv2d(twin, self.group).train(self.training)
        return nn.Sequential(Centred(self.extent, self.stride, self.padding), twin).train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode!r}, group={self.group.name!r}, basis={self.basis_name!r}"
            + f", steps={self.steps!r}"
            * (self.steps != "symmetric")
        )


class LiftingConv2d(TiedConv2d):
    """Correlate an image with every turned and mirrored copy of one filter.

    y[g] = x * (L_g psi) with (L_g psi)(x) = psi(g^-1 x): trivial to regular representation.

    Shapes: (B, C_in, H, W) -> (B, C_out*|G|, H', W'), H' = (H + 2*padding - dilation*(kernel_size-1) - 1) / stride + 1
    Arguments: those of nn.Conv2d, `in_channels` physical and `out_channels` features; square kernels, and `padding` a
    number or "same". `basis`: "pixel", "disc" (pixels under SE2CNN's disc mask) or "harmonic"; None: "pixel" where all
    elements of the group are exact (Z2, C2, C4, D1, D2, D4), else "harmonic". `steps`: where a stride is not
    symmetric about the centre of a map, "symmetric" refuses it, "centred" takes a mean of neighbours first, "turned"
    aligns every orientation at its own corner (roteq.nn.steps).
    Exactness: exact for multiples of 90 degrees and mirrors at every size that is let in (a stride must be symmetric
    about the centre of the map); otherwise interpolated, see docs/pitfalls.
    Raises: UsageError for impossible arguments, a map smaller than the kernel or on which the stride is not symmetric,
    float16 on the CPU, weights that are not finite (seen on the CPU and when they are loaded).
    Source: Cohen & Welling 2016, section 6.2; Bekkers et al. 2018, section 2.2.

    >>> LiftingConv2d(1, 8, kernel_size=3, group="p4")(torch.zeros(2, 1, 9, 9)).shape
    torch.Size([2, 32, 7, 7])
    """

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, filters)

    def bank(self) -> Tensor:
        return self._in_layout(lifting_bank(self.weight, self.turned_filters))

    def _check_input(self, x: Tensor) -> None:
        check_map("LiftingConv2d", x)
        if x.shape[1] != self.in_channels:
            raise UsageError(
                f"LiftingConv2d: expected an image of {self.in_channels} channels, got {x.shape[1]}; "
                "a map that is lifted already goes into GroupConv2d"
            )
        self._check_steps(x)
        check_finite(type(self).__name__, self.weight)


class GroupConv2d(TiedConv2d):
    """Correlate features on the group with every translated, turned and mirrored copy of one filter.

    y[g] = sum_h x[h] * (L_g psi)[h] with (L_g psi)[h](x) = psi[g^-1 h](g^-1 x): regular to regular representation.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out*|G|, H', W'), H' as in LiftingConv2d
    Convention: `in_channels` and `out_channels` count features, not physical channels; channel c*|G| + g is feature c
    at element g. `groups` divides features: groups=in_channels is a depthwise convolution that still mixes the |G|
    orientations of each feature. One bias per feature. The other arguments, and `basis`, as in LiftingConv2d.
    Exactness and errors: those of LiftingConv2d; also UsageError for features of another group.
    Source: Cohen & Welling 2016, section 6.3; Bekkers et al. 2018, section 2.3.

    >>> GroupConv2d(8, 16, kernel_size=3, padding=1, group="p4m")(torch.zeros(2, 64, 9, 9)).shape
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
        return self._in_layout(group_bank(self.weight, self.turned_filters, self.placement))


class GroupConvTranspose2d(GroupConv2d):
    """The transposed group convolution: every pixel of the input lays down a copy of the filter, `stride` pixels apart.

    y[g](x) = sum_h sum_u x[h](u) (L_g psi)[h](x - stride*u): regular to regular representation.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out*|G|, H', W'), H' = (H-1)*stride - 2*padding + dilation*(kernel_size-1) + 1
    Convention: no `output_padding`, which adds pixels on one side only and so is never equivariant; kernel_size 4,
    stride 2, padding 1 doubles a map, kernel_size 3, stride 2, padding 0 turns n into 2n+1. Zero padding only.
    Exactness and errors: those of GroupConv2d.

    >>> GroupConvTranspose2d(8, 4, kernel_size=4, stride=2, padding=1, group="p4")(torch.zeros(2, 32, 7, 7)).shape
    torch.Size([2, 16, 14, 14])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise UsageError(
                f"GroupConvTranspose2d: expected padding_mode 'zeros', got {self.padding_mode!r}; its padding cuts the "
                "border off, so there is nothing to fill"
            )

    def _check_input(self, x: Tensor) -> None:
        check_features("GroupConvTranspose2d", x, self.in_channels, self.group)
        for side in x.shape[-2:]:
            if (side - 1) * self.stride - 2 * self.padding + self.extent < 1:
                raise UsageError(
                    f"GroupConvTranspose2d: expected a map that padding {self.padding} leaves pixels of, "
                    f"got {x.shape[-2]}x{x.shape[-1]}"
                )
        check_finite(type(self).__name__, self.weight)

    def transposed_bank(self) -> Tensor:
        """The bank as conv_transpose2d wants it: (physical channels in, physical out / groups, k, k)."""
        bank = self.bank().unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        return self._in_layout(bank)

    def reset_parameters(self) -> None:
        """As GroupConv2d, but only one in stride^2 pixels of the filter meets a given pixel of the output."""
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(self.stride)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_tracing():
            self._check_input(x)
        return F.conv_transpose2d(
            x, self.transposed_bank(), self.plain_bias(), self.stride, self.padding, 0, self.groups, self.dilation
        )

    def plain(self) -> nn.Module:
        """The nn.ConvTranspose2d over physical channels that computes the same."""
        check_finite(type(self).__name__, self.weight)
        bank, bias = self.transposed_bank().detach(), self.plain_bias()
        conv = nn.ConvTranspose2d(
            bank.shape[0],
            bank.shape[1] * self.groups,
            self.kernel_size,
            self.stride,
            self.padding,
            0,
            self.groups,
            bias is not None,
            self.dilation,
            device="meta",
        )
        return _with_values(conv, bank, bias).train(self.training)
