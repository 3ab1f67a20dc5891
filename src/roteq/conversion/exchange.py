"""What each layer becomes in a twin. The kind of a layer is found by what it is derived from and, where it has a
forward of its own, by what that computes."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import GroupBatchNorm2d, GroupDropout2d, GroupInstanceNorm2d, GroupLayerNorm, GroupNorm2d
from ..nn.steps import CentredAvgPool2d, CentredMaxPool2d, TurnedSteps, pair
from .convolutions import convolution, linear, same_both_ways
from .layers import OnBlocks, OnOrientations, RepeatOverGroup, tie
from .terms import Breaks, Place, Terms, features_in
from .trace import Role


def norm(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    group, own = terms.group, type(layer).forward
    if isinstance(layer, nn.LayerNorm):
        return _layer_norm(layer, place, x, terms)
    channels = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
    features = features_in(place, x, terms)
    if own is nn.GroupNorm.forward:
        groups = min((d for d in range(1, features + 1) if features % d == 0), key=lambda d: abs(d - layer.num_groups))
        twin: Any = GroupNorm2d(groups, features, layer.eps, layer.affine, shared=not terms.keep, group=group)
    elif isinstance(layer, nn.InstanceNorm2d) and not layer.track_running_stats:
        twin = GroupInstanceNorm2d(features, layer.eps, layer.affine, shared=not terms.keep, group=group)
    elif own in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward) and x.ndim == 4:
        options = (layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        twin = GroupBatchNorm2d(features, *options, group=group)
    else:
        wrapper = OnOrientations if terms.keep and isinstance(layer, nn.GroupNorm) else OnBlocks
        return wrapper(resized(layer, channels, features), group)
    copy_leading(layer, twin)
    return twin


def _layer_norm(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    channels = layer.normalized_shape[-1]
    if len(layer.normalized_shape) > 1:
        raise Breaks(f"{place.path}: a norm with a weight for every pixel, {tuple(layer.normalized_shape)}")
    if type(layer).forward is nn.LayerNorm.forward or x.ndim != 4 or place.sample.shape[1] != channels:
        features = features_in(place, x, terms, -1)
        affine = layer.weight is not None
        twin = GroupLayerNorm(features, layer.eps, affine, shared=not terms.keep, group=terms.group)
        copy_leading(layer, twin)
        return twin
    return OnBlocks(resized(layer, channels, features_in(place, x, terms)), terms.group)


@torch.no_grad()
def copy_leading(layer: nn.Module, twin: nn.Module) -> None:
    """What the twin's parameters and buffers can hold of the original's: the first features."""
    values = dict(layer.named_parameters()) | dict(layer.named_buffers())
    for name, own in [*twin.named_parameters(), *twin.named_buffers()]:
        if name in values and not own.is_meta:
            value = values[name].detach()
            if own.ndim:
                own, value = own[: len(value)], value[: len(own)]
            own.copy_(value)


@torch.no_grad()
def resized(layer: nn.Module, channels: int, features: int) -> nn.Module:
    """A copy for `features` channels: the first ones."""
    twin: Any = copy.deepcopy(layer)
    if features == channels:
        return twin
    for name in ("num_features", "num_channels"):
        if getattr(twin, name, None) == channels:
            setattr(twin, name, features)
    if getattr(twin, "normalized_shape", None) == (channels,):
        twin.normalized_shape = (features,)
    if getattr(twin, "num_groups", 1) > 1:
        twin.num_groups = min(
            (d for d in range(1, features + 1) if features % d == 0), key=lambda d: abs(d - twin.num_groups)
        )
    for store in (twin._parameters, twin._buffers):
        for name, value in store.items():
            if value is not None and value.ndim and len(value) == channels:
                repeats = -(-features // channels)
                part = value.detach().repeat(repeats, *[1] * (value.ndim - 1))[:features].clone()
                store[name] = nn.Parameter(part, value.requires_grad) if store is twin._parameters else part
    return twin


def pool(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    """Strided max and average pools; those with a forward of their own pad by the size of the map."""
    is_max = isinstance(layer, nn.MaxPool2d)
    if is_max and layer.return_indices:
        raise Breaks(f"{place.path}: indices of a max pool name pixels, which a turn moves; unpool with an upsampling")
    if not is_max and layer.divisor_override:
        raise Breaks(f"{place.path}: divisor_override has no counterpart")
    for values, what in ((layer.kernel_size, "kernel"), (layer.stride, "stride"), (layer.padding, "padding")):
        same_both_ways(values, place, what)
    if terms.steps == "turned" and place.role == Role.FEATURE:
        return TurnedSteps(copy.deepcopy(layer), terms.group)
    return as_centred(layer)


def as_centred(layer: Any) -> CentredMaxPool2d | CentredAvgPool2d:
    """The pool with steps that are symmetric; one with a forward of its own pads by the size of the map."""
    same = type(layer).forward not in (nn.MaxPool2d.forward, nn.AvgPool2d.forward)
    kernel = pair(layer.kernel_size)
    padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2) if same else layer.padding
    ceil = layer.ceil_mode or (same and kernel[0] % 2 == 0)
    if isinstance(layer, nn.MaxPool2d):
        return CentredMaxPool2d(layer.kernel_size, layer.stride, padding, layer.dilation, ceil)
    return CentredAvgPool2d(layer.kernel_size, layer.stride, padding, ceil, layer.count_include_pad)


def dropout(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    return GroupDropout2d(layer.p, group=terms.group)


def on_blocks(layer: nn.Module, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    return OnBlocks(copy.deepcopy(layer), terms.group)


def prelu(layer: Any, place: Place, x: Tensor, terms: Terms) -> nn.Module:
    twin = copy.deepcopy(layer)
    if layer.num_parameters > 1:
        features = features_in(place, x, terms)
        index = torch.arange(features, device=layer.weight.device) % layer.num_parameters
        tie(twin, "weight", layer.weight.detach()[index], RepeatOverGroup(terms.group, 0))
    return twin


Exchange = Callable[[Any, Place, Tensor, Terms], nn.Module]


def exchange_of(layer: nn.Module, place: Place) -> Exchange | None:
    """The function that makes the twin of a layer; None for a layer that is right as it is.

    Raises: Breaks for a layer that has no equivariant counterpart.
    """
    if place.role in (Role.CONSTANT, Role.ANSWER):
        return None
    if isinstance(layer, nn.modules.conv._ConvNd):
        return convolution
    if isinstance(layer, nn.Linear):
        return linear
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return pool if pair(layer.stride) != (1, 1) else None
    if place.role == Role.IMAGE:
        return None
    norms = nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm
    kinds: list[tuple[Any, Exchange]] = [
        (norms, norm),
        (nn.Dropout2d, dropout),
        ((nn.ChannelShuffle, nn.LocalResponseNorm), on_blocks),
        (nn.PReLU, prelu),
    ]
    for kind, exchange in kinds:
        if isinstance(layer, kind):
            return exchange
    if isinstance(layer, nn.MultiheadAttention | nn.PixelShuffle | nn.PixelUnshuffle | nn.Unfold | nn.Fold):
        raise Breaks(f"{place.path}: {type(layer).__name__} gives every pixel or token a place of its own")
    return None
