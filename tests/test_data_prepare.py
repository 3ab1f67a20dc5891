"""Preparation: what comes out, what is refused, and that a kill loses nothing."""

import csv
import errno
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import folders, kaggle, pcam, picture, write_rows
from PIL import Image

from roteq.config import load_config
from roteq.data import PrepareOptions, open_split, prepare
from roteq.data import staging as staging_module
from roteq.errors import RoteqError, UsageError
from roteq.results import DatasetInfo

PREPARE = sys.modules["roteq.data.prepare"]  # the package gives the function of that name


def tree(root: Path) -> dict[str, str]:
    """Every file, hidden ones too, with its hash."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def index(root: Path) -> list[dict[str, str]]:
    with (root / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def totals(info: DatasetInfo) -> dict[str, int]:
    return {split: sum(classes.values()) for split, classes in info.counts.items()}


def guards(info: DatasetInfo) -> list[str]:
    return [finding.guard for finding in info.findings]


def test_kaggle_layout_becomes_an_image_folder(tmp_path: Path) -> None:
    source, out = kaggle(tmp_path / "k", 60, slides=12), tmp_path / "o"
    info = prepare(source, out, PrepareOptions(crop=8, class_names={0: "Normal", 1: "CANCER"}))
    assert (info.kind, info.classes, info.channels, info.size) == ("kaggle", ("Normal", "CANCER"), 3, (8, 8))
    assert totals(info) == {"train": 40, "validation": 10, "test": 10}  # of 12 slides with 5 each
    assert info.groups == {"train": 8, "validation": 2, "test": 2} and info.split_rule == "by group"
    rows = index(out)
    assert len(rows) == 60 and info.skipped == {} and guards(info) == []
    for row in rows:
        number = int(row["path"][-7:-4])
        assert Path(row["path"]).parts[:2] == (row["split"], row["label"])
        assert row["label"] == ("CANCER" if number % 3 == 0 else "Normal") and row["group"] == f"s{number % 12}"
        expected = picture(number).crop((2, 2, 10, 10))
        assert Image.open(out / row["path"]).tobytes() == expected.tobytes()
        assert hashlib.sha256((out / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    lines = sorted(f"{row['path']} {row['sha256']}\n" for row in rows)
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == info.sha256
    assert {path.name for path in out.iterdir()} == {"train", "validation", "test", "index.csv", "dataset.json"}


def test_the_real_sample_prepares(tmp_path: Path, shared: Path) -> None:
    info = prepare(
        shared / "pcam_mini", tmp_path / "o", PrepareOptions(crop=32, mode="grey", format="jpeg", quality=90)
    )
    assert sum(totals(info).values()) == 15 and info.size == (32, 32) and info.channels == 1
    images = open_split(tmp_path / "o", "train").images([0, 1])
    assert images.shape == (2, 1, 32, 32) and images.float().std() > 5


def test_the_same_command_returns_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = kaggle(tmp_path / "k", 20), tmp_path / "o"
    info = prepare(source, out)
    before = tree(out)
    monkeypatch.setattr(PREPARE, "run_all", None)  # nothing is decoded again
    assert prepare(source, out, PrepareOptions(workers=3)) == info and tree(out) == before
    source.rename(tmp_path / "gone")
    assert prepare(source, out) == info


@pytest.mark.parametrize("change", ["options", "source", "foreign", "foreign json", "file", "source gone"])
def test_an_output_folder_in_use_is_left_alone(tmp_path: Path, change: str) -> None:
    source, out = kaggle(tmp_path / "k", 20), tmp_path / "o"
    options, message = PrepareOptions(), "not empty"
    if change in ("options", "source", "source gone"):
        prepare(source, out)
    if change == "options":
        options, message = PrepareOptions(crop=8), "crop was None, now 8"
    elif change == "source":
        picture(500).save(source / "train" / "im000.tif", compression="tiff_lzw")
        message = "the source differs"
    elif change == "source gone":
        source = folders(tmp_path / "other")
        message = "the source differs"
    elif change == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("dataset.json" if "json" in change else "notes.txt")).write_text("{}")
        message = "not a DatasetInfo" if "json" in change else message
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"the output folder is in use.*{message}"):
        prepare(source, out, options)
    assert tree(tmp_path) == before


def test_the_output_may_not_lie_in_a_source_of_folders(tmp_path: Path) -> None:
    source = folders(tmp_path / "f")
    with pytest.raises(UsageError, match="lies in the source"):
        prepare(source, source / "out")


def test_two_processes_cannot_prepare_into_one_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    source, out = kaggle(tmp_path / "k", 20), tmp_path / "o"
    interrupt_at(3, source, out)
    before = tree(out)
    with (out / ".preparing.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process is preparing it"):
            prepare(source, out)
    assert tree(out) == before


def test_unfinished_work_is_for_the_same_options_only(tmp_path: Path) -> None:
    source, out = kaggle(tmp_path / "k", 20), tmp_path / "o"
    interrupt_at(5, source, out)
    before = tree(out)
    with pytest.raises(UsageError, match=r"in use by another preparation .crop was None, now 8."):
        prepare(source, out, PrepareOptions(crop=8))
    assert tree(out) == before


def test_what_a_kill_left_of_a_file_does_not_count_as_foreign(tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "..preparing.123.tmp.json").write_text("{")
    prepare(kaggle(tmp_path / "k", 20), out)
    assert not any(path.name.startswith(".") for path in out.iterdir())


def interrupt_at(step: int, source: Path, out: Path) -> bool:
    """Prepare, but die (as Ctrl-C does) at this change of the disk. Returns whether it got that far."""
    count = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", counted(os.replace))
        patch.setattr(Path, "write_bytes", counted(Path.write_bytes))
        patch.setattr("shutil.rmtree", counted(shutil.rmtree))
        try:
            prepare(source, out)
        except KeyboardInterrupt:
            return True
    return False


def test_dying_at_every_single_step_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "CHUNK", 4)
    source = kaggle(tmp_path / "k", 12, slides=4)
    prepare(source, tmp_path / "whole")
    expected = tree(tmp_path / "whole")
    expected.pop("dataset.json")
    step = 1
    while interrupt_at(step, source, tmp_path / str(step)):
        out = tmp_path / str(step)
        prepare(source, out)
        after = tree(out)
        assert json.loads((out / "dataset.json").read_text())["name"] == str(step)
        after.pop("dataset.json")
        assert after == expected
        step += 1
    assert step > 12 + 12 + 5  # every file written and placed, and the records


def test_finished_chunks_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "CHUNK", 4)
    source, out = kaggle(tmp_path / "k", 12), tmp_path / "o"
    interrupt_at(12, source, out)  # marker, 4 files and a record, 4 files and a record, 1 file
    seen = []
    original = staging_module.prepare_image
    monkeypatch.setattr(
        staging_module, "prepare_image", lambda *args: seen.append(Path(args[0]).stem) or original(*args)
    )
    prepare(source, out)
    assert seen == ["im008", "im009", "im010", "im011"]


KILLED = """
import sys
from roteq.data import PrepareOptions, prepare
prepare(sys.argv[1], sys.argv[2], PrepareOptions(workers=2))
"""


def kill_and_resume(tmp_path: Path, kills: int, n: int) -> None:
    source = kaggle(tmp_path / "k", n, slides=10, size=48)
    started = time.monotonic()
    prepare(source, tmp_path / "whole" / "o", PrepareOptions(workers=2))
    duration = time.monotonic() - started
    rng, killed, out, expected = random.Random(0), 0, tmp_path / "o", tree(tmp_path / "whole" / "o")
    while killed < kills:
        process = subprocess.Popen([sys.executable, "-c", KILLED, source, out], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.0, 0.7) * duration)
        if process.poll() is None:
            killed += 1
        else:
            assert tree(out) == expected  # it was faster: begin again
            shutil.rmtree(out)
        process.kill()
        process.wait()
    prepare(source, out)
    assert tree(out) == expected


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=2, n=330)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's list of processes")
def test_a_killed_preparation_leaves_no_process_behind(tmp_path: Path) -> None:
    def running(session: int) -> int:
        fields = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended just now
                fields.append(path.read_text().rpartition(")")[2].split())
        return sum(state != "Z" and int(sid) == session for state, _, _, sid, *_ in fields)

    source = kaggle(tmp_path / "k", 600, size=96)
    command = [sys.executable, "-c", KILLED, source, tmp_path / "o"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    until(lambda: any((tmp_path / "o").glob(".staging/*.json")))
    assert running(process.pid) >= 3  # itself and two workers
    process.kill()
    process.wait()
    until(lambda: running(process.pid) <= 1)  # the tracker of multiprocessing goes last
    assert running(process.pid) <= 1


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=20, n=1500)


def test_several_processes_give_the_same_as_one(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 330)
    one = prepare(source, tmp_path / "1" / "o", PrepareOptions(workers=1))
    assert prepare(source, tmp_path / "2" / "o", PrepareOptions(workers=2)) == one
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_a_process_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def broken(*args: Any) -> Any:
        raise BrokenProcessPool

    monkeypatch.setattr(staging_module, "bounded_map", broken)
    with pytest.raises(RoteqError, match="a process died; out of memory"):
        prepare(kaggle(tmp_path / "k", 330), tmp_path / "o", PrepareOptions(workers=2))
    assert not (tmp_path / "o").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = kaggle(tmp_path / "k", 20)
    for victim, allowed in ((Path, 10), (os, 12)):
        name, count = ("write_bytes" if victim is Path else "replace"), 0
        original = getattr(victim, name)

        def full(*args: Any, original: Any = original, allowed: int = allowed) -> Any:
            nonlocal count
            count += 1
            if count > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(victim, name, full)
            with pytest.raises(RoteqError, match="could not be written: No space left on device"):
                prepare(source, tmp_path / "o")
        assert count > allowed and not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RoteqError, match="could not be made: Not a directory"):
        prepare(kaggle(tmp_path / "k", 20), tmp_path / "file" / "o")


def spoil(source: Path) -> None:
    (source / "train" / "im000.tif").unlink()
    whole = (source / "train" / "im001.tif").read_bytes()
    (source / "train" / "im001.tif").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.ones((12, 12), np.uint16)).save(source / "train" / "im002.tif")
    Image.new("RGB", (1, 1)).save(source / "train" / "im003.tif")
    picture(4).convert("CMYK").save(source / "train" / "im004.tif")
    picture(5).convert("L").save(source / "train" / "im005.tif")


def test_a_bad_image_stops_and_leaves_nothing(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 40)
    spoil(source)
    with pytest.raises(RoteqError, match=r"1 unusable among the 40 .*\n  train/im000.tif: no such file\n.*skip_bad"):
        prepare(source, tmp_path / "o", PrepareOptions(crop=8))
    picture(0).save(source / "train" / "im000.tif")
    with pytest.raises(
        RoteqError, match=r"3 unusable among the 40(.*\n)*.*im001.tif: (truncated|unreadable)(.*\n)*.*16-bit"
    ):
        prepare(source, tmp_path / "o", PrepareOptions(crop=8))
    assert not (tmp_path / "o").exists()


def test_more_than_five_bad_images_are_counted_not_listed(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 40)
    for i in range(7):
        (source / "train" / f"im{i:03d}.tif").write_text("?")
    with pytest.raises(RoteqError, match="7 unusable") as caught:
        prepare(source, tmp_path / "o")
    assert str(caught.value).count("unreadable") == 5 and "and 2 more" in str(caught.value)


def test_skip_bad_counts_them_by_reason(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 40)
    spoil(source)
    info = prepare(source, tmp_path / "o", PrepareOptions(crop=8, skip_bad=True))
    assert info.skipped == {"16-bit": 1, "missing": 1, "smaller than the crop": 1, "truncated": 1}
    assert sum(totals(info).values()) == 36 == len(index(tmp_path / "o"))
    conversions = [finding.message for finding in info.findings if finding.guard == "conversion"]
    assert conversions == ["CMYK images converted to RGB: 1.", "Grey images made RGB (mode=grey keeps them): 1."]


def test_a_class_with_only_bad_images_is_refused(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 12)
    for i in range(0, 12, 3):
        (source / "train" / f"im{i:03d}.tif").write_text("?")
    with pytest.raises(RoteqError, match="the class 'tumour' has no usable image"):
        prepare(source, tmp_path / "o", PrepareOptions(skip_bad=True))
    assert not (tmp_path / "o").exists()


def test_an_empty_class_and_a_single_class_are_refused(tmp_path: Path) -> None:
    source = folders(tmp_path / "f", 4)
    (source / "c").mkdir()
    with pytest.raises(RoteqError, match="the class 'c' has no usable image"):
        prepare(source, tmp_path / "o")
    with pytest.raises(RoteqError, match="expected two classes or more, got a"):
        prepare(folders(tmp_path / "g", 4, ("a",)), tmp_path / "o")
    root = kaggle(tmp_path / "k", 4)
    write_rows(root / "train_labels.csv", ("id", "label"))
    with pytest.raises(RoteqError, match="no image at all"):
        prepare(root, tmp_path / "o")


def test_a_split_without_positives_is_refused(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 12)
    groups = (("id", "group"), *((f"im{i:03d}", "a" if i % 3 == 0 else f"b{i}") for i in range(12)))
    write_rows(source / "train_groups.csv", *groups)
    with pytest.raises(RoteqError, match=r"the split '(validation|test)' has no image of tumour; give other shares"):
        prepare(source, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_one_of_many_classes_may_lack_in_a_split_with_a_warning(tmp_path: Path) -> None:
    source = folders(tmp_path / "f", 6, ("a", "b"))
    folders(tmp_path / "f", 1, ("c",))
    info = prepare(source, tmp_path / "o")
    finding = next(finding for finding in info.findings if finding.guard == "classes")
    assert finding.message == "Classes without an image in a split (validation: c; test: c)."


def test_duplicates_stay_together_and_contradictions_are_named(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 60)
    for i in range(30):  # im030 to im059 repeat im000 to im029; only some with the same label
        picture(i).save(source / "train" / f"im{i + 30:03d}.tif", compression="tiff_lzw")
    picture(1).save(source / "train" / "im000.tif")
    info = prepare(source, tmp_path / "o")
    homes, labels = defaultdict(set), defaultdict(set)
    for row in index(tmp_path / "o"):
        homes[row["pixels"]].add(row["split"])
        labels[row["pixels"]].add(row["label"])
    assert all(len(splits) == 1 for splits in homes.values())
    assert info.duplicates == 30 == 60 - len(homes)
    assert Counter(map(len, labels.values()))[2] == 1 and "label conflict" in guards(info)


def test_groups_that_share_a_picture_stay_together(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 60, slides=10)
    picture(0).save(source / "train" / "im001.tif")
    info = prepare(source, tmp_path / "o")
    homes = defaultdict(set)
    for row in index(tmp_path / "o"):
        homes[row["group"]].add(row["split"])
    assert homes["s0"] == homes["s1"] and len(homes["s0"]) == 1 and "joined groups" in guards(info)


def split_table(tmp_path: Path, twin: bool = False, parts: tuple[str, ...] = ("train", "validation", "test")) -> Path:
    rows: list[tuple] = [("path", "label", "split", "group")]
    for n, part in enumerate(part for part in parts for _ in range(10)):
        picture(n).save(tmp_path / f"{n}.png")
        rows.append((f"{n}.png", n % 2, part, f"g{n // 4 if twin else n}"))
    if twin:
        picture(0).save(tmp_path / "29.png")
    return write_rows(tmp_path / "t.csv", *rows)


def test_given_splits_are_kept_and_their_leaks_reported(tmp_path: Path) -> None:
    clean = prepare(split_table(tmp_path), tmp_path / "o")
    assert totals(clean) == {"train": 10, "validation": 10, "test": 10} and guards(clean) == []
    assert clean.split_rule == "given by the source"
    leaky = prepare(split_table(tmp_path, twin=True), tmp_path / "p")
    messages = [finding.message for finding in leaky.findings if finding.guard == "leak"]
    assert messages[0].startswith("Images of the given splits that sit in more than one: 2")
    assert messages[1] == "Groups in more than one split: 1."


def test_a_split_that_is_not_given_is_drawn_from_train(tmp_path: Path) -> None:
    info = prepare(split_table(tmp_path, parts=("train", "train", "test")), tmp_path / "o")
    assert totals(info) == {"train": 16, "validation": 4, "test": 10}
    assert info.split_rule == "given by the source; validation drawn from train by group"


def test_an_explicit_rule_draws_given_splits_anew(tmp_path: Path) -> None:
    table = split_table(tmp_path)
    assert totals(prepare(table, tmp_path / "o", PrepareOptions(split="image"))) == {
        "train": 22,
        "validation": 4,
        "test": 4,
    }
    assert prepare(table, tmp_path / "p", PrepareOptions(split="group")).split_rule == "by group"


def test_a_split_by_image_says_what_it_risks(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 60, slides=6)
    assert guards(prepare(source, tmp_path / "o", PrepareOptions(split="image"))) == ["no groups"]
    with pytest.raises(UsageError, match="names no groups; expected split=image or split=auto"):
        prepare(folders(tmp_path / "f"), tmp_path / "p", PrepareOptions(split="group"))


def test_few_groups_cannot_meet_the_shares(tmp_path: Path) -> None:
    assert "shares" in guards(prepare(kaggle(tmp_path / "k", 60, slides=4), tmp_path / "o"))


def test_images_without_a_group_need_a_decision(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 60, slides=10)
    lines = (source / "train_groups.csv").read_text().splitlines()
    (source / "train_groups.csv").write_text("\n".join(lines[:-2]) + "\nunknown,s1\n")
    with pytest.raises(RoteqError, match="2 of 60 images have no group; complete the groups"):
        prepare(source, tmp_path / "o")
    assert prepare(source, tmp_path / "o", PrepareOptions(skip_bad=True)).skipped == {"no group": 2}


def test_the_limit_draws_by_the_seed(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "k", 60)
    infos = [prepare(source, tmp_path / str(s), PrepareOptions(limit=30, seed=s)) for s in (0, 1)]
    assert [sum(totals(info).values()) for info in infos] == [30, 30]
    assert infos[0].skipped == {"beyond the limit": 30} and infos[0].sha256 != infos[1].sha256


def test_a_share_of_zero_makes_no_split(tmp_path: Path) -> None:
    info = prepare(kaggle(tmp_path / "k", 60), tmp_path / "o", PrepareOptions(shares=(0.8, 0.2, 0.0)))
    assert totals(info) == {"train": 48, "validation": 12}


def test_sizes_that_differ_are_a_finding(tmp_path: Path) -> None:
    source = folders(tmp_path / "f", 6)
    picture(0, 20).save(source / "a" / "large.png")
    info = prepare(source, tmp_path / "o")
    assert info.size is None and "sizes" in guards(info)
    assert prepare(source, tmp_path / "p", PrepareOptions(size=10)).size == (10, 10)


@pytest.mark.parametrize("packed", [False, True])
def test_pcam_prepares_with_its_official_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    source = pcam(tmp_path / "p")
    expected = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), dtype=np.uint8)[5]
    if packed:
        from test_data_sources import pack

        pack(source, monkeypatch)
    info = prepare(source, tmp_path / "o")
    assert totals(info) == {"train": 8, "validation": 8, "test": 8} and info.kind == "pcam"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o/train/tumour/train-000005.png")), expected)
    assert not any(path.name.startswith(".") for path in (tmp_path / "o").iterdir())


@pytest.mark.parametrize("shares", ["[0.5, 0.5, 0.5]", "[0, 0.5, 0.5]", "[1.2, -0.1, -0.1]"])
def test_shares_must_make_sense(shares: str) -> None:
    with pytest.raises(UsageError, match="expected shares of train, validation and test that sum to 1"):
        load_config(PrepareOptions, None, [f"shares={shares}"])


def test_a_lost_staging_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PREPARE, "staged", lambda *args: tmp_path / "nowhere")
    with pytest.raises(RoteqError, match="lost while being prepared"):
        prepare(kaggle(tmp_path / "k", 20), tmp_path / "o")


def test_progress_reaches_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(kaggle(tmp_path / "k", 20), tmp_path / "o", progress=True)
    assert re.search(r"preparing .* 20/20", capsys.readouterr().out)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Eight times as many images: the table may grow, by less than 1 KB an image; an image alone is 27 KB."""
    peaks = []
    for n in (50, 400):
        source = kaggle(tmp_path / f"k{n}", n, size=96) if n == 50 else _links(tmp_path, n)
        tracemalloc.start()
        prepare(source, tmp_path / f"o{n}", PrepareOptions(crop=32, workers=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 350 * 1024


def _links(tmp_path: Path, n: int) -> Path:
    root = tmp_path / f"k{n}"
    (root / "train").mkdir(parents=True)
    for i in range(n):
        os.link(tmp_path / "k50" / "train" / f"im{i % 50:03d}.tif", root / "train" / f"im{i}.tif")
    return write_rows(
        root / "train_labels.csv", ("id", "label"), *((f"im{i}", int(i % 100 % 3 == 0)) for i in range(n))
    ).parent
