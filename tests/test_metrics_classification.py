import time
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import functional as F

from roteq.errors import UsageError
from roteq.files import load_json, save_json
from roteq.metrics import evaluate
from roteq.metrics.classification import METRICS, Metrics, curves
from roteq.metrics.resampling import multiplicities
from roteq.results import Evaluation, Interval


def make_answers(n: int, k: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    labels[:k] = np.arange(k)
    logits = generator.normal(size=(n, k))
    logits[np.arange(n), labels] += 0.8
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, probabilities, [f"class {c}" for c in range(k)]


def by_torchmetrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The same eight numbers from torchmetrics and torch."""
    y, p = torch.from_numpy(labels), torch.from_numpy(probabilities)
    k = p.shape[1]
    shared: dict[str, Any] = {"num_classes": k, "validate_args": False}
    rank, target = (p[:, 1], y) if k == 2 else (p, y)
    task: dict[str, Any] = {"task": "binary"} if k == 2 else {"task": "multiclass", "num_classes": k}
    macro = {} if k == 2 else {"average": "macro"}
    return {
        "accuracy": F.classification.multiclass_accuracy(p, y, average="micro", **shared).item(),
        "balanced_accuracy": F.classification.multiclass_accuracy(p, y, average="macro", **shared).item(),
        "auc": F.auroc(rank, target, **task).item(),
        "average_precision": F.average_precision(rank, target, **task).item(),
        "f1": F.f1_score(rank, target, **task, **macro).item(),
        "mcc": F.classification.multiclass_matthews_corrcoef(p, y, **shared).item(),
        "nll": torch.nn.functional.nll_loss(p.log(), y).item(),
        "ece": F.classification.multiclass_calibration_error(p.float(), y, n_bins=15, **shared).item(),
    }


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("k", [2, 3, 9])
def test_values_agree_with_torchmetrics(k: int, ties: bool) -> None:
    labels, probabilities, classes = make_answers(400, k, seed=k, ties=ties)
    found = evaluate(labels, torch.from_numpy(probabilities), classes, bootstrap=0)
    expected = by_torchmetrics(labels, probabilities)
    assert tuple(found.metrics) == METRICS == tuple(expected)
    for name, value in expected.items():
        assert found.metrics[name].value == pytest.approx(value, abs=2e-6), name
    confusion = F.classification.multiclass_confusion_matrix(
        torch.from_numpy(probabilities), torch.from_numpy(labels), k
    )
    assert found.confusion == tuple(tuple(row) for row in confusion.tolist())
    for ours, theirs in ((found.recall, F.recall), (found.precision, F.precision)):
        expected_rates = theirs(
            torch.from_numpy(probabilities), torch.from_numpy(labels), "multiclass", num_classes=k, average="none"
        )
        assert [rate.value for rate in ours.values()] == pytest.approx(expected_rates.tolist())


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("k", [2, 3])
def test_weights_are_repeated_images(k: int, ties: bool) -> None:
    labels, probabilities, classes = make_answers(60, k, ties=ties)
    weights = next(multiplicities(60, 5, seed=3))
    weighted = Metrics(labels, probabilities)(weights)
    for r, row in enumerate(weights.astype(int)):
        repeated = evaluate(np.repeat(labels, row), np.repeat(probabilities, row, axis=0), classes, bootstrap=0)
        for name in METRICS:
            assert weighted[name][r] == pytest.approx(repeated.metrics[name].value, rel=1e-12), name


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for trial in range(150):
        right = generator.random(80) < 0.7
        probabilities = np.where(right[:, None], [[0.2, 0.8]], [[0.8, 0.2]])
        found = evaluate(np.ones(80, int), probabilities, ["a", "b"], bootstrap=200, confidence=0.9, seed=trial)
        accuracy = found.metrics["accuracy"]
        covered.append(accuracy.low <= 0.7 <= accuracy.high)
    assert 0.82 < np.mean(covered) < 0.97


def test_clusters_that_agree_widen_the_interval() -> None:
    labels, probabilities, classes = make_answers(50, 2)
    copies = [np.repeat(a, 10, axis=0) for a in (labels, probabilities)]
    slides = np.repeat([f"slide {i}" for i in range(50)], 10)
    alone = evaluate(*copies, classes, bootstrap=400)
    clustered = evaluate(*copies, classes, groups=slides, bootstrap=400)
    few = evaluate(labels, probabilities, classes, bootstrap=400)
    assert alone.clusters is None and clustered.clusters == 50
    for name in ("accuracy", "auc", "nll"):
        one, many, truth = (width(e.metrics[name]) for e in (alone, clustered, few))
        assert many == pytest.approx(truth, rel=0.15) and many > 2.5 * one
        assert alone.metrics[name].value == pytest.approx(clustered.metrics[name].value)


def width(interval: Interval) -> float:
    assert interval.low is not None and interval.high is not None
    return interval.high - interval.low


def test_a_cluster_is_drawn_whole_and_one_fewer_than_there_are() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(multiplicities(6, 200, groups=groups, seed=0, chunk=50)))
    assert weights.shape == (200, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 2).all()


def test_resampling_has_the_variance_of_the_mean() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0])
    weights = np.concatenate(list(multiplicities(4, 40_000, seed=1)))
    means = weights @ values / weights.sum(1)
    assert means.var() == pytest.approx(values.var(ddof=1) / 4, rel=0.03)


def test_memory_is_bounded_whatever_the_number_of_images() -> None:
    assert {len(w) for w in multiplicities(1 << 18, 10)} == {4, 2}


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    answers = make_answers(200, 3)
    assert evaluate(*answers, bootstrap=50, seed=1) == evaluate(*answers, bootstrap=50, seed=1)
    assert evaluate(*answers, bootstrap=50, seed=1) != evaluate(*answers, bootstrap=50, seed=2)


def test_the_majority_rate_and_prior_entropy_of_the_founding_study() -> None:
    def constant(normal: int, cancer: int) -> Evaluation:
        answers = np.tile([0.6, 0.4], (normal + cancer, 1))
        return evaluate(np.repeat([0, 1], [normal, cancer]), answers, ["Normal", "CANCER"], bootstrap=0)

    validation = constant(26_326, 17_679)
    assert validation.majority_rate == pytest.approx(0.59825020, abs=5e-9)
    assert validation.metrics["accuracy"].value == validation.majority_rate
    assert validation.counts == {"Normal": 26_326, "CANCER": 17_679}
    assert constant(104_582, 71_438).prior_entropy == pytest.approx(0.6753, abs=5e-5)  # its training images


def test_what_a_constant_leaves_undefined_is_none() -> None:
    found = evaluate([0, 0, 1], [[0.7, 0.3]] * 3, ["a", "b"], bootstrap=20)
    assert found.metrics["mcc"] == Interval(None) and found.precision["b"] == Interval(None)
    assert found.metrics["f1"].value == 0 and found.metrics["auc"].value == 0.5 and found.recall["b"].value == 0


def test_what_one_class_leaves_undefined_is_none() -> None:
    found = evaluate([1, 1, 1], [[0.7, 0.3], [0.2, 0.8], [0.1, 0.9]], ["a", "b"], bootstrap=20)
    for name in ("auc", "average_precision", "balanced_accuracy"):
        assert found.metrics[name] == Interval(None), name
    assert found.recall["a"] == Interval(None) and found.precision["a"].value == 0
    assert found.metrics["accuracy"].value == pytest.approx(2 / 3)
    assert found.prior_entropy == 0 and found.majority_rate == 1 and found.roc == found.pr == ()


def test_f1_of_a_class_without_images_is_none() -> None:
    found = evaluate([0, 0], [[0.7, 0.3], [0.2, 0.8]], ["a", "b"], bootstrap=0)
    assert found.metrics["f1"] == Interval(None) and found.precision["b"].value == 0


def test_bins_of_the_calibration_error_hold_their_upper_edge() -> None:
    confidence = np.array([0.6, 0.55, 1.0, 0.95])  # two in (8/15, 9/15], two in (14/15, 1]
    probabilities = np.column_stack([confidence, 1 - confidence])
    found = evaluate([1, 0, 1, 0], probabilities, ["a", "b"], bootstrap=0)
    assert found.metrics["ece"].value == pytest.approx((abs(0.6 + 0.55 - 1) + abs(1.0 + 0.95 - 1)) / 4)


def test_a_class_without_images_is_left_out_of_the_means() -> None:
    labels, probabilities, _ = make_answers(100, 3)
    labels[labels == 2] = 0
    found = evaluate(labels, probabilities, ["a", "b", "c"], bootstrap=10)
    recalls = [found.recall[c].value for c in "ab"]
    assert found.recall["c"] == Interval(None)
    assert found.metrics["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    expected = [
        F.auroc(torch.from_numpy(probabilities[:, c]), torch.from_numpy(labels == c), "binary").item() for c in (0, 1)
    ]
    assert found.metrics["auc"].value == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_probability_rounded_to_zero_costs_a_finite_loss() -> None:
    found = evaluate([0, 1], [[0.0, 1.0], [0.0, 1.0]], ["a", "b"], bootstrap=0)
    assert found.metrics["nll"].value == pytest.approx(38 * np.log(10) / 2)


@pytest.mark.parametrize("bootstrap", [0, 50], ids=["no bootstrap", "one group"])
def test_without_resamples_there_is_no_interval(bootstrap: int) -> None:
    labels, probabilities, classes = make_answers(30, 2)
    found = evaluate(labels, probabilities, classes, groups=["a"] * 30, bootstrap=bootstrap)
    assert found.metrics["auc"].value is not None and found.metrics["auc"].low is None


def test_curves_are_thin_and_keep_their_area() -> None:
    labels, probabilities, classes = make_answers(5000, 2)
    found = evaluate(labels, probabilities, classes, bootstrap=0)
    assert found.roc[0] == (0, 0) and found.roc[-1] == (1, 1) and found.pr[0] == (0, 1) and found.pr[-1][0] == 1
    for curve, metric in ((found.roc, "auc"), (found.pr, "average_precision")):
        x, y = np.array(curve).T
        assert 100 < len(curve) <= 200 and (np.diff(x) >= 0).all()
        assert np.trapezoid(y, x) == pytest.approx(found.metrics[metric].value, abs=2e-3)


def test_a_short_curve_keeps_every_point() -> None:
    roc, pr = curves(np.array([1, 0, 1]), np.array([0.9, 0.5, 0.1]))
    assert roc == ((0, 0), (0, 0.5), (1, 0.5), (1, 1))
    assert pr == ((0, 1), (0.5, 1), (0.5, 0.5), (1, pytest.approx(2 / 3)))


def test_result_survives_json(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = evaluate(*make_answers(50, 2), bootstrap=20)
    save_json(found, tmp_path / "evaluation.json")
    assert load_json(Evaluation, tmp_path / "evaluation.json") == found


def test_the_bootstrap_is_fast() -> None:
    answers = make_answers(5000, 2)
    start = time.process_time()
    evaluate(*answers, bootstrap=1000)
    assert time.process_time() - start < 4  # about 0.4 s on one free core


GOOD = {"labels": [0, 1, 1], "probabilities": [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], "classes": ["a", "b"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0.0, 1.0, 1.0]}, "integer type, got float64"),
        ({"labels": []}, r"shape \(N,\)"),
        ({"labels": [0, 1, 2]}, "labels from 0 to 1, got 0 to 2"),
        ({"labels": [0, 1, -1]}, "labels from 0 to 1, got -1 to 1"),
        ({"labels": [0, 1]}, r"probabilities of shape \(2, 2\), got \(3, 2\)"),
        ({"probabilities": [[0.9, 0.1], [0.4, np.nan], [0.7, 0.3]]}, "NaN or infinity"),
        ({"probabilities": [[0.9, 0.1], [0.4, 0.9], [0.7, 0.3]]}, "were logits passed without softmax"),
        ({"probabilities": [[-0.1, 1.1], [0.4, 0.6], [0.7, 0.3]]}, "probabilities >= 0"),
        ({"classes": ["a"]}, "at least two classes, got 1"),
        ({"groups": ["x", "y"]}, "one group for each of 3 images, got 2"),
        ({"bootstrap": -1}, "bootstrap >= 0"),
        ({"confidence": 95}, "between 0 and 1, as in 0.95, got 95"),
    ],
)
def test_wrong_calls_are_named(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(**{**GOOD, **change})
