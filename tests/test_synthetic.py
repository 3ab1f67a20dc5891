"""Synthetic tissue: the layout, the law, and that shape alone tells the classes apart."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roteq.data import synthetic
from roteq.data.synthetic import draw_patch, draw_stain, smooth_noise, synthetic_tissue
from roteq.errors import RoteqError, UsageError

TILE = smooth_noise(np.random.default_rng(0), synthetic.TILE, 8.0)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (N, H, W, 3) float, labels and groups in the order of the csv."""
    labels = {r["id"]: int(r["label"]) for r in rows(folder / "train_labels.csv")}
    groups = {r["id"]: r["group"] for r in rows(folder / "train_groups.csv")}
    assert labels.keys() == groups.keys() == {path.stem for path in (folder / "train").iterdir()}
    pictures = np.stack([np.asarray(Image.open(folder / "train" / f"{key}.tif"), float) for key in labels])
    return pictures, np.array(list(labels.values())), np.array(list(groups.values()))


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return read(synthetic_tissue(tmp_path_factory.mktemp("tissue") / "set", patches=480, slides=16))


def patch(seed: int, label: int, size: int = 96) -> np.ndarray:
    stain = draw_stain(np.random.default_rng(7))
    return draw_patch(np.random.default_rng(seed), label, size, stain, TILE).astype(float)


# layout


def test_it_writes_the_kaggle_layout(tissue):
    pictures, labels, groups = tissue
    assert pictures.shape == (480, 96, 96, 3)
    assert sorted(set(groups)) == [f"slide{i:02d}" for i in range(16)]
    assert all(labels[groups == slide].sum() == 12 and (groups == slide).sum() == 30 for slide in set(groups))
    assert len({picture.tobytes() for picture in pictures}) == 480


def test_the_same_arguments_give_the_same_files_and_another_seed_others(tmp_path):
    def files(name: str, seed: int) -> dict[str, bytes]:
        out = synthetic_tissue(tmp_path / name, patches=6, slides=2, seed=seed, progress=True)
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = files("a", 1)
    assert len(first) == 9 and first == files("b", 1)
    other = files("c", 2)
    likeness = np.corrcoef([read(tmp_path / name)[0][i].ravel() for name in ("a", "c") for i in range(6)])[:6, 6:]
    assert np.abs(likeness).max() < 0.8  # other pictures, not only other stains
    assert not {key for key in other if key.endswith(".tif")} & first.keys()


def test_the_identical_set_is_left_alone_and_anything_else_is_refused(tmp_path):
    out = synthetic_tissue(tmp_path / "set", patches=4, slides=2)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert synthetic_tissue(out, patches=4, slides=2) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UsageError, match="set: holds something else than this set of synthetic tissue"):
        synthetic_tissue(out, patches=6, slides=2)
    next((out / "train").iterdir()).unlink()
    with pytest.raises(UsageError, match="choose a new folder"):
        synthetic_tissue(out, patches=4, slides=2)


