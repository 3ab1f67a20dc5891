"""The command line through its entry point: help, what each command prints, and how it fails."""

import csv
import dataclasses
import errno
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roteq.cli import main
from roteq.cli.app import app

Roteq = Callable[..., tuple[int, str, str]]
COMMANDS = [command.callback.__name__ for command in app.registered_commands]
TRAIN = ("model.group=C4", "model.match=channels", "train.epochs=1", "train.batch_size=8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/{dark,light}/*.png, prepared into data, and one network trained on it in run."""
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 160)):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(level, level + 60, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{name}{i}.png")
    for arguments in (
        ["prepare", folder / "photos", folder / "data", "--mode", "grey", "--shares", "0.5,0.25,0.25", "--workers", 1],
        ["train", "cnn", folder / "data", folder / "run", *TRAIN],
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["roteq", *map(str, arguments)])
            with pytest.raises(SystemExit, match="0"):
                main()
    return folder


def test_version(roteq: Roteq) -> None:
    code, out, _ = roteq("--version")
    assert code == 0
    assert re.fullmatch(r"roteq \d+\.\d+\.\d+\n", out)


def test_help_lists_every_command_and_completion(roteq: Roteq) -> None:
    code, out, _ = roteq("--help")
    assert code == 0
    assert len(COMMANDS) >= 9
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in COMMANDS)
    assert "--install-completion" in out
    assert "..." not in out.split("Commands:")[1]  # every summary fits


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(roteq: Roteq, name: str) -> None:
    code, out, _ = roteq(name, "--help")
    assert code == 0
    assert f"Example:  roteq {name}" in out
    assert "--json" in out or name == "explore"  # a page, not a result


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["prepare", "a", "b", "--sede", "1"], "--seed"),
        (["train"], "Missing argument 'MODEL'"),
        (["prepare", "a", "b", "--mode", "gray"], "prepare: mode: input should be 'rgb' or 'grey', got 'gray'"),
        (["prepare", "a", "b", "--shares", "a,b"], "--shares: expected three numbers"),
        (["prepare", "a", "b", "--shares", "1,2,3"], "expected shares of train, validation and test that sum to 1"),
        (["prepare", "nowhere", "b"], "nowhere"),
        (["investigate", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory)"),
        (["train", "resnet-18", "a", "b"], "did you mean 'resnet18'?"),
        (["train", "cnn", "a", "b", "train.epohcs=3"], "did you mean 'epochs'?"),
        (["train", "cnn", "a", "b", "trian.epochs=3"], "override: unknown key 'trian'; did you mean 'train'?"),
        (["train", "cnn", "a", "b", "epochs"], "expected key=value"),
        (["train", "cnn", "a", "b", "--max-time", "soon"], "HH:MM:SS"),
        (["audit", "a", "b", "--max-flip-rate", "2"], "Invalid value for '--max-flip-rate'"),
        (["covariance", "--basis", "harmonc"], "--basis: unknown basis 'harmonc'; did you mean 'harmonic'?"),
        (["covariance", "--group", "X9"], "--group: expected 'Z2', 'p4'"),
        (["covariance", "--group", "C100"], "--group: expected at most 64 elements, got 100 (C100); nearest: C64"),
        (["covariance", "--kernel-size", "0"], "Invalid value for '--kernel-size'"),
        (["covariance", "--kernel-size", "4", "--basis", "disc"], "--basis='disc': expected an odd kernel_size"),
        (["covariance", "--features", "0", "5"], "--features: expected at least 1 and 1, got 0 5"),
        (["covariance", "a", "--kernel-size", "3"], "--kernel-size: the network of a has its own; leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_exits_with_2_and_names_the_way_out(
    roteq: Roteq, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = roteq(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Error: " in err
    assert list(tmp_path.iterdir()) == []


def test_max_time_must_be_a_time(roteq: Roteq, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("data: {root: data}\nmodels: [{name: cnn}]\n")
    code, _, err = roteq("investigate", study, "--max-time", "30")
    assert code == 2
    assert "--max-time: expected HH:MM:SS, such as 01:30:00, got '30'" in err


def test_prepare_prints_the_dataset_as_json(roteq: Roteq, folder: Path) -> None:
    code, out, err = roteq(
        *("prepare", folder / "photos", folder / "named", "--class-names", "night,day", "--limit", 30, "--json")
    )
    assert (code, err) == (0, "")
    info = json.loads(out)
    assert info["classes"] == ["night", "day"]
    assert sum(n for split in info["counts"].values() for n in split.values()) == 30


def test_prepare_makes_synthetic_tissue(roteq: Roteq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import roteq.data.synthetic as synthetic

    def few(out: Path, **options: object) -> Path:
        assert options == {"seed": 3, "progress": True}
        return make(out, patches=60, slides=6, size=64, seed=3)

    make = synthetic.synthetic_tissue
    monkeypatch.setattr(synthetic, "synthetic_tissue", few)
    code, out, _ = roteq("prepare", "synthetic", tmp_path / "tissue", "--crop", 32, "--seed", 3, "--workers", 1)
    assert code == 0
    assert "validation" in out
    assert (tmp_path / "tissue-raw" / "train_labels.csv").exists()
    assert (tmp_path / "tissue" / "dataset.json").exists()


def test_train_leaves_a_run(folder: Path) -> None:
    assert {"config.yaml", "best.ckpt", "fit.json"} <= {path.name for path in (folder / "run").iterdir()}


def test_train_prints_the_fit_as_json(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("train", "cnn", folder / "data", folder / "run", *TRAIN, "--json")  # finished: only read
    assert code == 0
    assert json.loads(out)["epochs"] == 1


def test_a_dry_run_keeps_nothing(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("train", "cnn", folder / "data", folder / "trial", *TRAIN, "--dry-run")
    assert code == 0
    assert "works" in out
    assert not (folder / "trial").exists()


def test_train_says_what_it_did_and_where(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("train", "cnn", folder / "data", folder / "run", *TRAIN)
    assert code == 0
    assert re.search(r"1 epochs? in \d+ s, best epoch 1: .*run/best\.ckpt", out.replace("\n", ""))


@pytest.mark.parametrize("run", ["run", "run/best.ckpt"], ids=["run", "checkpoint"])
def test_evaluate_takes_the_data_of_the_run(roteq: Roteq, folder: Path, run: str) -> None:
    code, out, _ = roteq("evaluate", folder / run, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["n"] == 10
    assert result["classes"] == ["dark", "light"]
    assert 0 <= result["metrics"]["accuracy"]["value"] <= 1


def test_a_constant_network_is_a_loud_failure(roteq: Roteq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The founding mistake: an accuracy that is the majority rate ends in exit code 1, the numbers still printed."""
    from roteq import inference

    predict = inference.predict

    def constant(*args: object, **kwargs: object) -> inference.Predictions:
        answers = predict(*args, **kwargs)
        return dataclasses.replace(answers, probabilities=np.tile([0.3, 0.7], (len(answers.ids), 1)))

    monkeypatch.setattr(inference, "predict", constant)
    code, out, err = roteq("evaluate", folder / "run", "--split", "train")
    assert code == 1
    assert "majority rate" in err.replace("\n", " ") and "constant predictor" in err
    assert "accuracy" in out


def test_evaluate_prints_tables(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("evaluate", folder / "run", folder / "data", "--split", "validation")
    assert code == 0
    assert "accuracy" in out
    assert "light" in out


def test_predict_prints_class_and_score(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("predict", folder / "run", folder / "photos" / "dark" / "dark0.png")
    assert code == 0
    assert re.search(r"dark0\S* +(dark|light) +[01]\.\d{3}", out)


def test_predict_reads_pictures_of_another_mode(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "photos" / "dark" / "dark0.png") as picture:
        picture.convert("L" if picture.mode == "RGB" else "RGB").save(tmp_path / "other.png")
    code, out, _ = roteq("predict", folder / "run", tmp_path / "other.png")
    assert code == 0
    assert "other" in out


def test_predict_answers_for_a_folder_in_json_and_csv(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("predict", folder / "run", folder / "photos", "--json", "--csv", folder / "answers.csv")
    assert code == 0
    answers = json.loads(out)
    assert len(answers) == 40
    for answer in answers:
        assert answer["score"] == max(answer["p(dark)"], answer["p(light)"])
        assert answer["p(dark)"] + answer["p(light)"] == pytest.approx(1)
    with (folder / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [answer["class"] for answer in answers]
    assert float(rows[0]["score"]) == answers[0]["score"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["evaluate", "photos"], 1, "photos: expected the folder of a run, with best.ckpt in it"),
        (["evaluate", "."], 1, "name one of its runs: run"),
        (["evaluate", "nowhere"], 1, "nowhere"),
        (["evaluate", "lone.ckpt"], 2, "no config.yaml beside it, so name the data"),
        (["evaluate", "run", "data", "--split", "tets"], 2, "'test'"),
        (["evaluate", "run", "swapped"], 2, "DATA: expected the classes dark, light in this order, got cats, dogs"),
        (["predict", "photos/dark/dark0.png", "photos"], 1, "dark0.png"),
        (["predict", "run", "nowhere"], 2, "nowhere"),
        (["covariance", "photos"], 1, "photos: expected the folder of a run, with best.ckpt in it"),
        (["covariance", "run", "--group", "C99"], 2, "--group: expected at most"),
        (["train", "se2cnn", "data", "run"], 2, "run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_job_on_the_wrong_thing_says_so(
    roteq: Roteq, folder: Path, arguments: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "lone.ckpt").parent.joinpath("lone").mkdir(exist_ok=True)
    if "lone.ckpt" in arguments:
        (folder / "lone" / "lone.ckpt").write_bytes((folder / "run" / "best.ckpt").read_bytes())
        arguments = ["evaluate", "lone/lone.ckpt"]
    for name in ("cats", "dogs"):
        (folder / "swapped" / "test" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 100).save(folder / "swapped" / "test" / name / "one.png")
    found, _, err = roteq(*arguments)
    assert found == code
    assert words in err
    assert err.count("Error: ") == 1


def test_a_study_prints_its_verdict_and_its_report(
    roteq: Roteq, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(f"name: tiny\ndata: {{root: {folder / 'data'}}}\nmodels: [{{name: cnn}}]\n")
    small = ("train.epochs=1", "train.batch_size=8", "seeds=[0]", "bootstrap=10", "audit.angles=4", "audit.bootstrap=0")
    code, out, _ = roteq("investigate", "study.yaml", *small)
    assert code == 0
    assert "Verdict" in out
    assert "Report: runs/tiny/report.html" in out
    assert (tmp_path / "runs/tiny/report.html").exists()
    code, out, _ = roteq("investigate", "study.yaml", *small, "--json")
    assert code == 0
    assert json.loads(out)["name"] == "tiny"


def test_a_dry_study_gives_no_verdict(roteq: Roteq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies import study

    from roteq import study as room

    asked = []
    monkeypatch.setattr(room, "investigate", lambda config, **options: asked.append(options) or study())
    (tmp_path / "study.yaml").write_text("data: {root: data}\nmodels: [{name: cnn}]\n")
    code, out, _ = roteq("investigate", tmp_path / "study.yaml", "--dry-run", "--max-time", "00:01:00")
    assert code == 0
    assert out.startswith("The dry run works")
    assert "Verdict" not in out
    assert asked == [{"progress": True, "dry_run": True, "max_time": timedelta(minutes=1)}]


def test_demo_investigates_in_the_folder_given(roteq: Roteq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies import study

    from roteq import study as room

    asked = []

    def quick(out: Path, *, progress: bool) -> object:
        asked.append((out, progress))
        return study()

    monkeypatch.setattr(room, "demo", quick)
    code, out, _ = roteq("demo", tmp_path / "here")
    assert code == 0
    assert "Verdict" in out
    assert roteq("demo", "--json")[0] == 0
    assert asked == [(tmp_path / "here", True), (Path("demo"), False)]


def test_covariance_draws_and_counts(roteq: Roteq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roteq.covariance import measure, untrained
    from roteq.files import load_json
    from roteq.results import CovarianceResult

    monkeypatch.chdir(tmp_path)
    code, out, err = roteq("covariance", "--group", "C4", "--features", 1, 2, "--seed", 3)
    assert (code, err) == (0, "")
    assert "plain CNN" in out
    assert {"covariance.html", "covariance.json", "5-responses.png"} <= {p.name for p in Path("covariance").iterdir()}
    code, out, _ = roteq("covariance", "--group", "p4", "--features", 1, 2, "--seed", 3, "--out", "other", "--json")
    assert code == 0
    assert json.loads(out) == json.loads(Path("covariance/covariance.json").read_text())
    found = load_json(CovarianceResult, "covariance/covariance.json")
    assert found == measure(untrained("C4", features=(1, 2), seed=3), seed=3)


def test_covariance_reads_the_filters_of_a_run(roteq: Roteq, folder: Path, tmp_path: Path) -> None:
    code, out, _ = roteq("covariance", folder / "run", "--group", "C4", "--out", tmp_path)
    assert code == 0
    assert "is a plain CNN and promises nothing" in out
    assert json.loads((tmp_path / "covariance.json").read_text())["channels"] == 1


def test_covariance_ends_with_1_where_nothing_is_proved(roteq: Roteq, tmp_path: Path) -> None:
    code, out, err = roteq("covariance", "--group", "C4", "--kernel-size", 1, "--out", tmp_path / "a")
    assert code == 1
    assert "no orientation" in err
    assert "the test failed" in out
    (tmp_path / "file").write_text("")
    code, _, err = roteq("covariance", "--group", "C4", "--features", 1, 1, "--out", tmp_path / "file")
    assert code == 1
    assert "could not be written" in err


def test_a_long_wait_is_announced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    room = sys.modules["roteq.cli.app"]
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    with room.busy("thinking"):
        time.sleep(0.2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(room, "PATIENCE", 0.01)
    with room.busy("thinking"):
        time.sleep(0.2)
    assert "thinking" in capsys.readouterr().err


def test_models_lists_every_network_with_its_options(roteq: Roteq) -> None:
    from roteq.models import MODELS

    code, out, _ = roteq("models")
    assert code == 0
    assert all(name in out for name in MODELS)
    code, out, _ = roteq("models", "--json")
    assert code == 0
    assert json.loads(out)["se2cnn"]["options"]["group"] == "C12"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_exits_with_1_when_something_is_broken(
    roteq: Roteq, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    from roteq import doctor

    monkeypatch.setattr(doctor, "examine", lambda: (doctor.Check("disk", status, "[red] 1 GiB", "buy [one]"),))
    found, out, _ = roteq("doctor")
    assert found == code
    assert re.search(rf"{status} +disk +\[red\] 1 GiB\s+-> buy \[one\]", out)
    found, out, _ = roteq("doctor", "--json")
    assert found == code
    assert json.loads(out) == [{"name": "disk", "status": status, "detail": "[red] 1 GiB", "advice": "buy [one]"}]


def test_an_unexpected_error_is_one_sentence_and_debug_shows_its_traceback(
    roteq: Roteq, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roteq import doctor

    def broken() -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(doctor, "examine", broken)
    assert roteq("doctor") == (
        1,
        "",
        "Error: unexpected ZeroDivisionError: no such luck (for the traceback: roteq --debug doctor ...)\n",
    )
    with pytest.raises(ZeroDivisionError, match="no such luck"):
        roteq("--debug", "doctor")


@pytest.mark.parametrize(
    ("arguments", "room", "function", "sentence"),
    [
        (["doctor"], "doctor", "examine", "Stopped.\n"),
        (["demo", "x"], "study", "demo", "Stopped. The same command continues where it stopped.\n"),
    ],
    ids=["doctor", "demo"],
)
def test_ctrl_c_exits_with_130_and_says_what_is_kept(
    roteq: Roteq,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    room: str,
    function: str,
    sentence: str,
) -> None:
    import importlib

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"roteq.{room}"), function, interrupted)
    assert roteq(*arguments) == (130, "", sentence)


@pytest.mark.slow
def test_ctrl_c_stops_a_real_training_in_good_order(folder: Path) -> None:
    command = [sys.executable, "-m", "roteq.cli", "train", "cnn", str(folder / "data"), str(folder / "long")]
    command += ["train.epochs=400", "train.batch_size=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not (folder / "long" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("Stopped. The same command continues where it stopped.\n")


def test_a_closed_pipe_is_no_error(roteq: Roteq, monkeypatch: pytest.MonkeyPatch) -> None:
    from roteq import doctor

    def closed() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(doctor, "examine", closed)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # typer exchanges both
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    assert roteq("doctor") == (1, "", "")
