"""What one image adds to the numbers of a set of maps: a few small tables, counted once and saved.

Scores are kept as a histogram of 1024 bins a class. The bins are equal in l / (4 + |l|), l = log(p / (1 - p)): l is cut
finely where most pixels are (1/128 at p = 0.5, 0.1 at p = 1e-5) and never ends.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..data.masks import IGNORE
from ..errors import RoteqError, UsageError
from ..files import atomic_path
from .arrays import as_array, as_probabilities
from .classification import LEAST_PROBABILITY
from .detection import find_peaks, match
from .membranes import count_membranes

BINS = 1024


@dataclass(frozen=True, eq=False)
class MapCounts:
    """What one image adds to every number."""

    confusion: np.ndarray  # (K, K) pixels; rows: truth, columns: answer
    nll: float  # nats, summed over the pixels
    scores: np.ndarray  # (1 of two classes, else K; rest, class; bins) pixels by the probability of the class
    membranes: np.ndarray | None = None  # of metrics.membranes
    peaks: np.ndarray | None = None  # (beside, on a centre; bins) peaks by their score
    centres: int | None = None


def count_map(
    probabilities: Any, labels: Any, *, boundary: int | None = None, centres: Any = None, radius: float = 6.0
) -> MapCounts:
    """Count one image: probabilities (K, H, W), labels (H, W) with IGNORE for pixels that are not judged.

    boundary: the class of membranes, for V-Rand and V-Info (metrics.membranes). centres: (n, 2), rows (y, x) in pixels:
    peaks of 1 - p(class 0) are matched with them within `radius` pixels (metrics.detection); a peak or centre does not
    count whose pixel, or the nearest of the image, is ignored.

    Raises: UsageError for shapes, labels or probabilities that cannot be right.

    >>> counts = count_map([[[0.9, 0.4]], [[0.1, 0.6]]], [[0, 1]])
    >>> counts.confusion.tolist()
    [[1, 0], [0, 1]]
    """
    maps, truth = as_array(probabilities), as_array(labels)
    if maps.ndim != 3 or len(maps) < 2 or 0 in maps.shape:
        raise UsageError(f"count_map: expected probabilities (K, H, W) of two classes or more, got {tuple(maps.shape)}")
    k = len(maps)
    if truth.shape != maps.shape[1:] or truth.dtype.kind not in "iu":
        raise UsageError(
            f"count_map: expected labels of shape {maps.shape[1:]} and integer type, got {truth.dtype} {truth.shape}"
        )
    maps = np.moveaxis(as_probabilities("count_map", np.moveaxis(maps, 0, -1), (*maps.shape[1:], k)), -1, 0)
    known = truth != IGNORE
    labels, probs = truth[known].astype(np.int64), maps[:, known]
    if labels.size and not 0 <= labels.min() <= labels.max() < k:
        raise UsageError(
            f"count_map: expected labels from 0 to {k - 1}, or {IGNORE}, got {labels.min()} to {labels.max()}"
        )
    if boundary is not None and not 0 <= boundary < k:
        raise UsageError(f"count_map: expected the class of the membranes, 0 to {k - 1}, got {boundary}")
    if not radius > 0:
        raise UsageError(f"count_map: expected a radius above 0 pixels, got {radius}")

    own = np.maximum(probs[labels, np.arange(labels.size)], LEAST_PROBABILITY)
    scores = []
    for c in [1] if k == 2 else range(k):
        codes = (labels == c) * BINS + _bins(probs[c], np.delete(probs, c, axis=0).sum(0))
        scores.append(np.bincount(codes, minlength=2 * BINS).reshape(2, BINS))
    peaks, number = (None, None) if centres is None else _count_centres(1 - maps[0], known, centres, radius)
    return MapCounts(
        confusion=np.bincount(labels * k + probs.argmax(0), minlength=k * k).reshape(k, k),
        nll=float(-np.log(own).sum()),
        scores=np.stack(scores),
        membranes=None if boundary is None else count_membranes(1 - maps[boundary], truth != boundary, known),
        peaks=peaks,
        centres=number,
    )


def _bins(for_it: np.ndarray, against: np.ndarray) -> np.ndarray:
    """The bin of each score, from its probability and that of the rest; BINS / 2 begins at one half."""
    logit = np.log(np.maximum(for_it, LEAST_PROBABILITY)) - np.log(np.maximum(against, LEAST_PROBABILITY))
    return ((1 + logit / (4 + np.abs(logit))) * (BINS // 2)).astype(np.int64)


def _count_centres(scores: np.ndarray, known: np.ndarray, centres: Any, radius: float) -> tuple[np.ndarray, int]:
    points = as_array(centres).astype(np.float64)
    points = points.reshape(-1, 2) if not points.size else points
    last = np.array(known.shape) - 1
    if points.ndim != 2 or points.shape[1] != 2 or not ((points >= -radius) & (points <= last + radius)).all():
        raise UsageError(
            f"count_map: expected centres (n, 2), rows (y, x), in an image of {known.shape} or within {radius:g} "
            f"pixels of it, got {points.shape} with {points.min():g} to {points.max():g}"
        )

    def judged(places: np.ndarray) -> np.ndarray:
        at = np.clip(np.rint(places).astype(np.int64), 0, last)
        return known[tuple(at.T)]

    points = points[judged(points)]
    places, heights = find_peaks(scores, radius)
    inside = judged(places)
    places, heights = places[inside], heights[inside]
    codes = match(places, points, radius) * BINS + _bins(heights, 1 - heights)
    return np.bincount(codes, minlength=2 * BINS).reshape(2, BINS), len(points)


def pooled_confusion(counts: Sequence[MapCounts]) -> np.ndarray:
    """(K, K) pixels of all images; rows: truth, columns: answer."""
    return np.sum([one.confusion for one in counts], axis=0)


def check_alike(where: str, counts: Sequence[MapCounts], k: int) -> None:
    """Raise UsageError unless there are images, counted alike, of k classes, with a labelled pixel."""
    if not counts:
        raise UsageError(f"{where}: expected at least one counted image, got none")
    kinds = {(one.confusion.shape, one.membranes is None, one.peaks is None) for one in counts}
    if len(kinds) > 1 or next(iter(kinds))[0] != (k, k):
        raise UsageError(
            f"{where}: expected images counted alike, of {k} classes, got {sorted(kinds)} "
            "(shape of the confusion, without a boundary, without centres)"
        )
    if not pooled_confusion(counts).any():
        raise UsageError(f"{where}: expected labelled pixels, got none in {len(counts)} images")


def save_counts(
    path: str | Path,
    ids: Sequence[str],
    groups: Sequence[str] | None,
    classes: Sequence[str],
    counts: Sequence[MapCounts],
) -> None:
    """Save the counts of named images as .npz, whole or not at all."""
    if len(ids) != len(counts) or (groups is not None and len(groups) != len(counts)):
        raise UsageError(f"save_counts: expected an id (and a group) for each of {len(counts)} images, got {len(ids)}")
    check_alike("save_counts", counts, len(classes))
    head = json.dumps({"ids": list(ids), "groups": None if groups is None else list(groups), "classes": list(classes)})
    fields = {name: [getattr(one, name) for one in counts] for name in MapCounts.__dataclass_fields__}
    arrays = {name: np.stack(values) for name, values in fields.items() if values[0] is not None}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, head=np.array(head), **arrays)


def load_counts(path: str | Path) -> tuple[list[str], list[str] | None, tuple[str, ...], list[MapCounts]]:
    """Ids, groups, classes and counts that `save_counts` wrote. Raises RoteqError if the file is not such a one."""
    try:
        with np.load(BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop("head")))
        fields = {name: [v.item() if v.ndim == 0 else v for v in values] for name, values in arrays.items()}
        counts = [MapCounts(**dict(zip(fields, row, strict=True))) for row in zip(*fields.values(), strict=True)]
        return head["ids"], head["groups"], tuple(head["classes"]), counts
    except FileNotFoundError:
        raise RoteqError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise RoteqError(f"{path}: not the counts of maps that roteq saved ({error})") from None
