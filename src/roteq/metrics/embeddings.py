"""How far embeddings move, and whether their neighbourhoods stay."""

from typing import Any

import numpy as np

from ..errors import UsageError
from .arrays import as_array

ROWS = 1 << 10  # of the similarity matrix at a time
CONSTANT = 1e-20  # fourth power of the share of the size of the embeddings below which there is no variation


def cosine_distance(a: Any, b: Any) -> np.ndarray:
    """1 - cos of the angle between the rows of a and b (N, D): (N,), 0 to 2. A row of zeros has distance 1.

    >>> cosine_distance([[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [3.0, 3.0]]).round(6).tolist()
    [1.0, 0.0]
    """
    a, b = _pair(a, b)
    return 1 - (_unit(a) * _unit(b)).sum(1)


def mutual_neighbours(a: Any, b: Any, k: int = 10) -> float | None:
    """The share of the k nearest images that a (N, D) and b (N, D) have in common, mean over the images; nearest by
    cosine similarity within each set, the image itself left out. None unless N > k + 1.

    Source: Elphick et al. 2024, mutual k-nearest-neighbour overlap of rotated copies.

    >>> a = np.random.default_rng(0).normal(size=(50, 4))
    >>> mutual_neighbours(a, 3 * a), mutual_neighbours(a[:5], a[:5])
    (1.0, None)
    """
    a, b = _pair(a, b)
    n = len(a)
    if n <= k + 1:
        return None
    a, b = _unit(a), _unit(b)
    common = 0
    for start in range(0, n, ROWS):
        rows = np.arange(start, min(start + ROWS, n))
        nearest = []
        for x in (a, b):
            similarity = x[rows] @ x.T
            similarity[np.arange(len(rows)), rows] = -np.inf
            is_near = np.zeros(similarity.shape, bool)
            np.put_along_axis(is_near, np.argpartition(-similarity, k, axis=1)[:, :k], True, axis=1)
            nearest.append(is_near)
        common += int((nearest[0] & nearest[1]).sum())
    return common / (n * k)


def kernel_alignment(a: Any, b: Any) -> float | None:
    """Linear centred kernel alignment of a (N, D) and b (N, E): 1 where one is a rotation and scaling of the other, 0
    where they have nothing in common. None where one of them does not vary.

    ||A'B||^2 / (||A'A|| ||B'B||), A and B centred over the images. Source: Kornblith et al. 2019 (arXiv 1905.00414),
    section 3.

    >>> a = np.random.default_rng(0).normal(size=(50, 4))
    >>> round(kernel_alignment(a, 3 * a[:, ::-1]), 6)
    1.0
    """
    a, b = _pair(a, b)
    if a.shape[1] > len(a):  # the Gram matrices are smaller than the covariances
        a_centred, b_centred = (x - x.mean(0) for x in (a, b))
        first, second = a_centred @ a_centred.T, b_centred @ b_centred.T
        products = [float((x * y).sum()) for x, y in ((first, second), (first, first), (second, second))]
    else:
        a_centred, b_centred = (x - x.mean(0) for x in (a, b))
        pairs = ((a_centred, b_centred), (a_centred, a_centred), (b_centred, b_centred))
        products = [float(np.square(x.T @ y).sum()) for x, y in pairs]
    sizes = [float(np.square(x).sum()) ** 2 for x in (a, b)]
    if any(own <= CONSTANT * size for own, size in zip(products[1:], sizes, strict=True)):
        return None
    return products[0] / (products[1] * products[2]) ** 0.5


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = (as_array(x).astype(np.float64) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or not len(a):
        raise UsageError(f"embeddings: expected two arrays (N, D) of the same images, got {a.shape} and {b.shape}")
    return a, b


def _unit(x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, size, out=np.zeros_like(x), where=size > 0)
