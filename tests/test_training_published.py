"""What published protocols need: rates that drop, final runs on all images, BatchNorm statistics of the whole set."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from roteq.config import validate
from roteq.data import open_split
from roteq.errors import UsageError
from roteq.models import ModelConfig
from roteq.models.registry import MODELS
from roteq.nn import GroupBatchNorm2d
from roteq.training import Classifier, TrainConfig, fit, measure
from roteq.training.checkpoint import read_checkpoint
from roteq.training.config import learning_rate
from roteq.training.norm import reestimate_norm


def tiny(in_channels: int = 1, num_classes: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, num_classes),
    )


def flat(in_channels: int = 1, num_classes: int = 2) -> nn.Module:
    """BatchNorm over the images alone: a single one has no variance."""
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.BatchNorm1d(4), nn.Linear(4, num_classes))


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "tiny", tiny)
    monkeypatch.setitem(MODELS, "flat", flat)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright pictures and dark ones, 40 to train, 20 brighter ones to validate."""
    root, generator = tmp_path_factory.mktemp("brightness"), np.random.default_rng(0)
    for split, number, shift in (("train", 40, 0), ("validation", 20, 60)):
        for i in range(number):
            pixels = generator.integers(0, 100, (12, 12)) + 90 * (i % 2) + shift
            folder = root / split / ("dark", "bright")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{split}{i:03d}.png")
    return root


def train(data: Path, out: Path, name: str = "tiny", **changes: Any) -> Any:
    config = TrainConfig(**{"epochs": 3, "batch_size": 10, "lr": 0.03, "augment": {"turn": "none"}, **changes})
    return fit(validate(ModelConfig, {"name": name}, where="model"), data, config, out, progress=False)


def test_a_rate_that_drops_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 6], 0.1)
    config = TrainConfig(lr=0.3, schedule="step", drops=[2, 5, 6], drop=0.1)
    for epoch in range(9):
        for step in (4 * epoch, 4 * epoch + 3):
            assert learning_rate(config, step, 36, [1.0] * epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_patience_and_factor_of_a_plateau_are_options() -> None:
    config = TrainConfig(lr=1.0, schedule="plateau", patience=1, drop=0.1)
    assert learning_rate(config, 0, 1, [1.0, 1.0]) == 1.0
    assert learning_rate(config, 0, 1, [1.0, 1.0, 1.0]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final": True, "early_stopping": 3}, "final: true leaves no images to decide by"),
        ({"final": True, "schedule": "plateau"}, "final: true leaves no images to decide by"),
        ({"drops": [3]}, "drops: only schedule 'step' drops after given epochs, got schedule 'cosine'"),
        ({"schedule": "step"}, r"schedule 'step': expected drops, such as \[15, 20\]"),
    ],
)
def test_a_protocol_that_contradicts_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(TrainConfig, change, where="train")


def test_two_splits_open_as_one(data: Path) -> None:
    both = open_split(data, "train+validation")
    assert len(both) == 60 and sum(id.startswith("validation") for id in both.ids) == 20
    with pytest.raises(UsageError, match="no split 'tets'"):
        open_split(data, "train+tets")


def test_a_final_run_trains_on_both_splits_and_keeps_the_last_weights(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "final", final=True, lr=0.3, epochs=4)
    last, best = (read_checkpoint(tmp_path / "final" / f"{name}.ckpt")["state_dict"] for name in ("last", "best"))
    assert result.best_epoch == 4 and all(torch.equal(last[key], best[key]) for key in last)
    seen = best["seen"]
    pixels = open_split(data, "train+validation").images(range(60)).float()
    assert seen[2] == pytest.approx(float(pixels.mean()), rel=1e-5)
    other = train(data, tmp_path / "selected", lr=0.3, epochs=4)
    losses = [row["val_loss"] for row in other.history]
    assert other.best_epoch == int(np.argmin(losses)) + 1


def test_statistics_are_those_of_the_whole_training_set(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", final=True, reestimate_norm=True)
    content = read_checkpoint(tmp_path / "run" / "best.ckpt")
    classifier = Classifier(**content["hyper_parameters"], shell=True)
    classifier.load_state_dict(content["state_dict"])
    images = open_split(data, "train+validation").images(range(60)).float()
    with torch.no_grad():
        features = classifier.network[0]((images - classifier.mean) / classifier.std)  # type: ignore[index]
    norm = classifier.network[1]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, features.var((0, 2, 3)), rtol=0.1, atol=0)  # of batches, averaged
    running = read_checkpoint(tmp_path / "run" / "last.ckpt")["state_dict"]["network.1.running_mean"]
    assert not torch.allclose(running, norm.running_mean, rtol=1e-3)  # the averages of the last steps were others


def test_one_image_that_is_left_over_does_not_end_a_run(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "run", "flat", final=True, reestimate_norm=True, batch_size=59, epochs=1).epochs == 1


def test_a_kill_after_the_statistics_changes_nothing(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", reestimate_norm=True)
    before = read_checkpoint(tmp_path / "run" / "best.ckpt")["state_dict"]
    (tmp_path / "run" / "fit.json").unlink()
    train(data, tmp_path / "run", reestimate_norm=True)
    after = read_checkpoint(tmp_path / "run" / "best.ckpt")["state_dict"]
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_statistics_of_a_group_are_shared_and_momentum_and_weights_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(GroupBatchNorm2d(2, group="p4", momentum=0.3), nn.Dropout(0.5))
    x = 3 + 2 * torch.randn(64, 8, 5, 5)
    reestimate_norm(net, x.split(16))
    norm = net[0]
    torch.testing.assert_close(norm.running_mean, x.view(64, 2, -1).mean((0, 2)), rtol=1e-4, atol=0)  # type: ignore[arg-type]
    assert norm.momentum == 0.3 and not net.training and not any(m.training for m in net.modules())
    assert torch.equal(norm.weight, torch.ones(2))  # type: ignore[arg-type]


def test_frozen_norms_keep_their_statistics() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    net = Frozen(nn.BatchNorm2d(2))
    reestimate_norm(net, torch.randn(8, 2, 4, 4).split(4))
    assert torch.equal(net[0].running_mean, torch.zeros(2))  # type: ignore[arg-type]


def test_dropout_does_not_disturb_the_statistics() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(2))
    x: Tensor = 5 + torch.randn(32, 2, 4, 4)
    reestimate_norm(net, [x])
    assert re.match("BatchNorm2d", str(net[1]))
    torch.testing.assert_close(net[1].running_var, x.var((0, 2, 3)), rtol=1e-4, atol=0)  # type: ignore[arg-type]


def test_the_flops_of_a_network_are_those_of_its_convolutions() -> None:
    """Turning the filters is no work that grows with the images."""
    classifier = Classifier({"name": "p4cnn", "width": 1}, TrainConfig().model_dump(), ["a", "b"], 1)
    maps = 4 * 9 * 26**2 + 4 * 4 * 9 * (24**2 + 10**2 + 8**2 + 6**2 + 4**2) + 4 * 2 * 4 * 4**2
    assert measure.flops(classifier, torch.zeros(1, 1, 28, 28)) == 2 * maps
