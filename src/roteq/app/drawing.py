"""One frame for slides and papers: the picture turned, and beside it what each model says of it, all the way round."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from PIL import Image

from ..errors import RoteqError, UsageError, nearest
from .column import HEIGHT, Column
from .course import Course, gather
from .explorer import STEP, Explorer
from .rings import Wheel, law
from .sheet import Sheet, colours
from .window import Sight, Window

LEFT, COLUMN, RING = 440, 280, 300  # px: the picture, each model, the ring below


class Scene:
    """Draws any angle of one image: `frame(degrees)`, some 20 ms each.

    numbers: which models they are, for their colours. rings: for each model what `inside` finds upright, or None.
    width: of the frame in pixels, whose height follows.
    """

    def __init__(
        self,
        sight: Sight,
        courses: Sequence[Course],
        numbers: Sequence[int],
        theme: str = "light",
        width: int | None = None,
        rings: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        from matplotlib import rc_context

        from ..report.svg import RC

        size = (LEFT + COLUMN * len(courses), HEIGHT + (RING if rings else 0))
        with rc_context(RC):
            self.sheet, self.mirror = Sheet(size, theme, width), sight.mirror
            inks = [self.sheet.look[f"c{number}"] for number in numbers]
            self.colours = (*(self.sheet.look[name] for name in ("paper", "ink", "soft", "line", "stop")), *inks)
            self.window = Window(self.sheet, sight, courses, inks)
            places = [LEFT + COLUMN * i for i in range(len(courses))]
            self.columns = [Column(self.sheet, *one) for one in zip(courses, inks, places, strict=True)]
            self.wheels = [
                None if found is None else Wheel(self.sheet, found, x, HEIGHT + 8)
                for found, x in zip(rings or (), places, strict=False)
            ]
            self.law = self.sheet.moves(self.sheet.text(28, HEIGHT + 60, "", 9, linespacing=1.5))

    def frame(self, degrees: int, rings: Sequence[Mapping[str, Any] | None] | None = None) -> Image.Image:
        """The frame at that angle, RGB. rings: what `inside` finds at it."""
        self.window.turn(degrees)
        for column in self.columns:
            column.show(degrees)
        for wheel, found in zip(self.wheels, rings or (), strict=False):
            if wheel is not None and found is not None:
                wheel.show(found)
        first = next((found for found in rings or () if found is not None), None)
        self.law.set_text("" if first is None else law(degrees, self.mirror, first["error"]))
        return self.sheet.frame()


class Maps:
    """The maps of one feature at any angle, of each model that has the layer; of one that has fewer features its last.
    Raises: UsageError where no model has the layer or the feature."""

    def __init__(
        self, explorer: Explorer, id: str, mirror: bool, numbers: Sequence[int], layer: str, feature: int
    ) -> None:
        from .inside import layers

        self.explorer, self.look, self.layer = explorer, (id, mirror), layer
        networks = explorer.networks
        like = next((one for one in networks if any(info.representation != "plain" for info in layers(one))), None)
        shown = [layers(networks[number], like) for number in numbers]
        found = [next((info.features for info in infos if info.path == layer), 0) for infos in shown]
        if not any(found):
            names = [info.path for infos in shown for info in infos]
            hint = nearest(layer, names) if names else "these models show none"
            raise UsageError(f"layer: no layer {layer!r} with maps; {hint}")
        if not 0 <= feature < max(found):
            raise UsageError(f"feature: expected 0 to {max(found) - 1} for {layer}, got {feature}")
        self.features = [
            (number, min(feature, most - 1) if most else None) for number, most in zip(numbers, found, strict=True)
        ]

    def at(self, degrees: int) -> Generator[None, None, list[Mapping[str, Any] | None]]:
        """What `inside` finds, a model at a time."""
        from .inside import inside

        (id, mirror), found = self.look, list[Mapping[str, Any] | None]()
        for number, feature in self.features:
            network = self.explorer.networks[number]
            look = (network, self.explorer.album, id, degrees, mirror, self.layer)
            found.append(None if feature is None else inside(*look, feature))
            yield
        return found


def setting(
    explorer: Explorer,
    id: str,
    mirror: bool = False,
    models: Sequence[int] | None = None,
    theme: str = "light",
    step: int = STEP,
    *,
    others: Sequence[int] = (),
    layer: str | None = None,
    feature: int = 0,
    width: int | None = None,
    strict: bool = False,
) -> Generator[None, None, tuple[Scene, Maps | None]]:
    """Ask the models all round, every `step` degrees and at `others`; yields after pieces of a few ten milliseconds.

    models: places among those of the explorer; None: all. strict: a model that fails ends it; else its error stands in
    its place. Raises: UsageError for a wrong call.
    """
    if not 1 <= step <= 180 or 360 % step:
        raise UsageError(f"step: expected whole degrees that divide 360, such as 5, 10 or 15, got {step}")
    colours(theme)
    numbers = tuple(range(len(explorer.networks))) if models is None else tuple(models)
    maps = None if layer is None else Maps(explorer, id, mirror, numbers, layer, feature)
    courses: list[Course] = []
    for number in numbers:
        for found in gather(explorer, id, mirror, number, step, others):
            if found is not None:
                courses.append(found)
            yield
    if strict and (failed := next((course.error for course in courses if course.error), None)):
        raise RoteqError(failed)
    rings = (yield from maps.at(0)) if maps else None
    about = explorer.image(id)
    sight = Sight(explorer.stage(id), about["name"], about["truth"], [about["seen"][i] for i in numbers], mirror)
    return Scene(sight, courses, numbers, theme, width, rings), maps


def draw(
    explorer: Explorer,
    id: str,
    degrees: int = 0,
    mirror: bool = False,
    models: Sequence[int] | None = None,
    theme: str = "light",
    *,
    step: int = STEP,
    **options: Any,
) -> Image.Image:
    """One frame, RGB: the picture mirrored, if at all, and turned, and what the models say of it all the way round.

    options: layer and feature for the ring of maps below, width in pixels, strict.
    """
    drawn = setting(explorer, id, mirror, models, theme, step, others=(degrees % 360,), **options)
    scene, maps = _result(drawn)
    return scene.frame(degrees % 360, _result(maps.at(degrees % 360)) if maps else None)


def _result(pieces: Generator[None, None, Any]) -> Any:
    """All pieces at once."""
    while True:
        try:
            next(pieces)
        except StopIteration as ended:
            return ended.value
