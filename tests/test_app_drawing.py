"""One frame: what is drawn is what the models say."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import nn

from roteq.app.album import Album
from roteq.app.column import BAR, HEIGHT, POLAR, POLE
from roteq.app.course import Course, gather
from roteq.app.drawing import COLUMN, LEFT, Scene, draw
from roteq.app.explorer import Explorer
from roteq.app.networks import Answer
from roteq.app.rings import composed, places, upwards
from roteq.app.sheet import THEMES, colours
from roteq.app.window import CENTRE, RADIUS, Sight
from roteq.auditing.loading import as_subject
from roteq.errors import UsageError

CROP, SIDE = 16, 24
RAMP = torch.linspace(0, 1, CROP)  # a map that looks at the place


class Sides(nn.Module):
    """Class 0: brighter on the left; 1: on the right; 2: the mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x[..., : CROP // 2].mean((1, 2, 3)), x[..., CROP // 2 :].mean((1, 2, 3))
        return torch.stack([left, right, x.mean((1, 2, 3))], 1) * 12


class Mean(nn.Module):
    """Of no direction."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * 4


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such layer today")


def picture() -> Image.Image:
    """Bright on the left, so that `Sides` changes its mind."""
    pixels = np.random.default_rng(0).integers(40, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:, : SIDE // 2] += 120
    return Image.fromarray(pixels)


def pixel(frame: Image.Image, at: tuple[int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*frame.getpixel(at))  # type: ignore[misc]


def explorer_of(**networks: nn.Module) -> tuple[Explorer, str]:
    file, album = io.BytesIO(), Album()
    picture().save(file, "PNG")
    entry = album.add(file.getvalue(), "cells.png")
    options = {"normalize": "unit", "size": CROP, "resize": 0, "classes": ("left", "right", "both")}
    subjects = [as_subject(network, name=name, **options) for name, network in networks.items()]
    return Explorer(subjects, album), entry.id


def course_of(explorer: Explorer, id: str, model: int = 0, step: int = 45, mirror: bool = False) -> Course:
    *_, course = gather(explorer, id, mirror, model, step)
    assert isinstance(course, Course)
    return course


@pytest.fixture(scope="module")
def scene() -> tuple[Explorer, str, Scene]:
    explorer, id = explorer_of(sides=Sides(), mean=Mean())
    about = explorer.image(id)
    sight = Sight(explorer.stage(id), about["name"], about["truth"], about["seen"])
    courses = [course_of(explorer, id, model) for model in (0, 1)]
    return explorer, id, Scene(sight, courses, (0, 1))


@pytest.mark.parametrize("degrees", [0, 45, 180])
def test_a_bar_is_as_long_as_the_probability(scene, degrees: int) -> None:
    explorer, id, drawn = scene
    drawn.frame(degrees)
    for model, column in enumerate(drawn.columns):
        values = explorer.answer(model, id, degrees).values
        assert len(column.bars) == 3 and sorted(column.course.rows) == [0, 1, 2]
        for index, bar in zip(column.course.rows, column.bars, strict=True):
            assert bar.get_width() == pytest.approx(BAR * values[index])


@pytest.mark.parametrize("degrees", [0, 45, 270])
def test_the_hand_ends_at_the_probability_of_the_upright_decision(scene, degrees: int) -> None:
    explorer, id, drawn = scene
    drawn.frame(degrees)
    x, y = (float(v[0]) for v in drawn.columns[0].dot.get_data())
    value = explorer.answer(0, id, degrees).values[0]  # the picture is bright on the left: class 0 upright
    t = math.radians(degrees)  # counter-clockwise from the top
    expected = (LEFT + POLE[0] - POLAR * value * math.sin(t), POLE[1] - POLAR * value * math.cos(t))
    assert (x, y) == pytest.approx(expected)


def test_the_rows_stay_and_the_decision_changes(scene) -> None:
    drawn = scene[2]
    said = []
    for degrees in (0, 180):
        drawn.frame(degrees)
        said.append((drawn.columns[0].said.get_text().split()[0], drawn.columns[0].beside.get_text()))
    assert said[0] == ("left", "") and said[1][0] == "right" and said[1][1].startswith("flip: upright left")
    drawn.frame(180)
    assert drawn.columns[1].beside.get_text() == ""


def test_the_summary_keeps_exact_and_interpolated_flips_apart(scene) -> None:
    course = scene[2].columns[0].course
    exact = [a.degrees for a in course.flips() if a.exact]
    assert 180 in exact and 0 not in exact
    k, n = course.summary["exact_flips"]
    assert course.counted() == f"flips: {k} of {n} exact, {course.summary['interpolated_flips'][0]} of 4 interpolated"
    assert (k, n) == (len(exact), 3)


def test_the_picture_turns_counter_clockwise_in_its_window(scene) -> None:
    drawn = scene[2]
    at = {"left": (CENTRE[0] - RADIUS // 2, CENTRE[1]), "down": (CENTRE[0], CENTRE[1] + RADIUS // 2)}
    bright = {}
    for degrees in (0, 90):
        frame = drawn.frame(degrees).convert("L")
        bright[degrees] = {name: np.asarray(frame)[y - 9 : y + 9, x - 9 : x + 9].mean() for name, (x, y) in at.items()}
    assert bright[0]["left"] > bright[0]["down"] - 40 and bright[0]["left"] > 150
    assert bright[90]["down"] > 150 > bright[90]["left"] - 60  # left goes down


def test_exact_turns_permute_the_pixels_of_the_window(scene) -> None:
    drawn = scene[2]
    radius = RADIUS // 2  # well inside the window, but the outline stays: it is square and keeps its place too
    box = (CENTRE[0] - radius, CENTRE[1] - radius, CENTRE[0] + radius, CENTRE[1] + radius)
    upright, turned = (np.asarray(drawn.frame(degrees).crop(box), dtype=int) for degrees in (0, 90))
    inner = slice(20, -20)
    assert np.abs(np.rot90(upright)[inner, inner] - turned[inner, inner]).mean() < 1
    assert np.abs(upright[inner, inner] - turned[inner, inner]).mean() > 20


def test_the_size_grows_with_the_models() -> None:
    explorer, id = explorer_of(sides=Sides(), mean=Mean())
    assert draw(explorer, id, step=90).size == (LEFT + 2 * COLUMN, HEIGHT) == (1000, 480)
    assert draw(explorer, id, step=90, models=[1]).size == (LEFT + COLUMN, HEIGHT)
    assert draw(explorer, id, step=90, width=500).size == (500, 240)


def test_light_and_dark_differ_and_models_keep_their_colours() -> None:
    explorer, id = explorer_of(sides=Sides(), mean=Mean())
    line = (LEFT + COLUMN + 30, 22)  # above the second model
    for theme in ("light", "dark"):
        frame = draw(explorer, id, 45, theme=theme, step=90)
        assert pixel(frame, (2, 2)) == colours(theme)["paper"]
        assert pixel(frame, line) == colours(theme)["c1"]
        alone = draw(explorer, id, 45, models=[1], theme=theme, step=90)
        assert pixel(alone, (LEFT + 30, 22)) == colours(theme)["c1"]
    assert colours("light")["paper"] != colours("dark")["paper"]


def test_a_mirrored_picture_is_another_frame() -> None:
    explorer, id = explorer_of(sides=Sides())
    upright, mirrored = (draw(explorer, id, 0, mirror, step=90) for mirror in (False, True))
    half = [CENTRE[0] - 9 - RADIUS // 2, CENTRE[1] - 9, CENTRE[0] + 9 - RADIUS // 2, CENTRE[1] + 9]
    left = [np.asarray(frame.crop(half)).mean() for frame in (upright, mirrored)]
    assert left[0] > left[1] + 60  # the picture is bright on the left
    assert course_of(explorer, id, step=90, mirror=True).flips()[0].degrees == 0


def test_an_angle_between_the_steps_has_its_own_answer() -> None:
    explorer, id = explorer_of(sides=Sides())
    *_, course = gather(explorer, id, False, 0, 90, (37,))
    assert isinstance(course, Course) and list(course.answers) == [0, 37, 90, 180, 270]
    assert course.summary["exact_flips"][1] == 3 and course.summary["interpolated_flips"] == [0, 0]


def test_a_class_that_is_not_among_the_known_ones_is_said_to_be_smaller() -> None:
    answer = Answer(0, False, True, {3: 0.9, 7: 0.0625}, 3, 0.0)
    course = Course("many", "classes", tuple(map(str, range(99))), answer, {0: answer})
    assert course.shown(answer, 3) == "90.0 %" and course.shown(answer, 50) == "< 6.2 %"


def test_a_model_that_fails_says_so_in_its_place() -> None:
    explorer, id = explorer_of(sides=Sides(), broken=Fails())
    course = course_of(explorer, id, 1)
    assert course.error is not None and "no such layer today" in course.error
    assert draw(explorer, id, step=90).size == (1000, 480)


def test_names_that_the_font_lacks_and_formulas_are_drawn() -> None:
    explorer, id = explorer_of(sides=Sides())
    course = course_of(explorer, id)
    strange = Course("模型 $x_1$", course.kind, ("細胞", "$\\frac{", "a" * 90), course.upright, course.answers, {})
    sight = Sight(explorer.stage(id), "$" * 90, "細胞", explorer.image(id)["seen"])
    assert Scene(sight, [strange], (0,)).frame(45).size == (LEFT + COLUMN, HEIGHT)


@pytest.mark.parametrize(
    ("kind", "output", "said", "follows"),
    [
        ("embedding", lambda x: x[:, :, ::4, ::4].flatten(1) - 0.5, "similarity", "cosine similarity"),
        ("labels", lambda x: Sides()(x) - 6, "left", "probability of left"),
        ("map", lambda x: torch.stack([x[:, 0] * RAMP, 0.3 + 0 * x[:, 0]], 1), "pixels change", "share of pixels"),
    ],
)
def test_every_kind_of_answer_is_drawn(kind, output, said: str, follows: str) -> None:
    class Any(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return output(x)

    file, album = io.BytesIO(), Album()
    picture().save(file, "PNG")
    id = album.add(file.getvalue(), "cells.png").id
    explorer = Explorer([as_subject(Any(), name=kind, kind=kind, normalize="unit", size=CROP, resize=0)], album)
    course = course_of(explorer, id)
    classes = ("left", "right", "both") if kind == "labels" else course.classes
    course = Course(kind, kind, classes, course.upright, course.answers, course.summary)
    assert course.upright is not None and said in course.decided(course.upright) and follows in course.follows()
    expected = {"labels": course.upright.values[0], "map": 0.0, "embedding": 1.0}[kind]
    assert course.radius(course.upright) == pytest.approx(expected, abs=1e-5)
    assert (course.radius(course.answers[180]) > course.radius(course.upright)) is (kind == "map")
    assert course.counted()
    drawn = Scene(Sight(explorer.stage(id), "cells.png", None, explorer.image(id)["seen"]), [course], (0,))
    first, second = drawn.frame(0), drawn.frame(180)
    assert ImageChops.difference(first.crop((LEFT, 0, *first.size)), second.crop((LEFT, 0, *first.size))).getbbox()


def test_wrong_calls() -> None:
    explorer, id = explorer_of(sides=Sides())
    with pytest.raises(UsageError, match="theme: unknown 'drak'; did you mean 'dark'"):
        draw(explorer, id, theme="drak", step=90)
    with pytest.raises(UsageError, match="width: expected 320 to 4096 pixels, got 9"):
        draw(explorer, id, width=9, step=90)


def test_the_places_of_a_ring_turn_with_the_group() -> None:
    elements = [{"angle": 30.0 * r, "mirror": m} for m in (False, True) for r in range(12)]
    where = places(elements, 256)
    x, y = (np.array(where.at[k]) - 128 for k in (0, 3))
    assert x[0] == pytest.approx(0) and x[1] < 0  # at the top
    assert y == pytest.approx([x[1], 0])  # 90 degrees counter-clockwise: at the left
    far = [math.dist(a, b) for i, a in enumerate(where.at) for b in where.at[:i]]
    assert min(far) >= where.tile > 15
    assert upwards(0) == pytest.approx((0, -1))


def test_a_tile_of_the_ring_is_the_map_of_its_element() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    sprite = Image.new("RGB", (4 * 6, 6))
    for i, color in enumerate(colors):
        sprite.paste(color, (6 * i, 0, 6 * i + 6, 6))
    file = io.BytesIO()
    sprite.save(file, "PNG")
    found = {"maps": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), "tile": [6, 6]}
    where = places([{"angle": 90.0 * r, "mirror": False} for r in range(4)], 200)
    image = composed(found, where, 200, 2.0, "#ffffff")
    for color, (x, y) in zip(colors, where.at, strict=True):
        assert image.getpixel((round(2 * x), round(2 * y))) == color
    assert image.size == (400, 400) and image.getpixel((2, 2)) == (255, 255, 255)


def test_the_colours_are_those_of_the_house() -> None:
    from roteq.report.svg import LOOKS

    assert [colours("light")[f"c{i}"] for i in range(4)] == [look.color for look in LOOKS[:4]]
    assert set(THEMES) == {"light", "dark"}
