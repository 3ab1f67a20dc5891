"""Digits and CIFAR10 as they are passed on: every sort of file gives the pixels that were put in."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roteq.data import PrepareOptions, arrays, open_split, prepare
from roteq.data.arrays import read_images, read_labels, turn
from roteq.data.sources import read_source
from roteq.errors import RoteqError, UsageError

GREY = PrepareOptions(mode="grey", workers=1)


def digits(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10


def write_amat(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.savetxt(path, np.column_stack([images.reshape(len(images), -1) / 255, labels]), fmt="%.6f")


def write_idx(path: Path, values: np.ndarray) -> None:
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(root: Path, n: int, gz: str = "") -> np.ndarray:
    images, labels = digits(n)
    for part, some in (("train", slice(0, 6 * n // 7)), ("t10k", slice(6 * n // 7, n))):
        write_idx(root / f"{part}-images-idx3-ubyte{gz}", images[some])
        write_idx(root / f"{part}-labels-idx1-ubyte{gz}", labels[some].astype(np.uint8))
    return images


def test_amat_files_are_split_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arrays.PUBLISHED, "train", 30)
    images, labels = digits(80)
    write_amat(tmp_path / "mnist_all_rotation_normalized_float_train_valid.amat", images[:40], labels[:40])
    write_amat(tmp_path / "mnist_all_rotation_normalized_float_test.amat", images[40:], labels[40:])
    info = prepare(tmp_path, tmp_path / "out", GREY)
    assert info.kind == "digits" and info.channels == 1
    assert {split: sum(classes.values()) for split, classes in info.counts.items()} == {
        "train": 30, "validation": 10, "test": 40,
    }  # fmt: skip
    for split, rows in (("train", slice(0, 30)), ("validation", slice(30, 40)), ("test", slice(40, 80))):
        data = open_split(tmp_path / "out", split)
        assert data.labels is not None
        np.testing.assert_array_equal(data.labels, labels[rows])
        np.testing.assert_array_equal(data.images(range(len(data)))[:, 0], images[rows])


@pytest.mark.parametrize(
    ("line", "message"),
    [("0.5 " * 784, "expected 785 numbers in every line.*got 784"), ("0.5 " * 786, "got 786")],
)
def test_amat_with_the_wrong_number_of_columns(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mnist_all_rotation_normalized_float_test.amat"
    path.write_text(line + "\n")
    with pytest.raises(RoteqError, match=message):
        read_source(tmp_path)


def test_amat_with_a_line_that_is_too_short_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mnist_all_rotation_normalized_float_test.amat"
    path.write_text("0.5 " * 784 + "3\n" + "0.5 " * 700 + "\n")
    with pytest.raises(RoteqError, match=r"expected 785 numbers in every line: .*row 2"):
        read_labels(path)


@pytest.mark.parametrize("form", ["bytes", "fractions", "data_4d", "flat"])
def test_npz_in_every_form(tmp_path: Path, form: str) -> None:
    images, labels = digits(20)
    content = {
        "bytes": {"images": images, "labels": labels.astype(np.uint8)},
        "fractions": {"images": images / 255, "labels": labels},
        "data_4d": {"data": (images / 255)[:, None], "labels": labels.astype(float)},
        "flat": {"images": images.reshape(20, -1), "labels": labels},
    }[form]
    np.savez_compressed(tmp_path / "train.npz", **content)
    np.testing.assert_array_equal(read_images(tmp_path / "train.npz"), images)
    assert read_labels(tmp_path / "train.npz") == labels.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": np.zeros((2, 28, 28), np.uint8)}, "expected an array images or data, got pictures, labels"),
        ({"images": np.zeros((2, 5), np.uint8)}, r"expected images of shape.*got \(2, 5\)"),
        ({"images": np.full((2, 28, 28), 255.0)}, "expected grey values from 0 to 1.*got float64 from 255 to 255"),
        ({"images": np.zeros((3, 28, 28), np.uint8)}, "expected one label for each of the 3 images"),
        ({"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([0.5, 1])}, "whole numbers as labels"),
        ({"images": np.array([{}, 1], object)}, "not a readable .npz file of numbers"),
    ],
)
def test_npz_that_is_something_else(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "train.npz", **({"labels": np.arange(2)} | content) if "labels" not in content else content)
    if "pictures" in content:
        message = "expected an array images or data, got (pictures, labels|labels, pictures)"
    with pytest.raises(RoteqError, match=message):
        read_source(tmp_path)


def test_npz_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "train.npz", images=np.zeros((20, 28, 28), np.uint8), labels=np.zeros(20, int))
    monkeypatch.setattr(arrays, "LARGEST", 10_000)
    with pytest.raises(RoteqError, match="images: expected at most 10,000 bytes, got 15,"):
        read_images(tmp_path / "train.npz")


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_mnist_upright(tmp_path: Path, gz: str) -> None:
    images = write_mnist(tmp_path, 70, gz)
    info = prepare(tmp_path, tmp_path / "out", GREY)
    assert sum(info.counts["test"].values()) == 10 and set(info.counts) == {"train", "validation", "test"}
    test = open_split(tmp_path / "out", "test")
    np.testing.assert_array_equal(test.images(range(10))[:, 0], images[60:])


def test_rotated_mnist_is_rebuilt_alike_and_every_digit_by_its_own_angle(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    images = write_mnist(tmp_path / "raw", 70)
    options = GREY.model_copy(update={"kind": "rotated_digits"})
    info = prepare(tmp_path / "raw", tmp_path / "one", options)
    again = prepare(tmp_path / "raw", tmp_path / "two", options)
    assert info.sha256 == again.sha256
    sizes = {split: sum(classes.values()) for split, classes in info.counts.items()}
    assert sizes == {"train": 11, "validation": 2, "test": 56}  # 10 : 2 : 50 of 70
    rows = [(item.path, item.row) for item in read_source(tmp_path / "raw", "rotated_digits").items]
    assert len(set(rows)) == len(rows)  # no digit twice
    data = open_split(tmp_path / "one", "test")
    angles = []
    for i in range(8):
        part, _, row = data.ids[i].partition("-")
        upright = images[int(row) + (60 if part == "t10k" else 0)]
        turned = data.images([i])[0, 0].numpy().astype(float)
        distances = [np.linalg.norm(turn(upright, angle) - turned) for angle in range(360)]
        angles.append(int(np.argmin(distances)))
        assert min(distances) < 0.5 * np.median(distances)  # it is that digit, turned
    assert len(set(angles)) > 5


def test_turn_is_counter_clockwise(tmp_path: Path) -> None:
    digit = digits(1)[0][0]
    np.testing.assert_array_equal(turn(digit, 90), np.rot90(digit))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x0d\x03" + bytes(12), "expected an IDX file of bytes in 3 dimensions, got '00000d03'"),
        (bytes([0, 0, 8, 3]) + np.array([2, 28, 28], ">u4").tobytes() + bytes(10), "expected 1568 values.*got 10"),
    ],
)
def test_idx_file_that_is_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    write_mnist(tmp_path, 70)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(RoteqError, match=message):
        read_source(tmp_path)


def test_idx_gz_that_is_no_gz(tmp_path: Path) -> None:
    write_mnist(tmp_path, 70, ".gz")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"not packed")
    with pytest.raises(RoteqError, match=r"train-labels-idx1-ubyte.gz: not a readable file"):
        read_source(tmp_path)


def test_mnist_without_its_labels(tmp_path: Path) -> None:
    write_mnist(tmp_path, 70)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RoteqError, match="t10k-labels-idx1-ubyte: no such file; it belongs to the images"):
        read_source(tmp_path)


def test_cifar10_binary_records(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    labels = (np.arange(40) % 10).astype(np.uint8)
    for name, rows in (("data_batch_1", slice(0, 20)), ("data_batch_2", slice(20, 30)), ("test_batch", slice(30, 40))):
        records = np.column_stack([labels[rows], pictures[rows].reshape(-1, 3072)])
        (tmp_path / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())
    info = prepare(tmp_path, tmp_path / "out", PrepareOptions(workers=1))
    assert info.kind == "cifar10" and info.classes[0] == "airplane" and info.channels == 3
    test = open_split(tmp_path / "out", "test")
    np.testing.assert_array_equal(test.images(range(10)), pictures[30:])
    both = open_split(tmp_path / "out", "train+validation")
    assert len(both) == 30 and Counter(both.labels.tolist()) == Counter((np.arange(30) % 10).tolist())  # type: ignore[union-attr]


def test_cifar10_file_that_is_cut(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(RoteqError, match="expected records of 3073 bytes, got 3072 bytes"):
        read_source(tmp_path)


def test_two_sorts_of_files_in_one_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path, 70)
    np.savez(tmp_path / "train.npz", images=digits(3)[0], labels=digits(3)[1])
    with pytest.raises(
        UsageError, match=r"expected images in one sort of files, got train.npz, train-images-idx3-ubyte"
    ):
        read_source(tmp_path)


def test_a_kind_that_the_folder_does_not_hold(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=digits(3)[0], labels=digits(3)[1])
    with pytest.raises(UsageError, match="no files of the kind 'rotated_digits'; expected train-images-idx3-ubyte"):
        read_source(tmp_path, "rotated_digits")


def test_real_rotated_digits_are_read(tmp_path: Path, shared: Path) -> None:
    source = shared / "mnist_rot_rebuilt"
    options = PrepareOptions(mode="grey", limit=300, workers=1)
    prepare(source, tmp_path / "out", options)
    data = open_split(tmp_path / "out", "test")
    stem, _, row = data.ids[0].partition("-")
    with np.load(source / f"{stem}.npz") as raw:
        np.testing.assert_array_equal(data.images([0])[0, 0], raw["images"][int(row)])
        assert data.labels is not None and data.labels[0] == raw["labels"][int(row)]


def test_pixels_survive_as_png(tmp_path: Path) -> None:
    images, labels = digits(20)
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    prepare(tmp_path, tmp_path / "out", GREY.model_copy(update={"shares": (1.0, 0.0, 0.0)}))
    found = np.asarray(Image.open(tmp_path / "out/train/3/train-00013.png"))
    np.testing.assert_array_equal(found, images[13])
