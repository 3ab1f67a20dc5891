"""roteq slide: what it writes and prints, and how it fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from slides import network

from roteq.files import load_json
from roteq.results import FailedSlide, Finding, FolderResult, SlideResult
from roteq.slides import SlideConfig, map_slide, write_slide
from roteq.slides.heatmap import probability

Roteq = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/best.ckpt and slides/{a,b}.tif."""
    folder = tmp_path_factory.mktemp("slide")
    model = network("p4m_densenet", group="p4", growth=2, depth=3)
    (folder / "run").mkdir()
    save(model, folder / "run" / "best.ckpt")
    (folder / "slides").mkdir()
    for seed, name in enumerate("ab"):
        write_slide(folder / "slides" / f"{name}.tif", (500, 700), mpp=0.5, seed=seed)
    return folder


def save(model, path: Path) -> None:
    """As `fit` does."""
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    torch.save(content, path)


def test_help_has_an_example_and_all_options(roteq: Roteq) -> None:
    code, out, _ = roteq("slide", "--help")
    assert code == 0
    assert "Example:  roteq slide runs/one slides/case7.svs --out maps --threshold 0.7" in out
    for option in ("--out", "--mpp", "--slide-mpp", "--level", "--threshold", "--processes", "--cluster", "--json"):
        assert option in out


def test_one_slide_becomes_a_map_and_everything_drawn_from_it(folder: Path, tmp_path: Path, roteq: Roteq) -> None:
    slide = folder / "slides" / "a.tif"
    command = ("slide", folder / "run", slide, "tile=256", "workers=1", "--out", tmp_path / "maps")
    code, out, err = roteq(*command, "--json")
    assert (code, err) == (0, "")
    result = load_json(SlideResult, tmp_path / "maps" / "a.json")
    assert json.loads(out) == json.loads((tmp_path / "maps" / "a.json").read_text())
    assert (result.level, result.mpp, result.stride, result.map_size) == (0, 0.5, 4, (125, 175))
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted([*result.files.values(), "a.json"])
    values = tifffile.imread(tmp_path / "maps" / result.files["heat map"])
    area = result.areas[0]
    assert (values > 0).mean() == pytest.approx(result.tissue)
    assert probability(values[values > 0]).mean() == pytest.approx(area.mean, abs=1e-5)
    assert (probability(values) >= 0.5).sum() / (values > 0).sum() == pytest.approx(area.share)
    features = json.loads((tmp_path / "maps" / result.files["regions"]).read_text())["features"]
    assert len(features) == area.regions
    total = sum(feature["properties"]["measurements"]["Area mm^2"] for feature in features)
    assert total == pytest.approx(area.area, abs=1e-6 * max(1, len(features)))
    assert all(np.array(ring).min() >= 0 for feature in features for ring in feature["geometry"]["coordinates"][:1])
    code, out, _ = roteq(*command)  # only read
    assert code == 0
    for words in ("700 x 500 pixels of 0.5 microns", "175 x 125 cells", "probability 0.5 or more", "heat map", "tiles"):
        assert words in " ".join(out.split())


@pytest.mark.slow  # a process for each slide that is mapped at the same time begins with torch
def test_a_folder_of_slides(folder: Path, tmp_path: Path, roteq: Roteq) -> None:
    code, out, _ = roteq(
        "slide", folder / "run", folder / "slides", "tile=256", "workers=0", "--out", tmp_path / "maps"
    )
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["slide", "a", "b"]
    assert {"a.json", "b.json", "a.html", "b.ome.tif"} <= {path.name for path in (tmp_path / "maps").iterdir()}


def test_a_folder_is_handed_to_many_and_shown_as_a_table(
    folder: Path, tmp_path: Path, roteq: Roteq, monkeypatch
) -> None:
    asked = []

    def map_slides(*arguments: object, **options: object) -> FolderResult:
        asked.append((arguments, options))
        one = map_slide(folder / "run", folder / "slides" / "b.tif", tmp_path, arguments[3], progress=False)
        stop = Finding("failed slides", "stop", "1 of 2 slides have no map", "")
        return FolderResult((one,), (FailedSlide("a.tif", "broken"),), 1.0, (stop,))

    monkeypatch.setattr("roteq.slides.folder.map_slides", map_slides)
    options = ("--processes", 2, "--cluster", "tcp://a:1", "--slide-mpp", 0.5, "workers=0")
    code, out, err = roteq("slide", folder / "run", folder / "slides", "--out", tmp_path, *options)
    (arguments, named), *rest = asked
    assert rest == []
    assert arguments == (
        folder / "run", folder / "slides", tmp_path, SlideConfig(slide_mpp=0.5, workers=0)
    )  # fmt: skip
    assert named == {"cluster": "tcp://a:1", "processes": 2, "progress": True}
    assert code == 1  # the finding says stop
    assert "1 of 2 slides have no map" in err
    assert re.match(r"slide +tissue +tumour +not read *\nb +[\d.]+ mm² +[\d.]+ mm², [\d.]+ % +0 of \d+ tiles", out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "slides/a.tif", "--level", "7"], 2, "has no level 7; choose from 0"),
        (["run", "slides/a.tif", "stride=6"], 2, "stride: .*expected a multiple of"),
        (["run", "slides/a.tif", "treshold=0.4"], 2, "unknown key 'treshold'; did you mean 'threshold'"),
        (["run", "slides/a.tif", "--threshold", "1.5"], 2, "threshold: input should be less than 1, got 1.5"),
        (["run", "slides/a.tif", "--processes", "2"], 2, "--processes: expected a folder of slides"),
        (["run", "slides/none.tif"], 1, "none.tif: no such file"),
        (["run/none.ckpt", "slides/a.tif"], 1, "none.ckpt: no such checkpoint file"),
        (["slides/a.tif", "slides/a.tif"], 1, "not a checkpoint"),
        (["run", "run/best.ckpt"], 1, "best.ckpt"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, code, message, folder, tmp_path, roteq: Roteq) -> None:
    given = [folder / word if "/" in word or word == "run" else word for word in arguments]
    found, out, err = roteq("slide", *given, "--out", tmp_path / "maps")
    assert found == code
    assert out == ""
    assert err.startswith("Error: ")
    assert re.search(message, " ".join(err.split()))
    assert not (tmp_path / "maps").exists() or not list((tmp_path / "maps").iterdir())


def test_debug_shows_where(folder: Path, tmp_path: Path, roteq: Roteq) -> None:
    with pytest.raises(ValueError, match="has no level 7"):
        roteq("--debug", "slide", folder / "run", folder / "slides" / "a.tif", "--level", "7", "--out", tmp_path)
