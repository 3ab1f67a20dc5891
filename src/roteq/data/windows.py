"""Square windows of images and their masks: at random places to train on, or a grid that judges each pixel once.

A window has an interior, in which it is judged, and a margin, in which its mask is IGNORE: what a network needs to see
around the pixels it answers for. An interior may reach beyond the image; there the mask is IGNORE as well.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UsageError
from .masks import IGNORE, MaskDataset, classes_of


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of side x side pixels. Beyond its border an image is continued by reflection, again and again where it is
    smaller than the window.

    number None: the grid; index counts its windows, and the interiors of side - 2 margin pixels cover every pixel of
    every image exactly once. A number: so many random windows an epoch, index = epoch * number + slot; image and place
    are a function of (seed, epoch, slot) alone, an image drawn with probability proportional to its pixels, its places
    uniform, up to a quarter of an interior beyond its border, without which pixels at the border would hardly be drawn.

    `windows.images(indices)` -> uint8 (B, C, side, side)
    `windows.__getitems__(indices)` -> that, and int64 (B, side, side): classes, or IGNORE
    Raises: UsageError if the margins leave no interior, or number is below 1.
    """

    def __init__(
        self, data: MaskDataset, side: int, *, margin: int = 0, number: int | None = None, seed: int = 0
    ) -> None:
        if margin < 0 or side - 2 * margin < 1:
            raise UsageError(f"Windows: expected a margin of 0 to {(side - 1) // 2} for side {side}, got {margin}")
        if number is not None and number < 1:
            raise UsageError(f"Windows: expected a number of 1 or more, got {number}")
        self.data, self.side, self.margin, self.number, self.seed = data, side, margin, number, seed
        self.interior = side - 2 * margin
        areas = [height * width for height, width in data.sizes]
        grids = [-(-height // self.interior) * -(-width // self.interior) for height, width in data.sizes]
        self._ends = list(accumulate(grids if number is None else areas))  # of the images, in windows or in pixels

    @property
    def channels(self) -> int:
        return self.data.channels

    def __len__(self) -> int:
        return self._ends[-1] if self.number is None else self.number

    def place(self, index: int) -> tuple[int, int, int]:
        """(image, y, x) of the first pixel of a window; y and x may lie outside the image."""
        image, top, left = self._on_grid(index) if self.number is None else self._at_random(index)
        return image, top - self.margin, left - self.margin

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        return self.__getitems__(indices)[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, masks = self.__getitems__([index])
        return images[0], masks[0]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        places = [self.place(index) for index in torch.as_tensor(indices, dtype=torch.long).tolist()]
        images = torch.empty((len(places), self.channels, self.side, self.side), dtype=torch.uint8)
        masks = torch.full((len(places), self.side, self.side), IGNORE)
        by_image: dict[int, list[int]] = {}  # an image that is not kept is decoded once for all its windows
        for k, (image, _, _) in enumerate(places):
            by_image.setdefault(image, []).append(k)
        for image, members in by_image.items():
            pixels, stored = self.data.image(image), self.data.stored(image)
            for k in members:
                self._cut(pixels, stored, *places[k][1:], images[k], masks[k])
        return images, masks

    def _cut(self, pixels: Tensor, stored: Tensor, top: int, left: int, image: Tensor, mask: Tensor) -> None:
        height, width = stored.shape
        if min(top, left) >= 0 and top + self.side <= height and left + self.side <= width:
            image.copy_(pixels[:, top : top + self.side, left : left + self.side])  # much faster than a gather
        else:
            rows, columns = reflected(top, self.side, height), reflected(left, self.side, width)
            image.copy_(pixels.index_select(1, rows).index_select(2, columns))
        first_y, last_y = max(top + self.margin, 0), min(top + self.side - self.margin, height)
        first_x, last_x = max(left + self.margin, 0), min(left + self.side - self.margin, width)
        judged = classes_of(stored[first_y:last_y, first_x:last_x])
        mask[first_y - top : last_y - top, first_x - left : last_x - left] = judged

    def _on_grid(self, index: int) -> tuple[int, int, int]:
        """(image, y, x) of the interior. What the grid has too much is split evenly between both ends."""
        index = range(len(self))[index]  # negative indices, IndexError
        image = bisect_right(self._ends, index)
        height, width = self.data.sizes[image]
        down, across = -(-height // self.interior), -(-width // self.interior)
        row, column = divmod(index - (self._ends[image - 1] if image else 0), across)
        top, left = (height - down * self.interior) // 2, (width - across * self.interior) // 2
        return image, top + row * self.interior, left + column * self.interior

    def _at_random(self, index: int) -> tuple[int, int, int]:
        assert self.number is not None
        epoch, slot = divmod(index, self.number)
        generator = np.random.default_rng([self.seed, epoch, slot])
        image = bisect_right(self._ends, int(generator.integers(self._ends[-1])))
        top, left = (self._draw(generator, side) for side in self.data.sizes[image])
        return image, top, left

    def _draw(self, generator: np.random.Generator, side: int) -> int:
        """Where an interior begins along a side; where the image fits into it, the whole image is in it."""
        spare = side - self.interior
        beyond = max(0, min(self.interior // 4, spare))
        return int(generator.integers(min(0, spare) - beyond, max(0, spare) + beyond + 1))


def reflected(start: int, number: int, side: int) -> Tensor:
    """Indices start, start + 1, ... of a side that is continued by reflection about its outermost pixels.

    >>> reflected(-2, 9, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1, 0]
    """
    period = max(1, 2 * (side - 1))
    at = torch.arange(start, start + number) % period
    return torch.minimum(at, period - at).clamp(max=side - 1)
