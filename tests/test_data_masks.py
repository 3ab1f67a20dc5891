"""Images with masks: what preparation makes of them, what it refuses, and what is read back."""

import csv
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_prepare import tree

from roteq.data import PrepareOptions, contents, dataset_info, open_split, prepare
from roteq.data import staging as staging_module
from roteq.data.augment import Augment, augment
from roteq.data.mask_images import UNSET, draw_points
from roteq.data.masks import IGNORE, MaskDataset, is_masks, open_masks
from roteq.data.sources import read_source
from roteq.errors import RoteqError, UsageError

SPLITS = "train+validation+test"
CELLS = dict.fromkeys(("epithelial", "fibroblast", "inflammatory", "others", "unlabelled"), "nucleus")


def save(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def values(seed: int, *of: int, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(of, np.uint8), size)


def with_masks(root: Path, n: int = 8, of: tuple[int, ...] = (0, 255), folder: str = "masks") -> Path:
    for i in range(n):
        save(root / "images" / f"im{i}.png", picture(i))
        save(root / folder / f"im{i}.png", values(i, *of))
    return root


def with_points(root: Path, *lines: str, n: int = 8) -> Path:
    for i in range(n):
        save(root / "images" / f"im{i}.png", picture(i, (30, 40)))
    write(root / "cells.csv", *lines)
    return root


def every(root: Path) -> dict[str, torch.Tensor]:
    data = open_masks(root, SPLITS)
    return {id: data.mask(i) for i, id in enumerate(data.ids)}


def test_a_folder_of_images_and_masks(tmp_path: Path) -> None:
    source, out = with_masks(tmp_path / "s"), tmp_path / "o"
    info = prepare(source, out, PrepareOptions(class_names={"255": "cell", "0": "membrane"}, mpp=0.5))
    assert (info.kind, info.classes, info.size, info.mpp) == ("masks", ("cell", "membrane"), (12, 10), 0.5)
    assert info.images == {"train": 6, "validation": 1, "test": 1} and dataset_info(out) == info and is_masks(out)
    assert info.split_rule == "by image" and [finding.guard for finding in info.findings] == ["no groups"]
    pixels = 0
    for split in info.images:
        data = open_masks(out, split)
        assert data.classes == info.classes and data.channels == 3 and data.groups is None and data.centres(0) is None
        assert dict(zip(data.classes, data.class_counts().tolist(), strict=True)) == info.counts[split]
        assert len(contents(out, split)) == info.images[split]
        for i, id in enumerate(data.ids):
            number = int(id[2:])
            assert (data.image(i).permute(1, 2, 0).numpy() == picture(number)).all()
            assert (data.mask(i).numpy() == (values(number, 0, 255) == 0)).all()
            assert data.mask(i).dtype == torch.int64 and data.image(i).dtype == torch.uint8
            pixels += 1
    assert pixels == 8
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"index.csv", "dataset.json", "train/images/im0.png"} <= files | {"train/images/im0.png"}
    assert len(files) == 2 + 16
    assert prepare(source, out, PrepareOptions(class_names={"255": "cell", "0": "membrane"}, mpp=0.5)) == info


def test_masks_come_in_many_forms(tmp_path: Path) -> None:
    """Palette indices, one bit, 16 bits, grey as RGB, other suffixes, folders below: one value a pixel is enough."""
    truth = values(0, 0, 1)
    palette = Image.fromarray(truth, "L").convert("P")
    palette.putdata(truth.flatten().tolist())
    palette.putpalette([200, 0, 0, 0, 200, 0])
    forms = {
        "palette.png": palette,
        "bit.png": Image.fromarray(truth * 255).convert("1"),
        "deep.tif": Image.fromarray(truth.astype(np.uint16)),
        "grey.png": Image.fromarray(np.stack([truth] * 3, 2)),
        "alpha.png": Image.fromarray(np.dstack([truth] * 3 + [np.full_like(truth, 255)])),
        "below/bmp.bmp": Image.fromarray(truth),
    }
    for i, (name, image) in enumerate(forms.items()):
        (tmp_path / "s" / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "s" / "labels" / name)
        save(tmp_path / "s" / "images" / Path(name).with_suffix(".tif"), picture(i))
    prepare(tmp_path / "s", tmp_path / "o")
    found = every(tmp_path / "o")
    assert len(found) == 6
    for mask in found.values():
        assert (mask.numpy() == truth).all()


