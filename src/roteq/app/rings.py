"""The maps of one feature at all group elements, on a ring: place g stands at the angle of g, 0 at the top,
counter-clockwise; mirrored elements stand on the inner ring, what the network sees in the middle."""

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw

from .sheet import Sheet, shorten

GAP, BORDER = 4, 5  # px between two tiles, and around the ring
SMALLEST = 8
SIDE = 256  # px of the whole ring


def upwards(degrees: float) -> tuple[float, float]:
    """x and y, which grows downwards, of a direction: 0 is up, positive counter-clockwise.

    >>> [round(v) for v in upwards(90)]
    [-1, 0]
    """
    t = math.radians(degrees)
    return -math.sin(t), -math.cos(t)


@dataclass(frozen=True)
class Places:
    """Where the tiles stand in a square: their side, their centres, and the side of the picture in the middle."""

    tile: float
    middle: float
    at: tuple[tuple[float, float], ...]


def places(elements: Sequence[Any], size: float) -> Places:
    """Discs as large as they can be without touching."""
    if len(elements) == 1:
        return Places(0.62 * size, 0.0, ((size / 2, size / 2),))
    best = _placed(elements, size, SMALLEST)[0]
    for tile in range(SMALLEST + 1, int(size / 3)):
        found, fits = _placed(elements, size, tile)
        if not fits:
            break
        best = found
    return best


def _placed(elements: Sequence[Any], size: float, tile: float) -> tuple[Places, bool]:
    outer = size / 2 - BORDER - tile / 2
    inner = outer - tile - GAP if any(e["mirror"] for e in elements) else outer
    at = []
    for e in elements:
        (x, y), radius = upwards(e["angle"]), inner if e["mirror"] else outer
        at.append((size / 2 + radius * x, size / 2 + radius * y))
    hole = inner - tile / 2 - 8
    apart = all(math.dist(a, b) > tile + GAP - 1e-6 for i, a in enumerate(at) for b in at[:i])
    return Places(tile, 2 * max(hole, 0.0), tuple(at)), apart and hole > 0.13 * size


class Wheel:
    """A ring on a sheet, its upper left corner at x, y, with a circle around the map of the element that the picture
    was moved by. found: what `inside` finds upright."""

    def __init__(self, sheet: Sheet, found: Mapping[str, Any], x: float, y: float) -> None:
        self.sheet, self.x, self.y, self.where = sheet, x, y, places(found["elements"], SIDE)
        self.image = sheet.image(self._composed(found), x, y, SIDE)
        self.mark = sheet.moves(sheet.circle(0, 0, self.where.tile / 2 + 2, sheet.look["ink"], linewidth=2))
        what = f"{found['layer']}, feature {found['feature']}, {found['group']}"
        sheet.text(x + SIDE / 2, y + SIDE + 14, shorten(what, 42), 8, ha="center")

    def show(self, found: Mapping[str, Any]) -> None:
        self.image.set_data(self._composed(found))
        element = found["error"]["element"]
        self.mark.set_visible(element is not None and len(self.where.at) > 1)
        if self.mark.get_visible():
            x, y = self.where.at[element]
            self.mark.set_center((self.x + x, self.y + y))

    def _composed(self, found: Mapping[str, Any]) -> Image.Image:
        return composed(found, self.where, SIDE, self.sheet.scale, self.sheet.look["paper"])


def law(degrees: int, mirror: bool, error: Mapping[str, Any]) -> str:
    """What should happen to the maps at this angle. error: of `inside`.

    >>> print(law(30, False, {"element": 1}))
    Where a layer is equivariant, every map is now
    turned by 30°, in another place. The circle marks
    where the map of the top should be.
    """
    parts = ["mirrored"] * mirror + [f"turned by {degrees}°"] * (degrees != 0)
    words = f"Where a layer is equivariant, every map is now {' and '.join(parts)}, in another place. "
    words += "The circle marks where the map of the top should be."
    if error["element"] is None:
        words = f"{error['why']}: nothing to hold the maps to."
    elif not parts:
        words = "Upright. Where a layer is equivariant, its maps turn with the picture and move on around the ring."
    return textwrap.fill(words, 50)


def composed(found: Mapping[str, Any], where: Places, size: int, scale: float, paper: str) -> Image.Image:
    """A square picture of size * scale pixels with all tiles of what `inside` found."""
    pixels = round(size * scale)
    canvas = Image.new("RGB", (pixels, pixels), paper)
    sprite, (height, width) = picture_of(found["maps"]), found["tile"]
    for i, (x, y) in enumerate(where.at):
        tile = sprite.crop((i * width, 0, (i + 1) * width, height))
        _paste(canvas, tile, x * scale, y * scale, where.tile * scale)
    if where.middle and found.get("input"):
        _paste(canvas, picture_of(found["input"]), pixels / 2, pixels / 2, where.middle * scale)
    return canvas


def _paste(canvas: Image.Image, tile: Image.Image, x: float, y: float, side: float) -> None:
    """Centred at x, y; its larger side becomes `side`. Square ones are cut to a disc, which turns without corners;
    enlarged pixels stay sharp."""
    factor = side / max(tile.size)
    size = (max(1, round(tile.width * factor)), max(1, round(tile.height * factor)))
    kind = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    mask = _disc(size[0]) if size[0] == size[1] else None
    canvas.paste(tile.resize(size, kind), (round(x - size[0] / 2), round(y - size[1] / 2)), mask)


@lru_cache(maxsize=16)
def _disc(side: int) -> Image.Image:
    """A mask with a smooth border."""
    large = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(large).ellipse((0, 0, 4 * side - 1, 4 * side - 1), fill=255)
    return large.resize((side, side), Image.Resampling.BOX)


def picture_of(address: str) -> Image.Image:
    """The picture of a data: address."""
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
