"""Convolutions and linear maps of a twin, and where their weights come from."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..groups import Group
from ..nn import (
    GroupConv2d,
    GroupConvTranspose2d,
    GroupLinear,
    LiftingConv2d,
    RectangularGroupConv2d,
    RectangularLiftingConv2d,
)
from ..nn.separable import TurnedDepthwiseConv2d
from ..nn.steps import Centred, pair
from .layers import LinearOfMap, MeanOverGroup, RepeatOverGroup, TiedBank, tie
from .terms import Breaks, Place, Terms, features_in, features_out
from .trace import Role


def convolution(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    """nn.Conv2d, nn.ConvTranspose2d and what is derived from them."""
    inputs = features_in(place, x, terms)
    outputs, groups = _groups(layer, place, inputs, terms)
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        raise Breaks(f"{place.path}: {type(layer).__name__} works on something else than a picture")
    if place.own is not None and place.own != "pads by size":
        return _tied(layer, place, inputs, outputs, groups, terms)
    twin = _new_convolution(layer, place, inputs, outputs, groups, terms)
    _place_weights(layer, twin, terms)
    return twin


def _groups(layer: Any, place: Place, inputs: int, terms: Terms) -> tuple[int, int]:
    """Features that come out, and groups of features."""
    outputs = features_out(place, layer.out_channels, terms)
    if layer.groups == 1:
        return outputs, 1
    if layer.groups == layer.in_channels:  # depthwise
        return inputs * (layer.out_channels // layer.in_channels), inputs
    if inputs == layer.in_channels and outputs == layer.out_channels:
        return outputs, layer.groups
    divisors = [d for d in range(1, inputs + 1) if inputs % d == 0 and outputs % d == 0]
    return outputs, min(divisors, key=lambda d: abs(d - layer.groups))


def same_both_ways(values: Any, place: Place, what: str) -> int:
    first, second = pair(values)
    if first != second:
        raise Breaks(
            f"{place.path}: expected the same {what} both ways, got {tuple(values)}: what is turned exchanges them"
        )
    return first


def _new_convolution(layer: Any, place: Place, inputs: int, outputs: int, groups: int, terms: Terms) -> nn.Module:
    stride, dilation = same_both_ways(layer.stride, place, "stride"), same_both_ways(layer.dilation, place, "dilation")
    options: dict[str, Any] = {"dilation": dilation, "groups": groups, "bias": layer.bias is not None}
    options |= {"stride": stride, "group": terms.group}
    extents = [dilation * (k - 1) + 1 for k in layer.kernel_size]
    padding = layer.padding
    if isinstance(padding, str):
        padding = (0, 0) if padding == "valid" else tuple((extent - 1) // 2 for extent in extents)
        if layer.padding == "same" and any(extent % 2 == 0 for extent in extents):
            raise Breaks(f"{place.path}: padding='same' with an even kernel pads one side more; give a number")
    if isinstance(layer, nn.ConvTranspose2d):
        return _transposed(layer, place, inputs, outputs, options, terms)
    if place.own == "pads by size":
        padding = tuple((extent - 1) // 2 for extent in extents)
    if layer.kernel_size[0] != layer.kernel_size[1]:
        kind: Any = RectangularLiftingConv2d if place.role == Role.IMAGE else RectangularGroupConv2d
        if layer.padding_mode != "zeros":
            raise Breaks(f"{place.path}: a rectangular kernel with padding_mode {layer.padding_mode!r}; use 'zeros'")
        return _new(terms, kind, inputs, outputs, layer.kernel_size, padding=padding, **options)
    square: Any = LiftingConv2d if place.role == Role.IMAGE else GroupConv2d
    if square is GroupConv2d and groups == inputs == outputs:
        square = TurnedDepthwiseConv2d  # its orientations mix in the 1x1 convolutions beside it, as its channels do
    options |= {"padding": same_both_ways(padding, place, "padding"), "padding_mode": layer.padding_mode}
    options |= {"basis": terms.basis, "steps": terms.steps if stride > 1 else "symmetric"}
    return _new(terms, square, inputs, outputs, layer.kernel_size[0], **options)


def _new(terms: Terms, kind: Any, *args: Any, **options: Any) -> nn.Module:
    """The layer; without drawing weights where the original's will be put."""
    if not terms.keep:
        return kind(*args, **options)
    with torch.device("meta"):
        twin = kind(*args, **options)
    return twin.to_empty(device=terms.device)


