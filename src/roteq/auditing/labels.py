"""Which label belongs to which image, and which output of the model it means."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, nearest
from ..metrics.arrays import as_array

IMAGE = ("image", "path", "id", "filename", "file", "name")
FEW = 3


@dataclass(frozen=True)
class Table:
    """values: (N,) indices into classes, or (N, K) of 0 and 1."""

    values: np.ndarray
    classes: tuple[str, ...]


def read_labels(path: Path, ids: Sequence[str]) -> Table:
    """Labels of a CSV with a column image (or path, id, filename) and a column label, in the order of the images;
    several columns of 0 and 1 are independent labels. Images are found by their name, with or without ending."""
    if not path.is_file():
        raise UsageError(f"labels: {path}: no such file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [column for column in reader.fieldnames or [] if column]
        rows = list(reader)
    key = next((column for name in IMAGE for column in columns if column.lower() == name), None)
    if key is None or not rows:
        raise UsageError(
            f"labels: {path}: expected rows with a column image and label, got {', '.join(columns) or 'none'}"
        )
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name in {str(row[key]), Path(str(row[key])).name, Path(str(row[key])).stem}:
            found.setdefault(name, row)
    chosen = [found.get(name) or found.get(Path(name).name) or found.get(Path(name).stem) for name in ids]
    missing = [name for name, row in zip(ids, chosen, strict=True) if row is None]
    if missing:
        raise UsageError(
            f"labels: {path}: no row for {len(missing)} of {len(ids)} images: {', '.join(missing[:FEW])}"
            f"{' ...' if len(missing) > FEW else ''}"
        )
    if "label" in columns:
        names = [str(row["label"]) for row in chosen if row is not None]
        if all(name.isdecimal() for name in names):
            return Table(np.array([int(name) for name in names]), ())
        classes = tuple(sorted(set(names)))
        return Table(np.array([classes.index(name) for name in names]), classes)
    others = [
        c for c in columns if c != key and all(str((row or {}).get(c)) in ("0", "1", "0.0", "1.0") for row in chosen)
    ]
    if not others:
        raise UsageError(f"labels: {path}: expected a column label, or columns of 0 and 1, got {', '.join(columns)}")
    table = [[float(row[column]) for column in others] for row in chosen if row is not None]
    return Table(np.array(table).astype(int), tuple(others))


def labels_for(
    labels: Any, own: Sequence[str], outputs: Sequence[str], number: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(labels as indices of the outputs, names of the outputs). own: names of the labels; outputs: of the model, ()
    unknown."""
    if labels is None:
        return None, tuple(outputs)
    found = as_array(labels)
    if found.dtype.kind in "US" or found.dtype == object:
        own = own or sorted({str(name) for name in found})
        found = np.array([list(own).index(str(name)) for name in found])
    if len(found) != number:
        raise UsageError(f"labels: expected one for each of {number} images, got {len(found)}")
    if found.ndim > 2 or (found.dtype.kind not in "iub" and not np.array_equal(found, found.astype(int))):
        raise UsageError(f"labels: expected class indices (N,), or (N, K) of 0 and 1, got {found.dtype} {found.shape}")
    found = found.astype(np.int64)
    if not own or not outputs or tuple(own) == tuple(outputs):
        return found, tuple(outputs or own)
    strange = [name for name in own if name not in outputs]
    if strange:
        shown = ", ".join(list(outputs)[:8]) + (" ..." if len(outputs) > 8 else "")
        raise UsageError(
            f"classes: the images have {', '.join(list(own)[:8])}, the model answers {shown}; {strange[0]!r} is none "
            f"of its classes ({nearest(strange[0], list(outputs)[:50])}); give the names of the outputs in their order"
        )
    order = np.array([list(outputs).index(name) for name in own])
    if found.ndim == 1:
        return order[found], tuple(outputs)
    wide = np.zeros((len(found), len(outputs)), dtype=np.int64)
    wide[:, order] = found
    return wide, tuple(outputs)
