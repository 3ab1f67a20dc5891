"""How good a classifier is, each number with its bootstrap interval.

Every metric is written for weighted images and computed for many resamples at once; the value itself is the case of
weight one. The values agree with torchmetrics.functional (tests/test_metrics_classification.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..results import Evaluation, Interval
from .arrays import as_groups, as_labels, as_probabilities
from .resampling import check_bootstrap, interval, multiplicities

ECE_BINS = 15
LEAST_PROBABILITY = 1e-38  # what float32 rounds to 0 counts as this: 87.5 nats instead of infinity
CURVE_POINTS = 200


def evaluate(
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    *,
    groups: Any = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Accuracy, balanced accuracy, ROC AUC, average precision, F1, MCC, NLL, ECE and more, with intervals.

    labels: class indices (N,); probabilities: (N, K); classes: K names; groups: one per image (slide, patient): then
    whole groups are resampled. With two classes auc, average_precision and f1 are those of the second class;
    with more they are means over the classes, each against the rest. A class without images is left out of every
    mean. What is undefined is None: AUC and balanced accuracy with one class, precision of a class that is
    never predicted, MCC of a constant.

    Raises: UsageError for shapes, labels or probabilities that cannot be right.

    >>> evaluate([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], ["a", "b"], bootstrap=0).metrics["auc"]
    Interval(value=1.0, low=None, high=None)
    """
    names = tuple(str(name) for name in classes)
    if len(names) < 2:
        raise UsageError(f"evaluate: expected at least two classes, got {len(names)}")
    truth = as_labels("evaluate", labels, len(names))
    probs = as_probabilities("evaluate", probabilities, (len(truth), len(names)))
    codes = as_groups("evaluate", groups, len(truth))
    check_bootstrap("evaluate", bootstrap, confidence)

    metrics = Metrics(truth, probs)
    point = metrics(np.ones((1, len(truth))))
    parts = [metrics(weights) for weights in multiplicities(len(truth), bootstrap, groups=codes, seed=seed)]
    draws = {name: np.concatenate([value[:0], *(part[name] for part in parts)]) for name, value in point.items()}

    def per_class(name: str) -> dict[str, Interval]:
        return {c: interval(point[name][0, k], draws[name][:, k], confidence) for k, c in enumerate(names)}

    counts = np.bincount(truth, minlength=len(names))
    shares = counts[counts > 0] / len(truth)
    confusion = np.bincount(truth * len(names) + probs.argmax(-1), minlength=len(names) ** 2).reshape(len(names), -1)
    roc, pr = curves(truth, probs[:, 1]) if len(names) == 2 else ((), ())
    return Evaluation(
        n=len(truth),
        classes=names,
        counts=dict(zip(names, counts.tolist(), strict=True)),
        majority_rate=float(shares.max()),
        prior_entropy=float(-(shares * np.log(shares)).sum()) + 0.0,
        metrics={name: interval(point[name][0], draws[name], confidence) for name in METRICS},
        recall=per_class("recall"),
        precision=per_class("precision"),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        clusters=None if codes is None else int(codes.max()) + 1,
        roc=roc,
        pr=pr,
    )


METRICS = ("accuracy", "balanced_accuracy", "auc", "average_precision", "f1", "mcc", "nll", "ece")


