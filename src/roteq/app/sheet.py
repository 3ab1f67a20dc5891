"""A sheet to draw frames on, in the colours of the house: what stays is drawn once, what moves anew for each frame."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

from PIL import Image

from ..errors import UsageError, nearest

DPI = 100
THEMES = ("light", "dark")
WIDTHS = (320, 4096)  # px


@cache
def colours(theme: str) -> Mapping[str, str]:
    """The colours of the house, by their names in style.css; those of the models are c0 to c3.

    >>> colours("light")["c0"], colours("dark")["paper"]
    ('#0072b2', '#14171b')
    """
    if theme not in THEMES:
        raise UsageError(f"theme: unknown {theme!r}; {nearest(theme, THEMES)}")
    style = (files("roteq") / "report" / "style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.S)[:2]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return found if theme == "light" else found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))


class Sheet:
    """One pair of axes over the whole figure, in pixels of the unscaled frame, y downwards.

    width: of the frame in pixels; everything is scaled with it. Raises: UsageError for one that is too small or large.
    """

    def __init__(self, size: tuple[int, int], theme: str, width: int | None) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if width is not None and not WIDTHS[0] <= width <= WIDTHS[1]:
            raise UsageError(f"width: expected {WIDTHS[0]} to {WIDTHS[1]} pixels, got {width}")
        self.size, self.look = size, colours(theme)
        self.scale = 1.0 if width is None else width / size[0]
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI * self.scale, facecolor=self.look["paper"])
        self.canvas = FigureCanvasAgg(figure)
        self.axes = figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self._limit()
        self.moving: list[Any] = []
        self._still: Any = None

    def _limit(self) -> None:
        self.axes.set(xlim=(0, self.size[0]), ylim=(self.size[1], 0))

    def moves(self, artist: Any) -> Any:
        """Draw it anew for each frame, above all that stays."""
        artist.set_animated(True)
        self.moving.append(artist)
        return artist

    def text(self, x: float, y: float, words: str, size: float, color: str = "soft", **style: Any) -> Any:
        """color: a name of `colours`."""
        return self.axes.text(x, y, words, fontsize=size, color=self.look[color], va="center", **style)

    def image(self, picture: Image.Image, x: float, y: float, side: float) -> Any:
        """A square that moves, its upper left corner at x, y."""
        shown = self.axes.imshow(picture, extent=(x, x + side, y + side, y), interpolation="nearest", aspect="auto")
        self._limit()
        return self.moves(shown)

    def circle(self, x: float, y: float, radius: float, color: str, **style: Any) -> Any:
        from matplotlib.patches import Circle

        return self.axes.add_patch(Circle((x, y), radius, fill=False, edgecolor=color, **style))

    def frame(self) -> Image.Image:
        """Everything as it stands now, RGB."""
        with _quiet():
            if self._still is None:
                self.canvas.draw()
                self._still = self.canvas.copy_from_bbox(self.canvas.figure.bbox)
            self.canvas.restore_region(self._still)
            for artist in self.moving:
                self.axes.draw_artist(artist)
        size = self.canvas.get_width_height()
        return Image.frombuffer("RGBA", size, self.canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Names may hold characters that the font lacks: a box stands for them, and nobody is warned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def shorten(words: str, length: int) -> str:
    return words if len(words) <= length else words[: length - 1] + "…"
