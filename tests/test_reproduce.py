"""Published numbers run again: what is written down is what runs, and the verdict is arithmetic."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from roteq.cli import app
from roteq.config import validate
from roteq.data import PrepareOptions, prepare
from roteq.errors import RoteqError, UsageError
from roteq.files import load_json
from roteq.report import tables
from roteq.results import Interval, Reproduction, Spread
from roteq.study.reproduce import ReproductionConfig, allowed, measured, reproduce, reproduction, reproductions

NAMES = sorted(reproductions())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten easy classes: a bright square that moves outwards and grows with the label."""
    root = tmp_path_factory.mktemp("digits")
    generator = np.random.default_rng(0)
    for name, n in (("train", 160), ("valid", 40), ("test", 60)):
        labels = np.arange(n) % 10
        images = generator.integers(0, 40, (n, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[14 - label : 15 + label, 14 - label : 15 + label] = 200
        np.savez(root / f"{name}.npz", images=images, labels=labels)
    return root


@pytest.fixture(scope="module")
def result(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    out = tmp_path_factory.mktemp("out")
    return reproduce("rotated_mnist_p4cnn", digits, out, seeds=2, epochs=1, progress=False)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_whole_and_opens_with_what_it_took(name: str) -> None:
    config = reproduction(name)
    config.model.build(1 if config.prepare.mode == "grey" else 3, 10, weights=False)
    head = [line for line in reproductions()[name].read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert f"roteq reproduce {name} --data" in text
    for word in ("hardware:", "wall time:", "published:", "obtained:"):
        assert re.search(rf"^# +{word} +\S", text, re.MULTILINE), f"{name}: {word}"
    stated = re.search(r"published: +([\d.]+)", text)
    assert stated and float(stated[1]) == config.published.value


def test_each_configuration_trains_what_its_name_says() -> None:
    assert len({(c.model.label, c.train, c.prepare) for c in map(reproduction, NAMES)}) == len(NAMES)


def test_final_runs_use_all_training_images(result: Reproduction) -> None:
    assert result.trials[0].fit.images_per_second > 0 and result.trials[0].evaluation.n == 60
    assert reproduction("rotated_mnist_p4cnn").train.final


def test_the_result_says_what_was_run(result: Reproduction, digits: Path) -> None:
    assert result.seeds == (2, 5) and result.epochs == (1, 100) and not result.original
    errors = [100 * (1 - trial.evaluation.metrics["accuracy"].value) for trial in result.trials]  # type: ignore[operator]
    assert result.obtained.mean == pytest.approx(np.mean(errors)) and result.obtained.std == pytest.approx(
        np.std(errors, ddof=1)
    )
    assert result.majority_rate == pytest.approx(0.1)
    for trial, error in zip(result.trials, errors, strict=True):
        assert trial.value.low <= error <= trial.value.high  # type: ignore[operator]
    notes = " ".join(tables.cautions(result))
    assert "stand-in" in notes and "Seeds: 2, published with 5." in notes and "Epochs: 1, published with 100." in notes


def test_the_same_call_only_reads(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reproduce("rotated_mnist_z2cnn", digits, tmp_path, seeds=1, epochs=1, progress=False)
    module = sys.modules["roteq.study.reproduce"]  # the package gives the function of that name
    monkeypatch.setattr(module, "predict", lambda *_, **__: pytest.fail("the test split was used twice"))
    again = reproduce("rotated_mnist_z2cnn", digits, tmp_path, seeds=1, epochs=1, progress=False)
    assert first == again == load_json(Reproduction, tmp_path / "rotated_mnist_z2cnn" / "reproduction.json")


@pytest.mark.parametrize(
    ("obtained", "std", "inside", "words"),
    [(2.3, 0.05, True, "inside"), (2.0, 0.05, False, "outside (better)"), (2.6, 0.05, False, "outside (worse)")],
)
def test_inside_or_outside(result: Reproduction, obtained: float, std: float, inside: bool, words: str) -> None:
    spread = Spread(obtained, std, 3)
    margin = allowed(0.04, spread, [])
    assert margin == pytest.approx(2 * np.hypot(0.04, 0.05))
    changed = replace(result, obtained=spread, margin=margin, inside=abs(obtained - 2.28) <= margin)
    row = tables.reproduction(changed).rows[0]
    assert changed.inside is inside and words in row[3]
    assert row[1] == "2.28 ± 0.04" and row[2] == f"{obtained:.2f} ± {std:.2f}" and row[4] == "90.00"


def test_with_one_seed_the_interval_over_the_images_stands_in() -> None:
    assert allowed(None, Spread(2.0, None, 1), [Interval(2.0, 1.8, 2.2)]) == pytest.approx(0.2)


def test_units_of_the_published_number(result: Reproduction) -> None:
    evaluation = result.trials[0].evaluation
    error, accuracy = measured("error", evaluation), measured("accuracy", evaluation)
    assert error.value + accuracy.value == pytest.approx(100) and error.low <= error.value <= error.high  # type: ignore[operator]
    assert measured("nll", evaluation) == evaluation.metrics["nll"]
    assert measured("auc", evaluation).value == pytest.approx(100 * evaluation.metrics["auc"].value)  # type: ignore[operator]


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(
        UsageError, match="unknown reproduction 'rotated_mnist_p5cnn'; did you mean 'rotated_mnist_p4cnn'"
    ):
        reproduction("rotated_mnist_p5cnn")


def test_a_study_is_no_reproduction() -> None:
    assert "kaggle" not in NAMES
    with pytest.raises(UsageError, match="unknown reproduction 'kaggle'"):
        reproduction("kaggle")


def test_a_test_split_that_would_be_drawn_is_refused() -> None:
    tree = reproduction("rotated_mnist_p4cnn").model_dump(mode="json")
    tree["prepare"]["shares"] = (0.7, 0.15, 0.15)
    with pytest.raises(UsageError, match=r"prepare\.shares: expected 0 for test"):
        validate(ReproductionConfig, tree, where="config")


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data: no folder .*; rotated_mnist_p4cnn needs rotated MNIST"):
        reproduce("rotated_mnist_p4cnn", tmp_path / "absent", tmp_path / "out")


def test_no_seeds(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected at least one seed and one epoch, got 0 and None"):
        reproduce("rotated_mnist_p4cnn", digits, tmp_path / "out", seeds=0)


def test_data_without_a_test_split(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "raw" / f"{name}.npz").write_bytes((digits / f"{name}.npz").read_bytes())
    with pytest.raises(UsageError, match="expected the splits train, validation and test, got "):
        reproduce("rotated_mnist_p4cnn", tmp_path / "raw", tmp_path / "out", progress=False)


def test_test_images_that_were_trained_on(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train", "valid", "test"):
        source = "valid" if name == "test" else name
        (tmp_path / "raw" / f"{name}.npz").write_bytes((digits / f"{source}.npz").read_bytes())
    with pytest.raises(RoteqError, match=r"40 of 40 test images.*are also in the training split"):
        reproduce("rotated_mnist_p4cnn", tmp_path / "raw", tmp_path / "out", progress=False)


def test_the_command_prints_published_obtained_and_the_verdict(digits: Path, tmp_path: Path) -> None:
    words = ["reproduce", "rotated_mnist_p4cnn", "--data", str(digits), "--out", str(tmp_path)]
    found = CliRunner().invoke(app, [*words, "--seeds", "1", "--epochs", "1", "--json"])
    content = json.loads(found.stdout)
    assert content["published"] == 2.28 and content["seeds"] == [1, 5]
    shown = CliRunner().invoke(app, [*words, "--seeds", "1", "--epochs", "1"])
    for word in ("published", "obtained", "2.28 ± 0.04", "side", "stand-in"):
        assert word in shown.stdout


def test_the_command_lists_every_published_number() -> None:
    found = CliRunner().invoke(app, ["reproduce", "--list"])
    assert found.exit_code == 0 and all(name in found.stdout for name in NAMES)
    assert set(json.loads(CliRunner().invoke(app, ["reproduce", "--list", "--json"]).stdout)) == set(NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "NAME: expected one of"),
        (["rotated_mnist_p4cnn"], "--data: rotated_mnist_p4cnn needs rotated MNIST"),
    ],
)
def test_a_call_without_what_it_needs(words: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["reproduce", *words])
    assert found.exit_code == 2 and message in found.stderr


def test_both_reproductions_of_one_data_set_share_its_preparation(digits: Path, tmp_path: Path) -> None:
    prepare(
        digits,
        tmp_path / "data-digits-grey",
        PrepareOptions(kind="digits", mode="grey", shares=(0.9, 0.1, 0), workers=1),
    )
    stamp = (tmp_path / "data-digits-grey" / "dataset.json").stat().st_mtime_ns
    reproduce("rotated_mnist_z2cnn", digits, tmp_path, seeds=1, epochs=1, progress=False)
    assert (tmp_path / "data-digits-grey" / "dataset.json").stat().st_mtime_ns == stamp


def test_a_few_shared_images_are_told(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roteq.metrics.guards.LEAK", 0.1)
    (tmp_path / "raw").mkdir()
    for name in ("train", "valid", "test"):
        with np.load(digits / f"{name}.npz") as arrays:
            images, labels = arrays["images"].copy(), arrays["labels"]
        if name == "test":
            images[0] = np.load(digits / "train.npz")["images"][0]
        np.savez(tmp_path / "raw" / f"{name}.npz", images=images, labels=labels)
    found = reproduce("rotated_mnist_p4cnn", tmp_path / "raw", tmp_path, seeds=1, epochs=1, progress=False)
    assert any(f.guard == "leak" and "1 of 60 test images" in f.message for f in found.trials[0].findings)
