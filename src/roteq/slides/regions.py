"""Connected regions above a threshold, outlined: polygons with holes in pixels of level 0, as QuPath reads them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from ..files import write_text
from .heatmap import value_of

MOST = 10_000  # regions of a class that are outlined, the largest ones
Ring = list[tuple[float, float]]  # (x, y), the first again at the end


@dataclass(frozen=True)
class Region:
    """Cells that touch each other side by side. `polygons`: of each its outline and its holes, in pixels of level 0."""

    name: str
    colour: str
    polygons: list[list[Ring]]
    area: float  # mm2, of the cells
    probability: float  # their mean


def find_regions(
    values: np.ndarray,
    threshold: float,
    *,
    name: str,
    colour: str,
    downsample: float,
    size: tuple[int, int],
    mpp: float,
) -> tuple[list[Region], int]:
    """The regions of one class, the largest first, at most MOST of them; and how many there are.

    values: uint8 (h, w) as in a map, cells of `downsample` pixels of level 0; size: of level 0; mpp: of level 0.
    Outlines run between the middles of cells, where linear interpolation passes the threshold; unknown counts as 0.
    """
    from scipy import ndimage

    least = value_of(threshold)
    labels, number = ndimage.label(values >= least)
    if not number:
        return [], 0
    counts = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    sums = np.bincount(labels.ravel(), values.ravel(), minlength=number + 1)[1:]
    cell = (downsample * mpp / 1000) ** 2
    boxes = ndimage.find_objects(labels)
    found = []
    for i in np.argsort(-counts, kind="stable")[:MOST]:
        rows, columns = (slice(max(0, part.start - 1), part.stop + 1) for part in boxes[i])
        own = labels[rows, columns]
        others = (own != i + 1) & (own != 0)
        polygons = outlines(np.where(others, 0, values[rows, columns]), least - 0.5)
        offset = columns.start, rows.start
        found.append(
            Region(
                name,
                colour,
                [[_placed(ring, offset, downsample, size) for ring in polygon] for polygon in polygons],
                float(counts[i] * cell),
                float((sums[i] / counts[i] - 1) / 254),
            )
        )
    return found, int(number)


def outlines(values: np.ndarray, level: float) -> list[list[np.ndarray]]:
    """Polygons about what lies above the level: outline and holes, each (n, 2) of (x, y), cells at whole numbers.

    >>> [[len(ring) for ring in polygon] for polygon in outlines(np.array([[9, 9, 9], [9, 0, 9], [9, 9, 9]]), 5)]
    [[13, 5]]
    """
    from contourpy import FillType, contour_generator

    framed = np.pad(values.astype(float), 1)
    filled: Any = contour_generator(z=framed, fill_type=FillType.OuterOffset).filled(level, np.inf)
    return [[part[start:end] - 1 for start, end in pairwise(starts)] for part, starts in zip(*filled, strict=True)]


def _placed(ring: np.ndarray, offset: tuple[int, int], downsample: float, size: tuple[int, int]) -> Ring:
    """To pixels of level 0, whose corner is 0: the middle of cell i lies at (i + 0.5) * downsample."""
    xy = np.clip((ring + offset + 0.5) * downsample, 0, (size[1], size[0]))
    return [(x, y) for x, y in np.round(xy, 2).tolist()]


def write_geojson(regions: list[Region], path: Path) -> None:
    """A FeatureCollection of annotations. Ids are a function of the content."""
    write_text(path, "".join(_lines(regions)))


def _lines(regions: list[Region]) -> Iterator[str]:
    import json

    yield '{"type": "FeatureCollection", "features": ['
    for i, region in enumerate(regions):
        yield ("," if i else "") + "\n" + json.dumps(_feature(region, i))
    yield "\n]}\n"


def _feature(region: Region, number: int) -> dict[str, Any]:
    single = len(region.polygons) == 1
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, f"roteq {number} {region}")),
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": region.polygons[0] if single else region.polygons,
        },
        "properties": {
            "objectType": "annotation",
            "classification": {"name": region.name, "color": [int(region.colour[k : k + 2], 16) for k in (1, 3, 5)]},
            "measurements": {"Area mm^2": round(region.area, 6), "Mean probability": round(region.probability, 4)},
        },
    }
