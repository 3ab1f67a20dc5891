import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics import functional as F

from roteq.errors import RoteqError, UsageError
from roteq.files import load_json, save_json
from roteq.metrics import evaluate
from roteq.metrics.counts import BINS
from roteq.metrics.maps import (
    IGNORE,
    PIXELS,
    MapCounts,
    check_constant_maps,
    compare_maps,
    count_map,
    evaluate_maps,
    load_counts,
    save_counts,
)
from roteq.metrics.membranes import at_best
from roteq.metrics.resampling import multiplicities
from roteq.results import Evaluation, Interval


def make_map(
    k: int, seed: int, *, side: int = 40, gain: float = 1.5, noise: float = 1.0, sure: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, H, W) that know something, and labels (H, W) of which a tenth is not judged."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(k, size=(side, side), p=np.arange(1, k + 1)[::-1] / (k * (k + 1) / 2))
    logits = generator.normal(size=(k, side, side)) * noise + gain * np.eye(k)[labels].transpose(2, 0, 1)
    logits *= sure
    probabilities = np.exp(logits - logits.max(0))
    labels[generator.random(labels.shape) < 0.1] = IGNORE
    return (probabilities / probabilities.sum(0)).astype(np.float32), labels


def pixels_of(maps: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, K) of the judged pixels of all images."""
    labels = np.concatenate([truth[truth != IGNORE] for _, truth in maps])
    return labels, np.concatenate([probs[:, truth != IGNORE].T for probs, truth in maps])


def by_torchmetrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    y, p = torch.from_numpy(labels), torch.from_numpy(probabilities).double()
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
        "mcc": F.classification.multiclass_matthews_corrcoef(p, y, **shared).item(),
        "nll": torch.nn.functional.nll_loss(p.log(), y).item(),
        "dice": F.f1_score(rank, target, **task, **macro).item(),
        "iou": F.jaccard_index(rank, target, **task, **macro).item(),
    }


@pytest.mark.parametrize("k", [2, 3, 5])
def test_values_agree_with_torchmetrics(k: int) -> None:
    maps = [make_map(k, seed) for seed in range(6)]
    found = evaluate_maps([count_map(*one) for one in maps], [str(c) for c in range(k)], bootstrap=0)
    labels, probabilities = pixels_of(maps)
    expected = by_torchmetrics(labels, probabilities)
    assert tuple(found.metrics) == tuple(expected)
    for name, value in expected.items():
        error = 1e-4 if name in ("auc", "average_precision") else 1e-6
        assert found.metrics[name].value == pytest.approx(value, abs=error), name
    assert found.images == 6
    assert found.n == len(labels) == sum(found.counts.values())
    assert found.clusters is None


@pytest.mark.parametrize("k", [2, 3])
def test_what_pixels_share_with_images_agrees_with_evaluate(k: int) -> None:
    maps = [make_map(k, seed) for seed in range(3)]
    classes = [str(c) for c in range(k)]
    found = evaluate_maps([count_map(*one) for one in maps], classes, bootstrap=0)
    expected = evaluate(*pixels_of(maps), classes, bootstrap=0)
    for name in ("counts", "confusion", "majority_rate", "prior_entropy", "recall", "precision"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("accuracy", "balanced_accuracy", "mcc", "nll"):
        assert found.metrics[name].value == pytest.approx(expected.metrics[name].value, rel=1e-12), name


@pytest.mark.parametrize(
    ("sure", "error"), [(0.02, 5e-3), (1.0, 1e-4), (10.0, 1e-4)], ids=["hardly sure", "sure", "too sure"]
)
def test_auc_and_average_precision_lie_within_their_bounds(sure: float, error: float) -> None:
    maps = [make_map(2, seed, sure=sure) for seed in range(4)]
    counts = [count_map(*one) for one in maps]
    found = evaluate_maps(counts, "ab", bootstrap=0).metrics
    labels, probabilities = pixels_of(maps)
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-38)) @ [-1, 1]  # p of 1 in float32 is not the same
    auc = roc_auc_score(labels, logits)
    rest, own = np.sum([one.scores[0] for one in counts], axis=0)
    bound = (own / own.sum() * rest / rest.sum()).sum() / 2
    assert abs(found["auc"].value - auc) <= min(bound, error)
    assert abs(found["average_precision"].value - average_precision_score(labels, logits)) <= error


def test_the_bins_keep_the_order_and_one_half_begins_a_bin() -> None:
    p = np.concatenate([[0.0, 1e-38], np.geomspace(1e-30, 0.5, 2000), 1 - np.geomspace(0.4999, 1e-15, 2000), [1.0]])
    for score in (0.5, np.nextafter(0.5, 1)):
        counts = count_map(np.array([[[1 - score]], [[score]]]), np.array([[1]]))
        assert counts.scores[0, 1].argmax() == BINS // 2
    bins = [count_map(np.array([[[1 - s]], [[s]]]), np.array([[1]])).scores[0, 1].argmax() for s in p[::20]]
    assert np.all(np.diff(bins) >= 0)
    assert len(set(bins)) > 150
    assert bins[0] >= 0
    assert max(bins) < BINS


def test_ignored_pixels_change_nothing() -> None:
    probabilities, labels = make_map(3, 0)
    other = probabilities.copy()
    other[:, labels == IGNORE] = np.array([0.0, 0.0, 1.0], np.float32)[:, None]
    for one, same in zip(
        vars(count_map(probabilities, labels)).values(), vars(count_map(other, labels)).values(), strict=True
    ):
        np.testing.assert_equal(one, same)
    assert count_map(probabilities, labels).confusion.sum() == (labels != IGNORE).sum()


def test_a_perfect_map_a_wrong_one_and_an_unsure_one() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (20, 20))
    sure = np.stack([labels == 0, labels == 1]).astype(np.float32)
    perfect, wrong = (
        evaluate_maps([count_map(p, labels)], "ab", bootstrap=0).metrics for p in (sure, sure[::-1].copy())
    )
    for name in ("accuracy", "balanced_accuracy", "auc", "average_precision", "mcc", "dice", "iou"):
        assert perfect[name].value == pytest.approx(1), name
        if name != "average_precision":
            assert wrong[name].value == pytest.approx(-1 if name == "mcc" else 0), name
    assert perfect["nll"].value == 0
    assert wrong["nll"].value == pytest.approx(38 * np.log(10))
    constant = evaluate_maps([count_map(np.full((2, 20, 20), 0.5), labels)], "ab", bootstrap=0)
    assert constant.metrics["auc"].value == 0.5
    assert constant.metrics["average_precision"].value == pytest.approx(labels.mean(), abs=2e-3)
    assert constant.metrics["mcc"] == constant.precision["b"] == Interval(None)
    assert constant.metrics["dice"].value == 0


def test_what_is_undefined_is_none() -> None:
    one = evaluate_maps([count_map(make_map(2, 1)[0], np.zeros((40, 40), int))] * 3, "ab")
    for name in ("auc", "average_precision", "balanced_accuracy", "dice", "iou", "mcc"):
        assert one.metrics[name] == Interval(None), name
    other = evaluate_maps([count_map(make_map(2, 1)[0], np.ones((40, 40), int))] * 3, "ab")
    for name in ("auc", "average_precision", "balanced_accuracy"):
        assert other.metrics[name] == Interval(None), name
    assert other.metrics["dice"].value > 0.5
    assert one.recall["b"] == Interval(None)
    assert one.roc == one.pr == ()
    assert tuple(one.metrics) == PIXELS


def test_the_curves_enclose_the_auc() -> None:
    found = evaluate_maps([count_map(*make_map(2, seed)) for seed in range(3)], "ab", bootstrap=0)
    x, y = np.array(found.roc).T
    assert np.trapezoid(y, x) == pytest.approx(found.metrics["auc"].value, abs=2e-3)
    assert found.roc[0] == (0, 0)
    assert found.roc[-1] == (1, 1)
    assert found.pr[0] == (0, 1)
    assert len(found.roc) <= 200
    assert evaluate_maps([count_map(*make_map(3, 0))], "abc", bootstrap=0).roc == ()


def test_weights_are_repeated_images_and_intervals_resample_images() -> None:
    maps = [make_map(2, seed, side=24, gain=0.3 * seed) for seed in range(7)]
    kinds: dict[str, Any] = {"boundary": 1, "centres": [[3.0, 4.0], [15.0, 12.0]], "radius": 4.0}
    counts = [count_map(*one, **kinds) for one in maps]
    kept = at_best(np.stack([one.membranes for one in counts]))  # resamples keep the threshold of the whole set
    counts = [replace(one, membranes=tables) for one, tables in zip(counts, kept, strict=True)]
    found = evaluate_maps(counts, "ab", bootstrap=40, seed=3, confidence=0.9)
    rows = [np.repeat(np.arange(7), row.astype(int)) for weights in multiplicities(7, 40, seed=3) for row in weights]
    drawn = [evaluate_maps([counts[i] for i in row], "ab", bootstrap=0) for row in rows]
    assert len(found.metrics) == 14
    for name, interval in found.metrics.items():
        values = [one.metrics[name].value for one in drawn]
        assert None not in values
        assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95]))), name
        assert interval.low < interval.high, name
    recalls = [one.recall["b"].value for one in drawn]
    assert found.recall["b"].high == pytest.approx(np.quantile(recalls, 0.95))


def test_resamples_keep_the_threshold_of_the_whole_set() -> None:
    """Two images that want different thresholds: each alone would find a better one than both together."""
    wall = np.zeros((24, 24), int)
    wall[:, 11:13] = 1
    counts = []
    for high, gap in ((0.95, 0.65), (0.35, 0.05)):  # a wall with a hole that only some thresholds see
        membrane = np.where(wall > 0, high, gap - 0.04)
        counts.append(count_map(np.stack([1 - membrane, membrane]), wall, boundary=1))
    together = evaluate_maps(counts, "ab", bootstrap=200).metrics["v_rand"]
    alone = [evaluate_maps([one], "ab", bootstrap=0).metrics["v_rand"].value for one in counts]
    assert min(alone) == 1 > together.value
    assert together.low <= together.value <= together.high


def test_groups_are_resampled_whole() -> None:
    counts = [count_map(*make_map(2, seed, gain=0.5 * (seed // 2))) for seed in range(8)]
    paired = evaluate_maps(counts, "ab", groups=[f"eye {i // 2}" for i in range(8)])
    single = evaluate_maps(counts, "ab")
    assert (paired.clusters, single.clusters) == (4, None)
    width = [e.metrics["auc"].high - e.metrics["auc"].low for e in (paired, single)]
    assert width[0] > 1.1 * width[1]
    alone = evaluate_maps(counts, "ab", groups=["one"] * 8)
    assert alone.metrics["auc"].low is None


def test_many_resamples_are_fast() -> None:
    counts = [count_map(*make_map(4, seed)) for seed in range(30)]
    start = time.perf_counter()
    found = evaluate_maps(counts, "abcd", bootstrap=1000)
    assert time.perf_counter() - start < 5
    assert all(interval.low is not None for interval in found.metrics.values())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p, y: count_map(p[0], y), r"expected probabilities \(K, H, W\)"),
        (lambda p, y: count_map(p[:1], y), "two classes or more"),
        (lambda p, y: count_map(p, y[:-1]), "expected labels of shape"),
        (lambda p, y: count_map(p, y.astype(float)), "integer type"),
        (lambda p, y: count_map(p, np.full_like(y, 2)), "expected labels from 0 to 1, or -100, got 2 to 2"),
        (lambda p, y: count_map(3 * p, y), "without softmax"),
        (lambda p, y: count_map(p, y, boundary=2), "class of the membranes, 0 to 1, got 2"),
        (lambda p, y: count_map(p, y, centres=[[1.0, 2.0]], radius=0), "radius above 0"),
        (lambda p, y: count_map(p, y, centres=[[1.0, 2.0, 3.0]]), r"expected centres \(n, 2\)"),
        (lambda p, y: count_map(p, y, centres=[[1.0, 99.0]]), "within 6 pixels of it, got .* 1 to 99"),
        (lambda p, y: evaluate_maps([], "ab"), "at least one counted image"),
        (lambda p, y: evaluate_maps([count_map(p, y)], "abc"), "of 3 classes"),
        (lambda p, y: evaluate_maps([count_map(p, y), count_map(p, y, boundary=1)], "ab"), "counted alike"),
        (lambda p, y: evaluate_maps([count_map(p, np.full_like(y, IGNORE))], "ab"), "labelled pixels, got none"),
        (lambda p, y: evaluate_maps([count_map(p, y)], "ab", groups=["a", "b"]), "one group for each of 1 images"),
        (lambda p, y: evaluate_maps([count_map(p, y)], "ab", bootstrap=-1), "bootstrap >= 0"),
        (lambda p, y: compare_maps("a", "b", [], [[count_map(p, y)]]), "seeds of both models"),
        (lambda p, y: compare_maps("a", "b", [[count_map(p, y)]], [[count_map(p, y)] * 2]), "same images"),
        (lambda p, y: compare_maps("a", "b", [[count_map(p, y)]], [[count_map(p, 0 * y)]]), "got other labels"),
    ],
)
def test_what_cannot_be_right_is_said(call: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        call(*make_map(2, 0))


def test_tensors_and_an_image_without_labels_are_taken() -> None:
    probabilities, labels = make_map(2, 0)
    counts = count_map(torch.from_numpy(probabilities), torch.from_numpy(labels), centres=np.empty((0, 2)))
    np.testing.assert_equal(counts.confusion, count_map(probabilities, labels).confusion)
    empty = count_map(probabilities, np.full_like(labels, IGNORE), centres=[], boundary=0)
    assert empty.confusion.sum() == empty.scores.sum() == empty.nll == empty.membranes.sum() == empty.peaks.sum() == 0
    pair = [count_map(probabilities, labels, centres=[], boundary=0), empty]
    with_it, without = evaluate_maps(pair, "ab", bootstrap=0), evaluate_maps(pair[:1], "ab", bootstrap=0)
    assert with_it.metrics == without.metrics


def test_a_constant_map_is_caught() -> None:
    labels = (np.random.default_rng(0).random((30, 30)) < 0.2).astype(int)
    constant = count_map(np.stack([np.full((30, 30), 0.8), np.full((30, 30), 0.2)]), labels)
    finding = check_constant_maps([constant] * 4, ["cell", "membrane"], "it")
    assert (finding.guard, finding.level) == ("constant predictor", "stop")
    assert finding.message.startswith("it answers 'cell' for 100 % of the pixels: accuracy 0.8")
    assert check_constant_maps([count_map(*make_map(2, 0))], "ab") is None
    many = MapCounts(np.array([[90_000_000, 0], [9_999_999, 1]]), 0.0, np.zeros((1, 2, BINS), int))
    assert "100 % of the pixels" in check_constant_maps([many], "ab").message
    assert check_constant_maps([count_map(make_map(2, 0)[0], np.full((40, 40), IGNORE))], "ab") is None


def test_a_model_against_itself_does_not_differ_and_a_better_one_does() -> None:
    kinds: dict[str, Any] = {"boundary": 1, "centres": [[3.0, 4.0]]}
    good, bad = (
        [
            [count_map(make_map(2, i, gain=gain + 0.1 * s)[0], make_map(2, i)[1], **kinds) for i in range(6)]
            for s in range(3)
        ]
        for gain in (2.0, 1.0)
    )
    same = compare_maps("a", "a", good, good, bootstrap=50)
    assert all(value.value == 0 for value in (same.auc, same.accuracy, *same.metrics.values()))
    found = compare_maps("good", "bad", good, bad, bootstrap=200)
    assert (found.a, found.b, found.only_a_right, found.only_b_right, found.mcnemar_p) == ("good", "bad", *[None] * 3)
    evaluations = [[evaluate_maps(s, "ab", bootstrap=0) for s in seeds] for seeds in (good, bad)]
    assert {"auc", "accuracy", *found.metrics} == set(evaluations[0][0].metrics)
    for name, interval in {"auc": found.auc, "accuracy": found.accuracy, **found.metrics}.items():
        means = [np.mean([e.metrics[name].value for e in seeds]) for seeds in evaluations]
        assert interval.value == pytest.approx(means[0] - means[1]), name
    for interval in (found.auc, found.accuracy, found.metrics["dice"], found.metrics["iou"]):
        assert 0 < interval.low < interval.value < interval.high
    assert found.metrics["nll"].high < 0
    back = compare_maps("bad", "good", bad, good, bootstrap=0)
    assert back.auc.value == -found.auc.value
    assert back.auc.low is None


def test_pairing_removes_what_the_images_share() -> None:
    a = [count_map(*make_map(2, i, gain=0.4 * i)) for i in range(8)]
    b = [count_map(make_map(2, i, gain=0.4 * i + 0.2)[0], make_map(2, i)[1]) for i in range(8)]
    width = evaluate_maps(a, "ab").metrics["auc"]
    paired = compare_maps("b", "a", [b], [a]).auc
    assert paired.high - paired.low < (width.high - width.low) / 3
    assert compare_maps("b", "a", [b], [a], groups=["one"] * 8).auc.low is None


def test_counts_survive_the_file(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {"boundary": 1, "centres": [[3.0, 4.0]]}
    for k, extra in ((2, kinds), (3, {})):
        counts = [count_map(*make_map(k, seed), **extra) for seed in range(3)]
        classes = tuple(f"class {c}" for c in range(k))
        path = tmp_path / "deep" / f"{k}.npz"
        save_counts(path, ["é", "b", "c"], None if k == 2 else ["g", "g", "h"], classes, counts)
        ids, groups, names, loaded = load_counts(path)
        assert (ids, groups, names) == (["é", "b", "c"], None if k == 2 else ["g", "g", "h"], classes)
        assert evaluate_maps(loaded, names, bootstrap=20) == evaluate_maps(counts, classes, bootstrap=20)
        for one, same in zip(counts, loaded, strict=True):
            for before, after in zip(vars(one).values(), vars(same).values(), strict=True):
                np.testing.assert_equal(before, after)
                assert type(before) is type(after)
        assert path.stat().st_size < 60_000


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match=r"gone\.npz: no such file"):
        load_counts(tmp_path / "gone.npz")
    counts = [count_map(*make_map(2, 0))]
    save_counts(tmp_path / "whole.npz", ["a"], None, "ab", counts)
    whole = (tmp_path / "whole.npz").read_bytes()
    for name, content in (("text", b"hello"), ("empty", b""), ("cut", whole[: len(whole) // 2])):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(RoteqError, match="not the counts of maps"):
            load_counts(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for other in ("other.npz", "array.npy"):
        with pytest.raises(RoteqError, match="not the counts of maps"):
            load_counts(tmp_path / other)
    with pytest.raises(UsageError, match=r"an id .* for each of 1 images, got 2"):
        save_counts(tmp_path / "x.npz", ["a", "b"], None, "ab", counts)


def test_an_evaluation_of_maps_survives_json(tmp_path: Path) -> None:
    found = evaluate_maps([count_map(*make_map(2, seed), boundary=1) for seed in range(3)], "ab", bootstrap=20)
    save_json(found, tmp_path / "evaluation.json")
    assert load_json(Evaluation, tmp_path / "evaluation.json") == found