def _transposed(
    layer: Any, place: Place, inputs: int, outputs: int, options: dict[str, Any], terms: Terms
) -> nn.Module:
    if place.role == Role.IMAGE:
        raise Breaks(f"{place.path}: a transposed convolution of the picture itself; begin with a convolution")
    extra = same_both_ways(layer.output_padding, place, "output_padding")
    padding = 2 * same_both_ways(layer.padding, place, "padding") - extra
    kernel = same_both_ways(layer.kernel_size, place, "kernel")
    if padding < -1:
        raise Breaks(f"{place.path}: output_padding {extra} adds pixels on one side only; use kernel_size {kernel + 1}")
    options |= {"padding": max(padding // 2, 0), "basis": terms.basis}
    twin = _new(terms, GroupConvTranspose2d, inputs, outputs, kernel, **options)
    if padding % 2 == 0:
        return twin
    if padding < 0:
        return nn.Sequential(twin, nn.ZeroPad2d(1), nn.AvgPool2d(2, 1))
    return nn.Sequential(twin, nn.AvgPool2d(2, 1))  # one pixel more, and the mean of both alignments


@torch.no_grad()
def own_forward(layer: nn.Module, x: Tensor) -> str | None:
    """What is special about a convolution with a forward of its own: None (nothing), "pads by size" (of the map, as
    "same" does), "filters" (it does more with its filters), or both. On a map with a middle pixel padding by size is
    symmetric and can be compared."""
    if not isinstance(layer, nn.Conv2d) or type(layer).forward is nn.Conv2d.forward:
        return None
    given = layer.padding if not isinstance(layer.padding, str) else (0, 0)
    extents = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    x = x[..., : x.shape[-2] - 1 + x.shape[-2] % 2, : x.shape[-1] - 1 + x.shape[-1] % 2]
    if min(x.shape[-2] - extents[0], x.shape[-1] - extents[1]) < 0:
        x = nn.functional.pad(x, (extents[1], extents[1], extents[0], extents[0]))
    found = layer(x)
    middle = ((extents[0] - 1) // 2, (extents[1] - 1) // 2)
    for padding, name in ((given, "filters"), (middle, "filters, pads by size")):
        rest: Any = (layer.bias, layer.stride, padding, layer.dilation, layer.groups)
        expected = nn.functional.conv2d(x, layer.weight, *rest)
        if found.shape != expected.shape:
            continue
        by_size = "size" in name
        if torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(found.abs().amax())):
            return "pads by size" if by_size else None
        return name
    raise Breaks(f"{type(layer).__name__}: pads in a way of its own; use nn.Conv2d with a padding of {middle}")


def gain(weight: Tensor) -> float:
    """Standard deviation of the original's output for white input; its initialisation is kept in proportion."""
    if weight.is_meta:
        return 1.0
    fan_in = weight[0].numel()
    return float(weight.detach().square().mean() * fan_in) ** 0.5


@torch.no_grad()
def _place_weights(layer: Any, twin: nn.Module, terms: Terms) -> None:
    conv: Any = twin[0] if isinstance(twin, nn.Sequential) else twin
    if conv.weight.is_meta:
        return
    weight, bias = layer.weight.detach(), layer.bias
    if not terms.keep:
        conv.weight.mul_(gain(weight))
        if bias is not None:
            n = min(len(bias), len(conv.bias))
            conv.bias[:n] = bias[:n]
        return
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, k, k) -> (out, in / groups, k, k)
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    conv.weight.copy_(at_identity(weight, terms.group, lifting=conv.weight.ndim == 3))
    if bias is not None:
        conv.bias.copy_(bias)


def at_identity(weight: Tensor, group: Group, lifting: bool) -> Tensor:
    """(C_out, C_in, k, k) at the identity of group filters (C_out, C_in, |G|, k*k), zero at the other elements."""
    if lifting:
        return weight.flatten(2)
    placed = weight.new_zeros(*weight.shape[:2], group.order, weight[0, 0].numel())
    placed[:, :, 0] = weight.flatten(2)
    return placed


def _tied(layer: Any, place: Place, inputs: int, outputs: int, groups: int, terms: Terms) -> nn.Module:
    """A convolution that does more with its filters: it stays, and reads tied ones."""
    kernel = same_both_ways(layer.kernel_size, place, "kernel")
    stride = same_both_ways(layer.stride, place, "stride")
    lifting, order = place.role == Role.IMAGE, terms.group.order
    shape = (outputs, inputs // groups, *(() if lifting else (order,)), kernel * kernel)
    twin = copy.deepcopy(layer)
    twin.in_channels, twin.out_channels, twin.groups = inputs * (1 if lifting else order), outputs * order, groups
    raw_fan_in = torch.Size(shape[1:]).numel()
    raw = torch.randn(shape, dtype=layer.weight.dtype) * gain(layer.weight) * raw_fan_in**-0.5
    if terms.keep:
        raw = at_identity(layer.weight.detach(), terms.group, lifting).clone()
    for name, value in layer.named_parameters(recurse=False):
        if name == "weight":
            tie(twin, name, raw, TiedBank(terms.group, kernel, inputs // groups))
        elif value.shape[:1] == (layer.out_channels,):
            index = torch.arange(outputs, device=value.device) % layer.out_channels
            tie(twin, name, value.detach()[index], RepeatOverGroup(terms.group, 0))
    if stride == 1:
        return twin
    extent = layer.dilation[0] * (kernel - 1) + 1
    padding = (extent - 1) // 2 if "size" in (place.own or "") else layer.padding[0]
    return nn.Sequential(Centred(extent, stride, padding), twin)


def linear(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    group, bias = terms.group, layer.bias is not None
    outputs = features_out(place, layer.out_features, terms)
    if place.role == Role.IMAGE:
        raise Breaks(f"{place.path}: a linear map of the picture itself, which no turn leaves as it is")
    if place.grid != (1, 1):
        if place.grid[0] != place.grid[1]:
            raise Breaks(
                f"{place.path}: a linear map of a flattened map of {place.grid[0]}x{place.grid[1]}; a square "
                "one can be turned"
            )
        side, pixels = place.grid[0], place.grid[0] ** 2
        inputs = x.shape[1] // (pixels * group.order)
        conv: Any = _new(terms, GroupConv2d, inputs, outputs, side, bias=bias, group=group, basis=terms.basis)
        as_conv = layer.weight.detach().unflatten(1, (-1, side, side))
        _place_weights(_Values(as_conv, layer.bias), conv, terms)
        return nn.Sequential(LinearOfMap(conv), MeanOverGroup(group)) if place.last else LinearOfMap(conv)
    inputs = features_in(place, x, terms, -1)
    if place.last:
        return nn.Sequential(MeanOverGroup(group, -1), _new_linear(layer, inputs, outputs, bias, terms))
    twin = _new(terms, GroupLinear, inputs, outputs, bias, group=group)
    if not twin.weight.is_meta:
        values = _Values(layer.weight.detach()[..., None, None], layer.bias)
        _fill(values, twin, terms)
    return twin


@dataclass(frozen=True)
class _Values:
    weight: Tensor
    bias: Tensor | None


@torch.no_grad()
def _fill(values: _Values, twin: Any, terms: Terms) -> None:
    if terms.keep:
        twin.weight.zero_()
        twin.weight[:, :, 0] = values.weight[..., 0, 0]
    else:
        twin.weight.mul_(gain(values.weight))
    if values.bias is not None:
        n = min(len(values.bias), len(twin.bias))
        twin.bias[:n] = values.bias[:n]


@torch.no_grad()
def _new_linear(layer: Any, inputs: int, outputs: int, bias: bool, terms: Terms) -> nn.Linear:
    if inputs == layer.in_features:
        return copy.deepcopy(layer)
    twin = nn.Linear(inputs, outputs, bias)
    if not twin.weight.is_meta:
        nn.init.normal_(twin.weight, std=gain(layer.weight) * inputs**-0.5)
        if bias:
            twin.bias.copy_(layer.bias)
    return twin
