import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from roteq.config import load_config, validate
from roteq.data import Augment, open_split
from roteq.errors import RoteqError, UsageError
from roteq.models import ModelConfig
from roteq.models.registry import MODELS
from roteq.results import Fit
from roteq.training import Classifier, TrainConfig, fit, guards, measure, run
from roteq.training.callbacks import Record
from roteq.training.checkpoint import WholeFiles, read_checkpoint
from roteq.training.config import learning_rate
from roteq.training.feed import InOrder, Shuffled, pixels_of, share_of, stream
from roteq.training.module import scores

TIMES = ("seconds", "images_per_second")


def tiny(in_channels: int = 1, num_classes: int = 2) -> nn.Module:
    """Everything that has a state or a random number in it: convolution, BatchNorm, dropout."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6, num_classes),
    )


class Blind(nn.Module):
    """Learns how often each class occurs and never looks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), -1)


def blind(in_channels: int = 1, num_classes: int = 2) -> nn.Module:
    return Blind(num_classes)


TOYS = {"tiny": tiny, "blind": blind}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in TOYS.items():
        monkeypatch.setitem(MODELS, name, function)


def write_images(root: Path, counts: dict[str, int], size: int = 12, seed: int = 0) -> Path:
    """Fine against coarse texture, grey: a difference that no turn removes."""
    generator = np.random.default_rng(seed)
    for split, number in counts.items():
        for i in range(number):
            label = int(i % 5 < 2)  # 40 % coarse
            noise = generator.integers(0, 256, (size, size) if label == 0 else (size // 3, size // 3))
            pixels = noise if label == 0 else noise.repeat(3, 0).repeat(3, 1)
            folder = root / split / ("fine", "coarse")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("textures"), {"train": 80, "validation": 50})


def model(name: str = "tiny", **options: Any) -> ModelConfig:
    return validate(ModelConfig, {"name": name, **options}, where="model")


def protocol(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"epochs": 4, "batch_size": 16, "lr": 0.03, **changes})


def train(data: Path, out: Path, name: str = "tiny", **changes: Any) -> Fit:
    return fit(model(name), data, protocol(**changes), out, progress=False)


def weights(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path)["state_dict"]


def timeless(history: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history]


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        first, second = weights(a / name), weights(b / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    fits = [json.loads((folder / "fit.json").read_text()) for folder in (a, b)]
    assert timeless(fits[0]["history"]) == timeless(fits[1]["history"])
    assert fits[0]["best_epoch"] == fits[1]["best_epoch"] and fits[0]["findings"] == fits[1]["findings"]


# The protocol


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "plateau"])
def test_the_learning_rate_is_that_of_torch(schedule: str) -> None:
    steps = 37
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    losses = [1.0, 0.9, 0.95, 0.92, 0.91, 0.93, 0.94, 0.9, 0.9, 0.9, 0.9, 0.8, *[0.85] * 25]
    scheduler: Any = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "onecycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps),
        "plateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=3, threshold=0, threshold_mode="abs"
        ),
    }[schedule]()
    config = TrainConfig(lr=0.3, schedule=schedule)
    for step in range(steps):
        assert learning_rate(config, step, steps, losses[:step]) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([losses[step]] if schedule == "plateau" else []))


@pytest.mark.parametrize(("steps", "step"), [(1, 0), (2, 1), (3, 2)])
def test_a_very_short_one_cycle_has_a_learning_rate(steps: int, step: int) -> None:
    assert 0 < learning_rate(TrainConfig(schedule="onecycle"), step, steps, []) <= 1e-3


@pytest.mark.parametrize(
    ("value", "message"),
    [("soon", "expected HH:MM:SS"), ("1:99:00", "expected HH:MM:SS"), (0, "more than 0 minutes")],
)
def test_an_unreadable_time_limit_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(TrainConfig, {"max_time": value}, where="train")


@pytest.mark.parametrize(("value", "seconds"), [("01:30:05", 5405.0), (2, 120.0), (0.5, 30.0), (None, None)])
def test_a_time_limit_is_hours_or_minutes(value: Any, seconds: float | None) -> None:
    assert TrainConfig(max_time=value).seconds == seconds


# What makes up a batch


