"""Every layout read into a table, and every contradiction in one named."""

import gzip
import hashlib
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import folders, kaggle, pcam, picture, write_rows

from roteq.data import pcam as pcam_module
from roteq.data.pcam import rows, unpack
from roteq.data.sources import detect, read_source, rename_classes, safe_name, unique_ids
from roteq.errors import RoteqError, UsageError


def test_kaggle_layout(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "k", 9, slides=3)
    (root / "test").mkdir()
    picture(99).save(root / "test" / "hidden.tif")
    picture(98).save(root / "train" / "stray.tif")
    source = read_source(root)
    assert (source.kind, len(source.items), source.labels, source.names) == (
        "kaggle",
        9,
        ("0", "1"),
        ("normal", "tumour"),
    )
    assert (source.items[4].id, source.items[4].path, source.items[4].group) == ("im004", "train/im004.tif", "s1")
    assert source.left_out == {"no label (train/)": 1, "no label (test/)": 1}


def test_real_kaggle_sample(shared: Path) -> None:
    source = read_source(shared / "pcam_mini")
    assert (source.kind, len(source.items), sum(item.label == "1" for item in source.items)) == ("kaggle", 15, 5)


def test_class_folders(tmp_path: Path) -> None:
    root = folders(tmp_path / "f", 2, ("cat", "dog"))
    (root / "cat" / "deeper").mkdir()
    picture(5).save(root / "cat" / "deeper" / "x.png")
    (root / "cat" / "notes.txt").write_text("no image")
    source = read_source(root)
    assert (source.kind, source.labels, [item.id for item in source.items]) == (
        "folder",
        ("cat", "dog"),
        ["cat0", "cat1", "dog0", "dog1", "x"],
    )
    assert source.items[0].split is None


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_split_folders_keep_their_splits(tmp_path: Path, name: str) -> None:
    for split in ("train", name, "test"):
        folders(tmp_path / split, 1)
    (tmp_path / "other" / "a").mkdir(parents=True)
    picture(1).save(tmp_path / "other" / "a" / "x.png")
    source = read_source(tmp_path)
    assert [item.split for item in source.items] == ["test", "test", "train", "train", "validation", "validation"]
    assert source.left_out == {"outside the splits (other/)": 1}


def test_csv_takes_groups_and_splits(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "t.csv", ("path", "label", "group", "split"), ("x/1.png", "10", "g", "val"))
    with table.open("a") as file:
        file.write("x/2.png,9,,train\n")
    source = read_source(table)
    assert [(i.id, i.label, i.group, i.split) for i in source.items] == [
        ("1", "10", "g", "validation"),
        ("2", "9", None, "train"),
    ]
    assert source.labels == ("9", "10")  # as numbers


def test_another_column_can_name_the_group(shared: Path) -> None:
    source = read_source(shared / "chula_rbc12_crops48" / "index.csv", group_column="block")
    assert (len(source.items), len(source.labels)) == (3994, 12)
    assert 15 < len({item.group for item in source.items}) < 40


def test_pcam_keeps_the_official_splits_and_takes_slides_from_the_meta_file(tmp_path: Path) -> None:
    root = pcam(tmp_path / "p")
    meta = root / "camelyonpatch_level_2_split_train_meta.csv"
    write_rows(meta, ("tumor_patch", "center_tumor_patch", "wsi"), *((1, 1, f"slide{i // 4}") for i in range(8)))
    source = read_source(root)
    assert source.kind == "pcam" and source.names == ("normal", "tumour") and len(source.items) == 24
    item = next(item for item in source.items if item.id == "train-000005")
    assert (item.label, item.group, item.split, item.row) == ("1", "slide1", "train", 5)
    assert len(list(rows(root / item.path, 2, 5))) == 3


