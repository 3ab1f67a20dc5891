"""Digits and CIFAR10 in the files in which they are passed on: many small images in one array.

| files in one folder | kind |
|---|---|
| mnist_all_rotation_normalized_float_{train_valid,test}.amat (Larochelle et al., ICML 2007) | digits |
| {train,valid,test}.npz with the arrays images (or data) and labels | digits |
| {train,t10k}-{images-idx3,labels-idx1}-ubyte or .gz: MNIST, upright | digits |
| the same, every digit turned by a random angle: rotated MNIST, rebuilt | rotated_digits |
| data_batch_{1..5}.bin and test_batch.bin: the binary version of CIFAR10 | cifar10 |

Pixels become 8-bit: of the .amat files, which hold fractions, that is at most a five-hundredth of the contrast.
"""

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import RoteqError, UsageError
from ..files import atomic_path
from .sources import Item, Source, make_source

AMAT = "mnist_all_rotation_normalized_float_"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SORTS: dict[str, dict[str, str]] = {  # files that belong together -> the split of each
    "amat": {f"{AMAT}train_valid.amat": "train", f"{AMAT}test.amat": "test"},
    "npz": {"train.npz": "train", "valid.npz": "validation", "test.npz": "test"},
    "idx": {"train-images-idx3-ubyte": "train", "t10k-images-idx3-ubyte": "test"},
    "bin": {**{f"data_batch_{i}.bin": "train" for i in range(1, 6)}, "test_batch.bin": "test"},
}
PUBLISHED = {"train": 10_000, "validation": 2_000, "test": 50_000}  # digits of rotated MNIST
SEED = 0  # of the rebuilt set, so that everybody rebuilds the same
SIDE, CIFAR_SIDE = 28, 32
LARGEST = 2**31  # bytes of one array in memory


def find_arrays(root: Path) -> tuple[str, dict[str, str]]:
    """The sort of files in a folder and the split of each; ("", {}) if there are none.

    Raises: UsageError if there are several sorts.
    """
    found: dict[str, dict[str, str]] = {}
    for sort, splits in SORTS.items():
        for name, split in splits.items():
            present = [
                form for form in (name, f"{name}.gz") if (root / form).is_file() and (sort == "idx" or form == name)
            ]
            if present:
                found.setdefault(sort, {})[present[0]] = split
    if len(found) > 1:
        names = ", ".join(next(iter(splits)) for splits in found.values())
        raise UsageError(f"{root}: expected images in one sort of files, got {names}")
    return next(iter(found.items())) if found else ("", {})


def detect_arrays(root: Path) -> str | None:
    """The kind of such a folder, None for another one."""
    sort, _ = find_arrays(root)
    return None if not sort else "cifar10" if sort == "bin" else "digits"


def read_arrays(root: Path, kind: str) -> Source:
    """The table of all images in these files. Raises: UsageError if there are none of that kind."""
    sort, files = find_arrays(root)
    wanted = {"digits": ("amat", "npz", "idx"), "rotated_digits": ("idx",), "cifar10": ("bin",)}[kind]
    if sort not in wanted:
        names = " or ".join(next(iter(SORTS[sort])) for sort in wanted)
        raise UsageError(f"{root}: no files of the kind {kind!r}; expected {names} and what belongs to it")
    items: list[Item] = []
    for name, split in files.items():
        stem = name.removeprefix(AMAT).split(".")[0].removesuffix("-images-idx3-ubyte")
        for row, label in enumerate(read_labels(root / name)):
            part = "validation" if sort == "amat" and split == "train" and row >= PUBLISHED["train"] else split
            items.append(Item(f"{stem}-{row:05d}", str(label), name, None, part, row))
    if kind == "rotated_digits":
        items = _drawn(items)
    labels = tuple(sorted({item.label for item in items}, key=int))
    named = CIFAR10 if kind == "cifar10" and len(labels) == len(CIFAR10) else labels
    return make_source(kind, root, items, labels, named, {})


def _drawn(items: list[Item]) -> list[Item]:
    """As many digits for each split as published, fewer in proportion where there are not enough."""
    order = np.random.default_rng(SEED).permutation(len(items))
    scale = min(1.0, len(items) / sum(PUBLISHED.values()))
    splits = [split for split, number in PUBLISHED.items() for _ in range(int(scale * number))]
    chosen = zip(order, splits, strict=False)
    return [Item(item.id, item.label, item.path, None, split, item.row) for i, split in chosen for item in [items[i]]]


def unpack_array(path: Path, folder: Path, turned: bool) -> None:
    """Write the pixels of such a file as .npy into `folder`, where preparing processes look up rows; turned: every
    digit by its own angle."""
    target = _unpacked(folder, path.name)
    if target.exists():
        return
    images = read_images(path)
    if turned:
        generator = np.random.default_rng([SEED, zlib.crc32(path.name.removesuffix(".gz").encode())])
        angles = generator.uniform(0, 360, len(images))
        images = np.stack([turn(digit, angle) for digit, angle in zip(images, angles, strict=True)])
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        np.save(file, images)