def test_values_become_classes_in_their_order_and_names_may_join_and_leave_out(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s", of=(0, 3, 10, 255))
    assert prepare(source, tmp_path / "plain").classes == ("0", "3", "10", "255")
    listed = prepare(source, tmp_path / "listed", PrepareOptions(class_names=["a", "b", "c", "ignore"]))
    assert listed.classes == ("a", "b", "c")
    names = {"10": "tumour", "0": "rest", "3": "rest", "255": "ignore"}
    joined = prepare(source, tmp_path / "joined", PrepareOptions(class_names=names))
    assert joined.classes == ("tumour", "rest")
    for id, mask in every(tmp_path / "joined").items():
        lookup = {0: 1, 3: 1, 10: 0, 255: IGNORE}
        assert (mask.numpy() == np.vectorize(lookup.get)(values(int(id[2:]), 0, 3, 10, 255))).all()


def test_pixels_outside_the_field_of_view_are_ignored(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s")
    for i in range(8):
        save(source / "fields" / f"im{i}.gif", np.pad(np.full((8, 6), 255, np.uint8), 2))
    info = prepare(source, tmp_path / "o")
    assert sum(sum(counted.values()) for counted in info.counts.values()) == 8 * 48
    for id, mask in every(tmp_path / "o").items():
        inside = values(int(id[2:]), 0, 255)[2:-2, 2:-2] == 255
        assert (mask[2:-2, 2:-2].numpy() == inside).all() and (mask != IGNORE).sum() == 48


def test_points_become_discs_and_centres(tmp_path: Path) -> None:
    lines = [f"im{i}.png,{5 + i},7,{'ab'[i % 2]}" for i in range(7)]
    source = with_points(tmp_path / "s", "image,x,y,label", *lines, "im0,30,20,", "im7.png,,,")
    info = prepare(source, tmp_path / "o", PrepareOptions(radius=2))
    assert info.classes == ("background", "a", "b") and sum(info.images.values()) == 8
    data = open_masks(tmp_path / "o", SPLITS)
    for i, id in enumerate(data.ids):
        number = int(id[2:])
        if number == 7:
            assert (data.mask(i) == 0).all() and data.centres(i).shape == (0, 2)
            continue
        assert data.centres(i).tolist() == [[7, 5 + number]] and data.centres(i).dtype == np.float64
        y, x = np.ogrid[:30, :40]
        disc = (y - 7) ** 2 + (x - 5 - number) ** 2 <= 4
        assert (data.mask(i).numpy() == 1 + number % 2)[disc].all()
        assert data.mask(i)[20, 30] == (IGNORE if number == 0 else 0)  # a point without a label
        assert set(np.unique(data.mask(i).numpy()[~disc])) == ({0, IGNORE} if number == 0 else {0})
    names = {"a": "background", "b": "cell"}
    prepare(source, tmp_path / "one", PrepareOptions(class_names=names, shares=(1, 0, 0)))
    one = open_masks(tmp_path / "one", "train")
    assert one.classes == ("background", "cell")
    assert sum(len(one.centres(i)) for i in range(8)) == 3  # those of b


def test_a_pixel_between_points_belongs_to_the_nearest() -> None:
    points = ((4.0, 4.1, "a"), (4.0, 9.0, "b"), (0.0, 0.2, ""))
    drawn = draw_points(points, ("background", "a", "b"), 4.0, (12, 14))
    assert drawn[4, 4:10].tolist() == [1, 1, 1, 2, 2, 2] and drawn[0, 0] == UNSET and drawn[11, 13] == 0
    assert (drawn == draw_points(points[::-1], ("background", "a", "b"), 4.0, (12, 14))).all()


def test_groups_of_a_table_beside_the_images_stay_together(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s", 12)
    write(source / "groups.csv", "image,eye,child", *(f"im{i}.png,{i},c{i // 2}" for i in range(12)))
    info = prepare(source, tmp_path / "o", PrepareOptions(group_column="child"))
    assert info.split_rule == "by group" and sum(info.groups.values()) == 6
    seen: dict[str, str] = {}
    for split in info.images:
        data = open_masks(tmp_path / "o", split)
        assert data.groups == [f"c{int(id[2:]) // 2}" for id in data.ids]
        assert all(seen.setdefault(group, split) == split for group in data.groups)
    with pytest.raises(UsageError, match=r"no table groups.csv or images.csv with image,slide"):
        read_source(source, group_column="slide")
    write(source / "groups.csv", "image,split", *(f"im{i},{'train' if i < 9 else 'test'}" for i in range(12)))
    given = prepare(source, tmp_path / "p", PrepareOptions(shares=(0.7, 0, 0.3)))
    assert given.split_rule == "given by the source" and given.images == {"train": 9, "test": 3}


def test_a_csv_of_images_and_masks_or_points(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s", 9)
    rows = [f"images/im{i}.png,{source}/masks/im{i}.png,g{i // 3},{('train', 'val', 'test')[i // 3]}" for i in range(9)]
    table = write(source / "table.csv", "image,mask,group,split", *rows)
    info = prepare(table, tmp_path / "o")
    assert info.images == {"train": 3, "validation": 3, "test": 3} and info.groups == dict.fromkeys(info.images, 1)
    points = [f"images/im{i}.png,4.5,{k},g{i}" for i in range(9) for k in (2, 9)]
    marked = prepare(write(source / "points.csv", "image,x,y,group", *points), tmp_path / "p", PrepareOptions(radius=2))
    assert marked.classes == ("background", "nucleus") and sum(marked.groups.values()) == 9
    data = open_masks(tmp_path / "p", "test")
    assert data.centres(0).tolist() == [[2, 4.5], [9, 4.5]]


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "valid", "test")):
        with_masks(tmp_path / "s" / split, 2 + i)
    info = prepare(tmp_path / "s", tmp_path / "o")
    assert info.images == {"train": 2, "validation": 3, "test": 4} and info.split_rule == "given by the source"
    assert "leak" in [finding.guard for finding in info.findings]  # the pictures repeat


def damage(root: Path, how: str) -> None:
    mask, image = root / "masks" / "im3.png", root / "images" / "im3.png"
    if how == "size":
        save(mask, values(3, 0, 255, size=(10, 12)))
    elif how == "missing":
        mask.unlink()
    elif how == "colour":
        save(mask, picture(3))
    elif how == "truncated":
        mask.write_bytes(mask.read_bytes()[:60])
    elif how == "field":
        for i in range(8):
            save(root / "fields" / f"im{i}.png", np.full((12, 10), 255 * (i != 3), np.uint8))
    elif how == "value":
        save(mask, values(3, 0, 7))
    elif how == "image":
        image.write_text("nothing")


@pytest.mark.parametrize(
    ("how", "message", "reason"),
    [
        ("size", "im3.png has 10x12 pixels, the image 12x10", "mask of another size"),
        ("missing", r"masks/im3\.\*: no such file", "missing mask"),
        ("colour", "coloured mask: im3.png: mode RGB", "coloured mask"),
        ("truncated", "mask: im3.png", "truncated mask"),
        ("field", "images/im3.png: no labelled pixel", "no labelled pixel"),
        ("value", "images/im3.png: mask values without a class name: 7; named are", "mask values without a class name"),
        ("image", "images/im3.png: unreadable", "unreadable"),
    ],
)
def test_bad_input_is_refused_or_counted(tmp_path: Path, how: str, message: str, reason: str) -> None:
    source = with_masks(tmp_path / "s")
    damage(source, how)
    options = PrepareOptions(class_names={"0": "a", "255": "b"})
    with pytest.raises(RoteqError, match=message):
        prepare(source, tmp_path / "o", options)
    assert not (tmp_path / "o").exists()
    info = prepare(source, tmp_path / "o", options.model_copy(update={"skip_bad": True}))
    assert info.skipped == {reason: 1} and sum(info.images.values()) == 7
    assert "im3" not in every(tmp_path / "o")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": {"0": "a", "255": "b", "7": "c"}}, r"no mask has '7'; choose from '0', '255'"),
        ({"class_names": ["a"]}, "expected 2 names for 0, 255, got 1"),
        ({"class_names": {"0": "a", "255": ""}}, "'255' has an empty name"),
        ({"class_names": {"0": "a", "255": "ignore"}}, "expected two classes or more, got a"),
        ({"crop": 8}, "crop: images with masks keep their size"),
        ({"size": 8}, "size: images with masks keep their size"),
        ({"format": "jpeg"}, "format: images with masks are stored as png"),
        ({"radius": 3}, "radius: only of points"),
        ({"split": "group"}, "names no groups"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path, options: Any, message: str) -> None:
    source = with_masks(tmp_path / "s")
    with pytest.raises(RoteqError, match=message):
        prepare(source, tmp_path / "o", PrepareOptions(**options))
    assert not (tmp_path / "o").exists()


def test_masks_of_many_values_are_refused(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s", of=tuple(range(40)))
    with pytest.raises(RoteqError, match=r"at most 32, got 40 values in the masks. Were they saved as JPEG"):
        prepare(source, tmp_path / "o")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,x,y", "im0.png,1,2", "im99.png,1,2"], r"line 3: no image 'im99.png' in images/"),
        (["image,x,y", "im0.png,1,two"], "line 2: expected two numbers x,y, got '1','two'"),
        (["image,x,y", *(f"im{i},1,2" for i in range(7)), "im7.png,40.5,2"], "x=40.5, y=2 of an image of 30x40"),
        (["image,x,y,label", *(f"im{i},1,2,a" for i in range(8)), "im1,3,3,b"], "class_names: the label 'b' has no"),
    ],
)
def test_points_that_cannot_be_right_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    source = with_points(tmp_path / "s", *lines)
    with pytest.raises(RoteqError, match=message):
        prepare(source, tmp_path / "o", PrepareOptions(class_names={"a": "cell"} if "label" in lines[0] else None))


def test_sources_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s")
    twice = write(source / "t.csv", "image,mask", "images/im0.png,masks/im0.png", "images/im0.png,masks/im1.png")
    with pytest.raises(RoteqError, match=r"line 3: the image 'images/im0.png' occurs twice"):
        read_source(twice)
    torn = write(source / "p.csv", "image,x,y,group", "images/im0.png,1,1,a", "images/im0.png,2,2,b")
    with pytest.raises(RoteqError, match=r"line 3: .* another group or split"):
        read_source(torn)
    empty = write(source / "e.csv", "image,mask", "images/im0.png,")
    with pytest.raises(RoteqError, match=r"line 2: expected an image and its mask or points"):
        read_source(empty)
    write(source / "groups.csv", "image,split", "im0,trian")
    with pytest.raises(RoteqError, match=r"line 2: column split: expected train, validation or test, got 'trian'"):
        read_source(source)
    (source / "labels").mkdir()
    with pytest.raises(UsageError, match=r"either masks/, labels/ or one CSV of image,x,y, got masks, labels"):
        read_source(source)
    save(tmp_path / "d" / "images" / "a.png", picture(0))
    save(tmp_path / "d" / "images" / "a.tif", picture(0))
    (tmp_path / "d" / "masks").mkdir()
    with pytest.raises(RoteqError, match=r"differ in their suffix alone"):
        read_source(tmp_path / "d")
    (tmp_path / "e" / "masks").mkdir(parents=True)
    (tmp_path / "e" / "images").mkdir(parents=True)
    with pytest.raises(RoteqError, match="found no image with a mask"):
        read_source(tmp_path / "e")


def test_an_identical_image_with_another_mask_is_a_finding(tmp_path: Path) -> None:
    source = with_masks(tmp_path / "s")
    shutil.copy(source / "images" / "im0.png", source / "images" / "im1.png")
    info = prepare(source, tmp_path / "o")
    assert info.duplicates == 1 and "label conflict" in [finding.guard for finding in info.findings]
    rows = list(csv.DictReader((tmp_path / "o" / "index.csv").read_text().splitlines()))
    assert len({row["split"] for row in rows if row["source"] in ("images/im0.png", "images/im1.png")}) == 1


def test_sixty_images_are_balanced_by_what_they_hold(tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / "s" / "images" / f"{i:02}.png", picture(i))
        save(tmp_path / "s" / "masks" / f"{i:02}.png", np.arange(120).reshape(12, 10).astype(np.uint8) <= 2 * i)
    info = prepare(tmp_path / "s", tmp_path / "o")
    shares = [counted["1"] / sum(counted.values()) for counted in info.counts.values()]
    assert max(shares) - min(shares) < 0.12 and info.split_rule == "by image, stratified by class"


ONCE = PrepareOptions(radius=3, shares=(1, 0, 0))


def interrupt_at(step: int, source: Path, out: Path) -> bool:
    """Prepare, but die at this change of the disk. Returns whether it got that far."""
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
        patch.setattr(Image.Image, "save", counted(Image.Image.save))
        try:
            prepare(source, out, ONCE)
        except KeyboardInterrupt:
            return True
    return False


def test_dying_at_every_single_step_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "CHUNK", 2)
    source = with_points(tmp_path / "s", "image,x,y", *(f"im{i},{i + 3},5" for i in range(3)), n=3)
    prepare(source, tmp_path / "whole", ONCE)
    expected = tree(tmp_path / "whole")
    expected.pop("dataset.json")
    assert len(expected) == 2 * 3 + 2
    step = 1
    while interrupt_at(step, source, tmp_path / str(step)):
        out = tmp_path / str(step)
        prepare(source, out, ONCE)
        after = tree(out)
        assert json.loads(after.pop("dataset.json") and (out / "dataset.json").read_text())["name"] == str(step)
        assert after == expected
        shutil.rmtree(out)
        step += 1
    assert step > 3 * 2 + 2 + 3 * 4 + 3