class Metrics:
    """Weights (R, N) -> every metric (R,), recall and precision (R, K); NaN where undefined.

    All but the ranking metrics are functions of weighted sums over the images, so one matrix product serves them.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        n, k = probabilities.shape
        predicted = probabilities.argmax(-1)
        confidence = probabilities.max(-1)
        right = (predicted == labels).astype(np.float64)
        eye = np.eye(k)
        bins = np.clip(
            np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1
        )  # (low, high] as Guo et al. 2017
        nll = -np.log(np.maximum(probabilities[np.arange(n), labels], LEAST_PROBABILITY))
        gaps = np.eye(ECE_BINS)[bins] * (confidence - right)[:, None]
        self.columns = np.hstack([eye[labels], eye[predicted], eye[labels] * right[:, None], nll[:, None], gaps])
        self.k = k
        self.ranking = Ranking(labels, probabilities)

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        k, total = self.k, weights.sum(1)
        sums = weights @ self.columns
        truth, answers, hits = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k : 3 * k]
        recall, f1 = divide(hits, truth), divide(2 * hits, np.where(truth > 0, truth + answers, 0))
        auc, average_precision = self.ranking(weights)
        spread = (total**2 - (truth**2).sum(1)) * (total**2 - (answers**2).sum(1))
        return {
            "accuracy": hits.sum(1) / total,
            "balanced_accuracy": np.where((truth > 0).sum(1) > 1, mean_of_defined(recall), np.nan),
            "auc": auc,
            "average_precision": average_precision,
            "f1": f1[:, 1] if k == 2 else mean_of_defined(f1),
            "mcc": divide(hits.sum(1) * total - (truth * answers).sum(1), np.sqrt(spread)),
            "nll": sums[:, 3 * k] / total,
            "ece": np.abs(sums[:, 3 * k + 1 :]).sum(1) / total,
            "recall": recall,
            "precision": divide(hits, answers),
        }


class Ranking:
    """Weights (R, N) -> ROC AUC and average precision (R,), each: NaN where a class has no images.

    With the images in falling order of the score, TP and FP are cumulative sums read at the end of each run of equal
    scores: AUC = sum (TP_before + TP)/2 dFP / (P N), AP = sum dTP (TP / (TP + FP)) / P.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        k = probabilities.shape[1]
        self.orders = []
        for c in [1] if k == 2 else range(k):
            order = np.argsort(-probabilities[:, c], kind="stable")
            score = probabilities[order, c]
            ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
            self.orders.append((order, ends, (labels[order] == c).astype(np.float64)))

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = [self._one(weights, *order) for order in self.orders]
        auc, average_precision = (mean_of_defined(np.stack(metric, axis=1)) for metric in zip(*values, strict=True))
        return auc, average_precision

    @staticmethod
    def _one(weights: np.ndarray, order: np.ndarray, ends: np.ndarray, positive: np.ndarray) -> Any:
        sorted_weights = np.take(weights, order, axis=1)
        seen = np.cumsum(sorted_weights, axis=1)
        sorted_weights *= positive
        tp = np.cumsum(sorted_weights, axis=1, out=sorted_weights)
        if len(ends) < len(order):
            seen, tp = np.take(seen, ends, axis=1), np.take(tp, ends, axis=1)
        p, n = tp[:, -1], seen[:, -1] - tp[:, -1]
        d_tp = np.diff(tp, axis=1, prepend=0)
        d_seen = np.diff(seen, axis=1, prepend=0)
        area = np.einsum("rt,rt->r", tp - d_tp / 2, d_seen - d_tp)
        np.maximum(seen, 1, out=seen)
        return divide(area, p * n), divide(np.einsum("rt,rt,rt->r", d_tp, tp, 1 / seen), np.where(n > 0, p, 0))


def curves(labels: np.ndarray, scores: np.ndarray) -> tuple[Any, Any]:
    """ROC (false positive rate, true positive rate) and PR (recall, precision) points, at most 200 each.

    Empty unless both classes are there.
    """
    if not 0 < labels.sum() < len(labels):
        return (), ()
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    tp = np.cumsum(labels[order])[ends]
    fp = ends + 1 - tp
    roc = np.vstack([[0.0, 0.0], np.column_stack([fp / fp[-1], tp / tp[-1]])])
    pr = np.vstack([[0.0, 1.0], np.column_stack([tp / tp[-1], tp / (tp + fp)])])
    return _thin(roc), _thin(pr)


def _thin(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    """At most CURVE_POINTS of the points, evenly along the curve, both ends kept."""
    length = np.append(0, np.abs(np.diff(points, axis=0)).sum(1).cumsum())
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS)))
    return tuple((float(x), float(y)) for x, y in points[kept])


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last dimension without its NaN, NaN where all are."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(-1), defined.sum(-1))
