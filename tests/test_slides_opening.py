"""Slides are read piece by piece, the same pixels whatever the layout and the place, and bad ones say what is wrong."""

import multiprocessing
import os
import pickle
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter

from roteq.errors import RoteqError, UsageError
from roteq.slides import backends
from roteq.slides.backends import NotMine, OpenSlideReader, TiffReader, TiffSlideReader, Undecodable, coded_size
from roteq.slides.opening import BadRegion, Level, Slide, choose_level, downsample, open_slide

HEIGHT, WIDTH = 500, 700
TILE = (128, 128)
PLACES = [(0, 0, 90, 80), (100, 300, 200, 333), (-20, -30, 64, 64), (450, 650, 128, 128), (127, 127, 2, 2)]


def make_picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((height, width, 3))
    return np.clip(128 + 400 * gaussian_filter(noise, (3, 3, 0)), 0, 255).astype(np.uint8)


PICTURE = make_picture()
GREY = PICTURE[..., 0]


def expected(picture: np.ndarray, y: int, x: int, height: int, width: int) -> np.ndarray:
    framed = np.pad(picture, ((200, 200), (200, 200), (0, 0)), constant_values=255)
    return framed[y + 200 : y + 200 + height, x + 200 : x + 200 + width]


def write_pyramid(path: Path, *, first: Any = PICTURE, mpp: float | None = 0.5, **options: Any) -> Path:
    """Levels 1, 2 and 4 as chained pages."""
    options = {"tile": TILE, "compression": "deflate", "photometric": "rgb", "metadata": None, **options}
    if mpp:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(first, shape=PICTURE.shape, dtype=np.uint8, **options)
        for step in (2, 4):
            file.write(np.ascontiguousarray(PICTURE[::step, ::step]), subfiletype=1, **options)
    return path


def write_ome(path: Path, picture: np.ndarray = PICTURE, axes: str = "YXS", unit: str = "µm", **options: Any) -> Path:
    """Levels 1 and 2; the second as a SubIFD."""
    options = {"tile": TILE, "compression": "deflate", **options}
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": unit, "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": unit}
    half = picture[:, ::2, ::2] if axes[0] in "CS" else picture[::2, ::2]
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(picture, subifds=1, metadata={"axes": axes, **size}, **options)
        file.write(np.ascontiguousarray(half), subfiletype=1, **options)
    return path


def three(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[..., None], 3, 2)