def test_another_table_of_points_is_another_source(tmp_path: Path) -> None:
    source = with_points(tmp_path / "s", "image,x,y", *(f"im{i},{i + 3},5" for i in range(8)))
    prepare(source, tmp_path / "o")
    write(source / "cells.csv", "image,x,y", *(f"im{i},{i + 3},15" for i in range(8)))
    with pytest.raises(UsageError, match="the source differs"):
        prepare(source, tmp_path / "o")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    for i, size in enumerate([(12, 10), (20, 31), (7, 9), (12, 10), (16, 16), (9, 40)]):
        save(tmp_path / "s" / "images" / f"im{i}.png", picture(i, size))
        save(tmp_path / "s" / "masks" / f"im{i}.png", values(i, 0, 1, size=size))
    prepare(tmp_path / "s", tmp_path / "o", PrepareOptions(class_names=["a", "b"]))
    return tmp_path / "o"


def test_images_may_differ_in_size(prepared: Path) -> None:
    assert dataset_info(prepared).size is None
    assert "sizes" not in [finding.guard for finding in dataset_info(prepared).findings]
    data = open_masks(prepared, SPLITS)
    assert len(data) == 6 and len(set(data.sizes)) == 5
    area = sum(height * width for height, width in data.sizes)
    assert data.class_counts().sum() == area and data.pixel_counts().shape == (3, 256)
    assert (data.pixel_counts().sum(1) == area).all()
    grey = open_masks(prepared, "train", channels=1)
    assert grey.image(0).shape == (1, *grey.sizes[0]) and grey.pixel_counts().shape == (1, 256)


