from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from roteq.config import validate
from roteq.data import open_folder, open_split
from roteq.errors import RoteqError, UsageError
from roteq.inference import Predictions, load_classifier, predict
from roteq.models import ModelConfig
from roteq.models.registry import MODELS
from roteq.training import TrainConfig, fit


def brightness(in_channels: int = 1, num_classes: int = 2, weights: str | None = None) -> nn.Module:
    if weights is not None:
        raise AssertionError("pretrained weights were fetched")
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "brightness", brightness)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, generator = tmp_path_factory.mktemp("shades"), np.random.default_rng(0)
    for split, number in (("train", 40), ("validation", 24)):
        for i in range(number):
            folder = root / split / ("dark", "light")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(60 + 60 * (i % 2), 140 + 60 * (i % 2), (8, 8))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "brightness", brightness)
        config = validate(ModelConfig, {"name": "brightness"}, where="model")
        fit(config, data, TrainConfig(epochs=3, batch_size=8, lr=0.1, crop=6), out, progress=False)
    return out


def test_a_checkpoint_brings_its_preprocessing_and_class_names(trained: Path, data: Path) -> None:
    classifier = load_classifier(trained / "best.ckpt")
    assert classifier.classes == ("dark", "light") and classifier.crop == 6 and not classifier.training
    images = open_split(data, "validation").images(range(24))
    cut = images[..., 1:7, 1:7].float()
    expected = classifier.network((cut - classifier.mean) / classifier.std)
    torch.testing.assert_close(classifier(images), expected)
    assert float(classifier.mean) == pytest.approx(
        float(open_split(data, "train").images(range(40)).float().mean()), abs=3
    )


def test_a_run_folder_stands_for_its_best_weights(trained: Path) -> None:
    folder, file = load_classifier(trained).state_dict(), load_classifier(trained / "best.ckpt").state_dict()
    assert all(torch.equal(folder[key], file[key]) for key in file)


def test_predictions_are_those_of_the_network_in_the_order_of_the_dataset(trained: Path, data: Path) -> None:
    classifier, dataset = load_classifier(trained), open_split(data, "validation")
    answers = predict(classifier, dataset, batch_size=7)
    with torch.no_grad():
        expected = classifier(dataset.images(range(24))).softmax(1).numpy()
    np.testing.assert_allclose(answers.probabilities, expected, rtol=1e-5)
    assert answers.ids == dataset.ids and answers.findings == ()
    assert answers.labels is not None and (answers.predicted == answers.labels).mean() > 0.9
    assert len(set(answers.predicted)) == 2


def test_predicting_is_in_evaluation_mode_and_leaves_the_mode_as_it_was(trained: Path, data: Path) -> None:
    classifier, modes = load_classifier(trained).train(), []
    classifier.network.register_forward_hook(lambda net, *_: modes.append(net.training))
    predict(classifier, open_split(data, "validation"))
    assert classifier.training and modes == [False]


def test_progress_goes_to_stderr(trained: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet = predict(load_classifier(trained), open_split(data, "validation"))
    assert capfd.readouterr() == ("", "")
    told = predict(load_classifier(trained), open_split(data, "validation"), progress=True)
    assert capfd.readouterr().out == "" and np.array_equal(told.probabilities, quiet.probabilities)


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_come_back_from_parquet(labelled: bool, tmp_path: Path) -> None:
    before = Predictions(
        ids=["a", "b"],
        labels=np.array([0, 1]) if labelled else None,
        groups=["slide 1", "slide 2"] if labelled else None,
        classes=("Normal", "CANCER"),
        probabilities=np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32),
    )
    before.save(tmp_path / "predictions.parquet")
    after = Predictions.load(tmp_path / "predictions.parquet")
    assert (after.ids, after.groups, after.classes) == (before.ids, before.groups, before.classes)
    assert np.array_equal(after.probabilities, before.probabilities) and after.probabilities.dtype == np.float32
    assert after.labels is None if before.labels is None else np.array_equal(after.labels, before.labels)
    names = pq.read_table(tmp_path / "predictions.parquet").column_names
    assert names == ["id", *["label", "group"] * labelled, "p(Normal)", "p(CANCER)"]


