"""PatchCamelyon as published: HDF5 files, plain or .gz, with the official splits.

Source: Veeling et al., MICCAI 2018, github.com/basveeling/pcam. MD5 sums of the .gz files as computed from the files:
the published table exchanges valid and test.
"""

import gzip
import hashlib
import io
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import RoteqError, UsageError, nearest
from ..files import atomic_path
from .sources import Item, Source, make_source, read_table
from .splits import ALIASES

PREFIX = "camelyonpatch_level_2_split_"
MD5 = {
    "train_x": "1571f514728f59376b705fc836ff4b63",
    "train_y": "35c2d7259d906cfc8143347bb8e05be7",
    "valid_x": "d5b63470df7cfa627aeec8b9dc0c066e",
    "valid_y": "2b85f58b927af9964a4c15b8f7e8f179",
    "test_x": "d8c2d60d490dbd479f8199bdfa0cf6ec",
    "test_y": "60a7035772fbdb7f34eb86d4420cf66a",
}


def read_pcam(root: Path, group_column: str = "wsi") -> Source:
    """The table of the files in a folder; groups (whole slides) come from ..._meta.csv where there is one."""
    items: list[Item] = []
    for part in ("train", "valid", "test"):
        x, y = _find(root, f"{part}_x"), _find(root, f"{part}_y")
        if x is None and y is None:
            continue
        if x is None or y is None:
            raise RoteqError(f"{root}: {PREFIX}{part}: expected both _x and _y, got only one of them")
        labels = _labels(y)
        groups = _groups(root / f"{PREFIX}{part}_meta.csv", group_column, len(labels))
        split = ALIASES[part]
        for row, (label, group) in enumerate(zip(labels, groups, strict=True)):
            items.append(Item(f"{part}-{row:06d}", str(label), x.name, group, split, row))
    if not items:
        raise UsageError(f"{root}: expected files {PREFIX}{{train,valid,test}}_{{x,y}}.h5 or .h5.gz")
    found = tuple(sorted({item.label for item in items}, key=int))
    return make_source("pcam", root, items, found, ("normal", "tumour") if found == ("0", "1") else found, {})


def unpack(path: Path, folder: Path) -> Path:
    """The plain .h5 of a .gz file, written whole into `folder` unless it is there; its MD5 is checked on the way.

    Raises: RoteqError if the sum differs from the published file's or the file is damaged.
    """
    target = folder / path.name.removesuffix(".gz")
    if not target.exists():
        with atomic_path(target) as temporary, temporary.open("wb") as plain, path.open("rb") as packed:
            _inflate(path, packed, plain)
    return target


def rows(path: Path, start: int, stop: int) -> Iterator[np.ndarray]:
    """Images start..stop-1 of an _x file, uint8 (H, W, 3).

    Raises: RoteqError if the file has no such images.
    """
    with _open(path) as file:
        x = file.get("x")
        if x is None or x.ndim != 4 or x.dtype != np.uint8 or x.shape[3] != 3 or len(x) < stop:
            found = "none" if x is None else f"{x.dtype} {x.shape}"
            raise RoteqError(
                f"{path}: expected a dataset x of type uint8 and shape (N >= {stop}, H, W, 3), got {found}"
            )
        yield from x[start:stop]


def _find(root: Path, part: str) -> Path | None:
    choices = (root / f"{PREFIX}{part}.h5", root / f"{PREFIX}{part}.h5.gz")
    return next((path for path in choices if path.is_file()), None)


def _labels(path: Path) -> list[int]:
    source: Any = path
    if path.suffix == ".gz":
        source = io.BytesIO()
        with path.open("rb") as packed:
            _inflate(path, packed, source)
    with _open(source, path) as file:
        y = file.get("y")
        if y is None or y.dtype.kind not in "iub":
            raise RoteqError(f"{path}: expected a dataset y of whole numbers, got {'none' if y is None else y.dtype}")
        return np.asarray(y).reshape(-1).astype(int).tolist()


def _groups(path: Path, column: str, n: int) -> list[str | None]:
    if not path.is_file():
        return [None] * n
    table = [row for _, row in read_table(path, ())]
    if len(table) != n:
        raise RoteqError(f"{path}: expected one row for each of the {n} images, got {len(table)}")
    if table and column not in table[0]:
        raise UsageError(f"{path}: no column {column!r}; {nearest(column, table[0])}")
    return [row[column] or None for row in table]


def _open(source: Any, path: Path | None = None) -> Any:
    import h5py

    try:
        return h5py.File(source, "r")
    except OSError as error:
        raise RoteqError(f"{path or source}: not a readable HDF5 file ({error})") from None


def _inflate(path: Path, packed: BinaryIO, plain: BinaryIO) -> None:
    digest = hashlib.md5(usedforsecurity=False)

    class Counted(io.RawIOBase):
        """Everything gzip reads goes through the digest, so a file is read once."""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            n = packed.readinto(buffer)  # type: ignore[attr-defined]
            digest.update(memoryview(buffer)[:n])
            return n

    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(Counted(), 1 << 20), mode="rb") as stream:  # type: ignore[arg-type]
            shutil.copyfileobj(stream, plain, 1 << 20)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RoteqError(f"{path}: the file is damaged ({error}); download it again") from None
    part = path.name.removeprefix(PREFIX).split(".")[0]
    if digest.hexdigest() != MD5[part]:
        raise RoteqError(
            f"{path}: expected the MD5 sum {MD5[part]}, got {digest.hexdigest()}; the download is damaged or it is "
            "another file (an unpacked .h5 file is taken without this check)"
        )
