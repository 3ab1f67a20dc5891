"""Where the images of an audit come from: every kind of source as one pile, without reading a pixel."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..data import PatchDataset, dataset_info, open_split
from ..data.images import is_image
from ..data.sources import Source, detect, read_source, unique_ids
from ..errors import RoteqError, UsageError, nearest
from ..metrics.arrays import as_array
from ..results import Finding

FORMS = (
    "a folder, a CSV of path,label, a prepared dataset, hf:NAME, an array (N, C, H, W), a list of paths or PIL images, "
    "or a torch Dataset"
)
ORDER = ("test", "validation", "valid", "val", "train")  # of the splits, where none is named


@dataclass(frozen=True)
class Pile:
    """N images that have not been read.

    item(i): a path, an open file, a PIL image or an array (C, H, W); (one of them, label) where `is_paired`.
    """

    source: str  # in words
    names: list[str]  # what tables and messages call the images
    item: Callable[[int], Any]
    ids: list[str]
    labels: Any = None  # (N,) indices into classes, (N, K) of 0 and 1, or names
    classes: tuple[str, ...] = ()
    groups: list[str] | None = None
    root: Path | None = None  # of the names, where they are paths
    is_paired: bool = False
    by_folder: bool = False  # the labels are names of folders
    is_alone: bool = False  # items are read one at a time: the object may not bear threads
    shape: tuple[int, int, int] | None = None  # (C, H, W) where all are known to have it
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def gather(source: Any, split: str | None = None, label_column: str | None = None, download: bool = False) -> Pile:
    """The pile of a source.

    split: of what has splits; None: test, else validation, else the only one; "all"; "train+validation".
    Raises: UsageError for what is no source of images, naming what is.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return _of_hub(source, split, label_column, download)
    if hasattr(source, "cast_column") or _is_split_dictionary(source):
        return _of_columns(source, "the dataset", split, label_column)
    if label_column is not None:
        raise UsageError("label_column: only Hugging Face datasets and tables of labels have columns to choose from")
    if isinstance(source, str | Path):
        return _of_path(Path(source), split)
    if split is not None:
        raise UsageError(f"split: {type(source).__name__} has no splits; leave split={split!r} out")
    if isinstance(source, PatchDataset):
        return _of_patches(source)
    if isinstance(source, np.ndarray | Tensor):
        if source.ndim != 4:
            raise UsageError(
                f"images: expected an array (N, C, H, W), got {tuple(source.shape)}; grey pictures: images[:, None], "
                "one picture: images[None]"
            )
        what = "a tensor" if isinstance(source, Tensor) else "an array"
        shape = (int(source.shape[1]), int(source.shape[2]), int(source.shape[3]))
        return _numbered(what, len(source), lambda i: source[i], shape=shape)
    if hasattr(source, "batch_sampler") and hasattr(source, "dataset"):
        raise UsageError("images: expected pictures, got a DataLoader; give its dataset: loader.dataset")
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__") or isinstance(source, dict | bytes):
        raise UsageError(f"images: expected {FORMS}, got {type(source).__name__}")
    return _of_sequence(source)


def _numbered(source: str, n: int, item: Callable[[int], Any], **rest: Any) -> Pile:
    names = [str(i) for i in range(n)]
    return Pile(source, names, item, names, **rest)


def _of_files(source: str, root: Path, relative: Sequence[Path], **rest: Any) -> Pile:
    paths = [str(root / path) for path in relative]
    ids = rest.pop("ids", None) or unique_ids(relative)
    return Pile(source, [path.as_posix() for path in relative], paths.__getitem__, ids, root=root, **rest)


