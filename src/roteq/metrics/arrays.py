"""What every metric does first: plain arrays out of whatever came, or an error that says what is wrong."""

from typing import Any

import numpy as np

from ..errors import UsageError


def as_array(values: Any) -> np.ndarray:
    """A numpy array of a tensor (any device), array or sequence."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


def as_labels(where: str, labels: Any, classes: int) -> np.ndarray:
    """Class indices (N,), checked: integers from 0 to classes - 1, at least one."""
    found = as_array(labels)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iub":
        raise UsageError(f"{where}: expected labels of shape (N,) and integer type, got {found.dtype} {found.shape}")
    found = found.astype(np.int64)
    if found.min() < 0 or found.max() >= classes:
        raise UsageError(f"{where}: expected labels from 0 to {classes - 1}, got {found.min()} to {found.max()}")
    return found


def as_probabilities(where: str, probabilities: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Class probabilities in double precision, checked: the shape, finite, not negative, rows that sum to 1."""
    found = as_array(probabilities).astype(np.float64)
    if found.shape != shape:
        raise UsageError(f"{where}: expected probabilities of shape {shape}, got {found.shape}")
    if not np.isfinite(found).all():
        raise UsageError(f"{where}: expected finite probabilities, got NaN or infinity")
    sums = found.sum(-1)
    if found.min() < 0 or np.abs(sums - 1).max() > 5e-3:
        worst = sums.flat[np.abs(sums - 1).argmax()]
        raise UsageError(
            f"{where}: expected probabilities >= 0 that sum to 1, got a minimum of {found.min():.4g} and a sum of "
            f"{worst:.4g}; were logits passed without softmax?"
        )
    return found


def as_groups(where: str, groups: Any, n: int) -> np.ndarray | None:
    """Group numbers 0..G-1 of the images, or None where there are no groups."""
    if groups is None:
        return None
    found = np.asarray([str(name) for name in groups])
    if found.shape != (n,):
        raise UsageError(f"{where}: expected one group for each of {n} images, got {found.size}")
    return np.unique(found, return_inverse=True)[1].reshape(n)
