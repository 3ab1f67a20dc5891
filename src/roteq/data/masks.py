"""Prepared datasets of images with a class for every pixel, and the points they may have been drawn from."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import RoteqError, UsageError
from .augment import IGNORE as IGNORE
from .dataset import BUDGET, dataset_info, wanted_splits
from .images import BadImage, decode, fit

UNKNOWN = 255  # the same in a prepared file


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One image of a prepared dataset, as index.csv has it."""

    id: str
    image: Path
    mask: Path
    size: tuple[int, int]  # height, width
    group: str | None = None


class MaskDataset:
    """The images of one split and their masks; images may differ in size.

    Decoded pixels are kept while all images and masks together fit into `budget` bytes; larger sets are decoded each
    time. Threads may share a dataset; a copy sent to another process leaves the pixels behind and decodes its own.

    `image(i)` -> uint8 (C, H, W);  `mask(i)` -> int64 (H, W), IGNORE where nothing is known;
    `centres(i)` -> float64 (n, 2) rows (y, x), or None where the dataset has no points
    Raises: RoteqError if a file cannot be decoded or is not of the size that the index says.
    """

    def __init__(
        self,
        rows: Sequence[MaskRow],
        classes: tuple[str, ...],
        channels: Literal[1, 3],
        *,
        points: dict[str, np.ndarray] | None = None,
        budget: int = BUDGET,
    ) -> None:
        if not rows:
            raise UsageError("MaskDataset: expected at least one image, got none")
        if channels not in (1, 3):
            raise UsageError(f"channels: expected 1 (grey) or 3 (RGB), got {channels}")
        self.rows = list(rows)
        self.classes = classes
        self.channels = channels
        self.ids = [row.id for row in rows]
        self.sizes = [row.size for row in rows]
        groups = [row.group for row in rows if row.group is not None]
        self.groups = groups if len(groups) == len(rows) else None
        self._points = points
        self._keep = sum(height * width for height, width in self.sizes) * (channels + 1) <= budget
        self._cache: dict[Path, Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Tensor:
        row = self.rows[index]
        return self._read(row.image, row.size, self.channels)

    def mask(self, index: int) -> Tensor:
        return classes_of(self.stored(index))

    def stored(self, index: int) -> Tensor:
        """The mask as the file has it: uint8 (H, W), UNKNOWN where nothing is known."""
        row = self.rows[index]
        return self._read(row.mask, row.size, 1)[0]

    def centres(self, index: int) -> np.ndarray | None:
        if self._points is None:
            return None
        return self._points.get(self.ids[index], np.zeros((0, 2)))

    def class_counts(self) -> Tensor:
        """Pixels of each class: int64 (K,), one mask in memory at a time."""
        total = torch.zeros(len(self.classes), dtype=torch.long)
        for i in range(len(self)):
            mask = self.mask(i)
            total += torch.bincount(mask[mask != IGNORE], minlength=len(total))
        return total

    def pixel_counts(self) -> Tensor:
        """How often each value occurs in each channel: int64 (C, 256), one image in memory at a time."""
        total = torch.zeros(self.channels, 256, dtype=torch.long)
        for i in range(len(self)):
            total += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in self.image(i)])
        return total

    def _read(self, path: Path, size: tuple[int, int], channels: int) -> Tensor:
        """uint8 (channels, H, W)."""
        if path in self._cache:
            return self._cache[path]
        try:
            picture = fit(decode(path)[0], mode="grey" if channels == 1 else "rgb")
        except BadImage as bad:
            raise RoteqError(f"{path}: {bad}") from None
        if picture.size != size[::-1]:
            raise RoteqError(f"{path}: expected {size[0]}x{size[1]} pixels, got {picture.height}x{picture.width}")
        pixels = torch.from_numpy(np.array(picture).reshape(*size, channels)).permute(2, 0, 1).contiguous()
        if self._keep:
            self._cache[path] = pixels
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}


def classes_of(stored: Tensor) -> Tensor:
    """
    >>> classes_of(torch.tensor([0, 1, 255], dtype=torch.uint8))
    tensor([   0,    1, -100])
    """
    mask = stored.long()
    return mask.masked_fill_(mask == UNKNOWN, IGNORE)


def open_masks(root: str | Path, split: str, channels: int | None = None) -> MaskDataset:
    """One split of a prepared dataset of masks; "train+validation" opens two as one.

    channels 1 or 3 converts; None keeps what the images have.
    Raises: UsageError if the folder is no such dataset, or has no such split.
    """
    root = Path(root)
    info = dataset_info(root)
    if info.kind != "masks":
        raise UsageError(f"{root}: expected a prepared dataset of images and masks, got one of kind {info.kind!r}")
    wanted = wanted_splits(root, split, info.counts)
    with (root / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            MaskRow(
                id=Path(row["path"]).stem,
                image=root / row["path"],
                mask=root / row["mask"],
                size=(int(row["height"]), int(row["width"])),
                group=row["group"] or None,
            )
            for row in csv.DictReader(file)
            if row["split"] in wanted
        ]
    chosen: Any = info.channels if channels is None else channels
    return MaskDataset(rows, info.classes, chosen, points=_points(root / "points.csv"))


def is_masks(root: str | Path) -> bool:
    """Whether `root` is a prepared dataset of images and masks."""
    root = Path(root)
    return (root / "dataset.json").is_file() and dataset_info(root).kind == "masks"


def _points(path: Path) -> dict[str, np.ndarray] | None:
    """id -> (n, 2) rows (y, x)."""
    if not path.is_file():
        return None
    found: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["id"], []).append((float(row["y"]), float(row["x"])))
    return {id: np.array(points) for id, points in found.items()}
