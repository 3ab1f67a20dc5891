"""Any images as patches of one size: sources, sizes, labels, and what cannot be read."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import folders, kaggle, pcam, picture, write_rows
from PIL import Image

from roteq import audit
from roteq.auditing import AuditConfig
from roteq.auditing.framing import Frame
from roteq.auditing.measuring import PROBED
from roteq.auditing.pictures import Pictures, open_pictures, unreadable
from roteq.auditing.rows import spread_out
from roteq.data import PatchDataset, PrepareOptions, prepare
from roteq.errors import RoteqError, UsageError

try:
    import datasets
except ImportError:
    datasets = None
hub = pytest.mark.skipif(datasets is None, reason="needs roteq[hub]")


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C), or (H, W) of one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, **sizes: tuple[int, ...]) -> Path:
    """name=(height, width[, channels]) as <name>.png, '__' for '/'."""
    for seed, (name, size) in enumerate(sizes.items()):
        path = folder / (name.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(*size, seed=seed)).save(path)
    return folder


def patches(found: Pictures) -> torch.Tensor:
    pixels, kept = found.load(np.arange(len(found)))
    assert kept.all() and pixels.shape == (len(found), found.channels, *found.size) and pixels.is_contiguous()
    return pixels


# Sources


def test_folders_are_classes(tmp_path: Path) -> None:
    found = open_pictures(folders(tmp_path, 3, ("b", "a")))
    assert found.source == str(tmp_path) and found.ids == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert found.classes == ("a", "b") and found.labels is not None and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.groups is None and found.findings == () and found.method == "as stored"
    expected = np.asarray(Image.open(tmp_path / "b" / "b1.png")).transpose(2, 0, 1)
    assert np.array_equal(patches(found)[4].numpy(), expected) and patches(found).dtype == torch.uint8


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    found = open_pictures(save(tmp_path, b=(8, 8), a=(8, 8)))
    assert (found.ids, found.labels, found.classes) == (["a", "b"], None, ())


def test_folders_beside_images_are_no_classes(tmp_path: Path) -> None:
    found = open_pictures(save(tmp_path, a=(8, 8), masks__a=(8, 8), masks__b=(8, 8)), classes=["masks"])
    assert len(found) == 3 and found.labels is None
    assert "holds 1 images beside folders of images" in found.findings[0].message


def test_one_folder_is_a_class_only_if_the_model_has_it(tmp_path: Path) -> None:
    save(tmp_path, tumour__a=(8, 8), tumour__b=(8, 8))
    assert open_pictures(tmp_path).labels is None
    assert open_pictures(tmp_path, classes=["x", "y"]).labels is None
    labels = open_pictures(tmp_path, classes=["normal", "tumour"]).labels
    assert labels is not None and labels.tolist() == [1, 1]


def test_one_file_is_enough(tmp_path: Path) -> None:
    save(tmp_path, a=(8, 9))
    found = open_pictures(str(tmp_path / "a.png"))
    assert found.ids == ["a"] and patches(found).shape == (1, 3, 8, 8)


def test_a_table_of_paths_labels_and_groups(tmp_path: Path) -> None:
    save(tmp_path, x__a=(8, 8), x__b=(8, 8))
    table = write_rows(tmp_path / "t.csv", ("path", "label", "group"), ("x/b.png", "n", "s2"), ("x/a.png", "t", "s1"))
    found = open_pictures(table, classes=("t", "n"))
    assert found.labels is not None
    assert list(zip(found.ids, found.labels.tolist(), found.groups or [], strict=True)) == [
        ("a", 0, "s1"),
        ("b", 1, "s2"),
    ]


@pytest.mark.parametrize(
    ("split", "ids", "words"),
    [
        (None, ["t0", "u0"], ", test"),
        ("validation", ["v0"], ", validation"),
        ("train+test", ["a0", "t0", "u0"], ", train+test"),
        ("all", ["a0", "t0", "u0", "v0"], ", train+validation+test"),
    ],
)
def test_a_tree_of_splits(tmp_path: Path, split: str | None, ids: list[str], words: str) -> None:
    save(tmp_path, train__a__a0=(8, 8), val__a__v0=(8, 8), test__a__t0=(8, 8), test__b__u0=(8, 8))
    found = open_pictures(tmp_path, split=split)
    assert sorted(found.ids) == ids and found.classes == ("a", "b")
    assert set(found.source.removeprefix(f"{tmp_path}, ").split("+")) == set(words.removeprefix(", ").split("+"))


def test_without_a_test_split_validation_is_taken(tmp_path: Path) -> None:
    save(tmp_path, train__a__a0=(8, 8), train__b__b0=(8, 8), valid__a__v0=(8, 8))
    assert open_pictures(tmp_path).ids == ["v0"]


def test_prepared_data(tmp_path: Path) -> None:
    prepare(kaggle(tmp_path / "k", 60, slides=10), tmp_path / "o", PrepareOptions(class_names=["b", "a"]))
    found, everything = open_pictures(tmp_path / "o"), open_pictures(tmp_path / "o", split="all", classes=("a", "b"))
    assert found.source == f"{tmp_path / 'o'}, test" and found.classes == ("b", "a")
    assert found.groups is not None and set(found.groups) < set(everything.groups or ())
    assert len(everything) == 60 and everything.labels is not None
    by_id = dict(zip(everything.ids, everything.labels.tolist(), strict=True))
    assert {by_id[f"im{i:03d}"] for i in range(60) if i % 3 == 0} == {0}  # label 1 is called a
    (tmp_path / "o" / "dataset.json").rename(tmp_path / "o" / ".preparing.json")
    with pytest.raises(UsageError, match="its preparation is not finished"):
        open_pictures(tmp_path / "o")


def test_kaggle_layout(tmp_path: Path) -> None:
    found = open_pictures(kaggle(tmp_path, 6, slides=2), classes=("normal", "tumour"))
    assert found.labels is not None and found.labels.tolist() == [1, 0, 0, 1, 0, 0]
    assert found.groups == ["s0", "s1"] * 3


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("is_tensor", [False, True])
def test_arrays_stay_as_they_are(kind: type, is_tensor: bool) -> None:
    array = noise(6, 40, 8).reshape(5, 2, 8, 24).astype(kind)
    found = open_pictures(torch.from_numpy(array) if is_tensor else array, labels=[1, 0, 1, 0, 1], groups=list("aabbc"))
    assert (found.size, found.channels, found.is_float) == ((8, 24), 2, kind is not np.uint8)
    assert found.method == "as they are" and found.groups == list("aabbc")
    assert np.array_equal(patches(found).numpy(), array.astype(np.float32 if found.is_float else np.uint8))
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1, 0, 1]


def test_arrays_are_resized_only_if_they_are_pictures_and_not_yet_of_the_right_size() -> None:
    array = noise(40, 20, 3).reshape(1, 20, 40, 3).transpose(0, 3, 1, 2)
    sizes = {"size": (20, 20), "resize": 30}
    assert open_pictures(array, **sizes).size == (30, 30)
    assert open_pictures(array[..., :20], **sizes).size == (20, 20)
    assert open_pictures(array.astype(np.float32), **sizes).size == (20, 40)


def test_paths_and_pil_images(tmp_path: Path) -> None:
    save(tmp_path, a=(8, 8), b=(9, 12))
    paths = [tmp_path / "b.png", str(tmp_path / "a.png")]
    by_path = open_pictures(paths, size=(6, 6))
    with Image.open(paths[0]) as b, Image.open(paths[1]) as a:
        by_image = open_pictures([b, a], size=(6, 6))
        assert torch.equal(patches(by_path), patches(by_image))
    assert by_path.ids == ["b", "a"] and by_path.source == "2 files"


class Cells(torch.utils.data.Dataset):
    """(PIL image, label), the third of them broken."""

    classes = ("x", "y")

    def __init__(self, n: int = 9, broken: int | None = 2) -> None:
        self.n, self.broken = n, broken

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == self.broken:
            raise OSError("a broken file")
        return picture(index, 8 + index), index % 2


def test_a_torch_dataset_of_pictures_and_labels() -> None:
    found = open_pictures(Cells(), classes=("y", "x"), size=(8, 8))
    assert found.source == "Cells" and found.ids == [str(i) for i in range(9) if i != 2]
    assert found.labels is not None and found.labels.tolist() == [1, 0, 0, 1, 0, 1, 0, 1]
    assert "1 of 9 images could not be read and were left out: 2 (unreadable)." in found.findings[0].message
    assert patches(found).shape == (8, 3, 8, 8)


@pytest.mark.parametrize("is_float", [False, True])
def test_a_torch_dataset_of_tensors(is_float: bool) -> None:
    pixels = torch.from_numpy(noise(8, 8, 15)).reshape(5, 3, 8, 8)
    pixels = pixels / 255 if is_float else pixels
    found = open_pictures(torch.utils.data.TensorDataset(pixels, torch.arange(5)))
    assert torch.equal(patches(found), pixels) and found.is_float is is_float
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 3, 4]


def test_the_labels_of_a_dataset_may_be_targets_or_names_or_vectors() -> None:
    pairs: list[Any] = [(picture(i), "ba"[i]) for i in range(2)]
    found = open_pictures(pairs)
    assert found.classes == ("a", "b") and found.labels is not None and found.labels.tolist() == [1, 0]
    multi = open_pictures([(picture(i), torch.tensor([1, i, 0])) for i in range(2)]).labels
    assert multi is not None and multi.tolist() == [[1, 0, 0], [1, 1, 0]]
    data = Cells(broken=None)
    data.targets = [1] * 9  # type: ignore[attr-defined]
    own = open_pictures(data).labels
    assert own is not None and own.tolist() == [1] * 9
    assert open_pictures([(picture(i), -1) for i in range(2)]).labels is None  # how PatchDataset says unlabelled


def test_a_patch_dataset(tmp_path: Path) -> None:
    save(tmp_path, a=(12, 12), b=(9, 9), c=(9, 9))
    data = PatchDataset(
        [tmp_path / f"{x}.png" for x in "abc"], [1, 0, 1], classes=("n", "t"), groups=["g", "h", "h"], crop=9
    )
    found = open_pictures(data, size=(6, 6))
    assert (found.size, found.method, found.groups) == ((9, 9), "as they are", ["g", "h", "h"])
    assert torch.equal(patches(found), data.images([0, 1, 2])) and found.classes == ("n", "t")
    (tmp_path / "b.png").write_bytes(b"")
    late = open_pictures(PatchDataset([tmp_path / f"{x}.png" for x in "cb"]))
    assert late.load([0, 1])[1].tolist() == [True, False]


def test_pictures_pass_through_a_subset_in_any_order(tmp_path: Path) -> None:
    found = open_pictures(folders(tmp_path, 12), groups=np.arange(24))
    part = found.subset([20, 3]).subset(np.array([1, 0]))
    assert part.ids == [found.ids[3], found.ids[20]] and part.groups == ["3", "20"] and part.classes == found.classes
    assert part.labels is not None and part.labels.tolist() == [0, 1]
    assert torch.equal(patches(part), patches(found)[[3, 20]])


def test_any_thread_gets_the_same_patches(tmp_path: Path) -> None:
    found = open_pictures(folders(tmp_path, 20), size=(7, 7))
    expected = patches(found)
    with ThreadPoolExecutor(4) as pool:
        every = list(pool.map(lambda shift: found.load((np.arange(40) + shift) % 40)[0], range(8)))
    for shift, pixels in enumerate(every):
        assert torch.equal(pixels, expected.roll(-shift, 0))


def test_a_dataset_is_asked_for_one_picture_at_a_time() -> None:
    """Its code may not bear threads."""

    class Busy(Cells):
        asked, most = 0, 0

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            self.asked += 1
            self.most = max(self.most, self.asked)
            time.sleep(0.001)
            self.asked -= 1
            return super().__getitem__(index)

    data = Busy(32, None)
    assert len(patches(open_pictures(data, size=(8, 8)))) == 32 and data.most == 1


def test_only_the_chosen_are_read(tmp_path: Path) -> None:
    folders(tmp_path, 4)
    (tmp_path / "a" / "a0.png").write_text("no image")
    found = open_pictures(tmp_path, chosen=lambda n: np.arange(1, n, 2), labels=[0, 1, 2, 3, 4, 5, 6, 7])
    assert found.ids == ["a1", "a3", "b1", "b3"] and found.findings == ()
    assert found.labels is not None and found.labels.tolist() == [1, 3, 5, 7]
    seen: list[int] = []

    class Counted(Cells):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            seen.append(index)
            return super().__getitem__(index)

    labels = open_pictures(Counted(), chosen=[7, 4]).labels
    assert seen == [7, 4] and labels is not None and labels.tolist() == [1, 0]


# Hugging Face


def columns(**more: Any) -> Any:
    features = {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "kind": datasets.ClassLabel(names=["cat", "dog"]),
    }
    rows = {"id": [0, 1, 2], "image": [picture(i) for i in range(3)], "kind": [1, 0, 1]}
    for name, (feature, values) in more.items():
        features[name], rows[name] = feature, values
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@hub
@pytest.mark.parametrize("form", ["object", "folder", "splits", "named split"])
def test_a_hugging_face_dataset(tmp_path: Path, form: str) -> None:
    data = columns(group=(datasets.Value("string"), ["s1", "s1", "s2"]))
    source: Any = data
    if form != "object":
        split = datasets.DatasetDict({"train": data.select([0]), "test": data})
        (data if form == "folder" else split).save_to_disk(tmp_path / "d")
        source = f"hf:{tmp_path / 'd'}" + ("[test]" if form == "named split" else "")
    found = open_pictures(source, classes=("dog", "cat"))
    assert found.labels is not None and found.labels.tolist() == [0, 1, 0] and found.groups == ["s1", "s1", "s2"]
    expected = np.stack([np.asarray(picture(i)) for i in range(3)]).transpose(0, 3, 1, 2)
    assert np.array_equal(patches(found).numpy(), expected) and found.ids == ["0", "1", "2"]


@hub
def test_a_column_of_labels_can_be_named() -> None:
    data = columns(
        level=(datasets.ClassLabel(names=["low", "high"]), [0, 1, 1]), word=(datasets.Value("string"), list("zyz"))
    )
    with pytest.raises(UsageError, match="several columns of labels: kind, level; name one with --label-column"):
        open_pictures(data)
    assert open_pictures(data, label_column="level").classes == ("low", "high")
    words = open_pictures(data, label_column="word")
    assert words.classes == ("y", "z") and words.labels is not None and words.labels.tolist() == [1, 0, 1]
    with pytest.raises(UsageError, match=r"no column 'levl'; did you mean 'level'\?"):
        open_pictures(data, label_column="levl")
    with pytest.raises(UsageError, match="expected a column of images, got the columns id, kind"):
        open_pictures(columns().remove_columns("image"))
    with pytest.raises(UsageError, match=r"split: the dataset has no split 'tran'; did you mean 'train'\?"):
        open_pictures({"train": columns()}, split="tran")


@hub
def test_nothing_is_downloaded_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def load(name: str, **options: Any) -> Any:
        offline.append((datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        raise ConnectionError("no network")

    offline: list[tuple[bool, bool]] = []
    before = (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(RoteqError, match=r"hf:no/such\[test\]: not on this machine: .*download=True"):
        open_pictures("hf:no/such[test]")
    with pytest.raises(RoteqError, match="hf:no/such: could not be loaded: no network"):
        open_pictures("hf:no/such", download=True)
    assert offline == [(True, True), before] and before == (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)


@hub
def test_an_unknown_name_is_told_quickly_without_a_network() -> None:
    start = time.perf_counter()
    with pytest.raises(RoteqError, match=r"^hf:no-one/no-such-pictures: not on this machine: .*--download[^\n]*$"):
        open_pictures("hf:no-one/no-such-pictures")
    assert time.perf_counter() - start < 5


# Sizes

SIZES = {"a": (40, 40), "b": (30, 50), "c": (64, 20)}
ADVICE = "; --resize 0 keeps the stored resolution"


@pytest.mark.parametrize(
    ("stored", "options", "size", "method"),
    [
        ("a", {}, (40, 40), "as stored"),
        ("a", {"size": (32, 32), "resize": 0}, (40, 40), "as stored"),
        ("b", {}, (30, 30), "as stored, the centre square of 30 pixels"),
        ("abc", {}, (20, 20), "as stored, the centre square of 20 pixels, the shorter side of the smallest (c.png)"),
        ("a", {"size": (40, 40)}, (40, 40), "as stored"),
        ("b", {"size": (30, 30)}, (30, 30), "as stored, the centre square of 30 pixels"),
        (
            "a",
            {"size": (20, 20)},
            (20, 20),
            "resized to 20 pixels on the shorter side (bicubic), the centre square" + ADVICE,
        ),
        (
            "abc",
            {"size": (40, 40)},
            (40, 40),
            "resized to 40 pixels on the shorter side (bicubic), the centre square, 2 of them enlarged" + ADVICE,
        ),
        (
            "ab",
            {"size": (16, 16), "resize": 18, "interpolation": "bilinear"},
            (18, 18),
            "resized to 18 pixels on the shorter side (bilinear), the centre square",
        ),
        (
            "abc",
            {"size": (16, 24)},
            (16, 24),
            "resized to cover 16x24 (bicubic), the centre cut, 1 of them enlarged" + ADVICE,
        ),
        ("ab", {"size": (16, 24), "resize": 20}, (16, 24), "resized to cover 16x24 (bicubic), the centre cut"),
        ("ab", {"size": (16, 24), "resize": 0}, (16, 24), "as stored, the centre cut"),
    ],
)
def test_sizes(tmp_path: Path, stored: str, options: dict, size: tuple[int, int], method: str) -> None:
    found = open_pictures(save(tmp_path, **{name: SIZES[name] for name in stored}), **options)
    assert (found.size, found.method) == (size, method)
    assert patches(found).shape == (len(stored), 3, *size)


@pytest.mark.parametrize("name", ["nearest", "lanczos"])
def test_the_interpolation_is_the_one_that_was_asked_for(tmp_path: Path, name: str) -> None:
    found = patches(open_pictures(save(tmp_path, a=(20, 20)), resize=13, interpolation=name))
    expected = Image.fromarray(noise(20, 20)).resize((13, 13), Image.Resampling[name.upper()])
    assert np.array_equal(found[0].permute(1, 2, 0), np.asarray(expected))


def test_as_stored_is_the_centre_pixel_for_pixel(tmp_path: Path) -> None:
    found = patches(open_pictures(save(tmp_path, a=(20, 31), b=(12, 12)), resize=0, size=(10, 10)))
    assert np.array_equal(found[0].permute(1, 2, 0), noise(20, 31, seed=0)[4:16, 9:21])
    assert np.array_equal(found[1].permute(1, 2, 0), noise(12, 12, seed=1))


@pytest.mark.parametrize(("stored", "cut"), [((64, 96), (0, 8)), ((96, 64), (8, 0))])
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_resizing_is_that_of_torchvision(stored: tuple[int, int], cut: tuple[int, int], name: str) -> None:
    """Resize(32) and CenterCrop(32), where no rounding is involved."""
    image = Image.fromarray(noise(*stored))
    full = image.resize((stored[1] // 2, stored[0] // 2), Image.Resampling[name.upper()])
    expected = np.asarray(full)[cut[0] :][:32, cut[1] : cut[1] + 32].astype(int)
    found = np.asarray(Frame((32, 32), 32, Image.Resampling[name.upper()]).cut(image)).astype(int)
    assert np.abs(found - expected).max() <= 1 and expected.std() > 20


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(12, 80), st.integers(12, 80)),
    st.tuples(st.integers(8, 60), st.integers(8, 60)),
    st.booleans(),
    st.integers(0, 20),
)
def test_nothing_is_distorted(stored: tuple[int, int], size: tuple[int, int], square: bool, more: int) -> None:
    """Of a ramp along each side: one step for all pixels of both sides, and the centre stays in the centre."""
    size = (size[0], size[0]) if square else size
    height, width = stored
    y, x = np.meshgrid(np.arange(height) * 3, np.arange(width) * 3, indexing="ij")
    image = Image.fromarray(np.stack([y, x, 0 * x], axis=2).astype(np.uint8))
    frame = Frame(size, min(size) + (0 if square else more))
    scale = frame.scale(height, width)
    assert scale * size[0] <= height + 1e-9 and scale * size[1] <= width + 1e-9
    found = np.asarray(frame.cut(image)).astype(float)
    assert found.shape[:2] == size
    for axis, side in enumerate(stored):
        centre = (np.arange(size[axis]) - (size[axis] - 1) / 2) * scale + (side - 1) / 2
        inside = (centre >= 2 * max(1, scale)) & (centre <= side - 1 - 2 * max(1, scale))
        shown = found[:, :, axis].mean(axis=1 - axis)
        slack = 1.0 if scale != 1.0 else 1.6  # an odd margin of a picture as stored is half a pixel
        assert inside.any() or side < 4 * max(1, scale) + 2
        assert np.abs(shown - 3 * centre)[inside].max(initial=0) <= slack


@pytest.mark.parametrize("stored", [(60, 60), (60, 100), (100, 60)])
@pytest.mark.parametrize("options", [{}, {"size": (40, 40)}, {"size": (32, 48)}, {"size": (90, 70)}, {"resize": 75}])
def test_a_disc_stays_round(tmp_path: Path, stored: tuple[int, int], options: dict) -> None:
    y, x = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in stored), indexing="ij")
    Image.fromarray(np.where(x**2 + y**2 <= 14**2, 255, 0).astype(np.uint8)).save(tmp_path / "disc.png")
    (found,) = patches(open_pictures(tmp_path, **options))[:, 0].numpy() / 255
    spreads = []
    for axis, side in enumerate(found.shape):
        profile, place = found.sum(1 - axis) / found.sum(), np.arange(side) - (side - 1) / 2
        assert abs(profile @ place) < 0.3  # the middle stays in the middle
        assert profile[[0, -1]].max() < 1e-3  # all of it is inside
        spreads.append(np.sqrt(profile @ place**2))
    assert spreads[0] == pytest.approx(spreads[1], rel=0.01) and spreads[0] > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": (24, 24), "resize": 0},
            r"resize: c.png is 64x20 as stored, smaller than the model's input 24x24; give --resize 24",
        ),
        ({"size": (24, 16), "resize": 0, "chosen": [1, 2]}, None),
        ({"size": (36, 16), "resize": 0}, r"resize: b.png is 30x50 as stored, smaller than the model's input 36x16"),
        ({"size": (24, 24), "resize": 20}, "resize: expected 0, or at least 24 pixels, the model's input, got 20"),
        ({"interpolation": "bicubik"}, r"interpolation: unknown 'bicubik'; did you mean 'bicubic'\?"),
        ({"size": (9000, 9000)}, "size: patches of 9000x9000 pixels are more than the limit of 64,000,000"),
        ({"resize": 9000}, "resize: patches of 9000x9000 pixels are more than the limit"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, options: dict, message: str | None) -> None:
    save(tmp_path, **SIZES)
    if message is None:
        assert open_pictures(tmp_path, **options).size == options["size"]
        return
    with pytest.raises(UsageError, match=message):
        open_pictures(tmp_path, **options)


# Channels


@pytest.mark.parametrize(
    ("names", "channels", "expected", "words"),
    [
        ("a", None, 1, "as stored"),
        ("a", 3, 3, "as stored, converted to RGB"),
        ("ab", None, 3, "as stored, those in grey converted to RGB"),
        ("ab", 1, 1, "as stored, those of RGB converted to grey"),
        ("b", None, 3, "as stored"),
        ("b", 1, 1, "as stored, converted to grey"),
    ],
)
def test_grey_and_rgb(tmp_path: Path, names: str, channels: int | None, expected: int, words: str) -> None:
    stored = {"a": (8, 8, 1), "b": (8, 8, 3)}
    found = open_pictures(save(tmp_path, **{name: stored[name] for name in names}), channels=channels)
    assert (found.channels, found.method) == (expected, words)
    pixels = patches(found)
    if "a" in names:
        assert all(np.array_equal(channel, noise(8, 8, 1)) for channel in pixels[0])


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert patches(open_pictures(tmp_path)).eq(255).all()


def test_channels_of_arrays_are_converted_only_between_grey_and_rgb() -> None:
    grey = noise(8, 8, 1)[None, None]
    assert torch.equal(patches(open_pictures(grey, channels=3)), torch.from_numpy(grey).expand(1, 3, 8, 8))
    for array, channels in ((grey.astype(np.float32), 3), (grey.repeat(5, 1), 3), (grey, 4)):
        with pytest.raises(UsageError, match=f"channels: expected {channels}, got pictures of {array.shape[1]}"):
            open_pictures(array, channels=channels)


# Labels


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return save(tmp_path / "cells", a__1=(8, 8), a__2=(8, 8), b__x3=(8, 8), b__y4=(8, 8))


NAMES = ("a/1.png", "a/2.png", "b/x3.png", "b/y4.png")


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        ("path", NAMES),
        ("image", [f"./{name}" for name in NAMES]),
        ("path", [f"cells/{name}" for name in NAMES]),
        ("filename", [name.split("/")[1] for name in NAMES]),
        ("filename", [f"C:\\old\\{name.split('/')[1]}" for name in NAMES]),
        ("ID", ["1", "2", "x3", "y4"]),
    ],
    ids=["below the folder", "dot", "beside the table", "name", "another folder", "stem"],
)
def test_a_table_of_labels_finds_its_images(cells: Path, column: str, keys: list[str]) -> None:
    rows = [*zip(keys, ["n", "t", "t", "n"], ["s1", "s1", "s2", "s2"], strict=True), ("other.png", "z", "s9")]
    table = write_rows(cells.parent / "labels.csv", (column, "label", "group"), *rows[::-1])
    found = open_pictures(cells, labels=table, classes=("t", "n"))
    assert found.labels is not None and found.labels.tolist() == [1, 0, 0, 1] and found.classes == ("t", "n")
    assert found.groups == ["s1", "s1", "s2", "s2"]
    assert open_pictures(cells, labels=table).classes == ("n", "t", "z")


def test_several_columns_of_flags_are_independent_labels(cells: Path) -> None:
    rows = [(name, i % 2, 1, "text") for i, name in enumerate(NAMES)]
    table = write_rows(cells.parent / "l.csv", ("path", "odd", "all", "note"), *rows)
    found = open_pictures(cells, labels=table)
    assert found.classes == ("odd", "all") and found.labels is not None
    assert found.labels.tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]
    turned = open_pictures(cells, labels=table, classes=("all", "odd"))
    assert turned.labels is not None and turned.labels.tolist() == [[1, 0], [1, 1], [1, 0], [1, 1]]
    with pytest.raises(UsageError, match="classes: no column of labels is called 'even'"):
        open_pictures(cells, labels=table, classes=("odd", "even"))
    single = open_pictures(cells, labels=table, label_column="odd").labels
    assert single is not None and single.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("path", "label"), ("a/1.png", 0)], r"l.csv: no row for 3 of 4 images, the first a/2.png"),
        (
            [("path", "label"), ("q.png", 0)],
            r"l.csv: no row for 4 of 4 images, the first a/1.png; its first row is 'q.png'",
        ),
        ([("path", "label"), *((n, 0) for n in NAMES), (NAMES[0], 1)], "2 rows are called 'a/1.png'"),
        (
            [("path", "label"), ("a/1.png", ""), *((n, 0) for n in NAMES[1:])],
            "1 of 4 images have no label, the first a/1.png",
        ),
        (
            [("file", "label"), ("a/1.png", 0)],
            "expected rows with a column path or image or filename or id, got file, label",
        ),
        ([("path", "stage"), ("a/1.png", 0)], "no row for 3"),
        (
            [("path", "stage"), *((n, "x") for n in NAMES)],
            "expected a column label, .* name one of stage with --label-column",
        ),
        ([], "expected the columns|expected rows with a column"),
    ],
)
def test_tables_that_do_not_fit(cells: Path, rows: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_pictures(cells, labels=write_rows(cells.parent / "l.csv", *rows))


def test_images_of_one_name_are_told_apart_by_paths(tmp_path: Path) -> None:
    save(tmp_path / "i", a__1=(8, 8), b__1=(8, 8))
    table = write_rows(tmp_path / "l.csv", ("image", "label"), ("1.png", 0))
    with pytest.raises(UsageError, match=r"2 images are called '1.png'; tell them apart by their paths, as in a/1.png"):
        open_pictures(tmp_path / "i", labels=table)


def test_names_are_looked_up_among_the_outputs(tmp_path: Path) -> None:
    folders(tmp_path, 2, ("ig", "platelet"))
    found = open_pictures(tmp_path, classes=("platelet", "other", "ig"))
    assert found.labels is not None and found.labels.tolist() == [2, 2, 0, 0]
    assert found.classes == ("platelet", "other", "ig")
    words = (
        r"labelled ig, platelet; the model's outputs are called IG, platelets; 'ig' is none .*did you mean.*--classes"
    )
    with pytest.raises(UsageError, match=words):
        open_pictures(tmp_path, classes=("IG", "platelets"))
    assert open_pictures(tmp_path, classes=("IG", "platelets"), labels="none").labels is None
    named = open_pictures(tmp_path, classes=("x", "y"), labels=np.array(["y", "y", "x", "y"])).labels
    assert named is not None and named.tolist() == [1, 1, 0, 1]


def test_numbers_are_outputs(tmp_path: Path) -> None:
    folders(tmp_path, 1, ("2", "10"))
    found = open_pictures(tmp_path)
    assert found.labels is not None and found.labels.tolist() == [10, 2] and found.classes == ()
    assert "the folders are numbers" in found.findings[0].message and "--classes 10,2" in found.findings[0].advice
    assert open_pictures(tmp_path, classes=list("abcdefghijk")).labels.tolist() == [10, 2]  # type: ignore[union-attr]
    assert open_pictures(tmp_path, classes=["10", "2"]).labels.tolist() == [0, 1]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="labels: expected 0 to 1 for the 2 classes a, b, got 2 to 10"):
        open_pictures(tmp_path, classes=["a", "b"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "labels: expected one for each of 4 images, got 2"),
        (5, "labels: expected one for each of 4 images, got one"),
        ([0, 1, -1, 0], "labels: expected numbers from 0|expected indices from 0 got -1 to 1"),
        ([0.5, 1, 0, 0], "labels: expected class indices or names"),
        ([[0, 2]] * 4, "labels: expected .* of 0 and 1, got values from 0 to 2"),
        ("nowhere.csv", "labels: nowhere.csv: no such file"),
    ],
)
def test_labels_that_cannot_be(labels: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_pictures(np.zeros((4, 1, 4, 4), np.uint8), labels=labels)
    with pytest.raises(UsageError, match="groups: expected one for each of 4 images, got 3"):
        open_pictures(np.zeros((4, 1, 4, 4), np.uint8), groups=["a", "b", "c"])


# What cannot be read


def truncated(path: Path) -> None:
    """A sound header, and half of the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def test_unreadable_images_are_left_out_and_told(tmp_path: Path) -> None:
    save(tmp_path, **{f"a{i}": (8, 8) for i in range(8)})
    (tmp_path / "b.png").write_text("text")
    (tmp_path / "c.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "d.png")
    (tmp_path / "e.jpg").write_bytes(b"\xff\xd8\xff")
    found = open_pictures(tmp_path, labels=range(12))
    assert found.ids == [f"a{i}" for i in range(8)] and found.labels is not None and len(found.labels) == 8
    (finding,) = found.findings
    assert (finding.guard, finding.level) == ("unreadable images", "warn")
    assert finding.message.startswith("4 of 12 images could not be read and were left out: b.png (unreadable), c.png")
    assert "d.png (16-bit) and 1 more" in finding.message
    assert patches(found).shape == (8, 3, 8, 8)


def test_what_turns_out_broken_when_it_is_decoded_is_not_kept(tmp_path: Path) -> None:
    save(tmp_path, **{f"a{i:02d}": (64, 64) for i in range(20)})
    whole = patches(open_pictures(tmp_path))
    truncated(tmp_path / "a03.png")
    found = open_pictures(tmp_path)
    assert len(found) == 20 and found.findings == ()
    pixels, kept = found.load(np.arange(20))
    assert kept.tolist() == [i != 3 for i in range(20)] and torch.equal(pixels, whole[kept])
    nothing, kept = found.load([3])
    assert nothing.shape == (0, 3, 64, 64) and nothing.dtype == torch.uint8 and kept.tolist() == [False]
    assert "1 of 20 images" in unreadable([found.ids[3]], 20).message


@pytest.mark.parametrize("broken", [[0], [3, 39], spread_out(40, PROBED)])
def test_the_audit_goes_on_without_what_cannot_be_decoded(tmp_path: Path, broken: list[int]) -> None:
    save(tmp_path, **{f"a{i:02d}": (64, 64) for i in range(40)})
    for i in broken:
        truncated(tmp_path / f"a{i:02d}.png")
    labels = np.arange(40) % 3
    options: dict[str, Any] = {"normalize": "unit", "config": AuditConfig(angles=4, bootstrap=0), "details": False}
    result = audit(brightest, tmp_path, labels, **options)
    (finding,) = [one for one in result.findings if one.guard == "unreadable images"]
    assert finding.message.startswith(
        f"{len(broken)} of 40 images could not be read and were left out: a{broken[0]:02d}"
    )
    rest = np.setdiff1d(np.arange(40), broken)
    alone = audit(brightest, [tmp_path / f"a{i:02d}.png" for i in rest], labels[rest], **options)
    assert (result.images, result.upright_accuracy) == (40 - len(broken), alone.upright_accuracy)
    assert result.turns == alone.turns


def brightest(x: torch.Tensor) -> torch.Tensor:
    return x[..., :20].mean((2, 3)) * 100


def test_if_most_cannot_be_decoded_nothing_is_audited(tmp_path: Path) -> None:
    save(tmp_path, **{f"a{i:02d}": (64, 64) for i in range(20)})
    for i in range(19):
        truncated(tmp_path / f"a{i:02d}.png")
    options: dict[str, Any] = {"normalize": "unit", "config": AuditConfig(angles=4, bootstrap=0)}
    with pytest.raises(RoteqError, match=r"most of 20 images cannot be decoded, .* the first is a00; were they copied"):
        audit(brightest, tmp_path, **options)
    save(tmp_path, **{f"a{i:02d}": (64, 64) for i in range(15, 20)})  # enough to begin with, and still most are broken
    with pytest.raises(RoteqError, match=r"most of 20 images cannot be decoded, .* the first is a00; were they copied"):
        audit(brightest, tmp_path, **options)


def test_floats_must_be_finite() -> None:
    array = np.zeros((3, 1, 4, 4), np.float32)
    array[1, 0, 2, 2] = np.nan
    assert open_pictures(array).load([0, 1, 2])[1].tolist() == [True, False, True]


def test_if_most_cannot_be_read_nothing_is_audited(tmp_path: Path) -> None:
    save(tmp_path, a=(8, 8))
    for name in "bcd":
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / f"{name}.png")
    words = r"3 of 4 images cannot be read \(3 16-bit\); the first is b.png: 16-bit: .*rescale it"
    with pytest.raises(RoteqError, match=words):
        open_pictures(tmp_path)


