"""What a person looks at: the map over the slide as a picture, and as a page with a slider."""

import base64
import io
from importlib.resources import files as resources
from pathlib import Path

import numpy as np

from .._version import __version__
from ..files import atomic_path, write_text
from ..report.words import NONE, duration, number, percent, plural
from ..results import SlideResult
from .heatmap import UNKNOWN, Map, value_of
from .regions import Region

LONGEST = 1600  # side of the pictures
SHOWN = 500  # outlines in the page, the largest
LISTED = 25  # regions and failed places in its tables
STRENGTH = 0.55  # of the map over the slide
FAILED = "#d0021b"
COLOURS = ("#0072b2", "#d55e00", "#009371", "#b868a0", "#a67c00", "#3f8fc4", "#c1443c", "#7a7f87")


def colours_of(number: int) -> list[str]:
    """One for each class of a map; a single one is orange.

    >>> colours_of(1), colours_of(2)
    (['#d55e00'], ['#0072b2', '#d55e00'])
    """
    return [COLOURS[1]] if number == 1 else [COLOURS[i % len(COLOURS)] for i in range(number)]


def ramp() -> np.ndarray:
    """uint8 (256, 3): the colour of each value of a map, from blue to yellow."""
    from matplotlib import colormaps

    return (colormaps["viridis"](np.arange(-1, 255) / 254)[:, :3] * 255).round().astype(np.uint8)


def write_overlay(thumbnail: np.ndarray, level: Map, step: float, result: SlideResult, path: Path) -> None:
    """A PNG of the thumbnail (h, w, 3) under the map. Of one class its probability from blue to yellow; of several the
    colour of the likeliest, the stronger the likelier. Places that could not be read are framed and crossed out.

    step: pixels of level 0 per cell of `level`.
    """
    from PIL import Image, ImageColor, ImageDraw

    height, width = thumbnail.shape[:2]
    scale = result.size[0] / height, result.size[1] / width
    ys, xs = (
        np.minimum(((np.arange(n) + 0.5) * size / step).astype(int), cells - 1)
        for n, size, cells in zip((height, width), scale, level.shape[1:], strict=True)
    )
    values = level.whole()[:, ys][:, :, xs]
    if len(values) == 1:
        painted, strength = ramp()[values[0]], np.full(values.shape[1:], STRENGTH)
    else:
        table = np.array([ImageColor.getrgb(colour) for colour in colours_of(len(values))], np.uint8)
        painted, strength = table[values.argmax(0)], STRENGTH / 255 * values.max(0)
    strength[values.max(0) == UNKNOWN] = 0
    mask = Image.fromarray((255 * strength).round().astype(np.uint8))
    image = Image.composite(Image.fromarray(painted), Image.fromarray(thumbnail), mask)
    draw = ImageDraw.Draw(image)
    for place in result.failed:
        top, left = place.y / scale[0], place.x / scale[1]
        bottom, right = top + place.height / scale[0], left + place.width / scale[1]
        draw.rectangle((left, top, right, bottom), outline=FAILED, width=2)
        draw.line((left, top, right, bottom), fill=FAILED, width=2)
    with atomic_path(path) as temporary:
        image.save(temporary)


def write_viewer(
    thumbnail: np.ndarray,
    level: Map,
    step: float,
    histogram: np.ndarray,
    regions: list[list[Region]],
    result: SlideResult,
    path: Path,
) -> None:
    """One HTML file that needs nothing beside it. Every string in it is escaped.

    step: pixels of level 0 per cell of `level`; histogram: (C, 256) cells of each value; regions: of each class.
    """
    from jinja2 import Environment, StrictUndefined

    names = [found.name for found in result.areas]
    shown = [region for found in regions for region in found[:SHOWN]]
    listed = sorted(shown, key=lambda region: -region.area)[:LISTED]
    data = {
        "classes": names,
        "colours": list(zip(names, colours_of(len(names)), strict=True)),
        "cells": level.shape[1:],
        "step": step,
        "cellArea": (result.downsample * result.slide_mpp / 1000) ** 2,
        "threshold": value_of(result.threshold),
        "histogram": histogram.tolist(),
        "lut": ramp()[1:].tolist(),
        "heat": [_picture(values, "png") for values in level.whole()],
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(resources(__package__).joinpath("viewer.html").read_text(encoding="utf-8"))
    text = page.render(
        result=result,
        version=__version__,
        style=resources("roteq.report").joinpath("style.css").read_text(encoding="utf-8"),
        data=data,
        slide=_picture(thumbnail, "jpeg"),
        width=thumbnail.shape[1],
        height=thumbnail.shape[0],
        paths=[(region, names.index(region.name), _path(region)) for region in shown],
        listed=listed,
        found=sum(found.regions for found in result.areas),
        failed=result.failed[:LISTED],
        facts=facts(result),
        words={"number": number, "percent": percent, "area": area},
    )
    write_text(path, text)


def facts(result: SlideResult) -> dict[str, str]:
    """Names and values of one slide, in words."""
    told = {
        "slide": f"{result.slide}, {result.size[1]} x {result.size[0]} pixels of {result.slide_mpp:.4g} microns",
        "model": f"{result.model}: {', '.join(result.classes)}",
        "read": f"level {result.level}, {result.mpp:.4g} microns per pixel",
        "map": f"{result.map_size[1]} x {result.map_size[0]} cells, {result.downsample:.4g} pixels of the slide wide",
        "tissue": f"{area(result.tissue_area)}, {percent(result.tissue)} of the slide",
    }
    for found in result.areas:
        told[found.name] = (
            f"{area(found.area)}, {percent(found.share)} of the tissue with an answer, in "
            f"{plural(found.regions, 'region')} (probability {result.threshold:g} or more)"
        )
    if result.failed:
        told["not read"] = f"{len(result.failed):,} of {result.tiles:,} tiles, {area(result.unknown_area)} of tissue"
    speed = "" if result.tiles_per_second is None else f", {result.tiles_per_second:.3g} a second"
    told["time"] = f"{duration(result.seconds)}, {result.tiles:,} tiles{speed}"
    return told


def area(square_millimetres: float | None) -> str:
    """
    >>> area(12.345), area(0.00123)
    ('12.3 mm²', '0.00123 mm²')
    """
    return NONE if square_millimetres is None else f"{square_millimetres:.3g} mm²"


def _picture(pixels: np.ndarray, kind: str) -> str:
    """As a data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 82} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _path(region: Region) -> str:
    """The outlines as an SVG path of whole pixels."""
    rings = [ring for polygon in region.polygons for ring in polygon]
    return "".join("M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in ring[:-1]) + "Z" for ring in rings)
