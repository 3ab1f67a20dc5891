import math

import numpy as np
import pytest
import torch
from torch import nn

from roteq.errors import UsageError
from roteq.metrics import (
    check_constant,
    check_dead_units,
    check_impossible,
    check_input_range,
    check_leak,
    check_prior_entropy,
    check_train_eval_gap,
    watch_dead_units,
)

NORMAL, CANCER = 26_326, 17_679  # the founding validation split
CLASSES = ["Normal", "CANCER"]


def answers_with(recalls: tuple[float, ...], counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of a classifier with these recalls; errors go to the first class, or the second."""
    labels, predictions = [], []
    for k, (recall, count) in enumerate(zip(recalls, counts, strict=True)):
        right = round(recall * count)
        labels += [k] * count
        predictions += [k] * right + [int(k == 0)] * (count - right)
    return np.array(labels), np.array(predictions)


@pytest.mark.parametrize(
    ("recalls", "counts"),
    [
        ((1.0, 0.0), (NORMAL, CANCER)),
        ((0.99924, 0.00996), (NORMAL, CANCER)),
        ((0.0, 1.0), (NORMAL, CANCER)),
        ((1.0, 0.0), (9900, 100)),
        ((1.0, 0.0), (50, 50)),
        ((1.0, 0.01, 0.0), (300, 300, 300)),
    ],
    ids=["founding SE2CNN", "founding ResNet50", "all minority", "99:1", "small and balanced", "three classes"],
)
def test_a_constant_predictor_is_stopped(recalls: tuple[float, ...], counts: tuple[int, ...]) -> None:
    labels, predictions = answers_with(recalls, counts)
    finding = check_constant(labels, predictions, ["Normal", "CANCER", "other"][: len(counts)])
    assert finding is not None and finding.level == "stop" and finding.guard == "constant predictor"
    assert "balanced accuracy" in finding.message and finding.advice


@pytest.mark.parametrize(
    ("recalls", "counts"),
    [
        ((0.999, 0.9), (9900, 100)),
        ((1.0, 0.15), (9900, 100)),
        ((1.0, 0.08), (9900, 100)),
        ((0.7, 0.5), (NORMAL, CANCER)),
        ((0.5, 0.5), (5000, 5000)),
        ((0.9, 0.1), (9000, 1000)),
        ((0.98, 0.22), (500, 500)),
        ((1.0, 0.0), (100, 5)),
        ((1.0, 0.0), (100, 0)),
        ((0.34, 0.33, 0.32), (300, 300, 300)),
    ],
    ids=[
        "good at 99:1",
        "cautious at 99:1",
        "very cautious at 99:1",
        "weak, balanced accuracy 0.60",
        "chance but varied",
        "chance at the class shares",
        "cautious, balanced accuracy 0.60",
        "too few to judge",
        "one class only",
        "three classes at chance",
    ],
)
def test_an_honest_classifier_is_not_stopped(recalls: tuple[float, ...], counts: tuple[int, ...]) -> None:
    labels, predictions = answers_with(recalls, counts)
    assert check_constant(labels, predictions, ["Normal", "CANCER", "other"][: len(counts)]) is None


def test_the_constant_is_told_beside_the_majority_rate() -> None:
    labels = np.repeat([0, 1], [NORMAL, CANCER])
    message = check_constant(labels, np.zeros_like(labels), CLASSES, where="SE2CNN, seed 0").message
    assert message.startswith(
        "SE2CNN, seed 0 answers 'Normal' for 100 % of the images: accuracy 0.598 is the majority rate"
    )
    message = check_constant(labels, np.ones_like(labels), CLASSES).message
    assert "'CANCER' for 100 %" in message and "share of that class 0.402 (majority rate 0.598)" in message
    message = check_constant(*answers_with((0.99924, 0.00996), (NORMAL, CANCER)), CLASSES).message
    assert "99.6 %" in message and "0.602 is next to the majority rate 0.598; balanced accuracy 0.505" in message


def test_constant_refuses_labels_out_of_range() -> None:
    with pytest.raises(UsageError, match="check_constant: expected labels from 0 to 1"):
        check_constant([0, 1, 2], [0, 0, 0], CLASSES)
    with pytest.raises(UsageError, match="check_constant: expected as many predictions as labels, got 2 and 3"):
        check_constant([0, 1, 1], [0, 0], CLASSES)


@pytest.mark.parametrize(
    ("losses", "fires"),
    [
        ([0.6755, 0.6754, 0.6754, 0.6755, 0.6754], True),
        ([0.9, 0.6760, 0.6754, 0.6750], True),
        ([0.6754, 0.6754], False),
        ([0.6754, 0.6754, 0.65], False),
        ([0.6754, 0.6754, 0.6754, 0.60, 0.55, 0.50], False),
        ([0.6754, None, 0.6754], False),
    ],
    ids=["founding", "fell onto it", "too early", "leaving", "left it", "missing"],
)
def test_a_loss_stuck_at_the_prior_entropy_is_flagged(losses: list, fires: bool) -> None:
    finding = check_prior_entropy(losses, 0.6753)
    assert (finding is not None) is fires
    assert finding is None or (finding.level == "warn" and "0.6753" in finding.message)


def test_a_prior_entropy_of_zero_is_no_reason_to_worry() -> None:
    assert check_prior_entropy([0.0, 0.0, 0.0], 0.0) is None


RAW = np.random.default_rng(0).uniform(0, 255, (4, 3, 8, 8))


@pytest.mark.parametrize(
    ("inputs", "trained_on", "level"),
    [
        (RAW, None, "warn"),
        (torch.from_numpy(RAW - 128), None, "warn"),
        ((RAW - 128) / 64, None, None),
        (RAW / 255, None, None),
        (RAW, (0.0, 1.0), "stop"),
        ((RAW - 128) / 64, (-2.0, 2.0), None),
        (3 + (RAW - 128) / 64, (-2.0, 2.0), None),
        (8 + (RAW - 128) / 64, (-2.0, 2.0), "warn"),
        (-2 + RAW / 255 / 64, (-2.0, 2.0), "warn"),
        (np.full((4, 3), 1.5), (-2.0, 2.0), None),
        (RAW * np.nan, (-2.0, 2.0), "stop"),
    ],
    ids=[
        "0..255 at the start",
        "centred, not scaled",
        "normalised",
        "0..1",
        "0..255 into 0..1",
        "as trained",
        "another stain",
        "far off",
        "0..1 into 0..255",
        "blank picture",
        "NaN",
    ],
)
def test_inputs_on_the_wrong_scale_are_flagged(inputs: np.ndarray, trained_on: tuple | None, level: str | None) -> None:
    finding = check_input_range(inputs, trained_on)
    assert (finding and finding.level) == level
    assert finding is None or finding.guard == "input range"


@pytest.mark.parametrize(
    ("shares", "level"),
    [({}, None), ({"a": 0.1, "b": 0.4}, None), ({"a": 0.6, "b": 0.7, "c": 0}, "warn"), ({"a": 0.5, "b": 0.99}, "stop")],
)
def test_dead_units_are_flagged_and_a_dead_layer_stops(shares: dict[str, float], level: str | None) -> None:
    finding = check_dead_units(shares)
    assert (finding and finding.level) == level
    assert finding is None or ("'b'" in finding.message and "1 more layers" in finding.message)


def test_dead_units_are_counted_over_all_batches_and_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.relu(x) - 1.5)

    model = Twice()
    x = torch.full((2, 4, 3, 3), -1.0)
    with watch_dead_units(model) as shares:
        x[0, 0, 1, 1] = 1
        model(x)
        assert shares == {"relu": 0.75, "relu#2": 1.0}
        x = -x.abs()
        x[1, 1, 0, 0] = 2
        model(x)
        assert shares == {"relu": 0.5, "relu#2": 0.75}
    model(torch.ones(2, 4, 3, 3))
    assert shares == {"relu": 0.5, "relu#2": 0.75}
    assert not model._forward_pre_hooks and not model.relu._forward_hooks


def test_raw_pixels_kill_units_and_the_guard_sees_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    model[0].bias.data -= 1e4
    with watch_dead_units(model) as shares:
        model(255 * torch.rand(4, 1, 8, 8))
    finding = check_dead_units(shares)
    assert finding is not None and finding.level == "stop" and "layer '1'" in finding.message


@pytest.mark.parametrize(
    ("train_mode", "eval_mode", "fires"),
    [(0.3, 2.9, True), (2.9, 0.3, True), (0.3, 0.42, False), (0.01, 0.05, False), (0.3, math.nan, True)],
)
def test_a_gap_between_the_modes_is_flagged(train_mode: float, eval_mode: float, fires: bool) -> None:
    finding = check_train_eval_gap(train_mode, eval_mode)
    assert (finding is not None) is fires
    assert finding is None or finding.level == "warn"


def test_batch_statistics_open_a_gap_that_the_guard_sees() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    model[1].running_var.fill_(0.01)
    x, y = 5 * torch.randn(32, 1, 4, 4), torch.randint(0, 2, (32,))
    losses = [nn.functional.cross_entropy(model.train(mode)(x), y).item() for mode in (False, True)]
    assert check_train_eval_gap(losses[1], losses[0]) is not None


def test_shared_images_stop_the_run() -> None:
    assert check_leak(["a", "b"], ["c"]) is None
    finding = check_leak({"a", "b"}, iter(["b", "b", "c", "d"]), "test")
    assert finding.level == "stop" and finding.message.startswith("2 of 4 test images (50 %)")
    assert check_leak(["a"], ["a", *range(200)]).level == "warn"


@pytest.mark.parametrize(
    ("loss", "accuracy", "fires"),
    [(0.0267, 0.5955, True), (0.2804, 0.5955, False), (0.0, 1.0, False), (math.nan, 0.5, True), (math.inf, 1.0, True)],
    ids=["founding", "just possible", "perfect", "NaN", "infinite"],
)
def test_a_loss_below_what_its_errors_cost_is_impossible(loss: float, accuracy: float, fires: bool) -> None:
    finding = check_impossible(loss, accuracy)
    assert (finding is not None) is fires
    assert finding is None or finding.level == "stop"


def test_no_classifier_is_impossible() -> None:
    generator = np.random.default_rng(0)
    for scale in (0.01, 1, 100):
        logits = scale * generator.normal(size=(500, 3))
        labels = generator.integers(0, 3, 500)
        loss = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
        assert check_impossible(loss, (logits.argmax(-1) == labels).mean()) is None
