"""`roteq audit` through its entry point."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from roteq.cli import main

Roteq = Callable[..., tuple[int, str, str]]


@pytest.fixture
def roteq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Roteq:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["roteq", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/{left,right}/*.png, bright on one side; two exported programs: one that sees which, one that does not."""
    folder = tmp_path_factory.mktemp("audit")
    generator = np.random.default_rng(0)
    for name, half in (("left", slice(0, 16)), ("right", slice(16, 32))):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[:, half] += 100
            Image.fromarray(pixels).save(folder / "images" / name / f"{name}{i}.png")
    for name, network in (("sides", Sides()), ("contrast", Contrast())):
        program = torch.export.export(
            network, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, folder / f"{name}.pt2")
    return folder


class Sides(nn.Module):
    """Class 0: brighter on the left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x[..., :16].mean((1, 2, 3)), x[..., 16:].mean((1, 2, 3))
        return torch.stack([left, right], 1) * 50


class Contrast(nn.Module):
    """Which of two statistics is larger: of no direction."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channel = x.mean((2, 3))
        return torch.stack([channel[:, 0], channel[:, 1]], 1) * 50


OPTIONS = ("--normalize", "unit", "images=0", "bootstrap=50")


def test_a_limit_that_is_not_kept_fails(roteq: Roteq, folder: Path) -> None:
    call = ("audit", folder / "sides.pt2", folder / "images", *OPTIONS, "angles=4", "--json")
    code, out, err = roteq(*call)
    assert (code, err) == (0, "")
    (result,) = json.loads(out)["audits"]
    assert len(result["turns"]) == 7 and result["classes"] == ["left", "right"]
    assert result["exact"]["upright_accuracy"]["value"] == 1 and result["exact"]["worst_accuracy"]["value"] < 0.1
    assert all(look["png"] == "" for example in result["examples"] for look in example["looks"])
    code, out, err = roteq(*call, "--max-flip-rate", 0.5, "--min-worst-accuracy", 0.5)
    assert code == 1 and json.loads(out)
    assert "change their decision at some exact turn, more than 50.0%" in err and "less than 50.0%" in err


def test_a_robust_model_keeps_its_limits(roteq: Roteq, folder: Path) -> None:
    call = ("audit", folder / "contrast.pt2", folder / "images", *OPTIONS, "angles=4", "--max-flip-rate", 0)
    code, out, err = roteq(*call)
    assert code == 0, err
    assert "does not change" in out


