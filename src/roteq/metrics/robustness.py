"""How far an answer moves when the picture is turned: errors, flips and accuracy of one orbit.

The function that is judged, f, is the logits minus their mean over the classes ("centred"): softmax does not see that
mean, so neither should the error. Probabilities would do worse: they saturate, and a model that is sure of
everything would look invariant. Every function here takes raw logits (N, K), K >= 2, and centres them itself.
"""

from typing import Any

import numpy as np

from ..results import Interval
from .arrays import as_array
from .resampling import interval, multiplicities

RELATIVE_NOISE = 1e-4  # of the output's size: ten times the rounding of a deep float32 network would still be 1 % error
ABSOLUTE_NOISE = 1e-6  # logits


def centred(logits: Any) -> np.ndarray:
    """Logits minus their mean over the classes (last dimension), in double precision."""
    found = as_array(logits).astype(np.float64)
    return found - found.mean(-1, keepdims=True)


def image_variation(logits: Any) -> float:
    """The root mean square distance between the outputs of two different images, over all pairs.

    sqrt(mean of ||f(x) - f(x')||^2 over x != x') = sqrt(2 sum of the variances), so no pairing has to be chosen and
    the order of the images (sorted by class, neighbours on a slide) does not matter.

    >>> image_variation([[1.0, -1.0], [-1.0, 1.0]]) ** 2
    8.000000000000002
    """
    return float(np.sqrt(2 * centred(logits).var(axis=0, ddof=1).sum()))


def is_degenerate(logits: Any) -> bool:
    """True if the output hardly varies between images: less than 1e-4 of its size, or float noise.

    >>> is_degenerate([[0.3, 0.7]] * 5)
    True
    """
    size = np.sqrt((as_array(logits).astype(np.float64) ** 2).sum(-1).mean())
    return bool(image_variation(logits) <= max(ABSOLUTE_NOISE, RELATIVE_NOISE * size))


def between_image_error(turned: Any, upright: Any) -> float | None:
    """||f(gx) - f(x)|| / ||f(x) - f(x')||, x' any other image, root mean square over images and pairs.

    0: invariant; 1: turning a picture changes the output as much as exchanging it. None: degenerate, the output
    hardly varies between images, so nothing can be said.

    >>> between_image_error([[0.0, 1.0], [2.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]])
    0.0
    """
    if is_degenerate(upright):
        return None
    return _distance(turned, upright) / image_variation(upright)


def relative_error(turned: Any, upright: Any) -> float | None:
    """||f(gx) - f(x)|| / ||f(x)||, as papers print it; it flatters a network whose output hardly varies."""
    size = np.sqrt((centred(upright) ** 2).sum(-1).mean())
    return float(_distance(turned, upright) / size) if size > 0 else None


def _distance(turned: Any, upright: Any) -> float:
    return float(np.sqrt(((centred(turned) - centred(upright)) ** 2).sum(-1).mean()))


def flip_rate(turned: Any, upright: Any) -> float:
    """The share of images whose decision changes."""
    return float((as_array(turned).argmax(-1) != as_array(upright).argmax(-1)).mean())


def interval_of_means(
    values: np.ndarray, groups: np.ndarray | None, bootstrap: int, confidence: float, seed: int
) -> list[Interval]:
    """The mean of each column of values (N, M), with its bootstrap interval; NaN columns are undefined."""
    values = values.astype(np.float64)
    draws = [
        w @ values / w.sum(1, keepdims=True) for w in multiplicities(len(values), bootstrap, groups=groups, seed=seed)
    ]
    table = np.concatenate(draws) if draws else np.empty((0, values.shape[1]))
    return [interval(value, table[:, m], confidence) for m, value in enumerate(values.mean(0))]
