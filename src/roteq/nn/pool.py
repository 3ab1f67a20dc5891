"""Pooling over the group, and pooling over space that is symmetric about the centre of the map."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group


class GroupPool(nn.Module):
    """Reduce over the group: the maximum or mean over the |G| entries of every feature ("projection" in SE(2)-CNNs).

    y[c] = max_g x[c, g]: regular to trivial representation.

    Shapes: (B, C*|G|, H, W) -> (B, C, H, W)
    Exactness: exact for every element of the group.
    Raises: UsageError if the channels are no multiple of |G| or the mode is unknown.
    Source: Cohen & Welling 2016, section 6.3 (coset pooling); Bekkers et al. 2018, section 2.4.

    >>> import torch
    >>> GroupPool("p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 8, 9, 9])
    """

    def __init__(self, group: str | Group, mode: Literal["max", "mean"] = "max") -> None:
        super().__init__()
        if mode not in ("max", "mean"):
            raise UsageError(f"GroupPool: expected mode 'max' or 'mean', got {mode!r}")
        self.group, self.mode = named_group(group), mode

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.group.order:
            raise UsageError(
                f"GroupPool: expected channels in blocks of {self.group.order} ({self.group.name}), "
                f"got {x.shape[1]} channels"
            )
        blocks = x.unflatten(1, (-1, self.group.order))
        return blocks.amax(2) if self.mode == "max" else blocks.mean(2)

    def extra_repr(self) -> str:
        return f"{self.group.name!r}, mode={self.mode!r}"


class SymmetricMaxPool2d(nn.Module):
    """Halve the map with a max pool that is symmetric about its centre for every size: 2x2 on even, 3x3 on odd sides.

    A plain 2x2 pool drops the last row and column of an odd map and with them exactness (docs/pitfalls).

    Shapes: (B, C, H, W) -> (B, C, H // 2, W // 2); sides of 1 are kept.
    Exactness: exact for multiples of 90 degrees and mirrors.

    >>> import torch
    >>> SymmetricMaxPool2d()(torch.zeros(1, 1, 9, 8)).shape
    torch.Size([1, 1, 4, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        kernel = tuple(min(side, 2 + side % 2) for side in (height, width))
        stride = tuple(min(side, 2) for side in (height, width))
        return F.max_pool2d(x, kernel, stride)
