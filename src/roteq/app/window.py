"""The picture in its round window, with what the models see of it, and a dial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from .course import Course
from .rings import upwards
from .sheet import Sheet, shorten

RADIUS, CENTRE = 134, (220, 270)  # px
FLIP = 8  # px between the dots of two models
DASH = 5  # points


@dataclass(frozen=True)
class Sight:
    """The picture as the page shows it, and what each model sees of it."""

    stage: Image.Image  # square
    name: str
    truth: str | None
    seen: Sequence[Mapping[str, Any]]  # of each model: share of the side, shape, size (h, w)
    mirror: bool = False


class Window:
    """inks: the colours of the models."""

    def __init__(self, sheet: Sheet, sight: Sight, courses: Sequence[Course], inks: Sequence[str]) -> None:
        from matplotlib.patches import Circle

        self.sheet, self.sight, self.inks = sheet, sight, inks
        self.picture = _prepared(sight, round(2 * RADIUS * sheet.scale))
        truth = "" if sight.truth is None else f"   truth: {sight.truth}"
        sheet.text(28, 24, shorten(sight.name, 34) + shorten(truth, 24), 9)
        self.turned = sheet.image(self.picture, CENTRE[0] - RADIUS, CENTRE[1] - RADIUS, 2 * RADIUS)
        self.turned.set_interpolation("bilinear")
        self.turned.set_clip_path(Circle(CENTRE, RADIUS, transform=sheet.axes.transData))
        for i in range(len(sight.seen)):
            for artist in self._outline(i):
                sheet.moves(sheet.axes.add_patch(artist))  # above the picture
        self._dial(courses)
        self.pointer = sheet.moves(sheet.axes.fill([0, 0, 0], [0, 0, 0], color=sheet.look["ink"], linewidth=0)[0])
        self.angle = sheet.moves(sheet.text(28, 46, "", 13, "ink", weight="bold"))

    def turn(self, degrees: int) -> None:
        self.turned.set_data(self.picture.rotate(degrees, Image.Resampling.BICUBIC))
        (x, y), (u, v) = upwards(degrees), upwards(degrees + 90)
        tip, base = RADIUS + 2, RADIUS + 15
        corners = [(tip, 0), (base, 6), (base, -6)]
        self.pointer.set_xy([(CENTRE[0] + r * x + s * u, CENTRE[1] + r * y + s * v) for r, s in corners])
        how = "exact" if degrees % 90 == 0 else "interpolated"
        mirrored = "mirrored, " if self.sight.mirror else ""
        self.angle.set_text(f"{mirrored}{degrees}°, {how}" if degrees or mirrored else "upright")

    def _outline(self, i: int) -> list[Any]:
        """What model i sees of the picture: it stays while the picture turns. A paler line lies below, so that it is
        seen on every picture; models that see the same share one line, in dashes."""
        from matplotlib.patches import Circle, Rectangle

        kinds = [(seen["share"], seen["shape"], tuple(seen["size"] or ())) for seen in self.sight.seen]
        share, shape, size = kinds[i]
        if share is None:
            return []
        same = [k for k, kind in enumerate(kinds) if kind == kinds[i]]
        dashes: Any = (DASH * same.index(i), (DASH, DASH * (len(same) - 1))) if len(same) > 1 else "-"
        high = 2 * RADIUS * share
        wide = high * size[1] / size[0]
        made: list[Any] = []
        for color, line, kind in ((self.sheet.look["paper"], 3.4, "-"), (self.inks[i], 1.8, dashes)):
            style: Any = {"fill": False, "edgecolor": color, "linewidth": line, "linestyle": kind, "capstyle": "butt"}
            if shape == "disc":
                made.append(Circle(CENTRE, high / 2, **style))
            else:
                made.append(Rectangle((CENTRE[0] - wide / 2, CENTRE[1] - high / 2), wide, high, **style))
        return made if i == same[0] else made[1:]

    def _dial(self, courses: Sequence[Course]) -> None:
        """Ticks, the exact angles with their numbers, and outside one dot for each flip of each model: filled where the
        turn is exact, hollow where it is interpolated."""
        sheet, look = self.sheet, self.sheet.look
        for degrees in range(0, 360, 15):
            is_exact = degrees % 90 == 0
            ends = zip(_out(degrees, 3), _out(degrees, 16 if is_exact else 10), strict=True)
            color, line = ("ink", 1.6) if is_exact else ("soft", 0.8)
            sheet.axes.plot(*ends, color=look[color], linewidth=line)
            if is_exact:
                x, y = _out(degrees, 34 + FLIP * len(courses))
                sheet.text(x + 6 * upwards(degrees)[0], y, f"{degrees}°", 9, ha="center")
        for i, course in enumerate(courses):
            for answer in course.flips():
                face = self.inks[i] if answer.exact else look["paper"]
                style: Any = {"color": self.inks[i], "markerfacecolor": face, "markeredgewidth": 0.9}
                sheet.axes.plot(*_out(answer.degrees, 23 + FLIP * i), "o", markersize=3.6, **style)


def _out(degrees: float, far: float) -> tuple[float, float]:
    """The point so far out of the window."""
    x, y = upwards(degrees)
    return CENTRE[0] + (RADIUS + far) * x, CENTRE[1] + (RADIUS + far) * y


def _prepared(sight: Sight, pixels: int) -> Image.Image:
    """The picture as it lies at 0 degrees, in the pixels of the window."""
    stage = ImageOps.mirror(sight.stage) if sight.mirror else sight.stage
    kind = Image.Resampling.LANCZOS if stage.width >= pixels else Image.Resampling.BICUBIC
    return stage.convert("RGB").resize((pixels, pixels), kind)
