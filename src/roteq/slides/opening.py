"""A whole slide: its levels, its microns per pixel, and any region of it as pixels, in constant memory."""

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import RoteqError, UsageError
from .backends import NotMine, Reader, Undecodable, open_reader

WHITE = 255
BLOCK = 1024  # pixels of a level that are read at once for an overview
SMALLEST = 128  # side of what is given up at once where a tile of the overview does not decode
SAME = 0.02  # a level whose pixels differ by less from those wanted is taken as it is
UNEVEN = 0.05  # a note where the microns along x and y differ by more


class BadRegion(RoteqError):
    """A region of a slide that does not decode; the message names slide, level and place. Others can still be read."""


@dataclass(frozen=True)
class Level:
    """Pixels, and how many pixels of level 0 lie along the side of one."""

    height: int
    width: int
    downsample: float


class Slide:
    """An open slide. `open_slide` is the way to one.

    size: (height, width) of level 0. levels: the finest first. mpp: microns per pixel of level 0, or None where the
    file does not say it. notes: what a reader of results should know about this file.

    It travels to other processes by its path and is opened anew in each, also after a fork. Not for two threads.
    """

    def __init__(self, path: str | Path, *, mpp: float | None = None) -> None:
        if mpp is not None and not 0 < mpp < math.inf:
            raise UsageError(f"mpp: expected microns per pixel of level 0 above 0, got {mpp}")
        self.path, self._given = Path(path), mpp
        self._reader, self._process = open_reader(self.path), os.getpid()
        sizes = self._reader.sizes
        self.size = sizes[0]
        self.levels = tuple(Level(*size, downsample(sizes[0], size)) for size in sizes)
        self.notes: tuple[str, ...] = ()
        self.mpp = mpp
        if mpp is None and self._reader.mpp is not None:
            across, down = self._reader.mpp
            self.mpp = (across + down) / 2
            if abs(across - down) > UNEVEN * self.mpp:
                self.notes = (f"pixels are {across:.4g} x {down:.4g} microns; taken as {self.mpp:.4g} square",)

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3): the region from pixel (y, x) on, in pixels of `level`; white outside the slide.

        Raises: UsageError if there is no such level or the region is empty, BadRegion if it does not decode.
        """
        there = self.level(level)
        if height < 1 or width < 1:
            raise UsageError(f"{self.path}: expected a region of 1 x 1 pixel or more, got {height} x {width}")
        region = np.full((height, width, 3), WHITE, np.uint8)
        top, bottom = max(0, y), min(y + height, there.height)
        left, right = max(0, x), min(x + width, there.width)
        if top >= bottom or left >= right:
            return region
        try:
            found = self._live().read(level, int(top), int(left), int(bottom - top), int(right - left))
        except (Undecodable, NotMine, OSError) as error:
            raise BadRegion(f"{self.path}: level {level}: {error}") from None
        region[top - y : bottom - y, left - x : right - x] = found
        return region

    def level(self, index: int) -> Level:
        """Raises: UsageError if there is none."""
        if not 0 <= index < len(self.levels):
            there = ", ".join(f"{i} ({one.height} x {one.width})" for i, one in enumerate(self.levels))
            raise UsageError(f"{self.path}: has no level {index}; choose from {there}")
        return self.levels[index]

    def thumbnail(self, longest: int) -> np.ndarray:
        """uint8 (h, w, 3): the whole slide, its longer side `longest` pixels, or those of level 0 if it has fewer."""
        return self.overview(longest)[0]

    def overview(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """The thumbnail, and bool (h, w): where it is white because what lies there does not decode.

        The mean over the pixels of the coarsest level that has as many; read in blocks, so memory does not grow.
        """
        if longest < 1:
            raise UsageError(f"thumbnail: expected 1 pixel or more, got {longest}")
        shrink = min(1.0, longest / max(self.size))
        height, width = (max(1, round(side * shrink)) for side in self.size)
        index = max(i for i, one in enumerate(self.levels) if i == 0 or (one.height >= height and one.width >= width))
        level = self.levels[index]
        steps = level.height / height, level.width / width
        side = max(1, int(BLOCK / max(steps)))
        pixels, unread = np.empty((height, width, 3), np.uint8), np.zeros((height, width), bool)
        for top in range(0, height, side):
            for left in range(0, width, side):
                here = slice(top, min(top + side, height)), slice(left, min(left + side, width))
                pixels[here], unread[here] = self._shrunk(index, here, steps)
        return pixels, unread

    def _shrunk(
        self, level: int, here: tuple[slice, slice], steps: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        from PIL import Image

        starts, ends = zip(
            *((at.start * step, at.stop * step) for at, step in zip(here, steps, strict=True)), strict=True
        )
        y, x = (math.floor(start + 1e-6) for start in starts)
        height, width = (max(1, math.ceil(end - 1e-6) - first) for end, first in zip(ends, (y, x), strict=True))
        pixels, unread = self._pieces(level, y, x, height, width)
        box = (max(0.0, starts[1] - x), max(0.0, starts[0] - y), min(ends[1] - x, width), min(ends[0] - y, height))
        size = here[1].stop - here[1].start, here[0].stop - here[0].start
        shrunk, lost = (
            np.array(Image.fromarray(of).resize(size, Image.Resampling.BOX, box))
            for of in (pixels, unread.astype(np.uint8) * 255)
        )
        shrunk[lost > 0] = WHITE
        return shrunk, lost > 0

    def _pieces(self, level: int, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A region, and bool (height, width) where it could not be read: as small a part as finds the bad tile."""
        try:
            return self.read(level, y, x, height, width), np.zeros((height, width), bool)
        except BadRegion:
            pixels, unread = np.full((height, width, 3), WHITE, np.uint8), np.ones((height, width), bool)
            if max(height, width) > SMALLEST:
                for rows in _halves(height):
                    for columns in _halves(width):
                        size = rows.stop - rows.start, columns.stop - columns.start
                        found = self._pieces(level, y + rows.start, x + columns.start, *size)
                        pixels[rows, columns], unread[rows, columns] = found
            return pixels, unread

    def close(self) -> None:
        self._reader.close()

    def _live(self) -> Reader:
        """The reader of this process: a fork shares the place in the file with its parent."""
        if self._process != os.getpid():
            self._reader, self._process = open_reader(self.path), os.getpid()
        return self._reader

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Slide, mpp=self._given), (self.path,)

    def __repr__(self) -> str:
        return f"open_slide({str(self.path)!r}, mpp={self.mpp})"


