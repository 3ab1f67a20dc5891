"""The bootstrap: how often each image is drawn, and the percentile interval of what came out.

A resample is a row of integer weights, so a metric that takes weights is computed for many resamples at once.
"""

from collections.abc import Iterator

import numpy as np

from ..errors import UsageError
from ..results import Interval

CHUNK = 1 << 20  # weights held at a time, whatever the number of images and resamples (8 MiB)


def multiplicities(
    n: int, resamples: int, *, groups: np.ndarray | None = None, seed: int = 0, chunk: int = CHUNK
) -> Iterator[np.ndarray]:
    """Yield weights (R, n), R summing to `resamples`: how often each image is drawn.

    Units are images, or whole groups (`groups`: numbers 0..G-1 of the images). Of U units U - 1 are drawn, with
    replacement: drawing U of U understates the variance by (U - 1)/U, which matters with five slides or three seeds
    (Rao and Wu 1988, J. Am. Stat. Assoc. 83, 231). Fewer than two units yield nothing: there is no interval.

    >>> [w.sum(axis=1).tolist() for w in multiplicities(5, 3)]
    [[4.0, 4.0, 4.0]]
    """
    units = n if groups is None else int(groups.max()) + 1
    if units < 2:
        return
    generator = np.random.default_rng(seed)
    rows = max(1, chunk // max(n, units))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, units, (size, units - 1)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)
        yield counts if groups is None else counts[:, groups]


def interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    """The value with the percentile interval of its resamples; NaN means undefined.

    An undefined value is None; a value that is undefined in more than half of its resamples has no interval.

    >>> interval(0.5, np.linspace(0, 1, 101), 0.5)
    Interval(value=0.5, low=0.25, high=0.75)
    """
    if np.isnan(value):
        return Interval(None)
    defined = draws[~np.isnan(draws)]
    if defined.size == 0 or 2 * defined.size < draws.size:
        return Interval(float(value))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def check_bootstrap(where: str, bootstrap: int, confidence: float) -> None:
    """Raise UsageError unless there are 0 or more resamples and a confidence between 0 and 1."""
    if bootstrap < 0:
        raise UsageError(f"{where}: expected bootstrap >= 0 resamples (0: no intervals), got {bootstrap}")
    if not 0 < confidence < 1:
        raise UsageError(f"{where}: expected confidence between 0 and 1, as in 0.95, got {confidence}")
