"""Loading: pixels, labels, the cache, and plain trees."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import folders, kaggle, picture
from PIL import Image
from torch.utils.data import DataLoader

import roteq.data.augment
import roteq.data.prepare
from roteq.data import (
    PatchDataset,
    PrepareOptions,
    batch_collate,
    dataset_info,
    open_folder,
    open_split,
    prepare,
)
from roteq.errors import RoteqError, UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(kaggle(folder / "k", 60, slides=10), folder / "o", PrepareOptions(class_names=["b", "a"]))
    return folder / "o"


def test_a_split_holds_pixels_labels_and_groups(root: Path) -> None:
    data = open_split(root, "train")
    assert (len(data), data.classes, data.channels, data.size) == (42, ("b", "a"), 3, (12, 12))
    assert data.labels is not None and data.groups is not None
    for i in (0, 7, -1):
        number = int(data.ids[i].removeprefix("im"))
        pixels, label = data[i]
        assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(picture(number))))
        assert label == int(number % 3 == 0) == data.labels[i]
        assert data.groups[i] == f"s{number % 10}"
    with pytest.raises(IndexError):
        data[len(data)]


@pytest.mark.parametrize("budget", [2**31, 0])
def test_batches_equal_single_images(root: Path, budget: int) -> None:
    source = open_split(root, "train")
    data = PatchDataset(source.paths, source.labels.tolist(), classes=source.classes, budget=budget)
    order = [5, 3, 3, 40, *range(20)]
    images, labels = data.__getitems__(order)
    assert images.shape == (24, 3, 12, 12) and images.dtype == torch.uint8
    assert torch.equal(images, torch.stack([data[i][0] for i in order]))
    assert torch.equal(labels, source.labels[order])
    assert torch.equal(data.images(order), images) and data.images([]).shape == (0, 3, 12, 12)


def test_a_cached_image_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = open_split(root, "test"), []
    original = data._decode
    monkeypatch.setattr(data, "_decode", lambda i: seen.append(i) or original(i))
    for _ in range(3):
        data.images([0, 1, 1])
    assert seen == [0, 1]


def test_a_loader_gets_whole_batches(root: Path) -> None:
    loader = DataLoader(open_split(root, "train"), batch_size=10, collate_fn=batch_collate)
    assert [len(images) for images, _ in loader] == [10, 10, 10, 10, 2]


def test_threads_share_a_dataset_and_a_copy_leaves_the_pixels(root: Path) -> None:
    data = open_split(root, "train")
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(data.images, [range(42)] * 16))
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    packed = pickle.dumps(data)
    assert len(packed) < 42 * 3 * 12 * 12
    assert torch.equal(pickle.loads(packed).images(range(42)), batches[0])


def test_channels_convert(root: Path) -> None:
    grey = open_split(root, "test", channels=1)
    number = int(grey.ids[0].removeprefix("im"))
    assert torch.equal(grey[0][0][0], torch.from_numpy(np.array(picture(number).convert("L"))))
    with pytest.raises(UsageError, match=r"channels: expected 1 \(grey\) or 3 \(RGB\), got 2"):
        open_split(root, "test", channels=2)


def test_a_missing_split_is_named_with_those_there_are(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'valid'; did you mean 'validation'"):
        open_split(root, "valid")
    with pytest.raises(UsageError, match="no split 'train'; choose from 'all'"):
        open_split(folders(tmp_path / "f"), "train")


def test_plain_trees_open_without_preparation(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folders(tmp_path / split, 3)
    data = open_split(tmp_path, "validation")
    assert (len(data), data.classes, data.labels.tolist(), data.groups) == (6, ("a", "b"), [0, 0, 0, 1, 1, 1], None)
    info = dataset_info(tmp_path)
    assert info.counts == {"train": {"a": 3, "b": 3}, "validation": {"a": 3, "b": 3}} and info.channels == 3
    assert dataset_info(tmp_path / "val").counts == {"all": {"a": 3, "b": 3}}
    assert len(open_split(tmp_path / "val", "all")) == 6


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        dataset_info(tmp_path / "no")
    with pytest.raises(UsageError, match="neither a prepared dataset nor folders of images"):
        dataset_info(tmp_path)
    (tmp_path / ".preparing.json").write_text("{}")
    with pytest.raises(UsageError, match="its preparation is not finished"):
        open_split(tmp_path, "train")


def test_a_folder_or_one_file_opens_without_labels(tmp_path: Path) -> None:
    source = folders(tmp_path / "f", 2)
    data = open_folder(source)
    assert (data.ids, data.labels, data.classes) == (["a0", "a1", "b0", "b1"], None, ())
    images, labels = data.__getitems__([0, 3])
    assert images.shape == (2, 3, 12, 12) and labels.tolist() == [-1, -1] and data[1][1] == -1
    assert open_folder(source / "a" / "a0.png").ids == ["a0"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image in this folder"):
        open_folder(tmp_path / "empty")
    with pytest.raises(UsageError, match="expected at least one image"):
        PatchDataset([])


def test_pictures_of_several_sizes_need_a_crop(tmp_path: Path) -> None:
    source = folders(tmp_path / "f", 2)
    picture(0, 20).save(source / "b" / "large.png")
    with pytest.raises(RoteqError, match=r"expected 12x12 pixels like .*, got 20x20; prepare the images with a crop"):
        open_folder(source).images(range(5))
    assert open_folder(source, crop=8).images(range(5)).shape == (5, 3, 8, 8)
    with pytest.raises(RoteqError, match="smaller than the crop"):
        open_folder(source, crop=16).images([0])


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    source = folders(tmp_path / "f", 2)
    (source / "a" / "a1.png").write_text("?")
    with pytest.raises(RoteqError, match=r"a1\.png: unreadable"):
        open_folder(source).images([0, 1])
    with pytest.raises(RoteqError, match=r"a1\.png: unreadable"):
        open_folder(source / "a" / "a1.png")
    Image.fromarray(np.ones((4, 4), np.uint16)).save(source / "a" / "a1.png")
    with pytest.raises(RoteqError, match=r"a1\.png: 16-bit"):
        open_folder(source / "a" / "a1.png")


def test_functions_keep_their_names_beside_modules_of_the_same_name() -> None:
    assert callable(roteq.data.prepare) and callable(roteq.data.augment)
    assert sys.modules["roteq.data.prepare"].prepare is roteq.data.prepare
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = roteq.data.nothing
    assert set(roteq.data.__all__) == set(roteq.data._HOMES) == set(dir(roteq.data))


def test_preparing_needs_no_torch() -> None:
    code = "import sys; from roteq.data import prepare, staging; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
