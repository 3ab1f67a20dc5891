"""A whole investigation of dense networks, and the commands around it."""

import json
from pathlib import Path

import numpy as np
import pytest
from masks import prepared_discs
from PIL import Image
from typer.testing import CliRunner

from roteq.cli import app
from roteq.config import validate
from roteq.data.masks import open_masks
from roteq.errors import UsageError
from roteq.files import load_json
from roteq.results import Study
from roteq.study import StudyConfig, investigate
from roteq.study.config import MapConfig
from roteq.study.maps import boundary_of


def study(data: Path, out: Path, **changes) -> StudyConfig:
    tree = {
        "name": "discs",
        "out": str(out),
        "data": {"root": str(data)},
        "models": [{"name": "g_unet", "group": group, "width": width} for group, width in (("p4", 2), ("Z2", 3))],
        "seeds": [0],
        "train": {
            "epochs": 4,
            "batch_size": 4,
            "lr": 0.05,
            "patch": 32,
            "context": 4,
            "patches": 40,
            "class_weights": True,
        },
        "audit": {"images": 4, "angles": 4, "bootstrap": 10},
        "bootstrap": 50,
        **changes,
    }
    return validate(StudyConfig, tree, where="study")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Study]:
    config = study(data, tmp_path_factory.mktemp("runs"))
    return config, investigate(config, progress=False)


def test_a_study_of_maps_is_judged_in_pixels_and_images(done, data):
    _, found = done
    images = open_masks(data, "test")
    pixels = sum(images.mask(i).ge(0).sum().item() for i in range(len(images)))
    for run in found.runs:
        assert run.evaluation.images == len(images) and run.evaluation.n == pixels
        assert {"dice", "iou", "auc", "accuracy"} <= run.evaluation.metrics.keys()
        assert run.evaluation.metrics["auc"].value > 0.8
    difference = found.differences[0]
    assert difference.a == "g_unet p4 width=2" and difference.mcnemar_p is None and "dice" in difference.metrics


def test_only_the_map_of_the_equivariant_network_turns_with_the_picture(done):
    _, found = done
    tied, plain = found.runs
    assert tied.audit.exact_error < 1e-4 < 0.05 < plain.audit.exact_error
    assert not tied.audit.degenerate and not plain.audit.degenerate
    assert tied.maps[0].largest < 1e-3 < plain.maps[0].largest


def test_the_same_call_reads_what_is_done(done, monkeypatch):
    config, found = done
    monkeypatch.setattr("roteq.study.maps.predict_map", None)
    (config.run_folder(config.models[0], 0) / "run.json").unlink()
    monkeypatch.setattr("roteq.study.maps.example", lambda *_: found.runs[0].maps[0])
    again = investigate(config, progress=False)
    assert again.runs[0].evaluation == found.runs[0].evaluation
    assert load_json(Study, config.folder / "study.json").runs[1] == found.runs[1]
    assert (config.folder / "report.html").stat().st_size > 10_000


def test_evaluate_and_predict_answer_with_maps(done, data, tmp_path):
    config, found = done
    folder = config.run_folder(config.models[0], 0)
    result = CliRunner().invoke(app, ["evaluate", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["dice"]["value"] == found.runs[0].evaluation.metrics["dice"].value
    pictures = data / "test" / "images"
    result = CliRunner().invoke(app, ["predict", str(folder), str(pictures), "--maps", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len(rows) == len(list(pictures.iterdir()))
    for row in rows:
        (file,) = row["files"]
        assert Path(file).name == f"{row['image']}-disc.png"
        with Image.open(file) as chances, Image.open(next(pictures.glob(f"{row['image']}.*"))) as picture:
            assert chances.size == picture.size
            assert abs((np.asarray(chances) > 127).mean() - row["share(disc)"]) < 0.02


def test_what_a_run_does_not_answer_with_is_refused(done, data):
    config, _ = done
    folder = str(config.run_folder(config.models[0], 0))
    result = CliRunner().invoke(app, ["predict", folder, str(data / "test" / "images")])
    assert result.exit_code == 2 and "is a dense network; name a folder for its maps" in result.output
    result = CliRunner().invoke(app, ["evaluate", folder, "--boundary", "disk"])
    assert result.exit_code == 2 and "no class 'disk'; did you mean 'disc'" in result.output


def test_a_boundary_is_a_class():
    assert boundary_of(MapConfig(boundary="wall"), ("room", "wall")) == 1
    assert boundary_of(MapConfig(), ("room", "wall")) is None
    with pytest.raises(UsageError, match="no class 'walls'; did you mean 'wall'"):
        boundary_of(MapConfig(boundary="walls"), ("room", "wall"))


def test_a_dry_run_of_maps_leaves_nothing(data, tmp_path):
    investigate(study(data, tmp_path / "out"), progress=False, dry_run=True)
    assert not (tmp_path / "out").exists()