def _of_path(path: Path, split: str | None) -> Pile:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _of_source(read_source(path, "csv"), path, split)
        return _of_files(str(path), path.parent, [Path(path.name)])
    if (path / "dataset.json").is_file():
        return _of_prepared(path, split)
    if (path / ".preparing.json").is_file():
        raise UsageError(f"{path}: its preparation is not finished; give the prepare command again")
    paths = [child for child in sorted(path.rglob("*")) if is_image(child)]
    beside = [child for child in paths if child.parent == path]
    kind = _kind(path)
    if kind in ("folder", "kaggle") and not (kind == "folder" and beside):
        return _of_source(read_source(path, kind), path, split)
    if not paths:
        hint = f"; it looks like {kind}, so prepare it first: roteq prepare {path} OUT" if kind else ""
        raise UsageError(f"{path}: no image in this folder{hint}")
    if split is not None:
        raise UsageError(f"split: {path} has no splits; leave --split {split} out")
    found: tuple[Finding, ...] = ()
    if kind == "folder":
        found = (
            Finding(
                "unlabelled",
                "warn",
                f"{path} holds {len(beside)} images beside folders of images, so the folders were not taken for "
                "classes, and there are no labels",
                "Move the images into the folders of their classes, or give --labels TABLE.csv.",
            ),
        )
    return _of_files(str(path), path, [child.relative_to(path) for child in paths], findings=found)


def _kind(path: Path) -> str:
    try:
        return detect(path)
    except UsageError:
        return ""


def _of_prepared(path: Path, split: str | None) -> Pile:
    splits = [name for name, classes in dataset_info(path).counts.items() if sum(classes.values())]
    chosen = "+".join(splits) if split == "all" else split or _preferred(splits)
    data = open_split(path, chosen)
    assert data.labels is not None
    relative = [Path(one).relative_to(path) for one in data.paths]
    about = {"ids": data.ids, "labels": data.labels.numpy(), "classes": data.classes, "groups": data.groups}
    return _of_files(f"{path}, {chosen}", path, relative, **about)


def _of_source(found: Source, path: Path, split: str | None) -> Pile:
    """Class folders, a CSV or the layout of Kaggle; the classes are those of all splits."""
    splits = list(dict.fromkeys(item.split for item in found.items if item.split))
    if split is not None and not splits:
        raise UsageError(f"split: {path} has no splits; leave --split {split} out")
    chosen = splits if split == "all" or not splits else (split or _preferred(splits)).split("+")
    for name in chosen:
        if name not in splits:
            raise UsageError(f"split: {path} has no split {name!r}; {nearest(name, splits)}")
    items = [item for item in found.items if not splits or item.split in chosen]
    if not items:
        raise UsageError(f"{path}: no image in this source")
    number = {name: i for i, name in enumerate(found.labels)}
    groups = [item.group for item in items]
    return _of_files(
        f"{path}, {'+'.join(chosen)}" if splits else str(path),
        found.root,
        [Path(item.path) for item in items],
        ids=[item.id for item in items],
        labels=np.array([number[item.label] for item in items]),
        classes=found.names,
        groups=[str(group) for group in groups] if all(groups) else None,
        by_folder=found.kind == "folder",
    )


def _preferred(splits: Sequence[str]) -> str:
    return next((name for name in ORDER if name in splits), splits[0])


def _of_patches(data: PatchDataset) -> Pile:
    names = [Path(path).as_posix() for path in data.paths]
    source = "1 image" if len(data) == 1 else f"{len(data)} images"
    return Pile(
        source,
        names,
        lambda i: data.images([i])[0],
        data.ids,
        None if data.labels is None else data.labels.numpy(),
        data.classes,
        data.groups,
        shape=(data.channels, *data.size),
    )


def _of_sequence(source: Any) -> Pile:
    """A list of paths, PIL images or arrays, or a torch Dataset; labels may come with each image, or as `targets`."""
    if not len(source):
        raise UsageError("images: expected at least one image, got none")
    if isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        paths = [Path(one) for one in source]
        if missing := [path for path in paths if not path.is_file()]:
            raise UsageError(f"{missing[0]}: no such file ({len(missing)} of {len(paths)} are missing)")
        return _of_files(f"{len(paths)} files", Path(), paths)
    about: dict[str, Any] = {"is_paired": True, "is_alone": True}
    targets = getattr(source, "targets", None)
    if targets is not None and len(targets) == len(source):
        about["labels"] = as_array(targets)
    names = getattr(source, "classes", ())
    about["classes"] = tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    is_list = isinstance(source, list | tuple)
    return _numbered(
        f"{len(source)} pictures" if is_list else type(source).__name__, len(source), source.__getitem__, **about
    )


