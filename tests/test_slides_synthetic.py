"""The synthetic slide: what is where is known, every level agrees, and it costs what its tissue costs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal

from roteq.errors import RoteqError, UsageError
from roteq.slides.backends import OpenSlideReader
from roteq.slides.opening import Level, open_slide
from roteq.slides.synthetic import GLASS, MIXED, TILE, TISSUE, TUMOUR, SyntheticSlide, plan_slide, write_slide

SIZE = (1900, 2500)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticSlide]:
    path = tmp_path_factory.mktemp("synthetic") / "slide.tif"
    return path, write_slide(path, SIZE, mpp=0.25, seed=3)


def test_every_reader_opens_it_and_sees_the_same(written: tuple[Path, SyntheticSlide]) -> None:
    path, plan = written
    assert plan.size == SIZE and plan.downsamples == [1, 4]
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert slide.levels == (Level(1900, 2500, 1), Level(475, 625, 4))
        openslide = OpenSlideReader(path)
        assert openslide.sizes == [(1900, 2500), (475, 625)] and openslide.mpp == pytest.approx((0.25, 0.25))
        with tifffile.TiffFile(path) as file:
            for level, (height, width) in enumerate(openslide.sizes):
                whole = slide.read(level, 0, 0, height, width)
                assert_array_equal(whole, openslide.read(level, 0, 0, height, width))
                assert_array_equal(whole, file.series[0].levels[level].asarray())  # glass too: no black tiles


def test_the_truth_is_what_the_picture_shows(written: tuple[Path, SyntheticSlide]) -> None:
    path, plan = written
    truth = plan.truth(1)
    assert truth.shape == SIZE
    assert (truth > 0).mean() == pytest.approx(0.3, abs=0.01)
    assert 0.2 < (truth == TUMOUR).sum() / (truth > 0).sum() * 2 < 0.35  # a quarter of every second island
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, *SIZE).astype(float)
    assert pixels[truth == GLASS].mean() > 254
    tissue, tumour = pixels[truth == TISSUE], pixels[truth == TUMOUR]
    assert tissue.mean() < 210 and tissue.std() > 15
    assert tumour.mean() < tissue.mean() - 2
    assert (tissue[:, 1] < tissue[:, 0] - 10).mean() > 0.8  # pink and purple


def test_a_coarse_truth_is_the_fine_one_at_its_middles() -> None:
    plan = plan_slide(SIZE, seed=3)
    assert_array_equal(plan.truth(5), plan.truth(1)[2::5, 2::5])


def test_an_outline_has_the_area_of_its_truth() -> None:
    plan = plan_slide((2000, 2000), seed=1)
    for blobs, kinds in ((plan.tissue, (TISSUE, TUMOUR)), (plan.tumour, (TUMOUR,))):
        area = 0.0
        for blob in blobs:
            y, x = blob.polygon().T
            area += abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1))) / 2
            assert (blob.polygon() >= 0).all() and (blob.polygon() <= 2000).all()
        assert area == pytest.approx(np.isin(plan.truth(1), kinds).sum(), rel=0.005)


def test_a_tile_made_alone_is_the_tile_in_the_file(tmp_path: Path) -> None:
    plan = write_slide(tmp_path / "slide.tif", (5000, 5000))
    kinds = plan.kinds(1)
    with open_slide(tmp_path / "slide.tif") as slide:
        outline = tuple(int(at) // TILE for at in plan.tissue[0].polygon()[0])
        assert kinds[outline] == MIXED
        for row, column in (outline, *(np.argwhere(kinds == kind)[-1] for kind in (GLASS, TISSUE, TUMOUR))):
            stored = slide.read(0, row * TILE, column * TILE, TILE, TILE)
            made = plan.tile(1, row, column).astype(int)
            error, moved = np.abs(stored - made), np.abs(stored - np.roll(made, 3, 0))
            assert error.max() == 0 if kinds[row, column] == GLASS else error.mean() < min(8, moved.mean() / 2)


def test_a_level_is_the_mean_of_the_finer_one() -> None:
    plan = plan_slide((9000, 9000), seed=2)
    assert plan.downsamples == [1, 4, 16]
    for downsample in (1, 4):
        coarse = plan.tile(downsample * 4, 1, 1)
        fine = np.block([[[plan.tile(downsample, row, column)] for column in range(4, 8)] for row in range(4, 8)])
        means = fine.reshape(TILE, 4, TILE, 4, 3).mean((1, 3))
        assert coarse.std() > 5
        error = np.abs(means - coarse)
        assert error.mean() < 0.6 and np.percentile(error, 99) < 4


@pytest.mark.parametrize("size", [(4000, 4000), (1200, 9000), (20000, 30000)])
@pytest.mark.parametrize("tissue", [0.02, 0.4])
def test_no_tile_is_taken_for_what_it_is_not(size: tuple[int, int], tissue: float) -> None:
    plan = plan_slide(size, seed=5, tissue=tissue)
    for downsample in plan.downsamples:
        kinds = plan.kinds(downsample)
        step = max(1, TILE // 8)
        truth = plan.truth(downsample * step)  # every 32nd pixel of the level
        for kind in (GLASS, TISSUE, TUMOUR):
            inside = np.kron(kinds == kind, np.ones((8, 8), bool))[: truth.shape[0], : truth.shape[1]]
            assert set(np.unique(truth[inside])) <= {kind}
    assert (plan.kinds(1) == MIXED).mean() < 0.2 or max(size) < 20000


def test_the_same_arguments_give_the_same_pixels(tmp_path: Path) -> None:
    def pixels(seed: int) -> np.ndarray:
        write_slide(tmp_path / "slide.tif", (600, 700), seed=seed)
        return tifffile.imread(tmp_path / "slide.tif")

    assert_array_equal(pixels(0), pixels(0))
    assert (pixels(0) != pixels(1)).any()


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (3, 5000)])
def test_any_size_can_be_written(size: tuple[int, int], tmp_path: Path) -> None:
    write_slide(tmp_path / "slide.tif", size)
    with open_slide(tmp_path / "slide.tif") as slide:
        assert slide.size == size
        assert slide.read(0, 0, 0, *size).shape == (*size, 3)


def test_a_slide_without_tissue_is_white_and_tiny(tmp_path: Path) -> None:
    plan = write_slide(tmp_path / "slide.tif", (20000, 20000), tissue=0)
    assert plan.tissue == plan.tumour == ()
    assert (tmp_path / "slide.tif").stat().st_size < 200_000
    with open_slide(tmp_path / "slide.tif") as slide:
        assert (slide.thumbnail(2000) == 255).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 9)}, "size: expected 1 x 1 pixel or more, got 0 x 9"),
        ({"tissue": 0.5}, "tissue: expected a share from 0 to 0.4, got 0.5"),
        ({"tissue": -0.1}, "tissue: expected a share from 0 to 0.4, got -0.1"),
        ({"mpp": 0.0}, "mpp: expected microns per pixel above 0, got 0.0"),
        ({"mpp": float("nan")}, "mpp: expected microns per pixel above 0, got nan"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"synthetic slide: {message}"):
        write_slide(tmp_path / "slide.tif", **{"size": (64, 64), **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(RoteqError, match=r"a synthetic slide needs imagecodecs: pip install 'roteq\[slides\]'"):
        write_slide(tmp_path / "slide.tif", (64, 64))


BIG = """
import resource, sys
from roteq.slides.opening import open_slide
from roteq.slides.synthetic import write_slide
write_slide(sys.argv[1], ({side}, {side}), tissue={tissue})
slide = open_slide(sys.argv[1])
slide.thumbnail(2000)
slide.read(0, {side} // 4, {side} // 4, 512, 512)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_maxrss, usage.ru_utime)
"""


def cost(path: Path, side: int, tissue: float) -> tuple[float, float, float]:
    """Peak memory in MB, seconds, size in MB."""
    code = BIG.format(side=side, tissue=tissue)
    answer = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    memory, seconds = answer.stdout.split()
    return int(memory) / 1000, float(seconds), os.path.getsize(path) / 1e6


@pytest.mark.slow
def test_a_hundred_thousand_pixels_take_a_minute_and_no_memory(tmp_path: Path) -> None:
    memory, seconds, size = cost(tmp_path / "slide.tif", 100_000, 0.02)
    assert memory < 400 and seconds < 120 and size < 200