def test_a_file_or_foreign_folder_is_refused_and_an_empty_one_filled(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "synthetic.json").write_text("not json")
    (tmp_path / "empty").mkdir()
    for name in ("file", "mine"):
        with pytest.raises(UsageError, match=f"{name}: holds something else"):
            synthetic_tissue(tmp_path / name, patches=4, slides=2)
    assert len(list((synthetic_tissue(tmp_path / "empty", patches=4, slides=2) / "train").iterdir())) == 4
    assert json.loads((tmp_path / "empty" / "synthetic.json").read_text())["patches"] == 4


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def write_bytes(path: Path, content: bytes) -> None:
        if len(list(path.parent.iterdir())) == 2:
            raise OSError(28, "No space left on device")
        path.touch()

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(RoteqError, match="set: could not be written: No space left on device"):
        synthetic_tissue(tmp_path / "set", patches=6, slides=2)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / ".set.partial" / "train").mkdir(parents=True)
    (tmp_path / ".set.partial" / "train" / "half.tif").write_bytes(b"")
    out = synthetic_tissue(tmp_path / "set", patches=4, slides=2)
    assert len(list((out / "train").iterdir())) == 4
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 48}, "size: expected at least 64 pixels, got 48"),
        ({"patches": 7, "slides": 4}, "expected 1 or more slides and 2 or more patches in each, got 7 in 4"),
        ({"slides": 0}, "expected 1 or more slides"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        synthetic_tissue(tmp_path / "set", **arguments)


# law


def test_the_label_bends_the_nuclei_of_the_centre_and_changes_no_colour():
    """The same generator draws the same patch for both labels, but for the bend."""
    pairs = [(patch(seed, 0), patch(seed, 1)) for seed in range(40)]
    centre = (slice(32, 64), slice(32, 64))
    changed = [np.abs(a[centre] - b[centre]).mean() for a, b in pairs]
    assert min(changed) > 0.5 and np.mean(changed) > 4  # of 255
    for statistic in (np.mean, np.std):
        difference = [statistic(b[centre], axis=(0, 1)) - statistic(a[centre], axis=(0, 1)) for a, b in pairs]
        assert np.abs(np.mean(difference, 0)).max() < 2  # of 255


@pytest.mark.parametrize("size", [64, 96, 97])
def test_a_normal_patch_has_no_pixel_of_tumour_in_its_centre(monkeypatch, size):
    with_tumour = [patch(seed, 0, size) for seed in range(30)]
    monkeypatch.setattr(synthetic, "NORMAL_EDGE", (1000.0, 1070.0))
    without = [patch(seed, 0, size) for seed in range(30)]
    at = slice(size // 2 - 16, size // 2 + 16)
    assert all(np.array_equal(a[at, at], b[at, at]) for a, b in zip(with_tumour, without, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(with_tumour, without, strict=True)) or size == 64


def test_each_patch_shows_a_direction_and_all_together_none(tissue):
    grey = tissue[0].mean(3)
    dy, dx = np.gradient(grey, axis=(1, 2))
    xx, yy, xy = ((a * b).mean((1, 2)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    direction = np.stack([xx - yy, 2 * xy], 1) / (xx + yy)[:, None]  # (cos 2t, sin 2t) times coherence
    strength = np.hypot(*direction.T)
    assert np.median(strength) > 0.2
    angle = np.arctan2(direction[:, 1], direction[:, 0])
    for k in (1, 2):  # a preferred direction, a preferred pair of crossing directions (the pixel grid's)
        assert np.hypot(np.cos(k * angle).mean(), np.sin(k * angle).mean()) < 3 / np.sqrt(len(grey))


# classes


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = scores[labels == 1], scores[labels == 0]
    return float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean())


def colour_auc(pictures: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Ridge regression on means and deviations of the channels of patch and centre, tested on held-out slides."""
    parts = (pictures, pictures[:, 32:64, 32:64])
    features = np.concatenate([statistic(part, axis=(1, 2)) for part in parts for statistic in (np.mean, np.std)], 1)
    test = np.isin(groups, sorted(set(groups))[::2])
    features = (features - features[~test].mean(0)) / features[~test].std(0)
    x, y = features[~test], labels[~test] - labels[~test].mean()
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    return auc(features[test] @ weights, labels[test])


def test_colour_says_nothing_about_the_class(tissue):
    assert colour_auc(*tissue) < 0.65


def test_the_colour_test_would_see_a_tint(tissue):
    pictures, labels, groups = tissue
    tint = np.array([0.0, -8.0, 0.0]) * labels[:, None]
    assert colour_auc(pictures + tint[:, None, None], labels, groups) > 0.65


@pytest.mark.slow
def test_a_small_network_learns_the_shape(tmp_path):
    import torch
    from torch import nn

    from roteq.data.augment import Augment, augment, center_crop

    pictures, labels, groups = read(synthetic_tissue(tmp_path / "set", patches=1500, slides=30))
    grey = torch.from_numpy(pictures).float().mean(3)[:, None]
    target, test = torch.from_numpy(labels), torch.from_numpy(np.isin(groups, sorted(set(groups))[20:]))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()] + [nn.MaxPool2d(2)] * (a == b)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    mean, std = grey.mean(), grey.std()
    train = (~test).nonzero()[:, 0]
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for batch in train[torch.randperm(len(train), generator=generator)].split(32):
            images = augment(grey[batch], Augment(turn="rot90"), 32, generator)
            loss = nn.functional.cross_entropy(model((images - mean) / std), target[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        logits = model.eval()((center_crop(grey[test], 32) - mean) / std)
    assert auc((logits[:, 1] - logits[:, 0]).numpy(), target[test].numpy()) > 0.85
