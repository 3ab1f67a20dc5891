"""Lists of pictures from folders, tables, prepared data, Hugging Face datasets and Python objects."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data import open_split
from ..data.images import is_image
from ..data.sources import Source, detect, read_source, unique_ids
from ..errors import RoteqError, UsageError, nearest


@dataclass(frozen=True)
class Listed:
    """items: paths, PIL images, or functions that give one. labels: (N,) indices into classes, or None."""

    source: str
    items: Sequence[Any]
    ids: list[str]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: list[str] | None = None


def listed(source: Any, split: str | None, label_column: str | None, download: bool) -> Listed:
    """Everything but arrays. Raises: UsageError for what is no source of images."""
    if isinstance(source, str) and source.startswith("hf:"):
        return _of_hugging_face(source.removeprefix("hf:"), split, label_column, download)
    if isinstance(source, str | Path):
        return _of_path(Path(source), split)
    if isinstance(source, list | tuple) and source and all(isinstance(x, str | Path) for x in source):
        paths = [Path(x) for x in source]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file ({len(missing)} of {len(paths)} are missing)")
        return Listed(f"{len(paths)} files", paths, unique_ids(paths))
    if isinstance(source, list | tuple) and source and all(isinstance(x, Image.Image) for x in source):
        return Listed(f"{len(source)} pictures", source, [str(i) for i in range(len(source))])
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list | tuple | dict):
        return _of_dataset(source)
    raise UsageError(
        "images: expected a folder, a CSV, a prepared dataset, hf:NAME, an array (N, C, H, W), paths, PIL images or a "
        f"torch Dataset, got {type(source).__name__}"
    )


def _of_path(path: Path, split: str | None) -> Listed:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_file():
        if is_image(path):
            return Listed(str(path), [path], [path.stem])
        if path.suffix.lower() != ".csv":
            raise UsageError(
                f"{path}: expected a folder of images or a CSV of path,label, got {path.suffix or 'no ending'}"
            )
        return _of_source(read_source(path, "csv"), split)
    if (path / "dataset.json").is_file():
        data = open_split(path, split or "test")
        assert data.labels is not None
        source = f"{path}, {split or 'test'}"
        return Listed(source, data.paths, data.ids, data.labels.numpy(), data.classes, data.groups)
    try:
        kind = detect(path)
    except UsageError:
        kind = ""
    if kind == "folder":
        found = read_source(path, "folder")
        if found.items:
            return _of_source(found, split)
    paths = [child for child in sorted(path.rglob("*")) if is_image(child)]
    if not paths:
        hint = "; prepare them first: roteq prepare" if kind else ""
        raise UsageError(f"{path}: no image in this folder{hint}")
    return Listed(str(path), paths, unique_ids([child.relative_to(path) for child in paths]))


def _of_source(found: Source, split: str | None) -> Listed:
    splits = sorted({item.split for item in found.items if item.split})
    if splits:
        split = split or ("test" if "test" in splits else splits[0])
        if split not in splits:
            raise UsageError(f"split: {found.root} has no {split!r}; {nearest(split, splits)}")
    items = [item for item in found.items if not splits or item.split == split]
    number = {name: i for i, name in enumerate(found.labels)}
    groups = [item.group for item in items]
    return Listed(
        f"{found.root}, {split}" if splits else str(found.root),
        [found.root / item.path for item in items],
        [item.id for item in items],
        np.array([number[item.label] for item in items]),
        tuple(found.names),
        [str(group) for group in groups] if all(groups) else None,
    )


def _of_dataset(data: Any) -> Listed:
    """A torch Dataset of pictures, or of (picture, label)."""

    def part(index: int, which: int) -> Any:
        item = data[index]
        return item[which] if isinstance(item, tuple | list) else item

    first = part(0, 0) if len(data) else None
    if not isinstance(first, Image.Image):
        raise UsageError(
            f"images: expected a dataset of PIL images, or of (image, label), got {type(first).__name__}; leave out "
            "its ToTensor and normalisation (they are the audit's part), or give an array"
        )
    labels = None
    if isinstance(data[0], tuple | list) and len(data[0]) > 1 and np.ndim(data[0][1]) == 0:
        own = getattr(data, "targets", None)
        labels = np.asarray(own if own is not None else [int(data[i][1]) for i in range(len(data))])
    names = tuple(str(name) for name in getattr(data, "classes", ()))
    items = [_Item(data, i) for i in range(len(data))]
    return Listed(type(data).__name__, items, [str(i) for i in range(len(items))], labels, names)


@dataclass(frozen=True)
class _Item:
    data: Any
    index: int
    column: str | None = None

    def __call__(self) -> Any:
        item = self.data[self.index]
        if self.column is not None:
            return item[self.column]
        return item[0] if isinstance(item, tuple | list) else item


def _of_hugging_face(name: str, split: str | None, label_column: str | None, download: bool) -> Listed:
    try:
        import datasets
    except ImportError:
        raise RoteqError(f"hf:{name}: Hugging Face datasets need: pip install 'roteq[hub]'") from None
    if match := re.fullmatch(r"(.+)\[(\w+)\]", name):
        name, split = match[1], match[2]
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "dataset_info.json").is_file():
            found = datasets.load_from_disk(name)
        else:
            config = datasets.DownloadConfig(local_files_only=not download)
            found = datasets.load_dataset(name, download_config=config)
    except Exception as error:  # the library raises of all kinds
        words = (str(error).splitlines() or [""])[0]
        hint = "" if download else "; if it is not on this machine, download it first: datasets.load_dataset"
        raise RoteqError(f"hf:{name}: could not be loaded ({type(error).__name__}: {words}){hint}") from error
    if isinstance(found, datasets.DatasetDict):
        split = split or ("test" if "test" in found else next(iter(found)))
        if split not in found:
            raise UsageError(f"split: hf:{name} has no {split!r}; {nearest(split, list(found))}")
        found = found[split]
    features = found.features
    pictures = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    if not pictures:
        raise UsageError(f"hf:{name}: no column of images among {', '.join(features)}")
    if label_column is None:
        label_column = next((k for k, feature in features.items() if isinstance(feature, datasets.ClassLabel)), None)
    elif label_column not in features:
        raise UsageError(f"label-column: hf:{name} has no {label_column!r}; {nearest(label_column, list(features))}")
    labels, classes = None, ()
    if label_column is not None:
        labels = np.asarray(
            found[label_column][:] if hasattr(found[label_column], "__getitem__") else found[label_column]
        )
        classes = tuple(getattr(features[label_column], "names", ()) or ())
        if labels.dtype.kind not in "iu":
            classes, labels = (lambda pair: (tuple(map(str, pair[0])), pair[1]))(np.unique(labels, return_inverse=True))
    items = [_Item(found, i, pictures[0]) for i in range(len(found))]
    source = f"hf:{name}" + (f", {split}" if split else "")
    return Listed(source, items, [str(i) for i in range(len(items))], labels, classes)
