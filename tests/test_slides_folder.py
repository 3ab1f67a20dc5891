"""Many slides on one machine: each once, and none blocks the others."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import assert_done_once, fake_map, mapped, write_slides

from roteq.errors import RoteqError, UsageError
from roteq.files import load_json
from roteq.results import FailedSlide, FailedTile, Finding, FolderResult
from roteq.slides import SlideConfig, folder, lease, map_slides
from roteq.slides.folder import find_slides, summary, write_table


def test_each_slide_is_mapped_once_and_bad_ones_block_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = {"a": "ok", "b": "fail", "c": "die", "d": "die once", "e": "error", "f": "error once", "g": "ok"}
    write_slides(tmp_path / "slides", **orders)
    out = tmp_path / "maps"
    found = map_slides("model", tmp_path / "slides", out, processes=2, work=fake_map)
    assert [slide.name for slide in found.slides] == ["a", "d", "f", "g"]
    assert {Path(failed.slide).stem: failed.reason for failed in found.failed} == {
        "b": f"{tmp_path}/slides/b.svs: a damaged slide",
        "c": "the process that worked on it died, 2 times; out of memory?",
        "e": "unexpected ZeroDivisionError: a bug",
    }
    for name in "ag":
        assert len(assert_done_once(out, name)) == 1
    for name in "df":  # another process continued where the first ended
        assert len(assert_done_once(out, name)) == 2
    begins = {name: (out / f"{name}.log").read_text().count("begin") for name in orders}
    assert begins == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 2, "f": 2, "g": 1}
    assert found == load_json(FolderResult, out / "slides.json")
    assert [finding.level for finding in found.findings] == ["stop"]
    assert "3 of 7 slides have no map; the first: b.svs: " in found.findings[0].message
    assert "b.svs: " in capsys.readouterr().err  # said at once


def test_again_finished_slides_are_only_read(tmp_path: Path) -> None:
    slides = write_slides(tmp_path, a="ok", b="fail")
    out = tmp_path / "maps"
    first = map_slides("model", slides, out, work=fake_map, progress=False)
    slides[1].write_text("ok")
    second = map_slides("model", slides, out, work=fake_map, progress=False)
    assert second.slides[0] == first.slides[0]
    assert [slide.name for slide in second.slides] == ["a", "b"] and not second.failed and not second.findings
    assert (out / "a.log").read_text().count("begin") == 1


ALONE = """
import sys
sys.path.insert(0, {tests!r})
from folders import fake_map
from roteq.slides import map_slides
map_slides("model", {slides!r}, {out!r}, processes=2, work=fake_map)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_leaves_no_process_and_continues(tmp_path: Path, ended_by: signal.Signals) -> None:
    orders = {"a": "slow", "b": "slow", "c": "ok"}
    slides, out = write_slides(tmp_path / "slides", **orders), tmp_path / "maps"
    script = tmp_path / "alone.py"
    script.write_text(ALONE.format(tests=str(Path(__file__).parent), slides=str(tmp_path / "slides"), out=str(out)))
    run = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE)
    journals = [out / f"{name}.work" / "journal" for name in "ab"]
    wait_until(lambda: all(journal.exists() and journal.read_text() for journal in journals))
    run.send_signal(ended_by)
    assert b"KeyboardInterrupt" in run.communicate(timeout=60)[1] or ended_by == signal.SIGKILL
    pids = [int(journal.read_text().split(":")[-1].split()[0]) for journal in journals]
    wait_until(lambda: not any(lease._began(pid) for pid in pids))
    found = map_slides("model", slides, out, processes=2, work=fake_map, progress=False)
    assert [slide.name for slide in found.slides] == ["a", "b", "c"]
    assert [len(assert_done_once(out, name)) for name in "abc"] == [2, 2, 1]