# Wrong calls


def _folder(tmp_path: Path) -> Path:
    return save(tmp_path / "flat", a=(8, 8), b=(8, 8))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: p / "nowhere", {}, "nowhere: no such file or folder"),
        (lambda p: p, {}, "no image in this folder"),
        (lambda p: write_rows(p / "notes.txt", ("x",)), {}, "1 of 1 images cannot be read .*not an image"),
        (lambda p: write_rows(p / "t.csv", ("file", "label"), ("a", 0)), {}, "expected the columns path,label"),
        (lambda p: pcam(p / "p"), {}, r"it looks like pcam, so prepare it first: roteq prepare"),
        (lambda p: folders(p, 1), {"label_column": "x"}, "label_column: only Hugging Face datasets and tables"),
        (_folder, {"split": "test"}, "has no splits; leave --split test out"),
        (lambda p: folders(p, 1), {"split": "test"}, "has no splits; leave --split test out"),
        (lambda p: [_folder(p) / "a.png", p / "q.png"], {}, r"q.png: no such file \(1 of 2 are missing\)"),
        (lambda p: [], {}, "expected at least one image, got none"),
        (lambda p: np.zeros((0, 3, 8, 8), np.uint8), {}, "expected at least one image, got none"),
        (lambda p: np.zeros((4, 8, 8), np.uint8), {}, r"expected an array \(N, C, H, W\), got \(4, 8, 8\)"),
        (lambda p: np.zeros((4, 80, 80, 8), np.uint8), {}, "expected the channels first"),
        (lambda p: np.zeros((4, 40, 40, 3), np.uint8), {}, "expected the channels first"),
        (lambda p: np.zeros((4, 3, 8, 8), np.int64), {}, r"in uint8 .* or float .* int64 \(3, 8, 8\)"),
        (lambda p: np.zeros((4, 3, 8, 8), np.uint8), {"split": "test"}, "has no splits"),
        (lambda p: np.zeros((4, 3, 8, 8), np.uint8), {"label_column": "x"}, "label_column: only"),
        (lambda p: [np.zeros((3, 8, 8), np.float32), np.zeros((3, 8, 9), np.float32)], {}, "one size, got 8x8 and 8x9"),
        (
            lambda p: [picture(0), np.zeros((3, 8, 8), np.float32)],
            {},
            r"expected one kind, got picture and input \(1\)",
        ),
        (lambda p: torch.utils.data.DataLoader(Cells()), {}, "give its dataset: loader.dataset"),
        (lambda p: iter([1]), {}, "expected a folder, a CSV .* got list_iterator"),
        (lambda p: 5, {}, "expected a folder, a CSV .* got int"),
        (lambda p: ["a", 5], {}, "image 0 is str|expected a folder"),
    ],
)
def test_wrong_calls_are_named(tmp_path: Path, make: Any, options: dict, message: str) -> None:
    with pytest.raises(RoteqError, match=message):
        open_pictures(make(tmp_path), **options)


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    save(tmp_path, train__a__a0=(8, 8), test__a__t0=(8, 8), test__b__t1=(8, 8))
    with pytest.raises(UsageError, match=r"no split 'tets'; did you mean 'test'\?"):
        open_pictures(tmp_path, split="tets")


# Real pictures


def test_blood_cells(shared: Path) -> None:
    root = shared / "pbc_bloodcells"
    classes = tuple(sorted((child.name for child in root.iterdir() if child.is_dir()), reverse=True))
    found = open_pictures(root, classes=classes, size=(224, 224), resize=235, channels=3, labels=root / "index.csv")
    assert len(found) == 640 and found.size == (235, 235) and found.findings == ()
    assert found.labels is not None and np.bincount(found.labels).tolist() == [80] * 8
    own = open_pictures(root, classes=classes, size=(224, 224), resize=0)
    assert np.array_equal(found.labels, own.labels) and "the shorter side of the smallest" in own.method
    some = np.arange(0, 640, 40)
    for pictures in (found, own):
        pixels, kept = pictures.load(some)
        assert kept.all() and pixels.float().std((1, 2, 3)).min() > 10
