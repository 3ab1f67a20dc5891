"""What a layer demands of its arguments and of its input, in sentences that name the nearest valid choice.

Of an input only shape, dtype and device are looked at: all of it is known while compiling and exporting.
"""

import math

import torch
from torch import Tensor

from ..errors import UsageError
from ..groups import Group
from .geometry import Geometry


def check_at_least(layer: str, least: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{layer}: expected {name} to be a whole number of at least {least}, got {value!r}")


def check_map(layer: str, x: Tensor) -> None:
    """A batch of maps whose precision this device can convolve."""
    if x.ndim != 4:
        raise UsageError(f"{layer}: expected a batch of maps (B, C, H, W), got {x.ndim} dimensions {tuple(x.shape)}")
    if x.dtype == torch.float16 and x.device.type == "cpu":
        raise UsageError(f"{layer}: expected bfloat16, float32 or float64 on the CPU, got float16; use .bfloat16()")


def check_features(layer: str, x: Tensor, features: int, group: Group) -> None:
    """`features` blocks of |G| channels."""
    check_map(layer, x)
    _check_channels(layer, x.shape[1], features, group)


def check_last_features(layer: str, x: Tensor, features: int, group: Group) -> None:
    """`features` blocks of |G| channels in the last dimension."""
    if not x.ndim:
        raise UsageError(f"{layer}: expected channels in the last dimension, got a tensor without dimensions")
    _check_channels(layer, x.shape[-1], features, group)


def _check_channels(layer: str, channels: int, features: int, group: Group) -> None:
    if torch.jit.is_tracing():  # there a size is a tensor, and every comparison a warning
        return
    order = group.order
    if channels != features * order:
        likely = (
            f"{channels // order} features on {group.name}?"
            if channels % order == 0 and channels % features
            else f"was x lifted with a group of {channels // features} elements?"
            if channels % features == 0
            else "was x lifted with another group?"
        )
        raise UsageError(
            f"{layer}: expected {features} features on {group.name} ({features * order} channels), got {channels} "
            f"channels; {likely}"
        )


def check_blocks(layer: str, x: Tensor, group: Group) -> None:
    """Any number of features of this group."""
    check_map(layer, x)
    if not torch.jit.is_tracing() and x.shape[1] % group.order:
        raise UsageError(
            f"{layer}: expected channels in blocks of {group.order} ({group.name}), got {x.shape[1]} channels; "
            "was x lifted with another group?"
        )


def check_steps(
    layer: str, x: Tensor, extents: int | tuple[int, int], stride: int, paddings: int | tuple[int, int]
) -> None:
    """The kernel fits into the map, and its steps are symmetric about the centre: they end as far from one border as
    they began from the other. Otherwise not even a quarter turn is exact (docs/pitfalls)."""
    pairs = [(v, v) if isinstance(v, int) else v for v in (extents, paddings)]
    for side, extent, padding in zip(x.shape[-2:], *pairs, strict=True):
        room = side + 2 * padding - extent
        if room < 0:
            raise UsageError(
                f"{layer}: expected a map of at least {extent - 2 * padding} pixels a side (the kernel covers "
                f"{extent}, padding {padding}), got {x.shape[-2]}x{x.shape[-1]}"
            )
        rest = room % stride
        if rest:
            raise UsageError(
                f"{layer}: expected a map on which stride {stride} is symmetric about the centre, got "
                f"{x.shape[-2]}x{x.shape[-1]} ({rest} of {side} pixels would be dropped on one side); nearest: sides "
                f"of {side - rest} or {side + stride - rest} pixels, a kernel that covers {extent + rest} or "
                f"{extent - stride + rest}, stride 1, or SymmetricAvgPool2d before it, which suits any size"
            )


def check_finite(layer: str, weight: Tensor) -> None:
    """Refuse NaN and infinity where looking is cheap: on the CPU. (On a GPU it would wait for the device.)"""
    if weight.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    try:
        finite = math.isfinite(weight.detach().sum())
    except RuntimeError:  # a fake tensor, or one inside vmap, has no value to look at
        return
    if not finite and not weight.isfinite().all():
        bad = int((~weight.isfinite()).sum())
        raise UsageError(
            f"{layer}: expected finite weights, got {bad} of {weight.numel()} NaN or infinite; "
            "did the training diverge? Load an earlier checkpoint"
        )


def check_grid(model: str, x: Tensor, geometry: Geometry) -> None:
    """Windows a stride apart cover the picture: then all poolings are on the same grid for all windows, and symmetric
    about the centre of the picture."""
    window, stride = geometry.window, geometry.stride
    for side in x.shape[-2:]:
        if side < window or (side - window) % stride:
            below = max(window, side - (side - window) % stride)
            raise UsageError(
                f"{model}: dense: expected sides of {window} + k * {stride} pixels, got {x.shape[-2]}x{x.shape[-1]}; "
                f"nearest to {side}: {below} or {below + stride}"
            )