def wait_until(true: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < 120
        time.sleep(0.02)


def test_a_folder_is_searched_with_those_below_but_not_the_maps(tmp_path: Path) -> None:
    write_slides(tmp_path / "x", b="ok")
    write_slides(tmp_path, a="ok", notes="ok")
    (tmp_path / "notes.svs").rename(tmp_path / "notes.txt")
    (tmp_path / "C.TIFF").touch()
    (tmp_path / ".half.svs").touch()
    write_slides(tmp_path / "maps", d="ok")
    found = find_slides(tmp_path, tmp_path / "maps")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["C.TIFF", "a.svs", "x/b.svs"]


def test_one_slide_is_a_list_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_slides("a.svs", tmp_path / "maps") == [tmp_path / "a.svs"]


@pytest.mark.parametrize(
    ("slides", "message"),
    [
        ([], "expected at least one, got none"),
        (".", r"expected slides \(.svs, .*\) in the folder, found none"),
        (["a.svs", "x/a.tif"], "x/a.tif: has the name of .*/a.svs, and so would its map; rename one"),
        (["a.ome.tif", "a.svs"], "a.svs: has the name of .*/a.ome.tif"),
        (["slides.svs"], "a slide of the name slides is in the way of slides.json"),
    ],
)
def test_slides_that_cannot_be_mapped_together(tmp_path: Path, monkeypatch, slides: object, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        map_slides("model", slides, "maps", work=fake_map)  # type: ignore[arg-type]


def test_maps_do_not_go_between_the_slides(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected another folder for the maps than that of the slides"):
        map_slides("model", tmp_path, tmp_path, work=fake_map)


def test_a_number_of_processes_is_one_or_more(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="processes: expected 1 or more, got 0"):
        map_slides("model", write_slides(tmp_path, a="ok"), tmp_path / "maps", processes=0, work=fake_map)


def test_a_folder_for_maps_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    slides = write_slides(tmp_path, a="ok")
    with pytest.raises(RoteqError, match=r"a.svs/maps: could not be written: Not a directory"):
        map_slides("model", slides, slides[0] / "maps", work=fake_map)


def test_a_model_that_cannot_be_loaded_is_said_once_and_before(tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match="none: no such"):
        map_slides(tmp_path / "none", write_slides(tmp_path, a="ok"), tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.with_readers(SlideConfig(), 1).workers == 1
    assert folder.with_readers(SlideConfig(), 64).workers == 4
    assert folder.with_readers(SlideConfig(workers=0), 64).workers == 0


def test_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert folder.visible_gpus() == ["3", "1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert folder.visible_gpus() == ["0", "1"]


def test_the_table_has_a_row_for_each_slide(tmp_path: Path) -> None:
    bad = FailedTile(0, 0, 10, 10, "why")
    odd = (Finding("empty slide", "warn", "no tissue", ""), Finding("unread tiles", "stop", "4 of 4", "Copy it."))
    outcomes = [mapped("a", failed=(bad,), findings=odd), FailedSlide("/x/b.svs", "a damaged, bad slide"), mapped("c")]
    write_table([Path(f"/x/{name}.svs") for name in "abc"], dict(enumerate(outcomes)), tmp_path / "slides.csv")
    with (tmp_path / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == ["/x/a.svs", "/x/b.svs", "/x/c.svs"]
    assert [row["failed"] for row in rows] == ["", "a damaged, bad slide", ""]
    assert [row["mm2(tumour)"] for row in rows] == ["0.3", "", "0.3"]
    assert rows[0]["failed_tiles"] == "1" and rows[0]["findings"] == "empty slide; unread tiles"
    findings = summary(outcomes, 1.0, []).findings
    assert [finding.message for finding in findings] == [
        "1 of 3 slides have no map; the first: b.svs: a damaged, bad slide",
        "a: 4 of 4",
    ]


def test_the_bar_says_how_long_the_new_slides_take(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(folder.time, "monotonic", lambda: now[0])
    texts: list[str] = []
    with folder.shown(10, 4, True) as show:
        monkeypatch.setattr("rich.progress.Progress.update", lambda *_, **new: texts.append(new["description"]))
        show(mapped("a"), True)  # read in a moment: says nothing about the others
        now[0] = 120.0
        show(mapped("b"), False)
        now[0] = 180.0
        show(FailedSlide("c.svs", "damaged"), False)
    assert texts == ["", "about 10 min 00 s left", "about 6 min 00 s left, 1 failed"]
    assert "c.svs: damaged" in capsys.readouterr().err
