"""Two models on the same images: is the difference more than luck?"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import UsageError
from ..results import Difference, Spread
from .arrays import as_array, as_groups, as_labels, as_probabilities
from .classification import Ranking
from .resampling import check_bootstrap, interval, multiplicities


def compare(
    label_a: str,
    label_b: str,
    labels: Any,
    probs_a: Any,
    probs_b: Any,
    *,
    groups: Any = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Model a minus model b: AUC and accuracy, each the mean over the seeds, with a paired bootstrap interval.

    labels (N,); probs_a (S, N, K) and probs_b (S', N, K): class probabilities of every seed. A resample draws images
    (or whole groups), the same for both models, and the seeds of each model, so both kinds of luck are in the
    interval; with a single seed it speaks of these two trained networks only. McNemar's exact test compares the
    decisions of the mean probability over the seeds.

    Raises: UsageError for shapes that do not match, or probabilities that are none.
    """
    a, b = as_array(probs_a), as_array(probs_b)
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or 0 in a.shape + b.shape:
        raise UsageError(
            f"compare: expected probabilities (seeds, N, K) of the same images, got {a.shape} and {b.shape}"
        )
    truth = as_labels("compare", labels, a.shape[2])
    a = as_probabilities(f"compare: {label_a}", a, (len(a), len(truth), a.shape[2]))
    b = as_probabilities(f"compare: {label_b}", b, (len(b), len(truth), b.shape[2]))
    codes = as_groups("compare", groups, len(truth))
    check_bootstrap("compare", bootstrap, confidence)

    scores = [_SeedScores(truth, a), _SeedScores(truth, b)]
    point = [score(np.ones((1, len(truth)))).mean(axis=2) for score in scores]  # (2, 1)
    generator = np.random.default_rng(seed + 1)
    draws = []
    for weights in multiplicities(len(truth), bootstrap, groups=codes, seed=seed):
        means = [_draw_seeds(score(weights), generator) for score in scores]
        draws.append(means[0] - means[1])
    table = np.concatenate(draws, axis=1) if draws else np.empty((2, 0))
    auc, accuracy = (interval((point[0] - point[1])[m, 0], table[m], confidence) for m in range(2))

    right_a, right_b = (p.mean(0).argmax(-1) == truth for p in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Difference(label_a, label_b, auc, accuracy, only_a, only_b, mcnemar(only_a, only_b))


class _SeedScores:
    """Weights (R, N) -> AUC and accuracy of every seed (2, R, S)."""

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        self.rankings = [Ranking(labels, p) for p in probabilities]
        self.right = (probabilities.argmax(-1) == labels).T.astype(np.float64)  # (N, S)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        accuracy = weights @ self.right / weights.sum(1, keepdims=True)
        return np.stack([np.stack([ranking(weights)[0] for ranking in self.rankings], axis=1), accuracy])


def _draw_seeds(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mean over seeds drawn with replacement, anew for every resample: (2, R, S) -> (2, R). S - 1 of S, as above."""
    _, resamples, seeds = scores.shape
    chosen = generator.integers(0, seeds, (resamples, max(1, seeds - 1)))
    return np.take_along_axis(scores, chosen[None], axis=2).mean(axis=2)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test on the images that only one of two models gets right.

    >>> mcnemar(8, 2)
    0.109375
    >>> mcnemar(0, 0)
    1.0
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and standard deviation over the seeds; a seed without a value is left out and not counted.

    >>> spread([0.5, 0.7, None])
    Spread(mean=0.6, std=0.14142135623730948, n=2)
    """
    found = np.array([value for value in values if value is not None], dtype=np.float64)
    if not found.size:
        return Spread(None, None, 0)
    return Spread(float(found.mean()), float(found.std(ddof=1)) if found.size > 1 else None, found.size)