def test_findings_travel_with_the_predictions(trained: Path, data: Path, tmp_path: Path) -> None:
    answers = predict(load_classifier(trained), shades(tmp_path / "images", lambda p: p // 4))
    answers.save(tmp_path / "p.parquet")
    assert answers.findings and Predictions.load(tmp_path / "p.parquet").findings == answers.findings


def shades(folder: Path, change: Callable[[Any], Any], mode: str = "L", side: int = 8) -> Any:
    folder.mkdir()
    generator = np.random.default_rng(1)
    for i in range(6):
        pixels = change(generator.integers(60, 200, (side, side))).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return open_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels // 128, "the inputs run from 0 to 1"),
        (lambda pixels: pixels // 4, "the images are darker than those of the training"),
        (lambda pixels: 255 - pixels // 6, "the images are brighter than those of the training"),
    ],
    ids=["scaled to 0..1", "dark", "bright"],
)
def test_images_unlike_those_of_the_training_are_flagged(
    change: Callable[[Any], Any], message: str, trained: Path, tmp_path: Path
) -> None:
    findings = predict(load_classifier(trained), shades(tmp_path / "images", change)).findings
    assert [(finding.guard, finding.level) for finding in findings] == [("input range", "warn")]
    assert message in findings[0].message


def test_familiar_images_without_labels_are_not_flagged(trained: Path, tmp_path: Path) -> None:
    answers = predict(load_classifier(trained), shades(tmp_path / "images", lambda pixels: pixels))
    assert answers.findings == () and answers.labels is None and answers.groups is None


def test_images_with_other_channels_are_refused(trained: Path, tmp_path: Path) -> None:
    images = shades(tmp_path / "images", lambda pixels: pixels, mode="RGB")
    with pytest.raises(
        UsageError, match=r"brightness expects images of 1 channel\(s\), got 3; open them with channels=1"
    ):
        predict(load_classifier(trained), images)


def test_images_smaller_than_the_crop_are_refused(trained: Path, tmp_path: Path) -> None:
    images = shades(tmp_path / "images", lambda pixels: pixels, side=5)
    with pytest.raises(UsageError, match="crop: expected 1 to 5 pixels"):
        predict(load_classifier(trained), images)


def test_an_empty_dataset_is_refused(trained: Path, data: Path) -> None:
    dataset = open_split(data, "validation")
    dataset.ids = []
    with pytest.raises(UsageError, match="predict: expected images, got an empty dataset"):
        predict(load_classifier(trained), dataset)


def rewritten(trained: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = torch.load(trained / "best.ckpt", weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_pretrained_weights_are_not_fetched_for_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    path = rewritten(
        trained, tmp_path / "a.ckpt", lambda c: c["hyper_parameters"]["model"].update(weights="pretrained")
    )
    assert load_classifier(path).classes == ("dark", "light")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("state_dict"), "not a checkpoint of roteq: expected what 'roteq train' writes"),
        (lambda c: c.pop("hyper_parameters"), "a checkpoint of another program"),
        (lambda c: c["hyper_parameters"].pop("classes"), "a checkpoint of another program"),
        (
            lambda c: c["hyper_parameters"].update(model={"name": "resnet51"}),
            "cannot build: .*unknown model 'resnet51'",
        ),
        (lambda c: c["hyper_parameters"].update(train={"lrr": 1}), "cannot build: train: unknown key 'lrr'"),
        (lambda c: c["state_dict"].pop("mean"), "a checkpoint of another model than brightness: Missing key"),
        (
            lambda c: c["state_dict"].update(mean=Tensor([1.0, 2.0])),
            "another model than brightness: size mismatch for mean",
        ),
    ],
    ids=["no weights", "no settings", "no classes", "unknown model", "unknown key", "missing tensor", "other shape"],
)
def test_a_checkpoint_of_something_else_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(RoteqError, match=message):
        load_classifier(rewritten(trained, tmp_path / "a.ckpt", change))


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("code in a checkpoint was run",))


@pytest.mark.parametrize("kind", ["text", "image", "pickle", "truncated"])
def test_a_file_that_is_no_checkpoint_is_refused_and_not_run(
    kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ckpt"
    if kind == "image":
        Image.new("L", (8, 8)).save(path, format="PNG")
    elif kind == "pickle":
        torch.save({"state_dict": Harmful()}, path)
    else:
        path.write_bytes(b"weights" if kind == "text" else (trained / "best.ckpt").read_bytes()[:3000])
    with pytest.raises(RoteqError, match=r"a.ckpt: not a checkpoint, or a damaged one"):
        load_classifier(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["missing.ckpt", "."])
def test_a_missing_checkpoint_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match="no such checkpoint file"):
        load_classifier(tmp_path / name)


def test_a_missing_prediction_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match=r"p.parquet: no such file"):
        Predictions.load(tmp_path / "p.parquet")


@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_another_table_is_not_taken_for_predictions(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    if kind == "text":
        path.write_text("id,label")
    else:
        pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(RoteqError, match=r"p.parquet: not predictions of roteq"):
        Predictions.load(path)