def open_slide(path: str | Path, *, mpp: float | None = None) -> Slide:
    """Open a slide: .svs, .ndpi, .mrxs and the other formats of openslide, pyramidal TIFF, OME-TIFF.

    mpp: microns per pixel of level 0, where the file does not say it or is wrong. Needs `pip install 'roteq[slides]'`.
    Raises: RoteqError if there is no such file, it is no slide, is truncated, is not in 8-bit grey or RGB, or its tiles
    are too large to be read one by one; UsageError if mpp is not above 0.
    """
    return Slide(path, mpp=mpp)


def choose_level(slide: Slide, mpp: float) -> tuple[int, float]:
    """(level, factor): the coarsest level that is still as fine as `mpp`, or the finest there is, and how many of its
    pixels lie along the side of a pixel wanted: what is read is resized by 1 / factor. Within 2 % factor is 1.

    Raises: UsageError if mpp is not above 0, or the slide does not say how wide its pixels are.
    """
    if not 0 < mpp < math.inf:
        raise UsageError(f"mpp: expected microns per pixel above 0, got {mpp}")
    if slide.mpp is None:
        raise UsageError(
            f"{slide.path}: does not say how many microns a pixel is wide; give --slide-mpp, such as --slide-mpp 0.25 "
            "for a scan at 40x, 0.5 at 20x"
        )
    widths = [slide.mpp * level.downsample for level in slide.levels]
    level = max((i for i, width in enumerate(widths) if width <= mpp * (1 + SAME)), default=0)
    factor = mpp / widths[level]
    return level, 1.0 if abs(factor - 1) <= SAME else factor


def downsample(finest: tuple[int, int], size: tuple[int, int]) -> float:
    """Pixels of the finest level along the side of one of a level of `size`. Levels lose the rest of a division, so a
    whole number is taken where both sides are that of one.

    >>> downsample((3567, 4443), (1783, 2221))
    2.0
    >>> round(downsample((3000, 3000), (2000, 2000)), 3)
    1.5
    """
    ratio = sum(whole / side for whole, side in zip(finest, size, strict=True)) / 2
    near = max(1, round(ratio))
    return float(near) if all(abs(f / near - s) < 1 for f, s in zip(finest, size, strict=True)) else ratio


def _halves(n: int) -> list[slice]:
    return [slice(0, n // 2), slice(n // 2, n)] if n > 1 else [slice(0, 1)]
