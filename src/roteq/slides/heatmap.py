"""The map on disk, its pyramid, and what is drawn from it without ever holding it whole.

A cell is one byte a class: 0 unknown, else 1 + 254 times the probability, rounded. That is precise to 0.002, it is what
viewers of slides show, and what was never written is a hole in the file that reads as unknown.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_path

UNKNOWN = 0
MEANING = "0: unknown; 1 to 255: probability (value - 1) / 254"
SIDE = 256  # of the tiles of a pyramid, and rows at a time
SMALLEST = 512  # the longest side of the last level


def probability(values: np.ndarray) -> np.ndarray:
    """float32, NaN where unknown.

    >>> probability(np.array([0, 1, 128, 255], np.uint8)).tolist()
    [nan, 0.0, 0.5, 1.0]
    """
    return np.where(values == UNKNOWN, np.float32(np.nan), (values.astype(np.float32) - 1) / 254)


def value_of(threshold: float) -> int:
    """The smallest value whose probability is at least the threshold.

    >>> value_of(0.5)
    128
    """
    return int(np.ceil(threshold * 254 - 1e-9)) + 1


class Map:
    """uint8 (C, h, w) in a file without a head. It is mapped into memory for each access only, so that what was touched
    does not stay."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self.shape = path, shape

    def create(self) -> "Map":
        """All unknown, and no space taken."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as file:
            file.truncate(int(np.prod(self.shape, dtype=np.int64)))
        return self

    def write(self, place: tuple[slice, slice], block: np.ndarray) -> None:
        """block: (C, n, n), cut off at the border of the map."""
        rows, columns = place
        cut = block[:, : rows.stop - rows.start, : columns.stop - columns.start]
        np.memmap(self.path, np.uint8, "r+", shape=self.shape)[:, rows, columns] = cut

    def read(self, channels: int | slice, rows: slice, columns: slice) -> np.ndarray:
        return np.array(np.memmap(self.path, np.uint8, "r", shape=self.shape)[channels, rows, columns])

    def whole(self) -> np.ndarray:
        return self.read(slice(None), slice(None), slice(None))

    def bands(self, height: int = SIDE) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, (C, height, w)) from top to bottom."""
        for start in range(0, self.shape[1], height):
            yield start, self.read(slice(None), slice(start, start + height), slice(None))

    def sync(self) -> None:
        import os

        with self.path.open("r+b") as file:
            os.fsync(file.fileno())

    def histogram(self) -> np.ndarray:
        """(C, 256) cells of each value."""
        counts = np.zeros((self.shape[0], 256), np.int64)
        for _, band in self.bands():
            for channel, values in enumerate(band):
                counts[channel] += np.bincount(values.ravel(), minlength=256)
        return counts


def pyramid(base: Map, folder: Path) -> list[Map]:
    """The map and its halves, down to SMALLEST: each cell the mean of the known ones of four."""
    levels = [base]
    while max(levels[-1].shape[1:]) > SMALLEST:
        above = levels[-1]
        channels, height, width = above.shape
        below = Map(folder / f"level{len(levels)}.u8", (channels, -(-height // 2), -(-width // 2))).create()
        for start, band in above.bands(2 * SIDE):
            small = halve(band)
            below.write((slice(start // 2, start // 2 + small.shape[1]), slice(0, small.shape[2])), small)
        levels.append(below)
    return levels


def halve(values: np.ndarray) -> np.ndarray:
    """(C, h, w) -> (C, ceil(h/2), ceil(w/2)), the mean of the known of each four.

    >>> halve(np.array([[[0, 101, 0], [103, 0, 0]]], np.uint8)).tolist()
    [[[102, 0]]]
    """
    channels, height, width = values.shape
    even = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)))
    if not even.any():
        return np.zeros((channels, even.shape[1] // 2, even.shape[2] // 2), np.uint8)
    fours = even.reshape(channels, even.shape[1] // 2, 2, even.shape[2] // 2, 2)
    sums, known = fours.sum((2, 4), dtype=np.uint16), (fours > 0).sum((2, 4), dtype=np.uint16)
    return ((sums + known // 2) // np.maximum(known, 1)).astype(np.uint8)


def write_pyramid(
    levels: list[Map], path: Path, *, names: list[str], colours: list[str], microns: float, about: str
) -> None:
    """A pyramidal OME-TIFF, one channel a class; `microns`: the width of a cell."""
    import tifffile

    def tiles(level: Map) -> Iterator[np.ndarray]:
        channels, height, width = level.shape
        for channel in range(channels):
            for top in range(0, height, SIDE):
                band = level.read(channel, slice(top, top + SIDE), slice(None))
                band = np.pad(band, ((0, SIDE - len(band)), (0, -width % SIDE)))
                for left in range(0, width, SIDE):
                    yield np.ascontiguousarray(band[:, left : left + SIDE])

    options: dict[str, Any] = {"tile": (SIDE, SIDE), "compression": "zlib", "photometric": "minisblack"}
    metadata = {
        "axes": "CYX",
        "Name": path.name.removesuffix(".ome.tif"),
        "Description": about,
        "PhysicalSizeX": microns,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": microns,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": names, "Color": [signed_rgba(colour) for colour in colours]},
    }
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as tif:
        for i, level in enumerate(levels):
            per_centimetre = 1e4 / (microns * 2**i)
            extra = {"subifds": len(levels) - 1, "metadata": metadata} if i == 0 else {"subfiletype": 1}
            tif.write(
                tiles(level),
                shape=level.shape,
                dtype=np.uint8,
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
                **options,
                **extra,
            )


def signed_rgba(colour: str) -> int:
    """As OME writes a colour.

    >>> signed_rgba("#ff0000")
    -16776961
    """
    value = int(colour.removeprefix("#") + "ff", 16)
    return value - 2**32 if value >= 2**31 else value
