import numpy as np
import pytest
from scipy.stats import binomtest

from roteq.errors import UsageError
from roteq.metrics import compare, evaluate, spread
from roteq.metrics.paired import mcnemar
from roteq.results import Difference, Interval


def make_models(
    n: int = 300, seeds: int = 3, signals: tuple[float, float] = (1.5, 1.0), seed_noise: float = 0.1, k: int = 2
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels (N,) and the probabilities (S, N, K) of two models that find the same images hard."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, k, n)
    shared = generator.normal(size=(1, n, k))
    models = []
    for signal in signals:
        logits = shared + seed_noise * generator.normal(size=(seeds, n, k)) + signal * np.eye(k)[labels]
        models.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    return labels, models


@pytest.mark.parametrize("k", [2, 3])
def test_the_difference_is_that_of_the_means_over_the_seeds(k: int) -> None:
    labels, (a, b) = make_models(k=k)
    found = compare("a", "b", labels, a, b[:2], bootstrap=100)
    names = [str(c) for c in range(k)]
    for metric, difference in (("auc", found.auc), ("accuracy", found.accuracy)):
        of_a, of_b = ([evaluate(labels, p, names, bootstrap=0).metrics[metric].value for p in m] for m in (a, b[:2]))
        assert difference.value == pytest.approx(np.mean(of_a) - np.mean(of_b))
        assert difference.low < difference.value < difference.high and difference.value > 0


def test_pairing_is_sharper_than_two_separate_intervals() -> None:
    labels, (a, b) = make_models(seeds=1)
    found = compare("a", "b", labels, a, b, bootstrap=500).auc
    alone = [evaluate(labels, m[0], ["n", "p"], bootstrap=500).metrics["auc"] for m in (a, b)]
    unpaired = np.hypot(*[i.high - i.low for i in alone])
    assert found.high - found.low < 0.7 * unpaired
    assert found.low > 0


def test_a_model_differs_from_itself_by_nothing() -> None:
    labels, (a, _) = make_models(seeds=1)
    found = compare("a", "a", labels, a, a, bootstrap=50)
    assert found == Difference("a", "a", Interval(0, 0, 0), Interval(0, 0, 0), 0, 0, 1.0)


def test_the_luck_of_the_seeds_is_in_the_interval() -> None:
    labels, (a, b) = make_models(n=2000, seeds=3, signals=(1.0, 1.0), seed_noise=0)
    good = np.eye(2)[labels] * 0.98 + 0.01
    lucky = a.copy()
    lucky[0] = good  # one seed of three happened to work
    wide = compare("a", "b", labels, lucky, b, bootstrap=300).accuracy
    assert wide.value > 0.05
    assert wide.low == pytest.approx(0, abs=0.02)  # a resample without the lucky seed shows no difference


def test_groups_are_resampled_whole() -> None:
    labels, models = make_models(n=40, seeds=1)
    many, (a, b) = np.repeat(labels, 10), [np.repeat(m, 10, axis=1) for m in models]
    alone = compare("a", "b", many, a, b, bootstrap=300).auc
    clustered = compare("a", "b", many, a, b, groups=np.repeat(np.arange(40), 10), bootstrap=300).auc
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    assert compare("a", "b", many, a, b, groups=["one"] * 400, bootstrap=300).auc.low is None


def test_mcnemar_counts_the_decisions_of_the_mean_probability() -> None:
    labels = np.array([1, 1, 0, 0])
    p = np.array([[0.9, 0.4, 0.1, 0.6], [0.8, 0.4, 0.2, 0.3], [0.1, 0.9, 0.1, 0.4]])  # of class 1, three seeds
    a = np.stack([1 - p, p], axis=-1)  # means 0.6 0.567 0.133 0.433: all right, though two seeds of three miss image 1
    b = np.tile([[0.4, 0.6]], (1, 4, 1))
    found = compare("a", "b", labels, a, b, bootstrap=0)
    assert (found.only_a_right, found.only_b_right) == (2, 0)
    assert found.mcnemar_p == 0.5


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (8, 2), (30, 61)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(expected)


def test_auc_with_one_class_is_undefined_and_accuracy_is_not() -> None:
    _, (a, b) = make_models(n=20)
    found = compare("a", "b", np.ones(20, int), a, b, bootstrap=10)
    assert found.auc == Interval(None) and found.accuracy.value is not None


@pytest.mark.parametrize(
    ("values", "mean", "std", "n"),
    [([], None, None, 0), ([None], None, None, 0), ([0.5], 0.5, None, 1), ([1.0, None, 3.0], 2.0, 2**0.5, 2)],
)
def test_spread_leaves_out_what_has_no_value(values: list, mean: float | None, std: float | None, n: int) -> None:
    found = spread(values)
    assert (found.mean, found.n) == (mean, n)
    assert found.std == (std if std is None else pytest.approx(std))


def test_wrong_calls_are_named() -> None:
    labels, (a, b) = make_models(n=20)
    for change, message in [
        ((labels, a[0], b), "expected probabilities"),
        ((labels, a, b[:, :10]), "of the same images"),
        ((labels, a[:0], b), "of the same images"),
        ((labels[:5], a, b), r"compare: left: expected probabilities of shape \(3, 5, 2\)"),
        ((labels, a, 2 * b), "compare: right: .* without softmax"),
        ((labels + 5, a, b), "labels from 0 to 1"),
    ]:
        with pytest.raises(UsageError, match=message):
            compare("left", "right", *change)
    with pytest.raises(UsageError, match="bootstrap >= 0"):
        compare("left", "right", labels, a, b, bootstrap=-1)
