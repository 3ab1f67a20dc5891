"""Pooling over the group, and over space in steps that are symmetric about the centre of the map."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError, nearest
from ..groups import Group
from ..groups import group as named_group
from .checks import check_blocks, check_map
from .layout import is_channels_last
from .tables import HasTables

POOL_MODES = ("max", "mean", "argmax")


class GroupPool(HasTables):
    """Reduce over the group: the maximum or mean over the |G| entries of every feature ("projection" in SE(2)-CNNs).

    y[c] = max_g x[c, g]: regular to trivial representation. "argmax": the vector field y[c] = x[c, g*] g* e_x, where g*
    is the element with the largest entry: as long as the maximum, and pointing where it was found (for a mirrored
    element the mirrored x axis, turned). Where nothing answers, its length is 0 and its direction does not matter.

    Shapes: (B, C*|G|, H, W) -> (B, C, H, W); "argmax": (B, 2*C, H, W), for every feature x (right) and y (up)
    Exactness: exact for every element of the group; vectors turn with the picture (`Group.act_on_vectors`).
    Raises: UsageError if the channels are no multiple of |G| or the mode is unknown.
    Source: Cohen & Welling 2016, section 6.3 (coset pooling); Bekkers et al. 2018, section 2.4; the vector field:
    Marcos et al. 2017 (arXiv 1612.09346).

    >>> GroupPool("p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 8, 9, 9])
    """

    axes: Tensor

    def __init__(self, group: str | Group, mode: Literal["max", "mean", "argmax"] = "max") -> None:
        super().__init__()
        if mode not in POOL_MODES:
            raise UsageError(f"GroupPool: unknown mode {mode!r}; {nearest(mode, POOL_MODES)}")
        self.group, self.mode = named_group(group), mode
        self._register_tables()

    def _register_tables(self) -> None:
        if self.mode == "argmax":
            axes = torch.stack([self.group.matrix(g)[:, 0] for g in range(self.group.order)])  # (|G|, 2): g e_x
            like = self.axes if "axes" in self._buffers else torch.empty(())
            self.register_buffer("axes", axes.to(like, copy=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_blocks("GroupPool", x, self.group)
        if is_channels_last(x):  # reduced where the entries of a feature are neighbours in memory
            return self._reduce(x.movedim(1, 3), 3).movedim(3, 1)
        return self._reduce(x, 1)

    def _reduce(self, x: Tensor, channels: int) -> Tensor:
        blocks, entries = x.unflatten(channels, (-1, self.group.order)), channels + 1
        if self.mode == "max":
            return blocks.amax(entries)
        if self.mode == "mean":
            return blocks.mean(entries)
        length, element = blocks.max(entries)
        vectors = length[..., None] * self.axes.to(length.dtype)[element]
        return vectors.movedim(-1, entries).flatten(channels, entries)

    def extra_repr(self) -> str:
        return f"{self.group.name!r}, mode={self.mode!r}"


class _SymmetricPool2d(nn.Module):
    """Halve both sides, n -> n // 2, in steps that are symmetric about the centre for every n. A side of 1 is kept."""

    def forward(self, x: Tensor) -> Tensor:
        check_map(type(self).__name__, x)
        kernel = tuple(min(side, 2 + side % 2) for side in x.shape[-2:])
        stride = tuple(min(side, 2) for side in x.shape[-2:])
        return self._pool(x, kernel, stride)

    def _pool(self, x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        raise NotImplementedError


class SymmetricMaxPool2d(_SymmetricPool2d):
    """Halve the map with a max pool that is symmetric about its centre for every size: 2x2 on even, 3x3 on odd sides.

    A plain 2x2 pool drops the last row and column of an odd map and with them exactness (docs/pitfalls).

    Shapes: (B, C, H, W) -> (B, C, H // 2, W // 2); sides of 1 are kept.
    Exactness: exact for multiples of 90 degrees and mirrors. At other angles SymmetricBlurPool2d is far better.

    >>> SymmetricMaxPool2d()(torch.zeros(1, 1, 9, 8)).shape
    torch.Size([1, 1, 4, 4])
    """

    def _pool(self, x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool2d(x, kernel, stride)


class SymmetricAvgPool2d(_SymmetricPool2d):
    """Halve the map with an average that is symmetric about its centre for every size: 2x2 on even, 3x3 on odd sides.

    Followed by a convolution it stands for a strided convolution on maps of any size.

    Shapes: (B, C, H, W) -> (B, C, H // 2, W // 2); sides of 1 are kept.
    Exactness: exact for multiples of 90 degrees and mirrors.

    >>> SymmetricAvgPool2d()(torch.zeros(1, 1, 9, 8)).shape
    torch.Size([1, 1, 4, 4])
    """

    def _pool(self, x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.avg_pool2d(x, kernel, stride)


class SymmetricBlurPool2d(nn.Module):
    """Halve the map after a binomial blur, so that little is aliased: 1 3 3 1 on even sides, 1 4 6 4 1 on odd ones.

    The blur is made of averages over neighbours; outside the map stand zeros. After a max pool of stride 1 it is the
    anti-aliased max pool: nn.Sequential(nn.MaxPool2d(3, 1, 1), SymmetricBlurPool2d()).

    Shapes: (B, C, H, W) -> (B, C, H // 2, W // 2); sides of 1 are kept.
    Exactness: exact for multiples of 90 degrees and mirrors; it keeps other angles together better than any other pool
    (docs/pitfalls).
    Source: Zhang 2019 (arXiv 1904.11486), with a filter that is symmetric on even maps too.

    >>> SymmetricBlurPool2d()(torch.zeros(1, 1, 9, 8)).shape
    torch.Size([1, 1, 4, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        check_map("SymmetricBlurPool2d", x)
        window = tuple(min(side, 2) for side in x.shape[-2:])  # (2, 2), and 1 along a side of 1
        x = F.avg_pool2d(x, window, 1, tuple(size // 2 for size in window))  # n + 1
        x = F.avg_pool2d(x, window, 1)  # n
        odd = tuple(1 + (side % 2) * (size - 1) for side, size in zip(x.shape[-2:], window, strict=True))
        if odd != (1, 1):
            x = F.avg_pool2d(x, odd, 1)  # n - 1 where n is odd
        return F.avg_pool2d(x, window, window)


class SymmetricUpsample2d(nn.Module):
    """Enlarge the map bilinearly, symmetric about its centre: to twice its size, or to the size of another map.

    Shapes: (B, C, H, W) -> (B, C, 2*H, 2*W), or (B, C, *size[-2:]): `forward(x, like)` takes the size of the map
    `like`, which undoes a symmetric pool of an odd map (2n+1 -> n -> 2n+1).
    Exactness: exact for multiples of 90 degrees and mirrors at every size; nearest-neighbour copying is not, from n to
    2n+1.

    >>> SymmetricUpsample2d()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 9, 8)).shape
    torch.Size([1, 1, 9, 8])
    """

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        check_map("SymmetricUpsample2d", x)
        size = [2 * side for side in x.shape[-2:]] if like is None else like.shape[-2:]
        return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)
