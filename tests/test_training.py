import csv
import json
import os
import shutil
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
from roteq.data import Augment, PrepareOptions, open_split, prepare, synthetic_tissue
from roteq.errors import RoteqError, UsageError
from roteq.models import ModelConfig
from roteq.models.registry import MODELS
from roteq.results import Fit
from roteq.training import Classifier, TrainConfig, context, fit, guards, measure, module, run
from roteq.training.callbacks import Clock
from roteq.training.checkpoint import WholeFiles, read_checkpoint
from roteq.training.config import learning_rate
from roteq.training.feed import InOrder, Shuffled, pixels_of, share_of
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


def smooth(in_channels: int = 1, num_classes: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )


TOYS = {"tiny": tiny, "blind": blind, "smooth": smooth}


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
    net.learn_statistics(pixels_of(dataset, torch.arange(80), 6), dataset.labels.bincount())
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
    net.learn_statistics(pixels_of(dataset, torch.arange(80), None), torch.tensor([60, 20]))
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
    rows = list(csv.DictReader((undisturbed / "metrics.csv").read_text().splitlines()))
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
    result = json.loads((undisturbed / "fit.json").read_text())
    assert max(row["val_auc"] for row in result["history"]) > 0.95
    assert not any(finding["level"] == "stop" for finding in result["findings"])


def test_the_best_weights_are_those_of_the_lowest_validation_loss(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.6, 0.4, 0.5, 0.4])
    original = module.scores
    monkeypatch.setattr(module, "scores", lambda *args: original(*args) | {"val_loss": next(losses)})
    assert train(data, tmp_path).best_epoch == 2
    epochs = [len(read_checkpoint(tmp_path / name)["roteq"]["history"]) for name in ("best.ckpt", "last.ckpt")]
    assert epochs == [2, 4]


def test_every_epoch_has_an_order_of_its_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = [[], [], []]
    original = Classifier.training_step

    def look(self: Classifier, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        assert self.network.training
        seen[len(self.history)] += batch[0].sum((1, 2, 3)).tolist()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", look)
    train(data, tmp_path, epochs=3)
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(seen[2])
    assert seen[0] != seen[1] != seen[2] != seen[0]


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


def interrupt_after(number: int, function: Any) -> Any:
    """`function`, until its call of that number dies."""
    calls = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return function(*args, **kwargs)

    return dying


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
    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupt_after(call, getattr(target, name)))
        with pytest.raises(Killed):
            train(data, tmp_path / "out", **change)
    assert not (tmp_path / "out" / "fit.json").exists()
    train(data, tmp_path / "out", **change)
    assert_same_run(tmp_path / "out", straight)


@pytest.mark.slow
def test_a_run_killed_by_the_system_ends_like_an_undisturbed_one(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of writing the second last.ckpt, in a process of its own."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import os, signal, torch, test_training as t\n"
        "from pathlib import Path\n"
        "t.MODELS.update(t.TOYS)\n"
        "original, calls = torch.save, []\n"
        "def save(content, file):\n"
        "    original(content, file)\n"
        "    calls.append(1)\n"
        "    if len(calls) == 4: file.truncate(100); os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = save\n"
        f"t.train(Path({str(data)!r}), Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_checkpoint(tmp_path / "last.ckpt")["roteq"]["history"]) == 1
    assert list(tmp_path.glob(".*"))  # half a checkpoint, under a name that nothing reads
    train(data, tmp_path)
    assert_same_run(tmp_path, undisturbed)
    assert not list(tmp_path.glob(".*"))


def test_reading_in_other_processes_changes_nothing(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "validation_step", interrupt_after(2, Classifier.validation_step))
        with pytest.raises(Killed):
            train(data, tmp_path, workers=1)
    train(data, tmp_path, workers=1)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "last.ckpt: not a checkpoint, or a damaged one"),
        (b"", "last.ckpt: not a checkpoint, or a damaged one"),
        ({"weights": 1}, "not a checkpoint of roteq: expected what 'roteq train' writes"),
        ({"state_dict": {}}, "a checkpoint of another program"),
        ("blind", "a checkpoint of another run: model.name is 'blind', now 'tiny'"),
        ("lr", "a checkpoint of another run: train.lr is 0.5, now 0.03"),
        ("shapes", "a checkpoint of another model than tiny: size mismatch"),
        ("history", "a checkpoint of another model than tiny: 'roteq'"),
    ],
    ids=["text", "empty", "other dict", "other program", "other model", "other protocol", "other shapes", "no history"],
)
def test_a_foreign_last_checkpoint_is_refused(content: Any, message: str, data: Path, tmp_path: Path) -> None:
    last = tmp_path / "out" / "last.ckpt"
    if isinstance(content, bytes):
        last.parent.mkdir()
        last.write_bytes(content)
    elif isinstance(content, dict):
        last.parent.mkdir()
        torch.save(content, last)
    else:
        settings = {"lr": 0.5} if content == "lr" else {}
        train(data, tmp_path / "out", "blind" if content == "blind" else "tiny", epochs=1, **settings)
        (tmp_path / "out" / "config.yaml").unlink()
        written = read_checkpoint(last)
        if content == "shapes":
            written["state_dict"]["network.0.weight"] = torch.zeros(5, 1, 3, 3)
        if content == "history":
            del written["roteq"]
        torch.save(written, last)
    with pytest.raises(RoteqError, match=message):
        train(data, tmp_path / "out", epochs=1)