def turn(digit: np.ndarray, degrees: float) -> np.ndarray:
    """A digit turned counter-clockwise about its centre, bicubic, zeros outside: uint8 (H, W)."""
    turned = Image.fromarray(digit.astype(np.float32)).rotate(degrees, Image.Resampling.BICUBIC)
    return np.asarray(turned).round().clip(0, 255).astype(np.uint8)


def array_rows(folder: Path, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
    """Images start..stop-1 of what `unpack_array` wrote."""
    yield from np.load(_unpacked(folder, name), mmap_mode="r")[start:stop]


def _unpacked(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def read_images(path: Path) -> np.ndarray:
    """The images of a file: uint8 (N, H, W) or (N, H, W, 3). Raises: RoteqError if it is not what its name says."""
    if path.suffix == ".amat":
        return _eight_bits(_amat(path)[:, :-1].reshape(-1, SIDE, SIDE), path)
    if path.suffix == ".npz":
        return _npz_images(path)
    if path.suffix == ".bin":
        return _records(path)[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return _idx(path, 3)


def read_labels(path: Path) -> list[int]:
    """The class of every image of a file. Raises: RoteqError if there is not one for each image."""
    if path.suffix == ".amat":
        labels, images = _amat(path)[:, -1], None
    elif path.suffix == ".npz":
        labels, images = _member(path, ("labels",)), _npz_images(path)
    elif path.suffix == ".bin":
        labels, images = _records(path)[:, 0], None
    else:
        companion = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        labels, images = _idx(companion, 1), _idx(path, 3)
    if images is not None and (labels.ndim != 1 or len(labels) != len(images)):
        raise RoteqError(f"{path}: expected one label for each of the {len(images)} images, got {labels.shape}")
    if not np.array_equal(labels, labels.astype(np.int64)) or labels.min(initial=0) < 0:
        raise RoteqError(f"{path}: expected whole numbers as labels, got {labels[:5].tolist()}")
    return labels.astype(np.int64).tolist()


def _amat(path: Path) -> np.ndarray:
    """Lines of 784 grey values in 0..1, row by row, and the label."""
    columns = SIDE * SIDE + 1
    with path.open() as file:
        found = len(file.readline().split())
    if found != columns:
        raise RoteqError(
            f"{path}: expected {columns} numbers in every line ({SIDE}x{SIDE} grey values and the label), got {found}"
        )
    try:
        return np.loadtxt(path, dtype=np.float32, ndmin=2)
    except ValueError as error:  # says in which row and column
        raise RoteqError(f"{path}: expected {columns} numbers in every line: {error}") from None


def _member(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """One array of an .npz file; nothing in it is executed, and nothing above LARGEST is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        name = next((name for name in names if name in sizes), None)
        if name is None:
            raise RoteqError(f"{path}: expected an array {' or '.join(names)}, got {', '.join(sizes) or 'none'}")
        if sizes[name] > LARGEST:
            raise RoteqError(f"{path}: {name}: expected at most {LARGEST:,} bytes, got {sizes[name]:,}")
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise RoteqError(f"{path}: not a readable .npz file of numbers ({error})") from None


def _npz_images(path: Path) -> np.ndarray:
    images = _member(path, ("images", "data"))
    if images.ndim == 2 and images.shape[1] == SIDE * SIDE:
        images = images.reshape(-1, SIDE, SIDE)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] == 3):
        raise RoteqError(f"{path}: expected images of shape (N, H, W), (N, H, W, 3) or (N, 784), got {images.shape}")
    return images if images.dtype == np.uint8 else _eight_bits(images, path)


def _eight_bits(images: np.ndarray, path: Path) -> np.ndarray:
    """Fractions from 0 to 1 as 0..255."""
    if images.dtype.kind != "f" or not np.isfinite(images).all() or images.min() < 0 or images.max() > 1:
        raise RoteqError(
            f"{path}: expected grey values from 0 to 1, or whole ones (uint8) from 0 to 255, got {images.dtype} from "
            f"{images.min():g} to {images.max():g}"
        )
    return np.round(255 * images).astype(np.uint8)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of MNIST: 0 0 8 and the number of dimensions, the sizes as big-endian integers, the bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content: Any = file.read(LARGEST)
    except FileNotFoundError:
        raise RoteqError(f"{path}: no such file; it belongs to the images beside it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise RoteqError(f"{path}: not a readable file ({error})") from None
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise RoteqError(f"{path}: expected an IDX file of bytes in {dimensions} dimensions, got {content[:4].hex()!r}")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    if len(content) - header != shape.prod():
        raise RoteqError(f"{path}: expected {shape.prod()} values after the header, got {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _records(path: Path) -> np.ndarray:
    """CIFAR10: one byte of label, then 32x32 red, green and blue values."""
    length = 1 + 3 * CIFAR_SIDE * CIFAR_SIDE
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % length:
        raise RoteqError(f"{path}: expected records of {length} bytes, got {len(content)} bytes")
    return content.reshape(-1, length)
