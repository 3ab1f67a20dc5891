"""Lifting and group convolution: one conv2d each, whose filter bank is tied by the group.

Source: Cohen & Welling 2016 (arXiv 1602.07576), section 6; Bekkers et al. 2018 (arXiv 1804.03393), section 2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..filters import bank_sources, group_bank, lifting_bank, pixel_basis
from ..groups import Group
from ..groups import group as named_group


class _TiedConv2d(nn.Module):
    """What both convolutions share: a basis, a bias per feature, and one conv2d with the tied filter bank."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    basis: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int = 0,
        bias: bool = True,
        *,
        group: str | Group,
        mask: bool | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("out_channels", out_channels, 1),
            ("padding", padding, 0),
        ):
            if value < least:
                raise UsageError(f"{type(self).__name__}: expected {name} of at least {least}, got {value}")
        self.group = named_group(group)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding = kernel_size, padding
        self.mask = len(self.group.exact_elements) < self.group.order if mask is None else mask
        filters = pixel_basis(self.group, kernel_size, self.mask).shape[1]
        self.weight = nn.Parameter(torch.empty(self._weight_shape(filters)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._register_tables()
        self.reset_parameters()

    def _register_tables(self) -> None:
        """Constants, made anew from float64 at every change of device or precision, so that none loses a digit."""
        basis = pixel_basis(self.group, self.kernel_size, self.mask)  # (|G|, P, k*k)
        self.register_buffer("basis", basis.to(self.weight, copy=True), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._register_tables()
        return self

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        raise NotImplementedError

    def bank(self) -> Tensor:
        """The filters of the equivalent plain convolution, (C_out*|G|, physical channels in, k, k)."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Unit output variance for white input of unit variance: 1 / std^2 is the energy of the turned filters, summed
        over input channels, group elements and pixels and averaged over orientations. Bias 0."""
        energy = (
            self.basis.square().sum((1, 2)).mean().item()
        )  # mean over g of the filters' energy, k*k where turning is exact
        fan_in = self.weight[0, ..., 0].numel() * energy  # C_in * |G| * energy
        nn.init.normal_(self.weight, std=fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def plain_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.repeat_interleave(self.group.order)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.bank(), self.plain_bias(), padding=self.padding)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, padding={self.padding}, "
            f"bias={self.bias is not None}, group={self.group.name!r}, mask={self.mask}"
        )


class LiftingConv2d(_TiedConv2d):
    """Correlate an image with every turned copy of one filter.

    y[g] = x * (L_g psi): trivial to regular representation.

    Shapes: (B, C_in, H, W) -> (B, C_out*|G|, H', W'), H' = H + 2*padding - kernel_size + 1
    Convention: `out_channels` counts features; one bias per feature. `mask` keeps the filters within a disc; None: a
    disc for groups with interpolated elements, the whole square where all elements are exact.
    Exactness: exact for multiples of 90 degrees and mirrors; otherwise interpolated, see docs/pitfalls.
    Raises: UsageError for sizes below 1.
    Source: Cohen & Welling 2016, section 6.2; Bekkers et al. 2018, section 2.2.

    >>> LiftingConv2d(1, 8, kernel_size=3, group="p4")(torch.zeros(2, 1, 9, 9)).shape
    torch.Size([2, 32, 7, 7])
    """

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels, filters)

    def bank(self) -> Tensor:
        return lifting_bank(self.weight, self.basis).unflatten(2, (self.kernel_size, self.kernel_size))


class GroupConv2d(_TiedConv2d):
    """Correlate features on the group with every translated, turned and mirrored copy of one filter.

    y[g] = sum_h x[h] * (L_g psi)[h] with (L_g psi)[h](x) = psi[g^-1 h](g^-1 x): regular to regular representation.

    Shapes: (B, C_in*|G|, H, W) -> (B, C_out*|G|, H', W'), H' = H + 2*padding - kernel_size + 1
    Convention: `in_channels` and `out_channels` count features, not physical channels; channel c*|G| + g is feature c
    at element g. One bias per feature. `mask` as in LiftingConv2d.
    Exactness: exact for multiples of 90 degrees and mirrors; otherwise interpolated, see docs/pitfalls.
    Raises: UsageError for sizes below 1 or an input with another number of channels.
    Source: Cohen & Welling 2016, section 6.3; Bekkers et al. 2018, section 2.3.

    >>> GroupConv2d(8, 16, kernel_size=3, padding=1, group="p4m")(torch.zeros(2, 64, 9, 9)).shape
    torch.Size([2, 128, 9, 9])
    """

    sources: Tensor

    def _register_tables(self) -> None:
        super()._register_tables()
        sources = bank_sources(self.group, self.in_channels)
        self.register_buffer("sources", sources.to(self.weight.device), persistent=False)

    def _weight_shape(self, filters: int) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels, self.group.order, filters)

    def bank(self) -> Tensor:
        return group_bank(self.weight, self.basis, self.sources).unflatten(2, (self.kernel_size, self.kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        expected = self.in_channels * self.group.order
        if x.shape[1] != expected:
            raise UsageError(
                f"GroupConv2d: expected {self.in_channels} features on {self.group.name} ({expected} channels), "
                f"got {x.shape[1]} channels; was x lifted with another group?"
            )
        return super().forward(x)
