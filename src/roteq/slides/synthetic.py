"""A synthetic H&E slide of any size, for tests and for those without one: islands of tissue, some with a tumour.

Every pixel is a formula of its place, so any tile of any level can be made alone. The texture repeats every PERIOD
pixels; a level is the mean of the texture, which is periodic too. A tile inside one texture is therefore one of a few
and encoded once, a tile of glass is not stored at all, and only tiles on an outline are drawn: a slide of 100,000 x
100,000 pixels takes seconds. As in `roteq.data.synthetic`, nuclei are straight or round in normal tissue and crescents
in tumour.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..data.synthetic import GRADE, MOST_BEND, NORMAL_BEND, REACH, SPREAD, draw_stain, smooth_noise
from ..errors import RoteqError, UsageError
from ..files import atomic_path

TILE = 256
PERIOD = 1024  # pixels after which the texture repeats
STEP = 4  # from a level to the next
SMALLEST = 2048  # the longest side of the last level
MOST_TISSUE = 0.4
WAVES = (2, 3, 4, 5)  # of an outline
WAVINESS = 0.05  # of each, at most: a share of the radius
STEEP = 1.5  # bound of the slope of `Blob.beyond` near its outline
ACROSS, MOST = 2, 40  # islands along the shorter side; and the longer one, at most
QUALITY = 75  # of JPEG
NODATA = (42113, "s", 0, "255", True)  # what lies in tiles that are not stored, for readers that ask GDAL's tag
GLASS, TISSUE, TUMOUR, MIXED = range(4)


@dataclass(frozen=True)
class Blob:
    """A wavy disc, in pixels of level 0."""

    y: float
    x: float
    radius: float
    waves: tuple[tuple[float, float], ...]  # amplitude and phase of each

    def reach(self, angle: np.ndarray) -> np.ndarray:
        found = np.ones(angle.shape)
        for count, (size, phase) in zip(WAVES, self.waves, strict=True):
            found += size * np.cos(count * angle + phase)
        return self.radius * found

    def beyond(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """About the distance to the outline, negative inside."""
        dy, dx = y - self.y, x - self.x
        return np.hypot(dy, dx) - self.reach(np.arctan2(dy, dx))

    def polygon(self, corners: int = 180) -> np.ndarray:
        """float64 (corners, 2): (y, x)."""
        angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        reach = self.reach(angle)
        return np.stack([self.y + reach * np.sin(angle), self.x + reach * np.cos(angle)], 1)


@dataclass(frozen=True)
class SyntheticSlide:
    """What lies where. `tissue` and `tumour`: their outlines; a tumour lies inside an island."""

    size: tuple[int, int]
    seed: int
    tissue: tuple[Blob, ...]
    tumour: tuple[Blob, ...]

    @property
    def downsamples(self) -> list[int]:
        """Of the levels."""
        found = [1]
        while max(self.size) // found[-1] >= SMALLEST and min(self.size) // found[-1] >= STEP and found[-1] < PERIOD:
            found.append(found[-1] * STEP)
        return found

    def truth(self, downsample: float) -> np.ndarray:
        """uint8 (h, w): 0 glass, 1 normal tissue, 2 tumour at the middle of each pixel of `downsample` pixels.

        >>> truth = plan_slide((4000, 4000), tissue=0.3).truth(40)
        >>> truth.shape, round(float((truth > 0).mean()), 2)
        ((100, 100), 0.3)
        """
        rows, columns = (np.arange(math.ceil(side / downsample)) for side in self.size)
        tissue, tumour = (cover > 0.5 for cover in self._cover(rows, columns, downsample))
        return np.where(tumour, TUMOUR, np.where(tissue, TISSUE, GLASS)).astype(np.uint8)

    def tile(self, downsample: int, row: int, column: int) -> np.ndarray:
        """uint8 (TILE, TILE, 3) of the level of that downsample."""
        rows, columns = (at * TILE + np.arange(TILE) for at in (row, column))
        tissue, tumour = (cover[..., None] for cover in self._cover(rows, columns, downsample))
        normal, tumoral = (
            texture[np.ix_(rows % len(texture), columns % len(texture))] for texture in textures(self.seed, downsample)
        )
        inside = normal + tumour * (tumoral - normal)
        return np.rint(255 + tissue * (inside - 255)).astype(np.uint8)

    def _cover(self, rows: np.ndarray, columns: np.ndarray, downsample: float) -> tuple[np.ndarray, np.ndarray]:
        """float32 (len(rows), len(columns)), twice: how much of each pixel is tissue, and tumour."""
        y, x = (((at + 0.5) * downsample - 0.5).astype(np.float64) for at in (rows, columns))
        found = []
        for blobs in (self.tissue, self.tumour):
            cover = np.zeros((len(y), len(x)), np.float32)
            for blob in blobs:
                far = blob.radius * (1 + WAVINESS * len(WAVES)) + downsample
                ys, xs = (np.flatnonzero(abs(at - middle) <= far) for at, middle in ((y, blob.y), (x, blob.x)))
                if len(ys) and len(xs):
                    here = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
                    part = np.clip(0.5 - blob.beyond(y[here[0], None], x[None, here[1]]) / downsample, 0, 1)
                    cover[here] = np.maximum(cover[here], part)
            found.append(cover)
        return found[0], found[1]

    def kinds(self, downsample: int) -> np.ndarray:
        """uint8 (rows, columns): what each tile of a level holds: GLASS, TISSUE, TUMOUR, or MIXED."""
        side = TILE * downsample
        height, width = (-(-(whole // downsample) // TILE) for whole in self.size)
        y, x = ((np.arange(n)[shape] + 0.5) * side for n, shape in ((height, np.s_[:, None]), (width, np.s_[None])))
        found = np.full((height, width), GLASS, np.uint8)
        for kind, blobs in ((TISSUE, self.tissue), (TUMOUR, self.tumour)):
            for blob in blobs:
                radius = side * math.sqrt(0.5) + downsample
                beyond = blob.beyond(y, x)
                if radius < 0.2 * blob.radius:
                    near = abs(beyond) <= STEEP * radius
                else:  # small beside a tile: between the circles inside and around it
                    wavy = WAVINESS * len(WAVES) * blob.radius + radius
                    near = abs(np.hypot(y - blob.y, x - blob.x) - blob.radius) <= wavy
                found[beyond < 0] = kind
                found[near] = MIXED
        return found

    def tiles(self, downsample: int) -> Iterator[bytes]:
        """JPEG of every tile of a level, row by row; nothing for glass."""
        from imagecodecs import jpeg_encode

        repeats: dict[tuple[int, int, int], bytes] = {}
        around = max(1, PERIOD // downsample // TILE)  # tiles after which they repeat
        kinds = self.kinds(downsample)
        for row, column in np.ndindex(kinds.shape):
            kind = int(kinds[row, column])
            key = kind, row % around, column % around
            if kind == GLASS:
                yield b""
            elif key in repeats:
                yield repeats[key]
            else:
                found = bytes(jpeg_encode(self.tile(downsample, row, column), level=QUALITY, subsampling="420"))
                if kind != MIXED:
                    repeats[key] = found
                yield found


def plan_slide(size: tuple[int, int], *, seed: int = 0, tissue: float = 0.3) -> SyntheticSlide:
    """Where islands and tumours lie; `write_slide` writes it. Raises: UsageError as it does."""
    if min(size) < 1:
        raise UsageError(f"synthetic slide: size: expected 1 x 1 pixel or more, got {size[0]} x {size[1]}")
    if not 0 <= tissue <= MOST_TISSUE:
        raise UsageError(f"synthetic slide: tissue: expected a share from 0 to {MOST_TISSUE}, got {tissue}")
    rng = np.random.default_rng([seed, 3])
    down, across = (min(MOST, max(ACROSS, round(ACROSS * side / min(size)))) for side in size)
    cell = size[0] / down, size[1] / across
    wavy = 1 + WAVINESS * len(WAVES)
    radius = min(math.sqrt(tissue * cell[0] * cell[1] / math.pi), min(cell) / 2 / wavy)
    room = [side / 2 - radius * wavy for side in cell]
    islands, tumours = [], []
    for i, (row, column) in enumerate(np.ndindex(down, across)):
        at = [(k + 0.5) * side for k, side in zip((row, column), cell, strict=True)]
        y, x = (middle + free * rng.uniform(-1, 1) for middle, free in zip(at, room, strict=True))
        islands.append(_blob(rng, y, x, radius))
        turn = rng.uniform(0, 2 * np.pi)
        if i % 2 == 0:
            tumours.append(_blob(rng, y + 0.2 * radius * np.sin(turn), x + 0.2 * radius * np.cos(turn), radius / 2))
    some = radius > 0
    return SyntheticSlide(
        (int(size[0]), int(size[1])), seed, tuple(islands) if some else (), tuple(tumours) if some else ()
    )


def _blob(rng: np.random.Generator, y: float, x: float, radius: float) -> Blob:
    waves = tuple((float(rng.uniform(0, WAVINESS)), float(rng.uniform(0, 2 * np.pi))) for _ in WAVES)
    return Blob(float(y), float(x), radius, waves)


def write_slide(
    path: str | Path, size: tuple[int, int], *, mpp: float = 0.5, seed: int = 0, tissue: float = 0.3
) -> SyntheticSlide:
    """Write a pyramidal TIFF with JPEG tiles, tile by tile in constant memory, and return what lies where in it.

    size: (height, width). mpp: microns per pixel, in the resolution tags. tissue: the share of the area, 0 for an empty
    slide; less where a long strip has no room for it. About half the islands have a tumour. The same arguments give
    the same pixels. Tiles of glass are left out of the file: readers of slides show them white. Tissue takes about
    20 kB for each 256 x 256 pixels.

    Raises: UsageError if an argument is out of range, RoteqError if the file cannot be written or the extra is missing.
    """
    try:
        import imagecodecs  # noqa: F401
        from tifffile import TiffWriter
    except ImportError as error:
        raise RoteqError(f"{path}: a synthetic slide needs {error.name}: pip install 'roteq[slides]'") from None
    if not 0 < mpp < math.inf:
        raise UsageError(f"synthetic slide: mpp: expected microns per pixel above 0, got {mpp}")
    slide = plan_slide(size, seed=seed, tissue=tissue)
    with atomic_path(path) as temporary, TiffWriter(temporary, bigtiff=True) as file:
        for downsample in slide.downsamples:
            file.write(
                slide.tiles(downsample),
                shape=(slide.size[0] // downsample, slide.size[1] // downsample, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                subsampling=(2, 2),
                subfiletype=int(downsample > 1),
                resolution=(1e4 / mpp / downsample, 1e4 / mpp / downsample),
                resolutionunit="CENTIMETER",
                metadata=None,
                extratags=[NODATA],
            )
    return slide


@lru_cache(8)
def textures(seed: int, downsample: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal tissue and tumour, each float32 (PERIOD / downsample, the same, 3), 0 to 255, periodic."""
    if downsample == 1:
        rng = np.random.default_rng([seed, 4])
        stain, fibres = draw_stain(rng).vectors, smooth_noise(rng, PERIOD, 40.0)
        normal, tumour = (_texture(rng, kind, fibres) @ stain for kind in (TISSUE, TUMOUR))
        return 255 * np.exp(-normal), 255 * np.exp(-tumour)
    side, step = PERIOD // downsample, STEP
    normal, tumour = (of.reshape(side, step, side, step, 3).mean((1, 3)) for of in textures(seed, downsample // step))
    return normal, tumour


def _texture(rng: np.random.Generator, kind: int, fibres: np.ndarray) -> np.ndarray:
    """float32 (PERIOD, PERIOD, 2): haematoxylin and eosin. Nuclei lie along the fibres, one in each cell of a grid."""
    cells = PERIOD // (14 if kind == TISSUE else 12)
    grid = np.indices((cells, cells)).reshape(2, -1).T
    places = (grid + rng.uniform(0.05, 0.95, grid.shape)) * (PERIOD / cells)
    places = places[rng.uniform(0, 1, len(places)) < 0.8]
    n, whole = len(places), places.astype(int) % PERIOD
    grade = rng.uniform(1.2, GRADE[1]) + SPREAD * rng.standard_normal(n)
    bend = NORMAL_BEND * rng.standard_normal(n) if kind == TISSUE else grade * rng.choice([-1, 1], n)
    area, ratio = rng.uniform(18, 30, n), rng.uniform(1.1, 2.4, n)
    turn = 2 * fibres[whole[:, 0], whole[:, 1]] + rng.normal(0, 0.35, n)
    steps = np.arange(-REACH, REACH + 1)
    rows, columns = whole[:, 0, None, None] + steps[:, None], whole[:, 1, None, None] + steps  # (n, w, 1), (n, 1, w)
    c, s, long, short, bend = (
        of.astype(np.float32)[:, None, None]
        for of in (
            np.cos(turn),
            np.sin(turn),
            np.sqrt(area * ratio),
            np.sqrt(area / ratio),
            np.clip(bend, -MOST_BEND, MOST_BEND),
        )
    )
    dy, dx = (
        (at - middle[:, None, None]).astype(np.float32)
        for at, middle in ((rows, places[:, 0]), (columns, places[:, 1]))
    )
    p, q = (c * dx + s * dy) / long, (c * dy - s * dx) / short
    level = np.hypot(p, q - bend * (p**2 - np.float32(0.25)))  # 1 on the outline
    body = np.clip((np.float32(1.06) - level) * 4, 0, 1) * rng.uniform(0.7, 1.1, n).astype(np.float32)[:, None, None]
    dye = body * (np.float32(0.75) + np.float32(0.3) * np.clip(1 - abs(level - np.float32(0.88)) * 5, 0, 1))
    nuclei = np.zeros(PERIOD**2, np.float32)
    np.maximum.at(nuclei, (rows % PERIOD * PERIOD + columns % PERIOD).ravel(), dye.ravel())
    blue = nuclei.reshape(PERIOD, PERIOD)
    eosin = np.clip(0.75 + 0.2 * smooth_noise(rng, PERIOD, 2.0) + 0.1 * smooth_noise(rng, PERIOD, 12.0), 0.15, None)
    return np.stack([np.maximum(blue, 0.08 * eosin), eosin * (1 - 0.5 * blue)], -1)
