"""What one model says: its decision, bars, and a polar plot over the whole circle with a hand."""

import textwrap
from typing import Any

from .course import Course
from .networks import Answer
from .rings import upwards
from .sheet import Sheet, shorten

WIDTH, HEIGHT = 256, 480  # px
BAR, BARS, ROW = 100, 138, 22  # length of a bar of 1, y of the first, px between two
POLAR, POLE = 90, (128, 348)  # radius and centre of the polar plot


class Column:
    """x: of its left side."""

    def __init__(self, sheet: Sheet, course: Course, ink: str, x: float) -> None:
        self.sheet, self.course, self.ink, self.x = sheet, course, ink, x
        self.pole = x + POLE[0], POLE[1]
        self.bars: list[Any] = []
        self.numbers: list[Any] = []
        sheet.axes.plot([x, x + WIDTH], [22, 22], color=ink, linewidth=3, solid_capstyle="butt")
        sheet.text(x, 42, shorten(course.name, 28), 10, "ink", weight="bold")
        if course.error is not None:
            for line, words in enumerate(textwrap.wrap(course.error, 36)[:12]):
                sheet.text(x, 76 + 19 * line, words, 9, "stop")
            return
        self.said = sheet.moves(sheet.text(x, 76, "", 14, "ink", weight="bold"))
        self.beside = sheet.moves(sheet.text(x, 103, "", 9, "stop"))
        for row, index in enumerate(course.rows):
            self._row(BARS + ROW * row, "similarity" if course.kind == "embedding" else course.label(index))
        self._polar()
        self.hand = sheet.moves(sheet.axes.plot([], [], color=sheet.look["ink"], linewidth=2.0)[0])
        edge = sheet.look["paper"]
        self.dot = sheet.moves(sheet.axes.plot([], [], "o", color=ink, markersize=7, markeredgecolor=edge)[0])

    def show(self, degrees: int) -> None:
        course = self.course
        if course.error is not None:
            return
        answer = course.answers.get(degrees)
        said = "no answer at this angle" if answer is None else course.decided(answer)
        self.said.set(text=shorten(said, 29), fontsize=14 if len(said) <= 20 else 10)
        flipped = answer is not None and course.kind != "map" and answer.changed and course.upright is not None
        was = f"flip: upright {course.decided(course.upright)}" if flipped and course.upright else ""
        self.beside.set_text(shorten(was, 35))
        ends = [] if answer is None else [self._point(answer)]
        self.dot.set_data([x for x, _ in ends], [y for _, y in ends])
        line = [self.pole, *ends] if ends else []
        self.hand.set_data([x for x, _ in line], [y for _, y in line])
        for index, bar, number in zip(course.rows, self.bars, self.numbers, strict=True):
            value = 0.0 if answer is None else answer.values.get(index, 0.0)
            bar.set_width(BAR * max(0.0, value))
            bar.set_alpha(1.0 if answer is None or answer.decision in (None, index) else 0.5)
            number.set_text("" if answer is None else course.shown(answer, index))

    def _row(self, y: float, name: str) -> None:
        sheet = self.sheet
        sheet.text(self.x, y, shorten(name, 14), 9)
        self._bar(y, BAR, sheet.look["line"])
        self.bars.append(sheet.moves(self._bar(y, 0, self.ink)))
        self.numbers.append(sheet.moves(sheet.text(self.x + WIDTH, y, "", 9, "ink", ha="right")))

    def _bar(self, y: float, length: float, color: str) -> Any:
        from matplotlib.patches import Rectangle

        return self.sheet.axes.add_patch(Rectangle((self.x + 104, y - 5), length, 10, color=color, linewidth=0))

    def _polar(self) -> None:
        """The value followed against the angle; rings at 0.5 and 1, dots at the exact angles."""
        (x, y), sheet, course = self.pole, self.sheet, self.course
        line = sheet.look["line"]
        for share in (0.5, 1.0):
            sheet.circle(x, y, POLAR * share, line, linewidth=1)
        for degrees in range(0, 360, 45):
            u, v = upwards(degrees)
            sheet.axes.plot([x, x + POLAR * u], [y, y + POLAR * v], color=line, linewidth=0.7)
        sheet.text(x, y - POLAR - 10, "0°", 8, ha="center")
        points = [self._point(answer) for answer in course.answers.values()]
        if len(points) > 2:
            sheet.axes.fill(*zip(*points, strict=True), facecolor=self.ink, alpha=0.14, linewidth=0)
            sheet.axes.plot(*zip(*points, points[0], strict=True), color=self.ink, linewidth=1.7)
        exact = [point for answer, point in zip(course.answers.values(), points, strict=True) if answer.exact]
        sheet.axes.plot(*zip(*exact, strict=True), "o", color=self.ink, markersize=4.5)
        for row, words in enumerate((course.follows(), course.counted())):
            sheet.text(x, HEIGHT - 28 + 16 * row, shorten(words, 42), 8, ha="center")

    def _point(self, answer: Answer) -> tuple[float, float]:
        (u, v), radius = upwards(answer.degrees), POLAR * self.course.radius(answer)
        return self.pole[0] + radius * u, self.pole[1] + radius * v