def _is_split_dictionary(source: Any) -> bool:
    return isinstance(source, dict) and bool(source) and all(hasattr(one, "cast_column") for one in source.values())


def _of_hub(name: str, split: str | None, label_column: str | None, download: bool) -> Pile:
    """hf:NAME or hf:FOLDER, with [SPLIT] behind it or not."""
    try:
        import datasets
    except ImportError:
        raise RoteqError(f"{name}: needs the library datasets: pip install 'roteq[hub]'") from None
    where = name.removeprefix("hf:")
    if match := re.fullmatch(r"(.+?)\[([\w+]+)\]", where):
        where, split = match[1], match[2]
    folder = Path(where)
    is_saved = any((folder / mark).is_file() for mark in ("dataset_dict.json", "dataset_info.json"))
    options: dict[str, Any] = {}
    if int(datasets.__version__.split(".")[0]) < 4:  # older ones run code that comes with a dataset
        options["trust_remote_code"] = False
    try:
        with _quiet(download):
            found = datasets.load_from_disk(where) if is_saved else datasets.load_dataset(where, **options)
    except Exception as error:  # of all kinds
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not download and not folder.exists() and isinstance(error, OSError):
            raise RoteqError(
                f"{name}: not on this machine: no such folder, and not in the cache of the library; --download "
                "(download=True) fetches it"
            ) from error
        raise RoteqError(f"{name}: could not be loaded: {words}") from error
    return _of_columns(found, f"hf:{where}", split, label_column)


@contextmanager
def _quiet(download: bool) -> Iterator[None]:
    """No progress bars; no network, unless `download`. Without this the library asks it again and again."""
    import datasets
    from huggingface_hub import constants

    places = [
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
        (constants, "HF_HUB_OFFLINE"),
    ]
    before = [(place, key, getattr(place, key)) for place, key in places if hasattr(place, key)]
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bar()
    try:
        for place, key, value in before:
            setattr(place, key, value or not download)
        yield
    finally:
        for place, key, value in before:
            setattr(place, key, value)
        if shown:
            datasets.enable_progress_bar()


def _of_columns(found: Any, name: str, split: str | None, label_column: str | None) -> Pile:
    """A Dataset of the library datasets, or a dictionary of its splits."""
    import datasets

    if isinstance(found, dict):
        split = split or _preferred(list(found))
        wanted = list(found) if split == "all" else split.split("+")
        for one in wanted:
            if one not in found:
                raise UsageError(f"split: {name} has no split {one!r}; {nearest(one, found)}")
        found = found[wanted[0]] if len(wanted) == 1 else datasets.concatenate_datasets([found[one] for one in wanted])
        name = f"{name}, {split}"
    elif split is not None:
        raise UsageError(f"split: {name} has no splits; leave split={split!r} out")
    features, columns = found.features, ", ".join(found.features)
    pictures = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    if not pictures:
        raise UsageError(f"{name}: expected a column of images, got the columns {columns}")
    column = "image" if "image" in pictures else pictures[0]
    named = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if label_column is not None and label_column not in features:
        raise UsageError(f"label_column: {name} has no column {label_column!r}; {nearest(label_column, features)}")
    if label_column is None and len(named) > 1:
        raise UsageError(f"{name}: several columns of labels: {', '.join(named)}; name one with --label-column")
    label_column = label_column or (named[0] if named else None)
    about: dict[str, Any] = {}
    if label_column is not None:
        about["labels"] = np.asarray(list(found[label_column]))
        about["classes"] = tuple(getattr(features[label_column], "names", None) or ())
    if "group" in features:
        about["groups"] = [str(group) for group in found["group"]]
    rows = found.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))

    def item(index: int) -> Any:
        stored = rows[index][column]
        return stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])

    return _numbered(name, len(rows), item, is_alone=True, **about)


def is_picture(item: Any) -> bool:
    return isinstance(item, str | Path | io.IOBase | Image.Image)
