"""One image and its mask into the staging folder. No torch: the preparing processes import this and must start fast."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .images import BadImage, decode_mask
from .mask_sources import UNNAMED, MaskItem, Point
from .sources import Item
from .staging import Done, Recipe, prepare_image

UNSET = 2**16 - 1  # staged value of pixels outside the field of view or in a point of unknown class


@dataclass(frozen=True)
class MaskRecipe(Recipe):
    """`labels` of the points, background first; each becomes a disc of `radius` pixels."""

    labels: tuple[str, ...]
    radius: float

    def make(self, item: Item, pixels: Any, root: Path, folder: Path) -> Done:
        """Stage the image, and its mask with the values of the source, counted."""
        assert isinstance(item, MaskItem)
        target = folder / f"{item.id}{self.suffix}"
        done = prepare_image(pixels, target, self)
        if done.reason:
            return done
        try:
            values = self._values(item, root, done.size)
        except BadImage as bad:
            return Done(reason=bad.reason, detail=bad.detail)
        staged_mask(target).parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(staged_mask(target), compress_level=1)
        found, counts = np.unique(values[values != UNSET], return_counts=True)
        counted = {str(value): int(n) for value, n in zip(found, counts, strict=True)}
        return replace(done, mask=hashlib.sha256(values.tobytes()).hexdigest()[:32], values=counted)

    def _values(self, item: MaskItem, root: Path, size: tuple[int, int]) -> np.ndarray:
        if item.points is None:
            values = _read(root / item.truth, size)
        else:
            values = draw_points(item.points, self.labels, self.radius, size)
        if item.field:
            values = np.where(_read(root / item.field, size) == 0, UNSET, values)
        return values.astype(np.uint16)


def staged_mask(image: Path) -> Path:
    """Where the mask of a staged image waits for its classes."""
    return image.parent / "masks" / image.name


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        values = decode_mask(path)
    except BadImage as bad:
        raise BadImage(f"{bad.reason} mask".replace("mask mask", "mask"), f"{path.name}: {bad.detail}") from None
    if values.shape != size:
        (h, w), (height, width) = values.shape, size
        raise BadImage("mask of another size", f"{path.name} has {h}x{w} pixels, the image {height}x{width}")
    if values.min() < 0 or values.max() >= UNSET:
        raise BadImage("mask values", f"{path.name}: expected 0 to {UNSET - 1}, got {values.min()} to {values.max()}")
    return values


def draw_points(points: tuple[Point, ...], labels: tuple[str, ...], radius: float, size: tuple[int, int]) -> np.ndarray:
    """Discs about the points: the index of the label, UNSET where the label is unknown, 0 elsewhere. A pixel belongs to
    the nearest point.

    Raises: BadImage for a point more than a pixel outside the image (hand-made marks and counting from 1 cause less).

    >>> draw_points(((0, 0, "a"), (0, 3, "b")), ("background", "a", "b"), 1, (2, 5))
    array([[1, 1, 2, 2, 2],
           [1, 0, 0, 2, 0]])
    """
    (height, width), reach = size, int(np.ceil(radius))
    values, nearest = np.zeros(size, np.int64), np.full(size, radius**2)
    for y, x, label in points:
        if not (-1 <= y <= height and -1 <= x <= width):
            raise BadImage("point outside the image", f"x={x:g}, y={y:g} of an image of {height}x{width}")
        rows = np.arange(max(0, round(y) - reach), min(height, round(y) + reach + 1))
        columns = np.arange(max(0, round(x) - reach), min(width, round(x) + reach + 1))
        square = np.ix_(rows, columns)
        distance = (rows[:, None] - y) ** 2 + (columns - x) ** 2
        taken = distance <= nearest[square]
        nearest[square] = np.where(taken, distance, nearest[square])
        values[square] = np.where(taken, UNSET if label == UNNAMED else labels.index(label), values[square])
    return values