def test_a_damaged_last_checkpoint_is_refused(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    (tmp_path / "out" / "fit.json").unlink()
    with (tmp_path / "out" / "last.ckpt").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(RoteqError, match=r"last.ckpt: not a checkpoint, or a damaged one \(RuntimeError\)"):
        train(data, tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_a_folder_in_use_is_refused(data: Path, tmp_path: Path) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    holder = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(UsageError, match="another process is training in this folder"):
            train(data, tmp_path)
        process.communicate(b"\n")
    assert train(data, tmp_path, epochs=1).epochs == 1


def test_an_output_that_is_a_file_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file: cannot be an output folder"):
        train(data, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_sentence(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: Any, file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RoteqError, match=r"best.ckpt: could not be written: No space left on device"):
        train(data, tmp_path)
    assert not list(tmp_path.glob("*.ckpt")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 13}, "train.crop: expected at most 12, the size of the stored patches, got 13"),
        ({"precision": 16}, "train.precision: 16 needs a GPU"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        train(data, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [((12, 9), "tiny", "expects square images"), ((12, 12), "resnet18", "at least 32x32 pixels")],
    ids=["not square", "too small"],
)
def test_images_that_the_network_cannot_take_leave_nothing(
    shape: tuple[int, int], name: str, message: str, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            grey = len(split) + ord(label)  # every picture another one
            Image.new("L", shape, grey).save(tmp_path / "data" / split / label / f"{split}-{label}.png")
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "data", tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_repeatable_sums_are_asked_for_on_a_gpu_only() -> None:
    with context.repeatable(gpu=False):
        assert not torch.are_deterministic_algorithms_enabled()
    with context.repeatable(gpu=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_batch_that_processes_cannot_share_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match=r"train.batch_size: expected a multiple of the 3 processes, got 16"):
        train(data, tmp_path)


def test_splits_with_other_classes_are_refused(data: Path, tmp_path: Path) -> None:
    original = run.open_split

    def other(root: Path, split: str) -> Any:
        dataset = original(root, split)
        dataset.classes = dataset.classes if split == "train" else ("fine", "other")
        return dataset

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UsageError, match=r"train has classes .* validation has"):
        patch.setattr(run, "open_split", other)
        train(data, tmp_path)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("labels", None, "expected labelled images in the validation split"),
        ("channels", 3, "train has 1 channels, validation has 3"),
    ],
)
def test_splits_that_do_not_match_are_refused(
    attribute: str, value: Any, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.open_split

    def other(root: Path, split: str) -> Any:
        dataset = original(root, split)
        if split == "validation":
            setattr(dataset, attribute, value)
        return dataset

    monkeypatch.setattr(run, "open_split", other)
    with pytest.raises(UsageError, match=message):
        train(data, tmp_path)


def test_a_dry_run_goes_through_everything_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    result = fit(model(), data, protocol(max_time=1), tmp_path / "out", progress=False, dry_run=True)
    assert result.epochs == 1 and result.history[0]["val_loss"] is not None and result.flops
    assert not (tmp_path / "out").exists()


def test_a_dry_run_judges_nothing(data: Path, tmp_path: Path) -> None:
    def guards_of(trial: bool) -> set[str]:
        train_once = protocol(epochs=1, batch_size=50)
        return {
            f.guard for f in fit(model("blind"), data, train_once, tmp_path, progress=False, dry_run=trial).findings
        }

    assert guards_of(trial=True) == set() and "constant predictor" in guards_of(trial=False)


def test_the_time_limit_stops_in_good_order_and_the_run_can_be_continued(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    result = train(data, tmp_path, max_time=1e-5)
    assert [(f.guard, f.level) for f in result.findings] == [("time limit", "warn")] and result.epochs == 0
    assert not (tmp_path / "fit.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "on_train_batch_end", lambda *args: None)
        assert train(data, tmp_path, max_time=1e-5).epochs == 1
    train(data, tmp_path)
    assert_same_run(tmp_path, undisturbed)


def test_early_stopping_ends_the_run(data: Path, tmp_path: Path) -> None:
    result = train(
        data, tmp_path, lr=1e-12, schedule="constant", early_stopping=2, epochs=30, augment=Augment(turn="none")
    )
    assert result.epochs - result.best_epoch == 2


def test_ctrl_c_passes_through(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "validation_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_request_to_terminate_is_not_success(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Classifier.validation_step

    def terminate(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(*args)

    monkeypatch.setattr(Classifier, "validation_step", terminate)
    with pytest.raises(SystemExit, match="143"):
        train(data, tmp_path)


@pytest.mark.parametrize(("times", "expected"), [((1.0, 0.5), "bf16"), ((1.0, 0.99), 32), ((1.0, 3.0), 32)])
def test_auto_precision_takes_what_is_faster_and_keeps_to_it(
    times: tuple[float, float], expected: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "step_seconds", lambda *args: times[args[-1] == "bf16"])
    train(data, tmp_path, precision="auto", epochs=1)
    assert load_config(run.RunConfig, tmp_path / "config.yaml").precision == expected
    (tmp_path / "fit.json").unlink()
    monkeypatch.setattr(measure, "step_seconds", lambda *args: pytest.fail("measured again"))
    train(data, tmp_path, precision="auto", epochs=1)


def test_several_processes_agree_on_the_precision_without_measuring() -> None:
    chosen = measure.faster_precision(classifier(), torch.zeros(2, 1, 12, 12), torch.zeros(2).long(), processes=2)
    assert chosen == ("bf16" if torch.cuda.is_available() else 32)


@pytest.mark.parametrize(
    "change", [{"precision": "bf16"}, {"label_smoothing": 0.1, "class_weights": True}, {"share": 0.4}]
)
def test_other_protocols_train(change: dict[str, Any], data: Path, tmp_path: Path) -> None:
    history = train(data, tmp_path, **change).history
    assert history[-1]["val_loss"] < history[0]["val_loss"]


def test_progress_is_told_on_stderr_and_changes_nothing(
    data: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(model(), data, protocol(), tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "tiny: about 0 s for 4 epochs (5 steps of" in err
    assert_same_run(tmp_path, undisturbed)


def test_without_progress_nothing_is_printed(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train(data, tmp_path, epochs=1)
    assert capfd.readouterr() == ("", "") and caplog.text == ""


# Guards


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("larger"), {"train": 400, "validation": 50}, size=6)


def test_a_constant_predictor_is_stopped_after_three_epochs(larger: Path, tmp_path: Path) -> None:
    result = train(larger, tmp_path, "blind", epochs=50, batch_size=10)
    assert result.epochs == -(-guards.WARM_UP // 40) + 2
    stop = [finding for finding in result.findings if finding.level == "stop"]
    assert [finding.guard for finding in stop] == ["constant predictor"]
    assert "blind answers 'fine' for 100 % of the images" in stop[0].message
    assert train(larger, tmp_path, "blind", epochs=50, batch_size=10) == result


def test_a_constant_predictor_at_the_end_is_told(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path, "blind", epochs=1)
    assert [f.guard for f in result.findings if f.level == "stop"] == ["constant predictor"]


def test_a_network_that_ranks_is_not_stopped_early() -> None:
    net = classifier(protocol(epochs=9))
    finding = run.TimeUp.finding
    for auc, expected in [(0.55, 1), (0.7, 0), (0.5, 1), (None, 2)]:
        net.history.append({"val_loss": 0.7, "val_accuracy": 0.6, "val_auc": auc})
        assert guards.after_epoch(net, finding, steps=1000) == []
        assert net.constant_epochs == expected
    net.history.append({"val_loss": 0.7, "val_accuracy": 0.6, "val_auc": 0.5})
    assert guards.after_epoch(net, finding, steps=1000) == [finding]
    net.constant_epochs = 0
    assert guards.after_epoch(net, finding, steps=20) == [] and net.constant_epochs == 0


def test_a_diverged_run_is_stopped(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path, optimizer="sgd", lr=1e38, schedule="constant")
    assert result.epochs == 1 and result.history[0]["val_loss"] is None
    assert "impossible numbers" in [finding.guard for finding in result.findings if finding.level == "stop"]


def test_pixels_that_are_not_normalised_are_told_before_training(data: Path) -> None:
    net = classifier(protocol(normalize="none"), name="smooth")
    dataset = open_split(data, "train")
    batch = dataset.images(range(40)), dataset.labels[:40]
    assert [finding.guard for finding in guards.at_start(net, *batch)] == ["input range", "first loss"]
    net.learn_statistics(pixels_of(dataset, torch.arange(80), None), dataset.labels.bincount())
    net.mean.fill_(128), net.std.fill_(74)
    assert guards.at_start(net, *batch) == []


def test_looking_at_a_network_leaves_it_as_it_is(data: Path) -> None:
    net = classifier()
    before, state = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    images, labels = (
        torch.randint(0, 256, (16, 1, 12, 12), generator=torch.Generator().manual_seed(0)),
        torch.arange(16) % 2,
    )
    guards.at_start(net, images, labels)
    measure.step_seconds(net, images, labels, 32)
    measure.flops(net, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_dead_units_and_the_gap_between_modes_are_told_at_the_end(data: Path) -> None:
    net = classifier()
    dataset = open_split(data, "train")
    net.learn_statistics(pixels_of(dataset, torch.arange(80), None), dataset.labels.bincount())
    net.network[1].bias.data.fill_(-50)  # BatchNorm: nothing gets past the ReLU
    net.network[6].bias.data.copy_(torch.tensor([3.0, -3.0]))
    net.history = [{"train_loss": 0.673}] * 3
    batches = [(dataset.images(range(40)), dataset.labels[:40])]
    found = guards.at_end(net, iter(batches), prior_entropy=0.6730)
    assert [(finding.guard, finding.level) for finding in found] == [("prior entropy", "warn"), ("dead units", "warn")]
    net.network[1].bias.data.fill_(0)
    net.network[6].weight.data.mul_(20)
    assert "train-eval gap" in [finding.guard for finding in guards.at_end(net, iter(batches), prior_entropy=0.6)]


def test_the_founding_failure_is_stopped_as_a_constant_predictor(tmp_path: Path) -> None:
    """The study's network and published settings, pixels fed as 0..255 (docs/why.md). Seeds 0 to 5 all end so."""
    synthetic_tissue(tmp_path / "raw", patches=300, slides=6)
    prepare(tmp_path / "raw", tmp_path / "data", PrepareOptions(crop=36, mode="grey", workers=1))
    published = TrainConfig(
        epochs=10,
        batch_size=100,
        lr=1e-3,
        weight_decay=5e-4,
        schedule="constant",
        augment=Augment(turn="none"),
        normalize="none",
        seed=1,
    )
    result = fit(model("se2cnn_study"), tmp_path / "data", published, tmp_path / "out", progress=False)
    found = {finding.guard: finding.level for finding in result.findings}
    assert found["constant predictor"] == "stop" and {"input range", "first loss", "dead units"} <= found.keys()


@pytest.mark.slow
def test_two_processes_train_like_one(data: Path, tmp_path: Path) -> None:
    """Through torchrun. The toy has no BatchNorm or dropout here, whose statistics and masks are each process's own."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import test_training as t\n"
        "t.MODELS.update(t.TOYS)\n"
        f"t.train(Path({str(data)!r}), Path(sys.argv[1]), 'smooth', augment=t.Augment(turn='none'))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for start, out in (([sys.executable], "one"), (torchrun, "two")):
        done = subprocess.run([*start, script, tmp_path / out], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "one" / "last.ckpt"), weights(tmp_path / "two" / "last.ckpt")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)
    histories = [json.loads((tmp_path / out / "fit.json").read_text())["history"] for out in ("one", "two")]
    for row_one, row_two in zip(*map(timeless, histories), strict=True):
        assert row_one == pytest.approx(row_two, rel=1e-3)