planes = np.ascontiguousarray(PICTURE.transpose(2, 0, 1))
alpha = np.dstack([PICTURE, np.where(GREY > 128, 255, 0).astype(np.uint8)])
LAYOUTS: dict[str, tuple[Callable[[Path], Any], np.ndarray]] = {
    "chained pages": (write_pyramid, PICTURE),
    "LZW with predictor": (lambda p: write_pyramid(p, compression="lzw", predictor=True), PICTURE),
    "lossless JPEG 2000": (lambda p: write_pyramid(p, compression="jpeg2000"), PICTURE),
    "OME-TIFF with SubIFDs": (lambda p: write_ome(p, photometric="rgb"), PICTURE),
    "planar samples": (lambda p: write_ome(p, planes, "SYX", photometric="rgb", planarconfig="separate"), PICTURE),
    "a page for each colour": (lambda p: write_ome(p, planes, "CYX", photometric="minisblack"), PICTURE),
    "grey": (lambda p: write_ome(p, GREY, "YX", photometric="minisblack"), three(GREY)),
    "white is zero": (
        lambda p: tifffile.imwrite(p, 255 - GREY, tile=TILE, photometric="miniswhite"),
        three(GREY),
    ),
    "alpha over white": (
        lambda p: tifffile.imwrite(p, alpha, tile=TILE, compression="deflate", extrasamples=["unassalpha"]),
        np.where(alpha[..., 3:] == 255, PICTURE, 255).astype(np.uint8),
    ),
    "strips": (lambda p: tifffile.imwrite(p, PICTURE, compression="deflate", rowsperstrip=48), PICTURE),
    "one plain strip": (lambda p: tifffile.imwrite(p, PICTURE), PICTURE),
    "plain planes": (lambda p: tifffile.imwrite(p, planes, photometric="rgb", planarconfig="separate"), PICTURE),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_reads_as_the_picture_at_any_place(layout: str, tmp_path: Path) -> None:
    write, picture = LAYOUTS[layout]
    path = tmp_path / "slide.tif"
    write(path)
    with open_slide(path) as slide:
        assert slide.size == (HEIGHT, WIDTH)
        for place in PLACES:
            region = slide.read(0, *place)
            assert region.dtype == np.uint8
            assert_array_equal(region, expected(picture, *place))


def test_levels_are_read_in_their_own_pixels(tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"))
    assert slide.levels == (Level(500, 700, 1), Level(250, 350, 2), Level(125, 175, 4))
    for level, step in ((1, 2), (2, 4)):
        assert_array_equal(slide.read(level, 30, 60, 90, 100), PICTURE[::step, ::step][30:120, 60:160])
    ome = open_slide(write_ome(tmp_path / "slide.ome.tif", photometric="rgb"))
    assert ome.levels == (Level(500, 700, 1), Level(250, 350, 2))
    assert_array_equal(ome.read(1, 30, 60, 90, 100), PICTURE[::2, ::2][30:120, 60:160])


def test_only_the_tiles_that_a_region_touches_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"))
    decoded = []
    decode = TiffReader._decode
    monkeypatch.setattr(TiffReader, "_decode", lambda self, page, i: decoded.append(i) or decode(self, page, i))
    slide.read(0, 130, 120, 20, 20)
    slide.read(0, 140, 130, 20, 20)
    assert decoded == [6, 7]  # 6 across; the second region finds its tile among those kept


def test_the_tiles_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "CACHE", 3 * 128 * 128 * 3)
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"))
    assert_array_equal(slide.read(0, 0, 0, HEIGHT, WIDTH), PICTURE)
    reader = slide._reader
    assert isinstance(reader, TiffReader)
    assert 0 < reader.kept_bytes == sum(tile.nbytes for tile in reader.kept.values()) <= backends.CACHE


def test_a_tile_that_was_never_stored_is_white(tmp_path: Path) -> None:
    tiles = iter([None if i == 7 else np.zeros((128, 128, 3), np.uint8) for i in range(24)])
    write_pyramid(tmp_path / "slide.tif", first=tiles, compression=None)
    region = open_slide(tmp_path / "slide.tif").read(0, 100, 100, 128, 128)
    assert (region[28:, 28:] == 255).all() and (region[:28] == 0).all()
    inverted = iter([np.full((128, 128), 255, np.uint8), None])
    tifffile.imwrite(
        tmp_path / "slide.tif", inverted, shape=(128, 256), dtype=np.uint8, tile=TILE, photometric="miniswhite"
    )
    region = open_slide(tmp_path / "slide.tif").read(0, 0, 100, 128, 56)
    assert (region[:, :28] == 0).all() and (region[:, 28:] == 255).all()


READERS = [TiffReader, OpenSlideReader, TiffSlideReader]


@pytest.mark.filterwarnings("default")  # of the libraries beneath tiffslide
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_same(reader: Any, tmp_path: Path) -> None:
    found = reader(write_pyramid(tmp_path / "slide.tif"))
    assert found.sizes == [(500, 700), (250, 350), (125, 175)]
    assert found.mpp == pytest.approx((0.5, 0.5))
    assert_array_equal(found.read(1, 40, 60, 70, 90), PICTURE[::2, ::2][40:110, 60:150])
    found.close()


@pytest.mark.parametrize("name", ["cmu-1-small-region", "tcga-cr-7395-01a-01-ts1"])
def test_real_slides_read_as_openslide_reads_them(name: str, shared: Path) -> None:
    path = shared / "slides" / f"{name}.svs"
    slide, reference = open_slide(path), OpenSlideReader(path)
    assert isinstance(slide._reader, TiffReader)
    assert slide.size == reference.sizes[0] and len(slide.levels) == len(reference.sizes)
    assert slide.mpp == (0.499 if name.startswith("cmu") else None)
    assert [level.downsample for level in slide.levels] == [1.0, 2.0][: len(slide.levels)]
    for level in range(len(slide.levels)):
        whole = reference.read(level, 0, 0, 1310, 1300)  # from 0, 0 on openslide lies on the pixels
        assert whole.std() > 20
        for y, x in ((0, 0), (301, 407), (1001, 1003)):
            assert_array_equal(slide.read(level, y, x, 300, 200), whole[y : y + 300, x : x + 200])


def test_aperio_says_its_microns_in_words(tmp_path: Path) -> None:
    words = "Aperio Image Library v11.2.1\r\n700x500 [0,0 700x500] (128x128) Q=70|AppMag = 40|MPP = 0.2510"
    path = write_pyramid(tmp_path / "slide.svs", mpp=None, description=words)
    assert open_slide(path).mpp == 0.251


RESOLUTIONS = {
    "centimetres": ((20000, 20000), "CENTIMETER", 0.5),
    "inches": ((101600, 101600), "INCH", 0.25),
    "no unit": ((20000, 20000), "NONE", None),
    "of a printer": ((300, 300), "INCH", None),
    "nothing": (None, None, None),
}


@pytest.mark.parametrize("name", RESOLUTIONS)
def test_microns_come_from_resolution_tags(name: str, tmp_path: Path) -> None:
    resolution, unit, mpp = RESOLUTIONS[name]
    path = write_pyramid(tmp_path / "slide.tif", mpp=None, resolution=resolution, resolutionunit=unit)
    assert open_slide(path).mpp == (mpp and pytest.approx(mpp))


@pytest.mark.parametrize(("unit", "mpp"), [("µm", 0.25), ("nm", 0.00025), ("mm", 250.0), ("pixel", None)])
def test_microns_come_from_ome_xml(unit: str, mpp: float | None, tmp_path: Path) -> None:
    path = write_ome(tmp_path / "slide.ome.tif", unit=unit, photometric="rgb")
    assert open_slide(path).mpp == mpp


def test_pixels_that_are_not_square_are_noted(tmp_path: Path) -> None:
    def opened(down: float) -> Slide:
        path = tmp_path / f"{down}.tif"
        return open_slide(write_pyramid(path, mpp=None, resolution=(20000, 1e4 / down), resolutionunit="CENTIMETER"))

    assert opened(0.5).notes == () == opened(0.51).notes
    assert opened(0.51).mpp == pytest.approx(0.505, abs=1e-4)
    assert opened(0.6).notes == ("pixels are 0.5 x 0.6 microns; taken as 0.55 square",)


def test_the_microns_given_win(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif")
    assert open_slide(path, mpp=0.3).mpp == 0.3
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"mpp: expected microns per pixel of level 0 above 0, got"):
            open_slide(path, mpp=bad)


@pytest.mark.parametrize(
    ("mpp", "expected"),
    [
        (0.5, (0, 1.0)),
        (0.505, (0, 1.0)),
        (0.995, (1, 1.0)),
        (0.9, (0, 1.8)),
        (1.5, (1, 1.5)),
        (8, (2, 4.0)),
        (0.25, (0, 0.5)),
    ],
)
def test_the_coarsest_level_that_is_as_fine_is_chosen(mpp: float, expected: tuple[int, float], tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"))
    assert choose_level(slide, mpp) == pytest.approx(expected)


def test_no_microns_are_an_error_only_when_they_are_needed(tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif", mpp=None))
    assert slide.mpp is None
    with pytest.raises(UsageError, match=r"slide\.tif: does not say .* give --slide-mpp, such as --slide-mpp 0\.25"):
        choose_level(slide, 1.0)
    with pytest.raises(UsageError, match="expected microns per pixel above 0, got 0"):
        choose_level(slide, 0)


def test_a_downsample_is_whole_where_both_sides_allow_it() -> None:
    assert downsample((4443, 3567), (2221, 1783)) == 2
    assert downsample((4443, 3567), (2222, 1784)) == 2
    assert downsample((1000, 1000), (400, 400)) == 2.5


# Bad input


def test_a_level_that_does_not_exist_names_those_there_are(tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"))
    for level in (3, -1):
        with pytest.raises(UsageError, match=rf"has no level {level}; choose from 0 \(500 x 700\), 1 \(250 x 350\), 2"):
            slide.read(level, 0, 0, 8, 8)
    with pytest.raises(UsageError, match="expected a region of 1 x 1 pixel or more, got 0 x 8"):
        slide.read(0, 0, 0, 0, 8)
    with pytest.raises(UsageError, match="thumbnail: expected 1 pixel or more, got 0"):
        slide.thumbnail(0)


@pytest.mark.parametrize("where", ["pages first", "pages last"])
def test_a_truncated_slide_is_refused(where: str, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif")
    if where == "pages last":
        words = bytearray(path.read_bytes())
        first = struct.unpack("<I", words[4:8])[0]
        moved = len(words)  # the first directory once more, at the end, as scanners write it
        count = struct.unpack("<H", words[first : first + 2])[0]
        words += words[first : first + 2 + 12 * count + 4]
        words[4:8] = struct.pack("<I", moved)
        path.write_bytes(words)
        assert open_slide(path).size == (HEIGHT, WIDTH)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RoteqError, match=r"slide\.tif: truncated: .* bytes.*; copy it again"):
        open_slide(path)


@pytest.mark.parametrize("name", ["cmu-1-small-region", "tcga-cr-7395-01a-01-ts1"])
def test_a_truncated_real_slide_is_refused(name: str, shared: Path, tmp_path: Path) -> None:
    data = (shared / "slides" / f"{name}.svs").read_bytes()
    (tmp_path / "half.svs").write_bytes(data[: len(data) // 2])
    with pytest.raises(RoteqError, match=r"half\.svs: truncated: its list of pictures lies beyond its [\d,]+ bytes"):
        open_slide(tmp_path / "half.svs")


def spoil(path: Path, tile: int, head: bytes = b"spoilt") -> None:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, length = page.dataoffsets[tile], page.databytecounts[tile]
    data = bytearray(path.read_bytes())
    data[start : start + length] = (head * length)[:length]
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("first", "compression"),
    [
        *(("tifffile", kind) for kind in ("deflate", "jpeg", "jpeg2000", "lzw")),
        ("openslide", "jpeg"),
        ("openslide", "lzw"),
    ],
)
def test_a_tile_that_does_not_decode_says_where_and_its_neighbours_still_read(
    first: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first == "openslide":
        monkeypatch.setattr(backends, "BY_TIFFFILE", set())
    path = write_pyramid(tmp_path / "slide.tif", compression=compression)
    whole = open_slide(path)
    assert type(whole._reader).__name__.lower() == f"{first if first == 'openslide' else 'tiff'}reader"
    neighbours = whole.read(0, 128, 0, 128, 128), whole.read(0, 128, 256, 128, 128), whole.read(1, 0, 0, 250, 350)
    spoil(path, 7)  # row 1, column 1
    slide = open_slide(path)
    place = r"level 0: the tile of 128 x 128 pixels at y=128, x=128" if first == "tifffile" else "level 0: the region"
    for _ in range(2):
        with pytest.raises(BadRegion, match=rf"slide\.tif: {place}.* does not decode"):
            slide.read(0, 100, 100, 64, 64)
        for reference, at in zip(
            neighbours, ((0, 128, 0, 128, 128), (0, 128, 256, 128, 128), (1, 0, 0, 250, 350)), strict=True
        ):
            assert_array_equal(slide.read(*at), reference)


def test_an_overview_marks_what_does_not_decode_and_shows_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, PICTURE, tile=TILE, compression="deflate", metadata=None)
    whole = open_slide(path).thumbnail(350)
    spoil(path, 7)
    picture, unread = open_slide(path).overview(350)
    bad = np.zeros((250, 350), bool)
    bad[64:128, 64:128] = True
    assert (unread & bad).sum() == bad.sum() and unread.mean() < 0.25
    assert_array_equal(picture[~unread], whole[~unread])
    assert (picture[unread] == 255).all()


def test_an_overview_is_the_mean_of_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, PICTURE, tile=TILE, metadata=None)
    means = PICTURE.reshape(100, 5, 140, 5, 3).mean((1, 3))
    assert np.abs(open_slide(path).thumbnail(140) - means).max() <= 1
    monkeypatch.setattr("roteq.slides.opening.BLOCK", 64)  # many blocks give the same
    assert np.abs(open_slide(path).thumbnail(140) - means).max() <= 1
    assert open_slide(path).thumbnail(333).shape == (238, 333, 3)
    assert open_slide(path).thumbnail(1).shape == (1, 1, 3)
    assert_array_equal(open_slide(path).thumbnail(5000), PICTURE)
    pyramid = open_slide(write_pyramid(path))
    monkeypatch.setattr(pyramid._reader, "sizes", [])
    assert_array_equal(pyramid.thumbnail(175), PICTURE[::4, ::4])  # from the level that has as many


def test_a_slide_smaller_than_a_tile_is_white_around(tmp_path: Path) -> None:
    picture = make_picture(40, 60)
    tifffile.imwrite(tmp_path / "slide.tif", picture, tile=(256, 256), compression="deflate", metadata=None)
    slide = open_slide(tmp_path / "slide.tif")
    assert slide.size == (40, 60) and slide.thumbnail(2048).shape == (40, 60, 3)
    assert_array_equal(slide.read(0, -100, -100, 256, 256), expected(picture, -100, -100, 256, 256))
    assert (slide.read(0, 900, 900, 8, 8) == 255).all()


@pytest.mark.parametrize("kind", ["text", "picture", "empty", "none", "folder"])
def test_a_file_that_is_no_slide_is_refused(kind: str, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "slide.png"
    if kind == "text":
        path.write_text("no slide")
    elif kind == "picture":
        Image.fromarray(PICTURE).save(path)
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    expected = {
        "empty": "an empty file; was it copied whole",
        "none": "no such file",
        "folder": r"expected a slide, got a folder; for MIRAX give the \.mrxs file",
    }.get(kind, r"not a slide that can be read; expected \.svs, \.ndpi, \.mrxs, a pyramidal TIFF or an OME-TIFF")
    with pytest.raises(RoteqError, match=rf"slide\.png: {expected}"):
        open_slide(path)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "16 bits": (
        lambda p: tifffile.imwrite(p, PICTURE.astype(np.uint16), tile=TILE),
        r"expected 8 bits a sample, got 16 \(uint16\); rescale it first",
    ),
    "a stack": (
        lambda p: tifffile.imwrite(p, np.zeros((5, 64, 64), np.uint8), photometric="minisblack"),
        r"expected one picture in grey or RGB, got a stack of 5",
    ),
    "a palette": (
        lambda p: tifffile.imwrite(p, GREY, photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        "expected grey or RGB, got 1 samples a pixel of kind PALETTE",
    ),
    "many channels": (
        lambda p: tifffile.imwrite(p, np.zeros((64, 64, 7), np.uint8), photometric="minisblack", planarconfig="contig"),
        "expected grey or RGB, got 7 samples",
    ),
    "a giant strip": (
        lambda p: tifffile.imwrite(
            p, iter([b"x" * 99]), shape=(60000, 60000), dtype=np.uint8, rowsperstrip=60000, compression="deflate"
        ),
        r"its strips of 60000 x 60000 pixels are too large .* convert it to a tiled pyramid, such as: vips tiffsave",
    ),
    "giant tiles": (
        lambda p: tifffile.imwrite(
            p, iter([b"x" * 99]), shape=(9000, 9000, 3), dtype=np.uint8, tile=(9008, 9008), compression="deflate"
        ),
        r"its tiles of 9008 x 9008 pixels are too large",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_in_pieces_or_as_colours_is_refused(kind: str, tmp_path: Path) -> None:
    write, message = REFUSED[kind]
    write(tmp_path / "slide.tif")
    with pytest.raises(RoteqError, match=rf"slide\.tif: {message}"):
        open_slide(tmp_path / "slide.tif")


def test_a_small_tile_that_holds_a_huge_picture_is_not_decoded(tmp_path: Path) -> None:
    import imagecodecs

    for name, stream, at in (
        ("jpeg", imagecodecs.jpeg_encode(PICTURE[:128, :128]), None),
        ("jpeg2000", imagecodecs.jpeg2k_encode(PICTURE[:128, :128], codecformat="j2k"), 8),
    ):
        assert coded_size(stream) == (128, 128)
        data = bytearray(stream)
        at = at or data.index(b"\xff\xc0") + 5
        data[at : at + (4 if name == "jpeg" else 8)] = struct.pack(">HH" if name == "jpeg" else ">II", 60000, 60000)
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(
            path,
            iter([bytes(data)]),
            shape=(128, 128, 3),
            dtype=np.uint8,
            tile=TILE,
            compression=name,
            photometric="rgb",
        )
        with pytest.raises(BadRegion, match="it holds a picture of 60000 x 60000 pixels"):
            open_slide(path).read(0, 0, 0, 8, 8)


def test_a_slide_that_has_gone_is_a_bad_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BY_TIFFFILE", set())
    path = write_pyramid(tmp_path / "slide.tif", compression="jpeg")
    spoil(path, 7)
    slide = open_slide(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(BadRegion, match=r"slide\.tif: level 0:"):
            slide.read(0, 100, 100, 64, 64)


def test_missing_libraries_are_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slide.mrxs").write_bytes(b"not for tifffile")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(RoteqError, match=r"Not installed: openslide; pip install 'roteq\[slides\]'"):
        open_slide(tmp_path / "slide.mrxs")
    path = write_pyramid(tmp_path / "slide.tif")
    assert open_slide(path).size == (HEIGHT, WIDTH)
    for name in ("imagecodecs", "tiffslide"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RoteqError, match=r"slides need openslide and tifffile: pip install 'roteq\[slides\]'"):
        open_slide(path)


@pytest.mark.filterwarnings("default")
def test_openslide_reads_what_tifffile_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "slide.tif")

    def refuse(path: Path) -> None:
        raise NotMine("never")

    monkeypatch.setattr(backends, "TiffReader", refuse)
    slide = open_slide(path)
    assert isinstance(slide._reader, OpenSlideReader)
    assert_array_equal(slide.read(0, 10, 20, 50, 60), PICTURE[10:60, 20:80])
    monkeypatch.setattr(backends, "OpenSlideReader", refuse)
    assert isinstance(open_slide(path)._reader, TiffSlideReader)


def test_tiffslide_says_what_does_not_decode(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif")
    spoil(path, 7)
    reader = TiffSlideReader(path)
    with pytest.raises(Undecodable, match="the region of 64 x 64 pixels at y=100, x=100 does not decode"):
        reader.read(0, 100, 100, 64, 64)
    reader.close()


# Several processes


def read_far_away(slide: Slide) -> tuple[int, np.ndarray]:
    return os.getpid(), slide.read(1, 10, 20, 60, 70)


def test_a_slide_is_opened_anew_in_every_process(tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"), mpp=0.3)
    copy = pickle.loads(pickle.dumps(slide))
    assert copy.mpp == 0.3 and copy._reader is not slide._reader
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        process, region = pool.submit(read_far_away, slide).result()
    assert process != os.getpid()
    assert_array_equal(region, PICTURE[::2, ::2][10:70, 20:90])


def test_a_forked_process_does_not_share_the_place_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = open_slide(write_pyramid(tmp_path / "slide.tif"))
    before = slide._reader
    slide.read(0, 0, 0, 8, 8)
    assert slide._reader is before
    monkeypatch.setattr(os, "getpid", lambda: -1)
    slide.read(0, 0, 0, 8, 8)
    assert slide._reader is not before


def test_a_slide_shows_how_to_open_it(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif")
    assert repr(open_slide(path)) == f"open_slide({str(path)!r}, mpp={open_slide(path).mpp})"