def test_decoded_pixels_are_kept_within_the_budget_and_not_sent_along(prepared: Path) -> None:
    data = open_masks(prepared, SPLITS)
    poor = MaskDataset(data.rows, data.classes, 3, budget=1)
    assert data.image(0) is data.image(0) and poor.image(0) is not poor.image(0)
    assert torch.equal(data.image(0), poor.image(0)) and torch.equal(data.mask(0), poor.mask(0))
    data.mask(0).zero_()
    assert torch.equal(data.mask(0), poor.mask(0))  # masks are handed out as copies
    sent = pickle.loads(pickle.dumps(data))
    assert sent._cache == {} and len(data._cache) > 0 and torch.equal(sent.image(1), data.image(1))


def test_what_is_no_dataset_of_masks_is_refused(prepared: Path, tmp_path: Path) -> None:
    assert not is_masks(tmp_path) and not is_masks(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no split 'tset'; did you mean 'test'"):
        open_masks(prepared, "tset")
    with pytest.raises(UsageError, match="expected patches with one label each, got images with masks"):
        open_split(prepared, "train")
    for name in ("a", "b"):
        save(tmp_path / "f" / name / f"{name}.png", picture(0))
    with pytest.raises(UsageError, match="expected a prepared dataset of images and masks, got one of kind 'folder'"):
        open_masks(tmp_path / "f", "all")
    with pytest.raises(UsageError, match="channels: expected 1"):
        open_masks(prepared, "train", channels=2)
    with pytest.raises(UsageError, match="at least one image"):
        MaskDataset([], ("a", "b"), 3)


def test_files_that_changed_since_are_named(prepared: Path) -> None:
    data = open_masks(prepared, "train")
    save(data.rows[0].image, picture(0, (3, 4)))
    with pytest.raises(RoteqError, match=rf"{data.ids[0]}.png: expected .* pixels, got 3x4"):
        data.image(0)
    data.rows[0].mask.write_text("nothing")
    with pytest.raises(RoteqError, match="unreadable"):
        data.mask(0)


@pytest.mark.parametrize("policy", [Augment(turn="rot90"), Augment(turn="none", mirror=True), Augment(shift=3)])
@pytest.mark.parametrize("crop", [None, 8])
def test_masks_follow_their_images_exactly(policy: Augment, crop: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(1, 5, (40, 12, 12), generator=generator)
    images, turned = augment(masks[:, None].float(), policy, crop, torch.Generator().manual_seed(1), masks)
    assert turned.dtype == torch.int64 and turned.shape == images[:, 0].shape
    inside = images[:, 0] > 0  # a shift brings zeros
    assert torch.equal(images[:, 0].long()[inside], turned[inside]) and (turned[~inside] == IGNORE).all()
    assert inside.all() == (policy.shift == 0)
    start = masks if crop is None else masks[:, 2:10, 2:10]
    assert not torch.equal(start, turned)


@pytest.mark.parametrize("turn", ["any", "radians_as_degrees"])
def test_masks_follow_turns_by_any_angle(turn: Any) -> None:
    y, x = torch.meshgrid(*[torch.arange(64) - 31.5] * 2, indexing="ij")
    masks = (((x - 12) ** 2 + (y + 5) ** 2 < 120) * 1 + ((x + 9) ** 2 + (y - 8) ** 2 < 90) * 2).expand(30, 64, 64)
    policy = Augment(turn=turn, stain=0.0)
    images, turned = augment(masks[:, None] * 100.0, policy, None, torch.Generator().manual_seed(1), masks)
    known = turned != IGNORE
    assert ((images[:, 0] / 100).round().long() == turned)[known].float().mean() > 0.99
    square = x.abs().maximum(y.abs()) <= 31.5 / 2**0.5 - 1
    assert known[:, square].all()
    assert known.all() == (turn != "any") or (~known).float().mean() < 0.02
    assert set(turned[known].unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("turn", ["none", "rot90", "any"])
def test_masks_draw_nothing(turn: Any) -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    policy = Augment(turn=turn, shift=2, stain=0.2)
    alone = augment(images, policy, 10, torch.Generator().manual_seed(3))
    masks = torch.zeros(6, 16, 16, dtype=torch.long)
    assert torch.equal(alone, augment(images, policy, 10, torch.Generator().manual_seed(3), masks)[0])


def test_the_command(tmp_path: Path, roteq: Any) -> None:
    source = with_points(tmp_path / "s", "image,x,y", *(f"im{i},{i + 3},5" for i in range(8)))
    code, out, _ = roteq("prepare", source, tmp_path / "o", "--radius", "3", "--mpp", "0.5", "--json")
    assert code == 0 and json.loads(out)["classes"] == ["background", "nucleus"] and json.loads(out)["mpp"] == 0.5
    code, _, err = roteq("prepare", with_masks(tmp_path / "m"), tmp_path / "p", "--crop", "8")
    assert code == 2 and "images with masks keep their size" in err


@pytest.mark.parametrize(
    ("name", "options", "sizes", "classes"),
    [
        ("chase_db1_half", {"class_names": ["background", "vessel"]}, {(960, 999)}, (0.9, 0.95)),
        ("isbi2012_em", {"class_names": {"255": "cell", "0": "membrane"}, "mode": "grey"}, {(512, 512)}, (0.7, 0.85)),
        ("monuseg_crops512", {}, {(512, 512)}, (0.6, 0.9)),
        ("crc_nuclei", {"class_names": CELLS}, {(500, 500)}, (0.8, 0.99)),
    ],
)
def test_real_data(
    tmp_path: Path, shared: Path, name: str, options: Any, sizes: set[tuple[int, int]], classes: tuple[float, float]
) -> None:
    if not (shared / name).is_dir():
        pytest.skip(f"no {name} among the real data")
    info = prepare(shared / name, tmp_path / "o", PrepareOptions(limit=2, shares=(1, 0, 0), **options))
    data = open_masks(tmp_path / "o", "train")
    shares = data.class_counts() / data.class_counts().sum()
    assert set(data.sizes) == sizes and classes[0] < shares[0] < classes[1] and data.channels == info.channels
    if name == "crc_nuclei":
        assert data.groups is not None and all(len(data.centres(i)) for i in range(len(data)))
