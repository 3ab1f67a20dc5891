"""Small sources of images for the tests of roteq.data."""

import csv
from pathlib import Path

import h5py
import numpy as np
from PIL import Image


def picture(seed: int, size: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def write_rows(path: Path, *rows: tuple) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def kaggle(root: Path, n: int = 40, slides: int | None = None, size: int = 12) -> Path:
    """n images, every third of label 1; `slides` groups, each with both labels where n is large enough."""
    (root / "train").mkdir(parents=True)
    for i in range(n):
        picture(i, size).save(root / "train" / f"im{i:03d}.tif")
    write_rows(root / "train_labels.csv", ("id", "label"), *((f"im{i:03d}", int(i % 3 == 0)) for i in range(n)))
    if slides:
        write_rows(root / "train_groups.csv", ("id", "group"), *((f"im{i:03d}", f"s{i % slides}") for i in range(n)))
    return root


def folders(root: Path, n: int = 10, classes: tuple[str, ...] = ("a", "b"), suffix: str = ".png") -> Path:
    """n images a class."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(sum(map(ord, f"{root.name}/{name}")) * 1000 + i).save(root / name / f"{name}{i}{suffix}")
    return root


def pcam(root: Path, parts: tuple[str, ...] = ("train", "valid", "test"), n: int = 8) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed, part in enumerate(parts):
        stem = f"camelyonpatch_level_2_split_{part}"
        pixels = np.random.default_rng(seed).integers(0, 256, (n, 96, 96, 3), dtype=np.uint8)
        with h5py.File(root / f"{stem}_x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(root / f"{stem}_y.h5", "w") as file:
            file["y"] = (np.arange(n) % 2).astype(np.uint8).reshape(n, 1, 1, 1)
    return root
