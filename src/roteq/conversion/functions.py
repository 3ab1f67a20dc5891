"""Functions that stand in a rewritten forward where the original called torch's: the same arguments, and the group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..nn.steps import CentredAvgPool2d, CentredMaxPool2d, centred, pair
from .layers import fold, unfold


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    return CentredMaxPool2d(kernel_size, stride, padding, dilation, ceil_mode)(x)


def avg_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: None = None,
) -> Tensor:
    return CentredAvgPool2d(kernel_size, stride, padding, ceil_mode, count_include_pad)(x)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    extent = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], pair(dilation), strict=True)]
    if not isinstance(padding, str):
        x = centred(x, (extent[0], extent[1]), pair(stride), pair(padding))
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def batch_norm(x: Tensor, *args: Any, order: int, **kwargs: Any) -> Tensor:
    return unfold(F.batch_norm(fold(x, order), *args, **kwargs), order)


def cat(tensors: Sequence[Tensor], dim: int = 0, *, order: int, regular: Sequence[bool]) -> Tensor:
    """Concatenate features; what does not depend on the element is repeated for each."""
    parts = [
        x if is_regular else x.repeat_interleave(order, dim) for x, is_regular in zip(tensors, regular, strict=True)
    ]
    return torch.cat(parts, dim)


def split(x: Tensor, sizes: int | Sequence[int], dim: int = 0, *, whole: int) -> tuple[Tensor, ...]:
    """torch.split whose sizes were meant for `whole` channels."""
    if isinstance(sizes, int):
        return torch.split(x, scaled(sizes, whole, x.shape[dim]), dim)
    return torch.split(x, [scaled(size, whole, x.shape[dim]) for size in sizes], dim)


def channels(x: Tensor, index: Any, *, whole: int) -> Tensor:
    """x[:, index] whose bounds were meant for `whole` channels."""
    bounds = [None if v is None else scaled(v, whole, x.shape[1]) for v in (index.start, index.stop)]
    return x[:, slice(*bounds)]


def scaled(size: int, whole: int, now: int) -> int:
    new, rest = divmod(size * now, whole)
    if rest:
        raise UsageError(
            f"convert: {size} of {whole} channels are cut off here, and the twin has {now}: that is no whole number; "
            "choose width='features' or another factor"
        )
    return new


def fold_map(x: Any, order: int) -> Any:
    return fold(x, order) if isinstance(x, Tensor) and x.ndim == 4 else x


def unfold_map(x: Any, order: int) -> Any:
    if isinstance(x, Tensor) and x.ndim == 4:
        return unfold(x, order)
    return type(x)(unfold_map(v, order) for v in x) if isinstance(x, tuple | list) else x
