"""Prepared datasets and plain image folders as torch datasets of uint8 pixels."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import RoteqError, UsageError, nearest
from ..files import load_json
from ..results import DatasetInfo
from .images import BadImage, decode, fit, is_image, read_header
from .sources import Source, read_folder, unique_ids

BUDGET = 2 * 2**30  # bytes of decoded pixels that are kept


class PatchDataset(Dataset[tuple[Tensor, int]]):
    """Images of one size and channel count, decoded when first asked for.

    Decoded pixels stay in one uint8 tensor while the whole set fits into `budget` bytes; larger sets are decoded
    each time. Threads may share a dataset; a copy sent to another process leaves the pixels behind and decodes its own.
    The label of an unlabelled image is -1.

    `dataset[i]` -> (uint8 (C, H, W), label);  `dataset.images(indices)` -> uint8 (B, C, H, W)
    A DataLoader gets whole batches from `__getitems__`: give it collate_fn=batch_collate.
    Raises: RoteqError if an image cannot be decoded or differs in size (crop cuts the centre square, so that pictures
    of several sizes can be read).
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int] | None = None,
        *,
        classes: tuple[str, ...] = (),
        groups: list[str] | None = None,
        ids: list[str] | None = None,
        channels: int | None = None,
        crop: int | None = None,
        budget: int = BUDGET,
    ) -> None:
        if not paths:
            raise UsageError("PatchDataset: expected at least one image, got none")
        if channels not in (None, 1, 3):
            raise UsageError(f"channels: expected 1 (grey) or 3 (RGB), got {channels}")
        self.paths = [str(path) for path in paths]
        self.classes = classes
        self.labels = None if labels is None else torch.tensor(labels, dtype=torch.long)
        self.groups = groups
        self.ids = ids if ids is not None else unique_ids([Path(path) for path in self.paths])
        self.crop = crop
        self.size, found = _header(self.paths[0])
        self.channels = found if channels is None else channels
        if crop is not None:
            self.size = (crop, crop)
        pixels = self.channels * self.size[0] * self.size[1]
        self._keep = len(self.paths) * pixels <= budget
        self._cache: Tensor | None = None
        self._cached = torch.zeros(0, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(len(self))[index]  # negative indices, IndexError
        return self.images([index])[0], -1 if self.labels is None else int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        at = torch.as_tensor(indices)
        labels = torch.full((len(at),), -1) if self.labels is None else self.labels[at]
        return self.images(at), labels

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Pixels of these images: uint8 (B, C, H, W)."""
        at = torch.as_tensor(indices, dtype=torch.long)
        if not self._keep:
            return self._decode_all(at.tolist())
        if self._cache is None:  # a race only allocates twice; the pages of an untouched tensor cost nothing
            self._cached = torch.zeros(len(self), dtype=torch.bool)
            self._cache = torch.empty((len(self), self.channels, *self.size), dtype=torch.uint8)
        cache, cached = self._cache, self._cached
        new = at[~cached[at]].unique()
        if len(new):
            cache[new] = self._decode_all(new.tolist())
            cached[new] = True  # after the pixels: another thread may look
        return cache[at]

    def _decode_all(self, indices: list[int]) -> Tensor:
        if len(indices) < 16:
            arrays = [self._decode(i) for i in indices]
        else:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter lock
                arrays = list(pool.map(self._decode, indices))
        if not arrays:
            return torch.empty((0, self.channels, *self.size), dtype=torch.uint8)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def _decode(self, index: int) -> np.ndarray:
        path = self.paths[index]
        try:
            image, _ = decode(path)
            image = fit(image, crop=self.crop, mode="grey" if self.channels == 1 else "rgb")
        except BadImage as bad:
            raise RoteqError(f"{path}: {bad}") from None
        height, width = self.size
        if image.size != (width, height):
            raise RoteqError(
                f"{path}: expected {height}x{width} pixels like {self.paths[0]}, got {image.height}x{image.width}; "
                "prepare the images with a crop or a size"
            )
        return np.asarray(image).reshape(height, width, self.channels)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None, "_cached": torch.zeros(0, dtype=torch.bool)}


def batch_collate(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Pass on what `PatchDataset.__getitems__` has already put together."""
    return batch


def open_split(root: str | Path, split: str, *, channels: int | None = None) -> PatchDataset:
    """One split of a prepared dataset or of a plain tree {train,validation,test}/<class>/*.png; "all" opens a tree
    of class folders without splits, "train+validation" two splits as one.

    channels 1 or 3 converts; None keeps what the images have.
    Raises: UsageError naming the splits there are.
    """
    root = Path(root)
    if not (root / "dataset.json").is_file():
        return _open_tree(root, split, channels)
    info = dataset_info(root)
    if info.kind == "masks":
        raise UsageError(f"{root}: expected patches with one label each, got images with masks; train a dense network")
    wanted = wanted_splits(root, split, info.counts)
    with (root / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in wanted]
    number = {name: i for i, name in enumerate(info.classes)}
    groups = [row["group"] for row in rows]
    return PatchDataset(
        [root / row["path"] for row in rows],
        [number[row["label"]] for row in rows],
        classes=info.classes,
        groups=groups if all(groups) else None,
        ids=[Path(row["path"]).stem for row in rows],
        channels=info.channels if channels is None else channels,
    )


def contents(root: str | Path, split: str) -> list[str]:
    """A hash of the pixels of every image of a split: of the source, where prepare wrote it down, or decoded now."""
    root = Path(root)
    if (root / "dataset.json").is_file():
        with (root / "index.csv").open(newline="", encoding="utf-8") as file:
            return [row["pixels"] for row in csv.DictReader(file) if row["split"] in split.split("+")]
    data = open_split(root, split)
    return [hashlib.sha256(data.images([i]).numpy().tobytes()).hexdigest() for i in range(len(data))]


def wanted_splits(root: Path, split: str, known: Iterable[str]) -> list[str]:
    """The names in "train+validation". Raises: UsageError naming the splits there are."""
    wanted = split.split("+")
    for name in wanted:
        if name not in known:
            raise UsageError(f"{root}: no split {name!r}; {nearest(name, known)}")
    return wanted


def _open_tree(root: Path, split: str, channels: int | None) -> PatchDataset:
    table = _tree(root)
    wanted = wanted_splits(root, split, sorted({item.split or "all" for item in table.items}))
    items = [item for item in table.items if (item.split or "all") in wanted]
    number = {name: i for i, name in enumerate(table.labels)}
    return PatchDataset(
        [root / item.path for item in items],
        [number[item.label] for item in items],
        classes=table.labels,
        ids=[item.id for item in items],
        channels=channels,
    )


def open_folder(path: str | Path, *, channels: int | None = None, crop: int | None = None) -> PatchDataset:
    """One image, or all images in and below a folder, without labels.

    crop reads only the centre square, so that pictures of several sizes can be read together.
    Raises: UsageError if there is no image.

    >>> open_folder("nowhere")
    Traceback (most recent call last):
    roteq.errors.UsageError: nowhere: no such file or folder
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_file():
        return PatchDataset([path], channels=channels, crop=crop)
    paths = [child for child in sorted(path.rglob("*")) if is_image(child)]
    if not paths:
        raise UsageError(f"{path}: no image in this folder")
    ids = unique_ids([child.relative_to(path) for child in paths])
    return PatchDataset(paths, ids=ids, channels=channels, crop=crop)


def dataset_info(root: str | Path) -> DatasetInfo:
    """dataset.json of a prepared dataset; for a plain image folder tree, what counting it says.

    Raises: UsageError if the folder is neither.
    """
    root = Path(root)
    if (root / "dataset.json").is_file():
        return load_json(DatasetInfo, root / "dataset.json")
    table = _tree(root)
    counts: dict[str, Counter[str]] = {}
    for item in table.items:
        counts.setdefault(item.split or "all", Counter(dict.fromkeys(table.labels, 0)))[item.label] += 1
    _, channels = _header(str(root / table.items[0].path))
    return DatasetInfo(
        name=root.resolve().name,
        source=str(root.resolve()),
        kind="folder",
        classes=table.labels,
        counts={split: dict(classes) for split, classes in counts.items()},
        channels=channels,
        size=None,
        options={},
        split_rule="given by the source" if "all" not in counts else "none",
        seed=0,
        skipped=table.left_out,
    )


def _tree(root: Path) -> Source:
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if (root / ".preparing.json").is_file():
        raise UsageError(f"{root}: its preparation is not finished; give the prepare command again")
    table = read_folder(root)
    if not table.items:
        raise UsageError(f"{root}: neither a prepared dataset nor folders of images, one for every class")
    return table


def _header(path: str) -> tuple[tuple[int, int], int]:
    """((height, width), channels after decoding) without decoding."""
    try:
        return read_header(path)
    except BadImage as bad:
        raise RoteqError(f"{path}: {bad}") from None