def test_an_epoch_s_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return list(Shuffled(torch.arange(20), 6, seed, lambda: epoch))

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4) != order(1, 4)
    assert [len(batch) for batch in order(0, 3)] == [6, 6, 6]
    assert len({i for batch in order(0, 3) for i in batch}) == 18


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    assert sorted(next(iter(Shuffled(torch.arange(5), 16, 0, lambda: 0)))) == [0, 1, 2, 3, 4]


def test_processes_share_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(Shuffled(torch.arange(20), 6, 0, lambda: 0))
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append(list(Shuffled(torch.arange(20), 6, 0, lambda: 0)))
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize(("images", "processes"), [(10, 1), (33, 2), (129, 2), (65, 4)])
def test_processes_validate_every_image_once_in_equally_many_batches(
    images: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    seen, lengths = [], set()
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        batches = InOrder(torch.arange(images), 16)
        seen += [i for batch in batches for i in batch]
        lengths.add(len(batches))
        assert all(batches)
    assert sorted(seen) == list(range(images)) and len(lengths) == 1


def test_a_share_keeps_the_proportions_and_every_class() -> None:
    labels = torch.tensor([0] * 60 + [1] * 40 + [2])
    chosen = share_of(labels, 0.1, seed=3)
    assert labels[chosen].bincount().tolist() == [6, 4, 1]
    assert torch.equal(chosen, share_of(labels, 0.1, seed=3)) and not torch.equal(chosen, share_of(labels, 0.1, seed=4))


def test_pixel_statistics_are_those_of_the_cropped_pixels(data: Path) -> None:
    dataset = open_split(data, "train")
    pixels = pixels_of(dataset, torch.arange(40), crop=6)
    values = dataset.images(range(40))[..., 3:9, 3:9].double()
    torch.testing.assert_close(pixels.mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(pixels.std, values.std((0, 2, 3), correction=0))
    assert (pixels.low, pixels.high) == (values.min(), values.max())
    np.testing.assert_allclose(np.quantile(pixels.quantiles(), [0.01, 0.5]), np.quantile(values, [0.01, 0.5]), atol=1)


# The classifier


def classifier(train: TrainConfig | None = None, channels: int = 1, name: str = "tiny") -> Classifier:
    settings = (train or protocol()).model_dump(mode="json")
    return Classifier(model(name).model_dump(mode="json"), settings, ["fine", "coarse"], channels)


@pytest.mark.parametrize("normalize", ["dataset", "unit", "none"])
def test_the_classifier_crops_and_normalises(normalize: str, data: Path) -> None:
    net = classifier(protocol(normalize=normalize, crop=6)).eval()
    dataset = open_split(data, "train")
    net.learn_statistics(pixels_of(dataset, torch.arange(80), 6), dataset.labels)
    images = dataset.images(range(80))
    cropped = images[..., 3:9, 3:9].float()
    mean, std = {"dataset": (cropped.mean(), cropped.std(correction=0)), "unit": (0, 255), "none": (0, 1)}[normalize]
    expected = net.network((cropped - mean) / std)
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(images.float()), net(images))


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = classifier()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = classifier(), classifier(protocol(seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.network[0].weight, second.network[0].weight)
    assert not torch.equal(first.network[0].weight, other.network[0].weight)


@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (1, 12, 12)], ids=["channels", "no batch"])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"tiny: expected images \(B, 1, H, W\), got"):
        classifier()(torch.zeros(shape))


def test_scores_of_a_hand_made_split() -> None:
    chances = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    row = scores(chances.log(), torch.tensor([0, 0, 1, 1]))
    assert row["val_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.3]).mean())
    assert (row["val_accuracy"], row["val_balanced_accuracy"], row["val_auc"]) == (0.75, 0.75, 0.75)


def test_scores_of_an_absent_class_do_not_exist() -> None:
    row = scores(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 0]))
    assert row["val_auc"] is None and row["val_balanced_accuracy"] == 0.5


def test_scores_of_no_number_are_none() -> None:
    row = scores(torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1]))
    assert row["val_loss"] is None and row["val_auc"] is None


def test_three_classes_have_a_mean_auc() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [0, 3.0, 1.0]])
    assert scores(logits, torch.tensor([0, 1, 2, 2]))["val_auc"] == pytest.approx((1 + 2 / 3 + 1) / 3)