def test_two_models_side_by_side_with_a_page_and_a_table(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    page, table = tmp_path / "audit.html", tmp_path / "audit.csv"
    call = ("audit", folder / "sides.pt2", folder / "contrast.pt2", folder / "images", *OPTIONS, "angles=8")
    code, out, err = roteq(*call, "--report", page, "--csv", table)
    assert code == 0, err
    assert (
        str(page) in out.replace("\n", "") and "sides.pt2" in page.read_text() and "data:image/png" in page.read_text()
    )
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (7 + 4) and {row["model"] for row in rows} == {"sides.pt2", "contrast.pt2"}


def test_a_constant_never_passes(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def load():\n    return lambda x: x.new_ones(len(x), 2)\n")
    call = ("audit", f"{tmp_path}/mine.py:load", folder / "images", *OPTIONS, "angles=4", "--max-flip-rate", 1)
    code, _, err = roteq(*call)
    assert code == 2 and "--trust" in err
    code, _, err = roteq(*call, "--trust")
    assert code == 1 and "degenerate" in err


def test_labels_come_from_a_table(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    names = [path.name for path in sorted((folder / "images").rglob("*.png"))]
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (folder / "images").rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "labels.csv"
    table.write_text("image,label\n" + "".join(f"{name},{'l' if 'left' in name else 'r'}\n" for name in names))
    call = ("audit", folder / "sides.pt2", flat, "--labels", table, "--classes", "l,r", *OPTIONS, "angles=4", "--json")
    code, out, err = roteq(*call)
    assert code == 0, err
    assert json.loads(out)["audits"][0]["upright_accuracy"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sides.pt2"], 2, "IMAGES: expected a folder, a table or a dataset after sides.pt2"),
        (["sides.pt2", "nowhere", "--normalize", "unit"], 2, "nowhere: no such"),
        (["sides.pt2", "images"], 2, "--normalize: sides.pt2 does not say how its input is scaled"),
        (["sides.pt2", "images", "--normalize", "imagnet"], 2, "did you mean 'imagenet'?"),
        (["sides.pt2", "images", *OPTIONS, "angels=4"], 2, "did you mean 'angles'?"),
        (["sides.pt2", "images", *OPTIONS, "angles=0"], 2, "expected at least 1 angle"),
        (["sides.pt2", "images", *OPTIONS, "--size", "x"], 2, "--size: expected the height and width"),
        (["sides.pt2", "images", *OPTIONS, "--output", "clases"], 2, "did you mean 'classes'?"),
        (["sides.pt2", "images", *OPTIONS, "--size", "40", "--resize", "0"], 2, "--"),
        (["sides.pt2", "images/left", *OPTIONS, "--min-worst-accuracy", "0.5"], 2, "accuracy needs labels"),
        (["timm:resnet81", "images"], 2, "resnet"),
        (["nowhere.onnx", "images"], 2, "nowhere.onnx: no such file"),
        (["sides.pt2", "images", *OPTIONS, "Angles=4"], 2, "unknown key 'Angles'; did you mean 'angles'?"),
        (["sides.pt2", "images", *OPTIONS, "=4"], 2, "override '=4': expected key=value"),
        (["sides.pt2", "images", *OPTIONS, "images=1"], 2, "expected at least two images, got 1"),
        (
            ["sides.pt2", "images", "--normalize", "0.5,0.5/0.5,0.5"],
            2,
            "--normalize: expected one mean, or one for each",
        ),
        (["sides.pt2", "images", *OPTIONS, "--classes", "a,a"], 2, "--classes: expected different names"),
        (["sides.pt2", "images", *OPTIONS, "--classes", "left,right,up"], 2, "2 outputs, and 3 classes are named"),
        (["sides.pt2", "images", *OPTIONS, "--label-column", "x"], 2, "--label-column: only Hugging Face"),
        (["sides.pt2", "images", *OPTIONS, "--device", "cud"], 2, "--device: 'cud' cannot be used here"),
        (["sides.pt2", "images", *OPTIONS, "--resize", "90000"], 2, "--resize: patches of 90000x90000 pixels"),
        (
            ["sides.pt2", "images", *OPTIONS, "--report", "images"],
            2,
            "--report: expected the path of a file, got 'images'",
        ),
        (["sides.pt2", "images", *OPTIONS, "--csv", ""], 2, "--csv: expected the path of a file"),
        (
            ["sides.pt2", "images", *OPTIONS, "--csv", "sides.pt2/a.csv"],
            1,
            "--csv: sides.pt2/a.csv: no file can be written",
        ),
        (
            ["sides.pt2", "images", *OPTIONS, "--csv", "x", "--report", "./x"],
            2,
            "expected different files, got x twice",
        ),
    ],
)
def test_wrong_calls_are_one_sentence(
    roteq: Roteq, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(folder)
    found, _, err = roteq("audit", *arguments)
    assert found == code, err
    assert words in err.replace("\n", " ") and "Traceback" not in err


MINE = """
import torch

def sides():
    def ask(x):
        print(len(x), "asked")
        return torch.stack([x[..., :16].mean((1, 2, 3)), x[..., 16:].mean((1, 2, 3))], 1) * 50
    return ask

def two(): return lambda x: {"p": x.mean((2, 3)), "q": x.mean((2, 3))}
def ends(): return lambda x: exit(0)
def nothing(): return lambda x: x.new_zeros(len(x), 0)
def stops():
    times = []
    def ask(x):
        times.append(1)
        if len(times) > 9:
            raise KeyboardInterrupt
        return x.mean((2, 3))[:, :2]
    return ask
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py"


def test_what_a_model_prints_is_no_result(roteq: Roteq, folder: Path, mine: str) -> None:
    code, out, err = roteq("audit", f"{mine}:sides", folder / "images", *OPTIONS, "--trust", "angles=4", "--json")
    assert code == 0 and len(json.loads(out)["audits"]) == 1 and "24 asked" in err


def test_a_model_that_ends_the_program_does_not_pass(roteq: Roteq, folder: Path, mine: str) -> None:
    code, out, err = roteq("audit", f"{mine}:ends", folder / "images", *OPTIONS, "--trust", "--max-flip-rate", 1)
    assert code == 1 and out == "" and "the code of the model ended the program (exit code 0)" in err


def test_no_scores_are_a_wrong_call(roteq: Roteq, folder: Path, mine: str) -> None:
    code, _, err = roteq("audit", f"{mine}:nothing", folder / "images", *OPTIONS, "--trust")
    assert code == 2 and "expected scores, got an output of shape (16, 0)" in err


@pytest.mark.parametrize(
    ("second", "more", "words"),
    [
        ([":two"], [], "choose one with --output-key p or q"),
        ([], ["--classes", "left,right,up"], "2 outputs, and 3 classes are named"),
        ([], ["--labels", "far.csv"], "the model has 2 classes, so labels go from 0 to 1; got 0 to 7"),
    ],
)
def test_what_cannot_be_is_said_before_the_long_work(
    roteq: Roteq, folder: Path, mine: str, tmp_path: Path, second: list[str], more: list[str], words: str
) -> None:
    names = sorted(path.name for path in (folder / "images").rglob("*.png"))
    (tmp_path / "far.csv").write_text("image,label\n" + "".join(f"{n},{7 * ('left' in n)}\n" for n in names))
    more = [str(tmp_path / part) if part.endswith(".csv") else part for part in more]
    models = [f"{mine}:sides", *(f"{mine}{name}" for name in second)]
    code, _, err = roteq("audit", *models, folder / "images", *OPTIONS, "--trust", *more)
    assert code == 2 and words in err.replace("\n", " ")
    assert [line for line in err.splitlines() if "asked" in line] == ["16 asked", "8 asked", "8 asked"]


def test_an_interruption_leaves_no_file(roteq: Roteq, folder: Path, mine: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    call = ("audit", f"{mine}:stops", folder / "images", *OPTIONS, "--trust", "--report", tmp_path / "new" / "a.html")
    code, out, err = roteq(*call, "--csv", tmp_path / "a.csv")
    assert (code, out) == (130, "") and err.strip().endswith("Stopped.") and "Traceback" not in err
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


def test_what_is_no_plain_file_is_never_replaced(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for option in ("--csv", "--report"):
        code, _, err = roteq("audit", folder / "sides.pt2", folder / "images", *OPTIONS, option, pipe)
        assert code == 2 and f"{option}: expected the path of a file" in err and pipe.is_fifo()


def test_names_of_folders_are_text_in_the_page(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    for own, name in (("left", "zürich ü"), ("right", "<script>alert(1)<")):
        shutil.copytree(folder / "images" / own, tmp_path / "images" / name)
    page = tmp_path / "a.html"
    call = ("audit", folder / "sides.pt2", tmp_path / "images", *OPTIONS, "angles=4", "--report", page)
    code, _, err = roteq(*call)
    assert code == 0, err
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;" in text and "zürich ü" in text


def test_help_shows_an_example(roteq: Roteq) -> None:
    code, out, _ = roteq("audit", "--help")
    assert code == 0 and "roteq audit timm:resnet50 images/" in out and "--max-flip-rate" in out
