"""Where a slide is read and where the answers go: pixels of a level, pixels of the network, cells of the map.

The map covers the slide from its upper left corner; the slide is white all around, so every tile is alike.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..nn.geometry import Geometry
from .reading import Scale


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` pixels; each has `cells` x `cells` cells of `stride` pixels, which begin `margin` pixels inside.

    A cell is the mean of `pool` x `pool` answers; `drop` answers on each side see beyond the tile and are not used.
    """

    side: int
    margin: int
    drop: int
    pool: int
    cells: int
    stride: int

    @property
    def step(self) -> int:
        """Pixels from a tile to the next."""
        return self.cells * self.stride


def tiling(geometry: Geometry, tile: int, pool: int) -> Tiling:
    """Tiles of about `tile` pixels whose cells are those of one pass over a white-framed slide: their answers see no
    border of the tile, and they lie a multiple of the network's grid apart.

    >>> tiling(Geometry(window=96, stride=16), 512, 1)
    Tiling(side=512, margin=40, drop=0, pool=1, cells=27, stride=16)
    >>> tiling(Geometry(window=53, stride=1, padding=26, grid=4), 512, 4)
    Tiling(side=512, margin=28, drop=28, pool=4, cells=114, stride=4)
    """
    stride = geometry.stride * pool
    drop = -(-geometry.padding // geometry.stride)
    if geometry.padding:
        drop = -(-drop * geometry.stride // geometry.grid) * geometry.grid // geometry.stride

    def side(cells: int) -> int:
        return (2 * drop + cells * pool - 1) * geometry.stride + geometry.window - 2 * geometry.padding

    unit = math.lcm(geometry.grid, stride) // stride  # cells that keep the grid
    room = (tile - side(0)) // stride
    cells = max(unit, room - room % unit)
    return Tiling(side(cells), geometry.begin + drop * geometry.stride, drop, pool, cells, stride)


@dataclass(frozen=True)
class Plan:
    """The tiles of a slide that touch tissue."""

    scale: Scale
    tiling: Tiling
    map_size: tuple[int, int]  # cells
    tissue: np.ndarray  # bool (h, w), over the whole slide
    tissue_step: float  # pixels of level 0 per pixel of `tissue`
    tiles: tuple[tuple[int, int], ...]  # (row, column) in units of a tile

    @property
    def downsample(self) -> float:
        """Pixels of level 0 along a side of a cell."""
        return self.tiling.stride * self.scale.downsample

    def corner(self, tile: tuple[int, int]) -> tuple[int, int]:
        """The first pixel (y, x) to read, of the network's pixels."""
        return tile[0] * self.tiling.step - self.tiling.margin, tile[1] * self.tiling.step - self.tiling.margin

    def place(self, tile: tuple[int, int]) -> tuple[slice, slice]:
        """The cells of the map."""
        n = self.tiling.cells
        rows, columns = (slice(i * n, min((i + 1) * n, end)) for i, end in zip(tile, self.map_size, strict=True))
        return rows, columns

    def wanted(self, tile: tuple[int, int]) -> np.ndarray:
        """bool (cells, cells): whose middle is tissue."""
        n = self.tiling.cells
        found = np.zeros((n, n), bool)
        rows, columns = self.place(tile)
        ys, xs = (self._at(span, side) for span, side in zip((rows, columns), self.tissue.shape, strict=True))
        found[: len(ys), : len(xs)] = self.tissue[np.ix_(ys, xs)]
        return found

    def _at(self, cells: slice, side: int) -> np.ndarray:
        middles = (np.arange(cells.start, cells.stop) + 0.5) * self.downsample / self.tissue_step
        return np.minimum(middles.astype(int), side - 1)

    def bands(self) -> Iterator[np.ndarray]:
        """The tissue of the map's cells, a row of tiles at a time."""
        height, width = self.map_size
        xs = self._at(slice(0, width), self.tissue.shape[1])
        for start in range(0, height, self.tiling.cells):
            ys = self._at(slice(start, min(start + self.tiling.cells, height)), self.tissue.shape[0])
            yield self.tissue[np.ix_(ys, xs)]


def make_plan(size: tuple[int, int], scale: Scale, shape: Tiling, tissue: np.ndarray, tissue_step: float) -> Plan:
    """size: height and width of level 0."""
    height, width = (max(1, math.ceil(side / scale.downsample / shape.stride - 1e-9)) for side in size)
    plan = Plan(scale, shape, (height, width), tissue, tissue_step, ())
    starts = np.arange(0, width, shape.cells)
    tiles = [
        (row, int(column))
        for row, band in enumerate(plan.bands())
        for column in np.flatnonzero(np.logical_or.reduceat(band.any(0), starts))
    ]
    return Plan(scale, shape, (height, width), tissue, tissue_step, tuple(tiles))