def pack(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gzip every file and take its sum for the published one."""
    for path in list(root.glob("*.h5")):
        packed = gzip.compress(path.read_bytes())
        path.with_suffix(".h5.gz").write_bytes(packed)
        path.unlink()
        part = path.stem.removeprefix(pcam_module.PREFIX)
        monkeypatch.setitem(pcam_module.MD5, part, hashlib.md5(packed).hexdigest())


def test_packed_pcam_is_checked_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pcam(tmp_path / "p", ("train",))
    plain = (root / "camelyonpatch_level_2_split_train_x.h5").read_bytes()
    pack(root, monkeypatch)
    assert len(read_source(root).items) == 8
    packed = root / "camelyonpatch_level_2_split_train_x.h5.gz"
    assert unpack(packed, tmp_path / "work").read_bytes() == plain
    packed.unlink()
    unpack(packed, tmp_path / "work")  # there already


def test_a_wrong_md5_sum_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pcam(tmp_path / "p", ("train",))
    pack(root, monkeypatch)
    monkeypatch.setitem(pcam_module.MD5, "train_x", "0" * 32)
    with pytest.raises(RoteqError, match="expected the MD5 sum 000"):
        unpack(root / "camelyonpatch_level_2_split_train_x.h5.gz", tmp_path / "work")
    assert not any((tmp_path / "work").iterdir())


def test_a_cut_gz_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pcam(tmp_path / "p", ("train",))
    pack(root, monkeypatch)
    path = root / "camelyonpatch_level_2_split_train_y.h5.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RoteqError, match=r"the file is damaged .*download it again"):
        read_source(root)


def test_the_published_sums_are_those_of_the_facts() -> None:
    assert pcam_module.MD5["valid_x"].startswith("d5b63470") and pcam_module.MD5["test_x"].startswith("d8c2d60d")
    assert len(set(pcam_module.MD5.values())) == 6


def spoil_h5(root: Path, name: str, key: str, value: np.ndarray | None) -> None:
    with h5py.File(root / f"camelyonpatch_level_2_split_{name}.h5", "w") as file:
        if value is not None:
            file[key] = value


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "camelyonpatch_level_2_split_test_y.h5").unlink(), "expected both _x and _y"),
        (lambda r: (r / "camelyonpatch_level_2_split_test_y.h5").write_text("?"), "not a readable HDF5 file"),
        (lambda r: spoil_h5(r, "test_y", "y", None), "expected a dataset y of whole numbers, got none"),
        (lambda r: spoil_h5(r, "test_y", "y", np.ones(3, np.float32)), "whole numbers, got float32"),
        (
            lambda r: write_rows(r / "camelyonpatch_level_2_split_test_meta.csv", ("wsi",), ("a",)),
            "one row for each of the 8 images, got 1",
        ),
        (
            lambda r: write_rows(r / "camelyonpatch_level_2_split_test_meta.csv", ("wsl",), *[("a",)] * 8),
            "no column 'wsi'; did you mean 'wsl'",
        ),
    ],
)
def test_contradicting_pcam_files_are_refused(tmp_path: Path, spoil, message: str) -> None:
    root = pcam(tmp_path / "p")
    spoil(root)
    with pytest.raises(RoteqError, match=message):
        read_source(root)


def test_pcam_pixels_must_be_there(tmp_path: Path) -> None:
    root = pcam(tmp_path / "p")
    with pytest.raises(RoteqError, match=re.escape("of type uint8 and shape (N >= 9, H, W, 3), got uint8")):
        list(rows(root / "camelyonpatch_level_2_split_test_x.h5", 0, 9))


def test_a_folder_without_pcam_files_is_not_pcam(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected files camelyonpatch"):
        read_source(tmp_path, "pcam")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("id,label\nim000,0\nim000,1\n", "line 3: the id 'im000' occurs twice"),
        ("id,label\nim000,tumour\n", "line 2: expected a whole number as label, got 'tumour'"),
        ("id,label\nim000,1.0\n", "expected a whole number as label, got '1.0'"),
        ("id,label\nim000\n", "line 2: expected 2 values, got 1"),
        ("id,label\n../im000,1\n", "expected an id that can be a file name, got '../im000'"),
        ("name,label\nim000,1\n", "expected the columns id,label, got name,label"),
        ("", "expected the columns id,label, got an empty file"),
        (b"id,label\n\xff\xfe,1\n", "not a readable CSV file"),
    ],
)
def test_broken_kaggle_tables_are_refused(tmp_path: Path, labels: str | bytes, message: str) -> None:
    root = kaggle(tmp_path / "k", 3)
    (root / "train_labels.csv").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    with pytest.raises(RoteqError, match=re.escape(message)):
        read_source(root)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,kind\na.png,1\n", "expected the columns path,label, got path,kind"),
        ("path,label\na.png,\n", "expected a path and a label, got 'a.png', ''"),
        ("path,label,split\na.png,1,dev2\n", "column split: expected train, validation or test, got 'dev2'"),
        ("path,label\na.png,1\na.png,0\n", "1 paths occur more than once, for example 'a.png'"),
    ],
)
def test_broken_csv_tables_are_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(RoteqError, match=re.escape(message)):
        read_source(tmp_path / "t.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path, label\na.png, 1\n", encoding="utf-8-sig")
    assert read_source(tmp_path / "t.csv").items[0].label == "1"


def test_wrong_paths_are_wrong_calls(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("?")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    write_rows(tmp_path / "half" / "train_labels.csv", ("id", "label"))
    for path, kind, message in (
        (tmp_path / "no", "auto", "no such file or folder"),
        (tmp_path / "x.txt", "auto", "expected a folder, a .csv or an .h5 file"),
        (tmp_path / "x.txt", "folder", "expected a folder for the kind 'folder', got a file"),
        (tmp_path / "empty", "auto", "not a source of images"),
        (tmp_path / "half", "auto", "expected a folder train/"),
    ):
        with pytest.raises(UsageError, match=message):
            read_source(path, kind)
    with pytest.raises(UsageError, match="group_column: only a csv or pcam source"):
        read_source(folders(tmp_path / "f"), group_column="g")


def test_a_kind_is_seen_from_the_path(tmp_path: Path) -> None:
    root = pcam(tmp_path / "p", ("train",))
    assert detect(root) == detect(next(root.iterdir())) == "pcam"
    assert detect(kaggle(tmp_path / "k", 1)) == "kaggle"
    assert detect(folders(tmp_path / "f", 1)) == "folder"
    assert detect(write_rows(tmp_path / "t.csv", ("path", "label"))) == "csv"


def test_classes_are_renamed_in_the_order_given(tmp_path: Path) -> None:
    source = read_source(kaggle(tmp_path / "k", 3))
    assert rename_classes(source, None) == {"0": "normal", "1": "tumour"}
    assert rename_classes(source, ["Normal", "CANCER"]) == {"0": "Normal", "1": "CANCER"}
    assert list(rename_classes(source, {"1": "CANCER", "0": "Normal"}).values()) == ["CANCER", "Normal"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"0": "a", "1": "b", "2": "c"}, "no image has the label '2'"),
        ({"0": "a"}, "the label '1' has no name"),
        (["a"], "expected 2 names for the labels 0, 1, got 1"),
        (["a", "x/y"], "'x/y' cannot be a folder name"),
        (["a", "A"], "expected different names"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path: Path, names, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rename_classes(read_source(kaggle(tmp_path / "k", 3)), names)


@given(st.lists(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3).map(lambda p: Path(*p)), unique=True))
def test_ids_are_distinct_file_names(paths: list[Path]) -> None:
    ids = unique_ids(paths)
    assert len({id.casefold() for id in ids}) == len(paths)
    assert all(safe_name(id) == id and "/" not in id and id not in (".", "..") for id in ids)


@given(st.text())
def test_a_safe_name_is_safe(text: str) -> None:
    name = safe_name(text)
    assert name == safe_name(name) and 0 < len(name.encode()) <= 160 and not name.startswith(".")
