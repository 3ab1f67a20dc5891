"""What is drawn from a map: the pyramid, the regions, the page."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from slides import FakeSlide, network, put, tissue

from roteq.results import SlideResult
from roteq.slides import SlideConfig, map_slide
from roteq.slides.heatmap import SMALLEST, Map, halve, probability, pyramid, value_of, write_pyramid
from roteq.slides.regions import find_regions, write_geojson
from roteq.slides.viewer import write_overlay, write_viewer

OF = {"name": "tumour", "colour": "#d55e00", "downsample": 10.0, "size": (60, 80), "mpp": 0.5}


def filled(path: Path, values: np.ndarray) -> Map:
    made = Map(path, values.shape).create()
    made.write((slice(0, values.shape[1]), slice(0, values.shape[2])), values)
    return made


def inside(ring: list[tuple[float, float]], x: float, y: float) -> bool:
    crossed = 0
    for (x0, y0), (x1, y1) in pairwise(ring):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            crossed += 1
    return crossed % 2 == 1


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.9])
def test_a_value_reaches_the_threshold_where_its_probability_does(threshold) -> None:
    values = np.arange(1, 256)
    np.testing.assert_array_equal(values >= value_of(threshold), probability(values) >= np.float32(threshold))


def test_a_map_takes_no_space_where_nothing_is_written(tmp_path) -> None:
    made = Map(tmp_path / "map.u8", (1, 20_000, 20_000)).create()
    made.write((slice(19_000, 19_100), slice(19_950, 20_000)), np.full((1, 100, 100), 7, np.uint8))  # cut at the border
    assert made.path.stat().st_size == 400_000_000
    assert made.path.stat().st_blocks * 512 < 4_000_000
    assert made.read(0, slice(18_990, 19_010), slice(19_940, 20_000)).sum() == 10 * 50 * 7


def test_the_mean_of_four_leaves_out_what_is_unknown() -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 7, 5)).astype(np.uint8)
    values[:, :2, :2] = 0
    small = halve(values)
    assert small.shape == (2, 4, 3)
    for c, y, x in np.ndindex(small.shape):
        known = values[c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        known = known[known > 0]
        assert small[c, y, x] == pytest.approx(known.mean() if known.size else 0, abs=0.5)


def test_the_pyramid_is_that_of_the_whole_map_and_says_how_wide_its_cells_are(tmp_path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (2, 1301, 700)).astype(np.uint8)
    levels = pyramid(filled(tmp_path / "map.u8", values), tmp_path)
    assert max(levels[-1].shape) <= SMALLEST
    path = tmp_path / "a.ome.tif"
    write_pyramid(levels, path, names=["a <b>", "c"], colours=["#ff0000", "#00ff00"], microns=8.0, about="why & how")
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        assert tif.is_ome
        assert [level.shape for level in series.levels] == [(2, 1301, 700), (2, 651, 350), (2, 326, 175)]
        np.testing.assert_array_equal(series.levels[0].asarray(), values)
        np.testing.assert_array_equal(series.levels[1].asarray(), halve(values))
        np.testing.assert_array_equal(series.levels[2].asarray(), halve(halve(values)))
        about = tif.ome_metadata
        assert tif.pages[0].is_tiled
        assert tif.pages[0].tags["XResolution"].value == (1250, 1)  # a centimetre
    assert re.search(r'PhysicalSizeX="8\.0" PhysicalSizeXUnit="µm"', about)
    assert 'Name="a &lt;b&gt;"' in about
    assert "why &amp; how" in about


def test_a_region_has_the_place_the_holes_and_the_numbers_of_its_cells(tmp_path) -> None:
    values = np.ones((6, 8), np.uint8)
    values[1:6, 1:6] = 255
    values[3, 3] = 1  # a hole
    values[0, 7] = 200  # another region, in the corner
    values[5, 0] = 0
    regions, number = find_regions(values, 0.5, **OF)
    assert number == len(regions) == 2
    ring, corner = regions
    assert ring.area == pytest.approx(24 * (10 * 0.5 / 1000) ** 2)
    assert ring.probability == 1
    assert corner.probability == pytest.approx(199 / 254)
    (polygon,) = ring.polygons
    outline, hole = polygon
    for y, x in np.ndindex(values.shape):
        there = inside(outline, 10 * x + 5, 10 * y + 5) and not inside(hole, 10 * x + 5, 10 * y + 5)
        assert there == (values[y, x] == 255)
    assert outline[0] == outline[-1]
    points = np.array(outline)
    assert points.min() >= 0
    assert points[:, 1].max() == 60  # the slide ends here
    write_geojson(regions, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert features[0]["geometry"]["type"] == "Polygon"
    assert np.array(features[0]["geometry"]["coordinates"][1]).tolist() == np.array(hole).tolist()
    assert features[0]["properties"]["objectType"] == "annotation"
    assert features[0]["properties"]["classification"] == {"name": "tumour", "color": [213, 94, 0]}
    assert features[1]["properties"]["measurements"] == {"Area mm^2": 2.5e-05, "Mean probability": 0.7835}
    assert len({feature["id"] for feature in features}) == 2


def test_cells_that_touch_at_a_corner_are_two_regions() -> None:
    values = np.ones((6, 8), np.uint8)
    values[2, 2] = values[3, 3] = 255
    regions, number = find_regions(values, 0.5, **OF)
    assert number == 2
    for region, (low, high) in zip(regions, ((20, 30), (30, 40)), strict=True):
        ((outline,),) = region.polygons
        assert low - 1 < np.min(outline) < np.max(outline) < high + 1


def test_nothing_above_the_threshold_is_no_region(tmp_path) -> None:
    assert find_regions(np.full((6, 8), 100, np.uint8), 0.5, **OF) == ([], 0)
    write_geojson([], tmp_path / "a.geojson")
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> tuple[SlideResult, Path]:
    folder = tmp_path_factory.mktemp("mapped")
    model = network("p4m_densenet", group="p4", growth=2, depth=3, classes=("normal", "<script>alert(1)</script>"))
    with pytest.MonkeyPatch.context() as patch:
        path = put(FakeSlide(tissue(200, 260), broken=((100, 130),)), patch, folder, "a <b> & 'c'.svs")
        result = map_slide(model, path, folder / "out", SlideConfig(workers=0, tile=96, threshold=0.45))
    return result, folder / "out"


def test_the_page_needs_nothing_and_escapes_everything(mapped) -> None:
    result, out = mapped
    page = (out / result.files["page"]).read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(", page)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "a &lt;b&gt; &amp; &#39;c&#39;" in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    data = json.loads(re.search(r"const data = (\{.*\});", page).group(1))
    assert data["classes"] == ["<script>alert(1)</script>"]
    assert sum(data["histogram"][0]) == result.map_size[0] * result.map_size[1]


def test_the_overlay_shows_the_slide_the_map_and_what_was_not_read(mapped) -> None:
    result, out = mapped
    image = np.asarray(Image.open(out / result.files["overlay"]))
    assert image.shape == (200, 260, 3)
    assert (image[0, 0] == 245).all()  # no tissue, no colour
    place = result.failed[0]
    assert image[place.y, place.x + 5].tolist() == [0xD0, 0x02, 0x1B]


def test_several_classes_are_drawn_in_their_colours(mapped, tmp_path) -> None:
    result, _ = mapped
    area = result.areas[0]
    several = replace(result, areas=(area, replace(area, name="other")), failed=(), size=(40, 40))
    values = np.zeros((2, 4, 4), np.uint8)
    values[0, :2], values[1, :2], values[0, 2], values[1, 2] = 255, 1, 1, 255
    level = filled(tmp_path / "map.u8", values)
    thumbnail = np.full((40, 40, 3), 250, np.uint8)
    write_overlay(thumbnail, level, 10.0, several, tmp_path / "a.png")
    image = np.asarray(Image.open(tmp_path / "a.png"))
    assert image[5, 5, 2] > image[5, 5, 0]  # blue
    assert image[25, 5, 0] > image[25, 5, 2]  # orange
    assert (image[35, 5] == 250).all()  # unknown
    write_viewer(thumbnail, level, 10.0, np.zeros((2, 256), int), [[], []], several, tmp_path / "a.html")
    assert '<option value="1">other</option>' in (tmp_path / "a.html").read_text(encoding="utf-8")
