"""Functions that stand in a rewritten forward where the original called torch's: the same arguments, and the group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..groups import group as named_group
from ..nn.steps import TurnedSteps, all_left, centred, pair, turned_convolution
from .exchange import as_centred
from .layers import fold, unfold


def max_pool2d(x: Tensor, *args: Any, turned: str | None = None, **kwargs: Any) -> Tensor:
    return _pool(nn.MaxPool2d, x, args, kwargs, turned)


def avg_pool2d(x: Tensor, *args: Any, turned: str | None = None, **kwargs: Any) -> Tensor:
    return _pool(nn.AvgPool2d, x, args, kwargs, turned)


def _pool(kind: type[nn.Module], x: Tensor, args: Any, kwargs: dict[str, Any], turned: str | None) -> Tensor:
    pool = kind(*args, **kwargs)
    return as_centred(pool)(x) if turned is None else TurnedSteps(pool, turned)(x)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    turned: str | None = None,
) -> Tensor:
    if isinstance(padding, str) or pair(stride) == (1, 1):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    rows, columns = (d * (k - 1) + 1 for k, d in zip(weight.shape[2:], pair(dilation), strict=True))
    steps = (rows, columns), pair(stride), pair(padding)
    if turned is not None and all_left(x, *steps) != (0, 0):
        group = named_group(turned)
        return turned_convolution(x, weight, bias, stride, padding, dilation, groups, group=group)
    return F.conv2d(centred(x, *steps), weight, bias, stride, padding, dilation, groups)


def last_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, order: int) -> Tensor:
    """The last linear map, of the mean over the group."""
    return F.linear(x.unflatten(-1, (-1, order)).mean(-1), weight, bias)


def mean_over_group(x: Tensor, order: int) -> Tensor:
    return x.unflatten(1, (-1, order)).mean(2)


def batch_norm(x: Tensor, *args: Any, order: int, **kwargs: Any) -> Tensor:
    return unfold(F.batch_norm(fold(x, order), *args, **kwargs), order)


class BatchNorm(nn.Module):
    """F.batch_norm whose `training` is the module's mode."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def forward(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        rest: Any = (running_mean, running_var, weight, bias, self.training, momentum, eps)
        return batch_norm(x, *rest, order=self.order)


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
