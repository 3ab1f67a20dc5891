"""Dense networks through the same fit: windows and masks in, a network that finds discs out, killed or not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masks import prepared_discs
from torch.nn import functional as F
from torch.testing import assert_close

from roteq.config import validate
from roteq.data.augment import Augment
from roteq.data.masks import IGNORE, open_masks
from roteq.errors import UsageError
from roteq.inference import load_classifier
from roteq.inference.maps import predict_map
from roteq.models import ModelConfig
from roteq.nn.geometry import Geometry
from roteq.testing import equivariance_error
from roteq.training import Segmenter, TrainConfig, fit
from roteq.training.checkpoint import WholeFiles, read_checkpoint
from roteq.training.losses import cross_entropy, dice_loss, focal_loss, training_loss
from roteq.training.segmenter import at_pixels, labels_of, unframed


def model(name: str = "g_unet", **options: Any) -> ModelConfig:
    return validate(ModelConfig, {"name": name, "group": "p4", "width": 2, **options}, where="model")


def protocol(**changes: Any) -> TrainConfig:
    chosen = {"epochs": 4, "batch_size": 4, "lr": 0.05, "patch": 32, "context": 4, "patches": 40, "class_weights": True}
    return TrainConfig(**{**chosen, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_discs(tmp_path_factory.mktemp("discs"), mpp=0.5)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    fit(model(), data, protocol(), out, progress=False)
    return out


def some(shape: tuple[int, ...], classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator)
    labels = torch.randint(classes, shape, generator=generator)
    return logits, labels.masked_fill(torch.rand(shape, generator=generator) < 0.3, IGNORE)


# Losses


def test_the_losses_are_those_of_their_sources_and_forget_what_has_no_label():
    logits, labels = some((2, 5, 6))
    known = labels != IGNORE
    rows, truth = logits.movedim(1, -1)[known], labels[known]
    chance = rows.softmax(1).gather(1, truth[:, None])[:, 0]
    assert_close(cross_entropy(logits, labels), -chance.log().mean())
    assert_close(focal_loss(logits, labels), -((1 - chance) ** 2 * chance.log()).mean())
    dice = []
    for k in range(3):
        p, y = rows.softmax(1)[:, k], (truth == k).float()
        dice.append(2 * (p * y).sum() / (p.sum() + y.sum()))
    assert_close(dice_loss(logits, labels), 1 - torch.stack(dice).mean(), atol=1e-5, rtol=0)
    both = training_loss(logits, labels, "cross_entropy+dice", None, 0.0)
    assert_close(both, cross_entropy(logits, labels) + dice_loss(logits, labels))


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "cross_entropy+dice"])
def test_windows_without_a_label_teach_nothing(name):
    logits, labels = some((2, 5, 6))
    logits.requires_grad_()
    loss = training_loss(logits, torch.full_like(labels, IGNORE), name, None, 0.0)
    loss.backward()
    assert loss.isfinite() and not logits.grad.any()


def test_the_losses_fall_towards_the_truth():
    logits, labels = some((2, 5, 6))
    right = 9 * F.one_hot(labels.clamp(min=0), 3).movedim(-1, 1).float()
    for name in ("cross_entropy", "focal", "dice", "cross_entropy+dice"):
        assert training_loss(right, labels, name, None, 0.0) < 0.1 * training_loss(logits, labels, name, None, 0.0)


# From answers to pixels


def test_answers_are_read_between_their_cells_symmetrically():
    answers = torch.randn(1, 2, 3, 4)
    found = at_pixels(answers, 4)
    assert found.shape == (1, 2, 12, 16)
    assert_close(at_pixels(answers.rot90(1, (-2, -1)), 4), found.rot90(1, (-2, -1)))
    assert_close(at_pixels(answers.flip(-1), 4), found.flip(-1))
    assert_close(found[..., 1:3, 1:3].mean((-2, -1)), answers[..., 0, 0] * 1.0, atol=1.0, rtol=1.0)
    assert at_pixels(answers, 1) is answers


def test_labels_belong_to_the_cells_in_the_middle_of_the_windows():
    geometry = Geometry(window=32, stride=4)  # begins at pixel 14
    masks = torch.arange(40 * 44).reshape(1, 40, 44)
    found = labels_of(masks, torch.zeros(1, 2, 3, 4), geometry)
    assert found.equal(masks[:, 14:26, 14:30])
    same = Geometry(window=53, padding=26, grid=4)
    assert labels_of(masks, torch.zeros(1, 2, 40, 44), same).equal(masks)


def test_the_frame_is_not_judged():
    masks = unframed(torch.ones(2, 6, 6, dtype=torch.long), 2)
    assert masks[:, 2:4, 2:4].eq(1).all() and masks.ne(IGNORE).sum() == 8


# fit


def test_a_dense_network_is_trained_and_kept_like_any_other(run: Path, data: Path):
    segmenter = load_classifier(run)
    assert isinstance(segmenter, Segmenter) and segmenter.mpp == 0.5 and segmenter.classes == ("ground", "disc")
    best = json.loads((run / "fit.json").read_text())["history"][-1]
    assert best["val_auc"] > 0.9 and best["val_balanced_accuracy"] > 0.75
    images = open_masks(data, "test")
    chances, truth = predict_map(segmenter, images.image(0)), images.mask(0)
    assert chances.shape == (2, *truth.shape)
    assert chances[1][truth == 1].mean() > chances[1][truth == 0].mean() + 0.4


def test_its_map_turns_with_the_picture_and_varies(run: Path):
    network = load_classifier(run).network.double().eval()
    x = torch.randn(3, 1, 21, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = equivariance_error(network, "p4", x, 1, output="trivial")
    assert error is not None and error < 1e-10


def test_the_same_call_continues_a_killed_one(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        pass

    calls = []
    save = WholeFiles.save_checkpoint

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # best and last of epoch 1, best of epoch 2
            raise Killed
        return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WholeFiles, "save_checkpoint", dying)
        with pytest.raises(Killed):
            fit(model(), data, protocol(), tmp_path, progress=False)
    assert not (tmp_path / "fit.json").exists()
    fit(model(), data, protocol(), tmp_path, progress=False)
    for name in ("best.ckpt", "last.ckpt"):
        a, b = (read_checkpoint(folder / name)["state_dict"] for folder in (run, tmp_path))
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_every_epoch_has_windows_of_its_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[int]] = []
    from roteq.data.windows import Windows

    read = Windows.__getitems__

    def listening(self: Any, indices: list[int]) -> Any:
        if self.number is not None:
            seen.append(list(indices))
        return read(self, indices)

    monkeypatch.setattr(Windows, "__getitems__", listening)
    fit(model(), data, protocol(epochs=2), tmp_path, progress=False)
    trained = {index for batch in seen for index in batch}
    assert trained == set(range(80))


@pytest.mark.parametrize(
    "change",
    [
        {"augment": Augment(turn="any", stain=0.1)},
        {"loss": "cross_entropy+dice", "class_weights": False},
        {"loss": "focal", "context": 0, "reestimate_norm": True},
        {"final": True},
    ],
)
def test_other_protocols_train(change, data: Path, tmp_path: Path):
    result = fit(model(), data, protocol(epochs=1, patches=8, **change), tmp_path, progress=False)
    assert np.isfinite(result.history[0]["train_loss"])


def test_networks_of_one_answer_a_window_are_trained_on_masks_too(data: Path, tmp_path: Path):
    out = tmp_path / "se2cnn"
    result = fit(model("se2cnn"), data, protocol(epochs=1, patch=48, context=0), out, progress=False)
    assert result.history[0]["val_auc"] > 0.5
    image = open_masks(data, "test").image(0)
    assert predict_map(load_classifier(out), image).shape == (2, *image.shape[1:])


def test_a_network_without_padding_is_validated_on_every_pixel_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its windows overlap by what it sees around its answers, the border of the images included."""
    judged: list[int] = []
    find = Segmenter.judged

    def listening(self: Any, logits: torch.Tensor, labels: torch.Tensor) -> Any:
        found = find(self, logits, labels)
        if not self.training:
            judged.append(int((found[1] != IGNORE).sum()))
        return found

    monkeypatch.setattr(Segmenter, "judged", listening)
    monkeypatch.setattr("roteq.training.run.guards.at_end", lambda *_: [])
    monkeypatch.setattr("roteq.training.run.guards.at_start", lambda *_: [])
    fit(model("se2cnn"), data, protocol(epochs=1, patch=48, patches=4), tmp_path, progress=False)
    assert sum(judged) == int(open_masks(data, "validation").class_counts().sum())


def test_a_dry_run_leaves_nothing(data: Path, tmp_path: Path):
    fit(model(), data, protocol(), tmp_path / "out", progress=False, dry_run=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("resnet18", {}, "resnet18 answers with one vector a picture, and the data has masks"),
        ("g_unet", {"share": 0.5}, "train.share: is for patches"),
        ("g_unet", {"crop": 16}, "train.crop: is for patches"),
        ("se2cnn", {"patch": 28}, r"train.patch: se2cnn C12 answers for what lies 14 pixels.*more than 28, got 28"),
    ],
)
def test_what_does_not_fit_masks_is_refused(name, change, message, data: Path, tmp_path: Path):
    chosen = validate(ModelConfig, {"name": name}, where="model")
    with pytest.raises(UsageError, match=message):
        fit(chosen, data, protocol(**change), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_frame_as_large_as_the_window_is_refused():
    with pytest.raises(UsageError, match="context: expected less than half of patch 32, got 16"):
        validate(TrainConfig, {"patch": 32, "context": 16}, where="train")
