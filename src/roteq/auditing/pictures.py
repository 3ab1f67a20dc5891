"""The pictures of an audit, of any source, as patches of one size that are read a batch at a time."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import PatchDataset
from ..data.images import BadImage, check_header, decode
from ..errors import RoteqError, UsageError
from ..results import Finding
from .labels import Table, labels_for, read_labels
from .sources import Listed, listed

THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes outside the interpreter lock
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
NAMED = 3  # unreadable pictures whose names are told
Frame = tuple[int | None, tuple[int, int]]  # shorter side after resizing (None: as stored), height and width of the cut


@dataclass(frozen=True)
class Pictures:
    """N patches (C, H, W) of one size, uint8 (0..255) or float (what the model takes); each is read when asked for.

    labels: (N,) class indices, (N, K) of 0 and 1, or None. classes: names of the labels, in the order of the indices.
    """

    source: str
    ids: list[str]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    groups: list[str] | None
    channels: int
    size: tuple[int, int]
    is_float: bool
    method: str
    read: Callable[[np.ndarray], tuple[Tensor, np.ndarray]]
    indices: np.ndarray
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """(patches (B, C, H, W) of those that could be read, which they are (len(indices),) bool)."""
        return self.read(self.indices[indices])

    def subset(self, indices: np.ndarray) -> "Pictures":
        indices = np.asarray(indices)
        return replace(
            self,
            ids=[self.ids[i] for i in indices],
            labels=None if self.labels is None else self.labels[indices],
            groups=None if self.groups is None else [self.groups[i] for i in indices],
            indices=self.indices[indices],
        )


def open_pictures(
    source: Any,
    *,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    groups: Any = None,
    split: str | None = None,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bicubic",
    label_column: str | None = None,
    download: bool = False,
) -> Pictures:
    """Any images: a folder, folders of classes, a CSV of path,label[,group], a prepared dataset, "hf:NAME_OR_FOLDER";
    in Python also arrays and tensors (N, C, H, W), lists of paths or PIL images, a torch Dataset of (image, label).

    uint8 arrays are pictures, float ones what the model takes. labels: an array, or a CSV of image and label. classes:
    names of the model's outputs, in their order; the names of labels are looked up among them.
    size: height and width of the model's input, None any. resize: the shorter side of a picture before its centre
    square is cut, 0 as stored; None: pictures of another size are brought to that of the model. Arrays stay as
    they are. Nothing is distorted.
    Raises: UsageError for sources, labels and sizes that cannot be, naming the option; RoteqError where most of the
    images cannot be read.
    """
    if isinstance(source, Pictures):
        found = source
    elif isinstance(source, PatchDataset):
        found = _of_patches(source, channels)
    elif isinstance(source, np.ndarray | Tensor):
        found = _of_array(source)
    else:
        found = _of_items(listed(source, split, label_column, download), channels, size, resize, interpolation)
    if groups is not None:
        if len(groups) != len(found):
            raise UsageError(f"groups: expected one for each of {len(found)} images, got {len(groups)}")
        found = replace(found, groups=[str(group) for group in groups])
    table = labels
    if isinstance(labels, str | Path):
        table = read_labels(Path(labels), found.ids)
    known = found.labels if table is None else table
    names, own = tuple(classes or ()), found.classes
    if isinstance(table, Table):
        known, own = table.values, table.classes
    numbers, names = labels_for(known, own, names, len(found))
    return replace(found, labels=numbers, classes=names)


def _of_array(source: Any) -> Pictures:
    shape, is_tensor = tuple(source.shape), isinstance(source, Tensor)
    is_float = source.is_floating_point() if is_tensor else source.dtype.kind == "f"
    is_bytes = source.dtype in (torch.uint8, np.uint8)
    if len(shape) != 4 or not (is_float or is_bytes) or shape[1] not in range(1, 65):
        raise UsageError(
            f"images: expected uint8 pictures or float inputs (N, C, H, W), got {source.dtype} {shape}; of channels "
            "last use images.transpose(0, 3, 1, 2)"
        )

    def read(indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        part = source[torch.as_tensor(indices, device=source.device) if is_tensor else indices]
        part = part if is_tensor else torch.from_numpy(np.ascontiguousarray(part))
        return part.float() if is_float else part, np.ones(len(indices), bool)

    what = "a tensor" if is_tensor else "an array"
    ids = [str(i) for i in range(shape[0])]
    size = (shape[2], shape[3])
    return Pictures(what, ids, None, (), None, shape[1], size, is_float, "as they are", read, np.arange(shape[0]))


def _of_patches(data: PatchDataset, channels: int | None) -> Pictures:
    if channels not in (None, data.channels):
        raise UsageError(
            f"images: expected {channels} channel(s), got {data.channels}; open them with channels={channels}"
        )

    def read(indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        return data.images(torch.from_numpy(indices)), np.ones(len(indices), bool)

    source = os.path.commonpath(data.paths) if len(data) > 1 else data.paths[0]
    labels = None if data.labels is None else data.labels.numpy()
    about = (data.classes, data.groups, data.channels, data.size, False, "as stored")
    return Pictures(source, data.ids, labels, *about, read, np.arange(len(data)))


def _of_items(
    found: Listed, channels: int | None, size: tuple[int, int] | None, resize: int | None, interpolation: str
) -> Pictures:
    if not found.items:
        raise UsageError(f"{found.source}: no images")
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(_header, found.items))
    good = np.array([i for i, header in enumerate(headers) if isinstance(header, tuple)], dtype=int)
    bad = [(found.ids[i], header) for i, header in enumerate(headers) if isinstance(header, BadImage)]
    if 2 * len(good) < len(headers):
        raise RoteqError(
            f"{found.source}: {len(bad)} of {len(headers)} images cannot be read, the first {bad[0][0]}: {bad[0][1]}"
        )
    sizes = [header[0] for header in headers if isinstance(header, tuple)]
    channels = channels or max(header[1] for header in headers if isinstance(header, tuple))
    if channels not in (1, 3):
        raise UsageError(f"images: expected a model of 1 or 3 channels, got {channels}; give such pictures as an array")
    frame, method = _frame(sizes, [found.ids[i] for i in good], size, resize, interpolation)
    mode, how = "L" if channels == 1 else "RGB", FILTERS.get(interpolation, Image.Resampling.BICUBIC)

    def one(index: int) -> np.ndarray | None:
        try:
            picture = _open(found.items[index])
        except BadImage:
            return None
        return np.asarray(_fitted(picture, frame, how).convert(mode)).reshape(*frame[1], channels)

    def read(indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        with ThreadPoolExecutor(THREADS) as pool:
            arrays = list(pool.map(one, indices.tolist()))
        kept = np.array([array is not None for array in arrays])
        shown = [array for array in arrays if array is not None]
        empty = torch.empty((0, channels, *frame[1]), dtype=torch.uint8)
        return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).contiguous() if shown else empty, kept

    return Pictures(
        found.source,
        [found.ids[i] for i in good],
        None if found.labels is None else found.labels[good],
        found.classes,
        None if found.groups is None else [found.groups[i] for i in good],
        channels,
        frame[1],
        False,
        method,
        read,
        good,
        tuple([unreadable([f"{name} ({reason})" for name, reason in bad], len(headers))] if bad else []),
    )


def unreadable(names: Sequence[str], total: int) -> Finding:
    told = ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
    return Finding(
        "unreadable images",
        "warn",
        f"{len(names)} of {total} images could not be read and were left out: {told}",
        "Convert or remove them; what is left out may be what the model finds hard.",
    )


def _header(item: Any) -> "tuple[tuple[int, int], int] | BadImage":
    """((height, width), channels) without decoding."""
    try:
        if isinstance(item, str | Path):
            with Image.open(item) as picture:
                check_header(picture)
                return (picture.height, picture.width), 1 if picture.mode in ("1", "L", "LA", "La") else 3
        picture = _open(item)
        return (picture.height, picture.width), 1 if picture.mode == "L" else 3
    except BadImage as bad:
        return bad
    except Exception:  # damaged files raise anything; decoding says it in words
        try:
            decode(item)
        except BadImage as bad:
            return bad
        return BadImage("unreadable", "its header")


def _open(item: Any) -> Image.Image:
    """Grey or RGB, of a file, a PIL image, or a function that gives one."""
    if isinstance(item, str | Path):
        return decode(item)[0]
    from ..data.images import to_eight_bits

    picture = item() if callable(item) else item
    if not isinstance(picture, Image.Image):
        raise BadImage("unreadable", f"expected a picture, got {type(picture).__name__}")
    check_header(picture)
    return to_eight_bits(picture)[0]


def _frame(
    sizes: Sequence[tuple[int, int]],
    names: Sequence[str],
    size: tuple[int, int] | None,
    resize: int | None,
    interpolation: str,
) -> tuple[Frame, str]:
    """How every picture is brought to one size, and that in words."""
    shorter = [min(both) for both in sizes]
    if size is not None and size[0] != size[1]:
        return (None, size), f"resized to cover {size[0]}x{size[1]} ({interpolation}), the centre cut"
    if resize is None:
        if size is None or all(both == size for both in sizes):
            resize = 0
        else:
            words = f"resized to {size[0]} pixels on the shorter side ({interpolation}), the centre square"
            return (size[0], size), f"{words}; --resize 0 keeps the stored resolution"
    if resize:
        if size is not None and resize < size[0]:
            raise UsageError(f"resize: expected at least the model's input size {size[0]}, got {resize}")
        words = f"resized to {resize} pixels on the shorter side ({interpolation}), the centre square"
        return (resize, (resize, resize)), words
    least = min(shorter)
    if size is not None and least < size[0]:
        raise UsageError(
            f"resize: {names[shorter.index(least)]} has {least} pixels on its shorter side, the model takes {size[0]}; "
            f"give --resize {size[0]} to enlarge"
        )
    same = all(both == (least, least) for both in sizes)
    return (0, (least, least)), "as stored" if same else f"as stored, the centre square of {least} pixels"


def _fitted(picture: Image.Image, frame: Frame, how: Image.Resampling) -> Image.Image:
    resize, (height, width) = frame
    if resize is None:
        scale = max(height / picture.height, width / picture.width)
    else:
        scale = resize / min(picture.size) if resize else 1.0
    if scale != 1.0:
        full = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
        picture = picture.resize(full, how)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height)) if picture.size != (width, height) else picture
