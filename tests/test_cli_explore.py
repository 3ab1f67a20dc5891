"""`roteq explore`: what it opens, where it listens, and how it fails."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from masks import prepared_discs
from PIL import Image

from roteq.app import serving
from roteq.app.serving import listen
from roteq.cli import explore as exploring
from roteq.errors import UsageError

Roteq = Callable[..., tuple[int, str, str]]
MINE = """
import torch
def sides(): return lambda x: torch.stack([x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3))], 1) * 20
def ends(): return lambda x: exit(3)
"""
GIVEN = ("--normalize", "unit", "--size", 16, "--resize", 0, "--classes", "left,right", "--device", "cpu", "--trust")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.py, images/{left,right}/*.png, and the same with splits in split/{train,test}."""
    folder, generator = tmp_path_factory.mktemp("explore"), np.random.default_rng(0)
    (folder / "mine.py").write_text(MINE)
    for place in ("images", "split/train", "split/test"):
        for name in ("left", "right"):
            (folder / place / name).mkdir(parents=True)
            for i in range(2):
                pixels = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / place / name / f"{name} {place[-4:]} {i}.png")
    return folder


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What would be served; it is ready, and then stopped."""
    found = SimpleNamespace(app=None, explorer=None, options=None)

    def create_app(explorer: Any, **options: Any) -> Any:
        found.explorer, found.options = explorer, options
        return "app"

    def serve(app: Any, listening: Any, ready: Callable[[], None]) -> None:
        found.app, found.port = app, listening.getsockname()[1]
        print("a model says something")
        ready()
        raise KeyboardInterrupt

    monkeypatch.setattr("roteq.app.server.create_app", create_app)
    monkeypatch.setattr(serving, "serve", serve)
    return found


def test_a_model_and_its_images_are_opened(roteq: Roteq, folder: Path, served: SimpleNamespace) -> None:
    call = ("explore", f"{folder}/mine.py:sides", "--images", folder / "images", *GIVEN, "--port", 0, "--most", 3)
    code, out, err = roteq(*call)
    assert code == 130 and err.splitlines()[-1] == "Stopped."
    assert out == f"Turn pictures at http://127.0.0.1:{served.port}/   (Ctrl+C stops)\n"
    assert "a model says something" in err
    assert [network.name for network in served.explorer.networks] == [f"{folder}/mine.py:sides"]
    assert len(served.explorer.album.entries) == 3 and served.explorer.album.classes == ("left", "right")
    assert served.explorer.networks[0].kind == "classes"  # it was asked before the page is there
    assert served.options == {"token": None, "hosts": ("localhost", "127.0.0.1", "::1", "127.0.0.1"), "debug": False}


def test_without_images_only_dropped_ones_are_shown(roteq: Roteq, folder: Path, served: SimpleNamespace) -> None:
    code, _, _ = roteq("explore", f"{folder}/mine.py:sides", f"{folder}/mine.py:sides", *GIVEN, "--port", 0)
    assert code == 130 and served.explorer.album.entries == ()
    assert len({network.name for network in served.explorer.networks}) == 2


@pytest.mark.parametrize(("given", "split"), [((), "train"), (("--split", "test"), "test")])
def test_test_data_is_shown_only_if_it_is_asked_for(
    roteq: Roteq, folder: Path, served: SimpleNamespace, given: tuple[str, ...], split: str
) -> None:
    code, _, _ = roteq("explore", f"{folder}/mine.py:sides", "--images", folder / "split", *GIVEN, *given, "--port", 0)
    assert code == 130 and served.explorer.album.split == split


def test_the_images_of_a_dense_network_are_those_of_its_masks(tmp_path: Path) -> None:
    data = prepared_discs(tmp_path)
    album = exploring._album(str(data), None)
    assert (album.source, album.split, len(album.entries)) == ("data, validation", "validation", 2)
    assert album.picture("0").size[0] == 56
    assert len(exploring._album(str(data), "train+test").entries) == 6
    with pytest.raises(UsageError, match="no split 'tests'; did you mean 'test'"):
        exploring._album(str(data), "tests")


def test_others_need_a_token(roteq: Roteq, folder: Path, served: SimpleNamespace) -> None:
    code, out, err = roteq("explore", f"{folder}/mine.py:sides", *GIVEN, "--port", 0, "--host", "0.0.0.0")
    token = served.options["token"]
    assert code == 130 and f":{served.port}/?token={token} " in out and len(token) >= 32
    assert "nothing is encrypted" in err and served.options["hosts"] == ()


def test_the_browser_is_opened_when_the_page_is_there(
    roteq: Roteq, folder: Path, served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    _, out, _ = roteq("explore", f"{folder}/mine.py:sides", *GIVEN, "--port", 0, "--open")
    end = time.monotonic() + 2
    while not opened and time.monotonic() < end:
        time.sleep(0.001)
    assert opened and opened[0] in out


def test_a_port_in_use_is_said_before_anything_is_loaded(roteq: Roteq) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, out, err = roteq("explore", "nowhere.onnx", "--port", port)
    assert (code, out) == (1, "") and f"--port: {port} is in use" in err and "nowhere" not in err


def test_the_next_port_is_taken_and_said(
    roteq: Roteq, folder: Path, served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", port)
        _, _, err = roteq("explore", f"{folder}/mine.py:sides", *GIVEN)
    assert f"Port {port} is in use; this page is on port {served.port}." in err


def test_what_is_missing_comes_with_its_command(roteq: Roteq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring, "find_spec", lambda name: None if name == "uvicorn" else object())
    code, _, err = roteq("explore", "nowhere.onnx")
    assert code == 1 and err == "Error: roteq explore needs uvicorn: pip install 'roteq[app]'\n"


def study(folder: Path, *runs: str) -> Path:
    for run in runs:
        (folder / run).mkdir(parents=True)
        (folder / run / "best.ckpt").touch()
    return folder


def test_a_study_gives_the_first_seed_of_each_of_its_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = study(tmp_path / "mine", "cnn-s10", "cnn-s2", "se2cnn-C4-s0", "se2cnn-C4-s1", "odd-style")
    found = exploring._runs_of(str(runs), 4)
    assert [Path(run).name for run in found] == ["cnn-s2", "odd-style", "se2cnn-C4-s0"]
    assert f"{runs}: of several seeds the first cnn-s2, odd-style, se2cnn-C4-s0" in capsys.readouterr().err
    study(tmp_path / "mine", "a-s0", "b-s0")
    assert len(exploring._runs_of(str(runs), 4)) == 4
    assert "; left out: se2cnn-C4-s0, name runs to choose" in capsys.readouterr().err
    assert exploring._runs_of(str(runs / "a-s0"), 4) == [str(runs / "a-s0")]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mine.py:sides", "--corners", "discs"], 2, "--corners: unknown 'discs'; did you mean 'disc'?"),
        (["mine.py:sides"] * 5, 2, "MODEL: expected at most 4, got 5"),
        (["mine.py:sides", "--host", "203.0.113.7"], 2, "--host: 203.0.113.7 is no address of this machine"),
        (["mine.py:sides", "--images", "nowhere"], 2, "nowhere: no such file"),
        (["mine.py:sides", "--images", "images", "--split", "test"], 2, "--split: images has no splits"),
        (["mine.py:sides", "--images", "images", "--classes", "a,b"], 2, "--classes: the images are labelled"),
        (["mine.py:ends", "--images", "images"], 1, "ended the program (exit code 3)"),
        (["mine.py:side", "--images", "images"], 2, "side"),
        (["nowhere.onnx"], 2, "nowhere.onnx: no such file"),
    ],
)
def test_wrong_calls_are_one_sentence(
    roteq: Roteq, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(folder)
    given = GIVEN if "--classes" not in arguments else [one for one in GIVEN if one not in ("--classes", "left,right")]
    found, out, err = roteq("explore", *arguments, *given, "--port", 0)
    assert (found, out) == (code, "") and words in err.replace("\n", " "), err


def test_a_run_whose_data_is_gone_asks_for_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = study(tmp_path, "cnn-s0") / "cnn-s0"
    monkeypatch.setattr(exploring, "data_of", lambda path: "gone/data")
    with pytest.raises(UsageError, match=r"--images: \S+cnn-s0 was trained on gone/data, which is not here"):
        exploring._images_of(["timm:resnet18", str(run)])
    assert exploring._images_of(["timm:resnet18"]) is None


def test_help_shows_an_example_and_what_test_data_is_for(roteq: Roteq) -> None:
    code, out, _ = roteq("explore", "--help")
    assert (
        code == 0
        and "roteq explore runs/mine/se2cnn-s0" in out
        and "Test data is looked at once" in " ".join(out.split())
    )


@pytest.mark.slow
def test_the_page_is_there_and_ctrl_c_ends_it(folder: Path) -> None:
    call = [sys.executable, "-m", "roteq.cli", "explore", f"{folder}/mine.py:sides", "--images", f"{folder}/images"]
    with subprocess.Popen(
        [*call, *map(str, GIVEN), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().split()[3]
        with urllib.request.urlopen(f"{address}api/about", timeout=5) as answer:
            assert json.load(answer)["set"]["images"] == 4
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130 and time.monotonic() - start < 3
        assert process.stderr.read().splitlines()[-1] == "Stopped."
