"""Windows: a grid that judges every pixel once, and random places that depend on nothing but their number."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from roteq.data import batch_collate
from roteq.data.masks import IGNORE, MaskDataset, MaskRow
from roteq.data.windows import Windows, reflected
from roteq.errors import UsageError

SIZES = ((50, 40), (13, 90), (7, 5), (64, 64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskDataset:
    """Two-class masks equal to the last bit of the grey images, of several sizes."""
    folder, rows = tmp_path_factory.mktemp("windows"), []
    for i, size in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{i}.png")
        Image.fromarray(pixels % 2).save(folder / f"m{i}.png")
        rows.append(MaskRow(str(i), folder / f"i{i}.png", folder / f"m{i}.png", size))
    return MaskDataset(rows, ("even", "odd"), 1)


@pytest.mark.parametrize(("side", "margin"), [(16, 0), (16, 3), (33, 8), (128, 0), (9, 4)])
def test_the_grid_judges_every_pixel_exactly_once(data: MaskDataset, side: int, margin: int) -> None:
    windows = Windows(data, side, margin=margin)
    times = [np.zeros(size, int) for size in data.sizes]
    for index in range(len(windows)):
        image, top, left = windows.place(index)
        mask = windows[index][1].numpy()
        for y, x in zip(*np.nonzero(mask != IGNORE), strict=True):
            times[image][top + y, left + x] += 1
    assert all((count == 1).all() for count in times)


@pytest.mark.parametrize("number", [None, 300])
def test_pixels_and_masks_belong_together(data: MaskDataset, number: int | None) -> None:
    windows = Windows(data, 24, margin=5, number=number)
    images, masks = windows.__getitems__(range(len(windows)))
    assert images.shape == (len(windows), 1, 24, 24) and images.dtype == torch.uint8
    assert masks.shape == (len(windows), 24, 24) and masks.dtype == torch.int64
    known = masks != IGNORE
    assert torch.equal(masks[known], images[:, 0][known].long() % 2)
    assert not known[:, :5].any() and not known[:, -5:].any() and not known[:, :, :5].any()
    assert known.flatten(1).any(1).all()  # every window has something to judge


def test_beyond_its_border_an_image_is_reflected(data: MaskDataset) -> None:
    windows = Windows(data, 32, margin=4, number=200)
    beyond = 0
    for index in range(200):
        image, top, left = windows.place(index)
        height, width = data.sizes[image]
        over = [(max(0, -top), max(0, top + 32 - height)), (max(0, -left), max(0, left + 32 - width))]
        beyond += any(map(any, over))
        padded = np.pad(data.image(image)[0].numpy(), over, mode="reflect")
        first = (top + over[0][0], left + over[1][0])
        expected = padded[first[0] : first[0] + 32, first[1] : first[1] + 32]
        assert (windows.images([index])[0, 0].numpy() == expected).all()
    assert 50 < beyond < 200


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("start", [-9, 0, 3])
def test_reflection_agrees_with_numpy(side: int, start: int) -> None:
    expected = np.pad(np.arange(side), (20, 20), mode="reflect")[20 + start : 20 + start + 11]
    assert reflected(start, 11, side).tolist() == expected.tolist()


def test_a_random_window_depends_on_seed_epoch_and_slot_alone(data: MaskDataset) -> None:
    windows = Windows(data, 16, margin=2, number=50, seed=3)
    again = Windows(data, 16, margin=2, number=50, seed=3)
    places = [windows.place(index) for index in range(150)]
    assert len(windows) == 50 and [again.place(index) for index in reversed(range(150))] == places[::-1]
    assert [Windows(data, 16, margin=2, number=50, seed=4).place(i) for i in range(150)] != places
    assert places[:50] != places[50:100]
    other = Windows(data, 16, margin=2, number=75, seed=3)
    assert other.place(75 + 7) == places[50 + 7]  # epoch 1, slot 7
    assert torch.equal(windows.images([7, 60]), pickle.loads(pickle.dumps(again)).images([7, 60]))


def test_images_are_drawn_by_their_pixels_and_borders_are_reached(data: MaskDataset) -> None:
    windows = Windows(data, 20, margin=2, number=1)
    places = [windows.place(index) for index in range(4000)]
    areas = np.array([height * width for height, width in SIZES])
    drawn = np.bincount([image for image, *_ in places], minlength=4) / 4000
    assert np.abs(drawn - areas / areas.sum()).max() < 0.03
    judged = np.zeros(SIZES[3])
    for image, top, left in places:
        if image == 3:
            judged[max(0, top + 2) : max(0, top + 18), max(0, left + 2) : max(0, left + 18)] += 1
    assert judged.min() > 0 and judged[0].mean() > judged.mean() / 4
    whole = Windows(data, 20, margin=2, number=1)
    assert all(top + 2 <= 0 and left + 2 <= 0 for image, top, left in map(whole.place, range(4000)) if image == 2)


def test_batches_of_a_loader(data: MaskDataset) -> None:
    windows = Windows(data, 16, margin=2)
    batches = [list(range(start, min(start + 8, len(windows)))) for start in range(0, len(windows), 8)]
    loader = DataLoader(windows, batch_sampler=batches, collate_fn=batch_collate)
    judged = sum(int((masks != IGNORE).sum()) for _, masks in loader)
    assert judged == sum(height * width for height, width in SIZES)


def test_windows_that_cannot_be_are_refused(data: MaskDataset) -> None:
    with pytest.raises(UsageError, match="expected a margin of 0 to 7 for side 16, got 8"):
        Windows(data, 16, margin=8)
    with pytest.raises(UsageError, match="expected a margin of 0 to 7 for side 16, got -1"):
        Windows(data, 16, margin=-1)
    with pytest.raises(UsageError, match="expected a number of 1 or more, got 0"):
        Windows(data, 16, number=0)
    with pytest.raises(IndexError, match="out of range"):
        Windows(data, 16)[10**6]
