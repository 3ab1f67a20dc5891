import csv
import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roteq.config import load_config, validate
from roteq.errors import RoteqError, UsageError
from roteq.files import load_json
from roteq.results import Study
from roteq.study import StudyConfig, investigate
from roteq.study.investigate import _claimed

TIMES = {"seconds", "images_per_second"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Stripes (in any direction) against dots: 24 pictures of each in every split."""
    root = tmp_path_factory.mktemp("tree")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:34, :34]
    for split in ("train", "validation", "test"):
        for name in ("dots", "stripes"):
            (root / split / name).mkdir(parents=True)
            for i in range(24):
                angle, phase = generator.uniform(0, 6.3, 2)
                wave = np.sin(x * np.cos(angle) + y * np.sin(angle) + phase)
                other = np.cos(y * np.cos(angle) - x * np.sin(angle)) if name == "dots" else 1.0
                noise = generator.normal(0, 0.3, x.shape)
                pixels = np.clip(128 + 60 * (wave * other + noise), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{split}{i}.png")
    return root


def config(tree: Path, out: Path, **changes) -> StudyConfig:
    settings = {
        "name": "s",
        "out": str(out),
        "data": {"root": str(tree)},
        "models": [{"name": "se2cnn", "group": "p4", "width": 2}, {"name": "cnn", "group": "p4"}],
        "seeds": [0, 1],
        "train": {"epochs": 1, "batch_size": 16, "crop": 32},
        "audit": {"angles": 8, "images": 12, "bootstrap": 10},
        "bootstrap": 50,
    }
    return validate(StudyConfig, settings | changes, "test")


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory) -> tuple[StudyConfig, Study]:
    chosen = config(tree, tmp_path_factory.mktemp("runs"))
    return chosen, investigate(chosen, progress=False)


def without_times(study: Study) -> dict:
    def strip(node):
        if isinstance(node, dict):
            return {k: strip(v) for k, v in node.items() if k not in TIMES}
        return [strip(v) for v in node] if isinstance(node, list | tuple) else node

    found = strip(dataclasses.asdict(study))
    found.pop("config")  # names the folder
    return found


def test_a_study_leaves_what_the_design_says(finished):
    chosen, study = finished
    for name in ("study.yaml", "comparison.csv", "study.json", "report.html"):
        assert (chosen.folder / name).stat().st_size > 0
    for run in ("se2cnn-p4-width=2-s0", "cnn-parameters-group=p4-s1"):
        assert {
            "config.yaml",
            "metrics.csv",
            "best.ckpt",
            "last.ckpt",
            "predictions.parquet",
            "audit.json",
            "run.json",
        } <= {p.name for p in (chosen.folder / run).iterdir()}
    assert load_json(Study, chosen.folder / "study.json") == study
    assert load_config(StudyConfig, chosen.folder / "study.yaml") == chosen


def test_the_numbers_of_a_study_hang_together(finished):
    chosen, study = finished
    assert [(run.label, run.seed) for run in study.runs] == [
        (model.label, seed) for seed in chosen.seeds for model in chosen.models
    ]
    group, plain = study.summaries
    assert (group.group, plain.group) == ("C4", None)
    accuracies = [run.evaluation.metrics["accuracy"].value for run in study.runs if run.label == group.label]
    assert group.metrics["accuracy"].mean == pytest.approx(np.mean(accuracies))
    assert study.runs[0].evaluation.majority_rate == 0.5
    (difference,) = study.differences
    assert (difference.a, difference.b) == (group.label, plain.label)
    expected = group.metrics["accuracy"].mean - plain.metrics["accuracy"].mean
    assert difference.accuracy.value == pytest.approx(expected)
    rows = list(csv.DictReader((chosen.folder / "comparison.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == [group.label, plain.label]
    assert float(rows[0]["majority_rate"]) == 0.5
    assert float(rows[0]["accuracy"]) == pytest.approx(group.metrics["accuracy"].mean, rel=1e-5)


def test_only_the_group_network_is_exactly_invariant(finished):
    _, study = finished
    for run in study.runs:
        assert not run.audit.degenerate
        assert (run.audit.exact_error < 1e-4) == (run.group is not None), (run.label, run.audit.exact_error)


def test_the_kernels_of_a_group_network_come_turned(finished):
    _, study = finished
    kernels = np.array(study.runs[0].kernels)  # (features, |G|, k, k)
    assert kernels.shape == (2, 4, 5, 5)
    np.testing.assert_array_equal(kernels[:, 1], np.rot90(kernels[:, 0], 1, (-2, -1)))
    assert np.array(study.runs[1].kernels).shape[1] == 1


def test_the_same_call_on_a_finished_study_trains_nothing(finished):
    chosen, study = finished
    before = {path: path.stat().st_mtime_ns for path in chosen.folder.glob("*/*.ckpt")}
    assert investigate(chosen, progress=False) == study
    assert {path: path.stat().st_mtime_ns for path in chosen.folder.glob("*/*.ckpt")} == before


def test_a_study_that_was_stopped_ends_with_the_same_numbers(finished, tree, tmp_path, monkeypatch):
    chosen = config(tree, tmp_path)
    from roteq.study import run

    audit, calls = run.audit_dataset, []

    def stops(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return audit(*args, **kwargs)

    monkeypatch.setattr(run, "audit_dataset", stops)
    with pytest.raises(KeyboardInterrupt):
        investigate(chosen, progress=False)
    assert not (chosen.folder / "report.html").exists()
    assert without_times(investigate(chosen, progress=False)) == without_times(finished[1])


def test_the_test_split_is_asked_once(finished, tree, tmp_path, monkeypatch):
    chosen, _ = finished
    copy = config(tree, tmp_path)
    shutil.copytree(chosen.folder, copy.folder)
    (copy.folder / "study.yaml").unlink()
    run = copy.folder / "se2cnn-p4-width=2-s0"
    for name in ("run.json", "audit.json"):
        (run / name).unlink()
    from roteq.study import run as module

    monkeypatch.setattr(module, "predict", lambda *a, **k: pytest.fail("the test images were asked twice"))
    study = investigate(copy, progress=False)
    assert study.runs[0].evaluation == finished[1].runs[0].evaluation


def test_a_dry_run_keeps_nothing_and_leaves_the_test_split_alone(tree, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    shutil.rmtree(copy / "test")
    study = investigate(config(copy, tmp_path / "runs"), progress=False, dry_run=True)
    assert len(study.runs) == 2 and study.runs[0].evaluation.n == 48
    assert not (tmp_path / "runs").exists()


def test_another_configuration_in_the_same_folder_is_refused(finished, tree):
    chosen, _ = finished
    other = config(tree, Path(chosen.out), seeds=[0, 5])
    with pytest.raises(UsageError, match=r"another configuration \(there: '- 1', now: '- 5'\); choose another name"):
        investigate(other, progress=False)


def test_a_folder_that_is_in_use_is_refused(finished):
    chosen, _ = finished
    with _claimed(chosen.folder), pytest.raises(UsageError, match="another process is working in this folder"):
        investigate(chosen, progress=False)


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with _claimed(tmp_path / "s"):
        assert (tmp_path / "s").is_dir()


def test_an_output_folder_that_is_a_file_is_refused(tree, tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="cannot be an output folder"):
        investigate(config(tree, tmp_path / "runs"), progress=False)


def test_the_time_limit_stops_cleanly(tree, tmp_path):
    chosen = config(tree, tmp_path)
    with pytest.raises(RoteqError, match="the time is over; what is done is kept"):
        investigate(chosen, progress=False, max_time=timedelta(milliseconds=1))


@pytest.mark.parametrize(("split", "name"), [("validation", "validation"), ("test", "test")])
def test_images_that_also_train_stop_the_study(tree, tmp_path, split, name):
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    shutil.copy(copy / "train" / "dots" / "train0.png", copy / split / "dots" / "again.png")
    with pytest.raises(RoteqError, match=rf"1 of 49 {name} images .* are also in the training split"):
        investigate(config(copy, tmp_path / "runs"), progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "models: "),
        ({"models": [{"name": "se2cn"}]}, "unknown model 'se2cn'; did you mean 'se2cnn'"),
        ({"models": [{"name": "cnn"}, {"name": "cnn"}]}, "different labels, got twice: cnn parameters"),
        ({"seeds": [1, 1]}, "seeds that differ"),
        ({"data": {}}, "expected `source` .raw data. or `root`"),
        ({"name": "../x"}, "name: "),
        ({"train": {"epoch": 3}}, "unknown key 'train.epoch'; did you mean 'epochs'"),
        ({"audt": {}}, "unknown key 'audt'; did you mean 'audit'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tree, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        config(tree, tmp_path, **changes)


def test_a_collapsed_run_is_counted_and_named(finished, tree, tmp_path, monkeypatch):
    """A network whose answers are constant: the study ends, and says so in the summary and in the report."""
    from roteq.study import run

    predict = run.predict

    def constant(*args, **kwargs):
        answers = predict(*args, **kwargs)
        return dataclasses.replace(answers, probabilities=np.tile([0.4, 0.6], (len(answers.ids), 1)))

    monkeypatch.setattr(run, "predict", constant)
    study = investigate(config(tree, tmp_path, seeds=[0]), progress=False)
    assert [summary.collapsed for summary in study.summaries] == [1, 1]
    assert any(f.guard == "constant predictor" and f.level == "stop" for f in study.runs[0].findings)
    page = (tmp_path / "s" / "report.html").read_text()
    assert "constant predictor" in page
    assert json.loads((tmp_path / "s" / "study.json").read_text())["summaries"][0]["collapsed"] == 1