def test_class_weights_make_classes_count_the_same(data: Path) -> None:
    net = classifier(protocol(class_weights=True))
    dataset = open_split(data, "train")
    net.learn_statistics(pixels_of(dataset, torch.arange(80), None), torch.tensor([0] * 60 + [1] * 20))
    assert net.class_weights.tolist() == pytest.approx([80 / 120, 2.0])
    logits, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    losses = -logits.log_softmax(1)[[0, 1], labels]
    expected = (losses * net.class_weights).sum() / net.class_weights.sum()
    torch.testing.assert_close(net.loss(logits, labels), expected)


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_weight_decay_is_for_filters_only(name: str, kind: str) -> None:
    optimizer = classifier(protocol(optimizer=name, weight_decay=5e-4)).configure_optimizers()
    assert type(optimizer).__name__ == kind
    decay = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {4: 5e-4, 2: 5e-4, 1: 0.0}


def test_frozen_parameters_are_not_optimised() -> None:
    net = classifier()
    net.network[0].requires_grad_(False)
    trained = [p for group in net.configure_optimizers().param_groups for p in group["params"]]
    assert len(trained) == 4 and all(p.requires_grad for p in trained)


# fit


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", tiny)
        train(data, out)
    return out


def test_a_run_leaves_a_whole_folder(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt", "fit.json", "tensorboard"}
    result = json.loads((undisturbed / "fit.json").read_text())
    rows = list(csv.DictReader((undisturbed / "metrics.csv").open()))
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in result["history"]]
    assert len(rows) == result["epochs"] == 4
    losses = [row["val_loss"] for row in result["history"]]
    assert result["best_epoch"] == losses.index(min(losses)) + 1
    assert len(read_checkpoint(undisturbed / "best.ckpt")["roteq"]["history"]) == result["best_epoch"]
    assert result["parameters"] == sum(p.numel() for p in tiny().parameters())
    assert result["flops"] == 2 * (6 * 9 * 100 + 6 * 2)
    assert result["images_per_second"] > 0 and any((undisturbed / "tensorboard").iterdir())
    assert load_config(run.RunConfig, undisturbed / "config.yaml").train == protocol()


def test_the_textures_are_learnt(undisturbed: Path) -> None:
    history = json.loads((undisturbed / "fit.json").read_text())["history"]
    assert max(row["val_auc"] for row in history) > 0.95


def test_a_finished_run_is_only_read(undisturbed: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Trainer", None)
    before = (undisturbed / "last.ckpt").stat().st_mtime_ns
    result = train(data, undisturbed, max_time=1, workers=1)  # neither changes a number
    assert result.epochs == 4 and (undisturbed / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, r"train.lr: 0.03, now it is 0.5"),
        ({"augment": Augment(turn="none")}, "train.augment.turn: 'rot90'"),
    ],
)
def test_a_folder_with_another_run_is_refused(
    changes: dict[str, Any], message: str, undisturbed: Path, data: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        train(data, undisturbed, **changes)


def test_a_folder_with_another_model_is_refused(undisturbed: Path, data: Path) -> None:
    with pytest.raises(UsageError, match=r"model.name: 'tiny', now it is 'blind'; choose another folder"):
        train(data, undisturbed, "blind")


class Killed(BaseException):
    """Nothing below may tidy up after it."""


KILLS = {
    "in epoch 1": ("on_train_batch_start", 3),
    "in epoch 3": ("on_train_batch_start", 12),
    "validating epoch 2": ("validation_step", 2),
    "before best": ("save_checkpoint", 3),
    "before last": ("save_checkpoint", 4),
    "before metrics": ("write_metrics", 2),
    "before fit.json": ("save_json", 1),
}


@pytest.mark.parametrize("moment", KILLS)
@pytest.mark.parametrize("change", [{}, {"schedule": "onecycle", "optimizer": "sgd", "augment": Augment(turn="any")}])
def test_a_killed_run_ends_like_an_undisturbed_one(
    moment: str, change: dict[str, Any], data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = undisturbed
    if change:
        straight = tmp_path / "straight"
        train(data, straight, **change)
    name, call = KILLS[moment]
    where = {"save_checkpoint": WholeFiles, "write_metrics": sys.modules["roteq.training.callbacks"], "save_json": run}
    target = where.get(name, Classifier)
    original, calls = getattr(target, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, dying)
        with pytest.raises(Killed):
            train(data, tmp_path / "out", **change)
    assert not (tmp_path / "out" / "fit.json").exists()
    train(data, tmp_path / "out", **change)
    assert_same_run(tmp_path / "out", straight)
