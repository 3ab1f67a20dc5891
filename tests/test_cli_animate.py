"""`roteq animate`, and the films behind it."""

import base64
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import nn

from roteq.app import animate as animating
from roteq.app.album import Album
from roteq.app.animate import animate, check_place, film_pieces, format_of
from roteq.app.drawing import Maps, draw
from roteq.app.explorer import Explorer
from roteq.app.rings import picture_of
from roteq.auditing.loading import as_subject
from roteq.errors import RoteqError, UsageError
from roteq.nn import LiftingConv2d, VectorHead

Roteq = Callable[..., tuple[int, str, str]]
CROP = 16
OPTIONS = {"normalize": "unit", "size": CROP, "resize": 0, "classes": ("left", "right")}
GIVEN = ("--normalize", "unit", "--size", CROP, "--resize", 0, "--classes", "left,right", "--device", "cpu", "--trust")

MINE = """
import torch
from torch import nn

class Sides(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = x + 0 * self.see(x).mean((1, 2, 3), keepdim=True)
        return torch.stack([x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3))], 1) * 20

def sides():
    torch.manual_seed(0)
    return Sides()

def fails():
    def ask(x): raise ValueError("not today")
    return ask
def later():
    times = []
    def ask(x):
        times.append(1)
        if len(times) > 20:
            raise ValueError("not for long")
        return x.mean((2, 3))[:, :2]
    return ask
"""


class Sides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3))], 1) * 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pixels = np.random.default_rng(0).integers(40, 90, (24, 24, 3), dtype=np.uint8)
    pixels[:, :12] += 120
    Image.fromarray(pixels).save(tmp_path / "cells.png")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames(path: Any) -> list[Image.Image]:
    found = []
    with Image.open(path) as image:
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            found.append(image.convert("RGB"))
    return found


def test_a_gif_turns_and_its_answers_vary(place: Path) -> None:
    path = animate(Sides(), place / "cells.png", place / "new" / "turn.gif", step=45, **OPTIONS)
    found = frames(path)
    assert len(found) == 8 and found[0].size == (720, 480)
    said = [one.crop((440, 60, 720, 120)) for one in found]  # the decision
    assert ImageChops.difference(said[0], said[4]).getbbox() is not None  # the other side
    explorer, id = opened(place)
    drawn = draw(explorer, id, 90)
    assert np.abs(np.asarray(found[2], dtype=int) - np.asarray(drawn)).mean() < 2  # frame 2 is that at 90 degrees


def opened(place: Path, network: nn.Module | None = None) -> tuple[Explorer, str]:
    album = Album()
    id = album.add((place / "cells.png").read_bytes(), "cells.png").id
    return Explorer([as_subject(network or Sides(), name="Sides", **OPTIONS)], album), id


def test_webp_and_mp4_have_as_many_frames(place: Path) -> None:
    av = pytest.importorskip("av")
    for name in ("turn.webp", "turn.mp4"):
        animate(Sides(), place / "cells.png", name, step=60, width=321, **OPTIONS)
    assert len(frames(place / "turn.webp")) == 6
    with av.open("turn.mp4") as film:
        assert sum(1 for _ in film.decode(video=0)) == 6


def test_a_png_is_the_frame_at_an_angle(place: Path) -> None:
    path = animate(Sides(), place / "cells.png", "at.png", degrees=37, **OPTIONS)
    explorer, id = opened(place)
    assert frames(path)[0].tobytes() == draw(explorer, id, 37).tobytes()
    assert frames(path)[0].tobytes() != draw(explorer, id, 38).tobytes()


def test_the_circle_has_72_frames_made_in_pieces(place: Path) -> None:
    explorer, id = opened(place)
    *pieces, last = film_pieces(explorer, id, format="gif", width=320)
    assert isinstance(last, bytes) and len(frames(io.BytesIO(last))) == 72
    assert len(pieces) >= 72 + 72 and set(pieces) == {None}


def test_a_film_that_nobody_waits_for_ends(place: Path) -> None:
    before = threading.active_count()
    explorer, id = opened(place)
    pieces = film_pieces(explorer, id, format="gif", step=15, width=320)
    for _ in range(80):
        next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_a_failing_encoder_is_an_error_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> bytes:
        raise RoteqError("the disk is full")

    monkeypatch.setattr(animating, "encode", broken)
    with pytest.raises(RoteqError, match="the disk is full"):
        animate(Sides(), place / "cells.png", "turn.gif", step=15, width=320, **OPTIONS)
    assert not (place / "turn.gif").exists()


def test_models_of_one_name_are_counted_and_a_picture_needs_no_file(place: Path) -> None:
    with Image.open(place / "cells.png") as image:
        path = animate([Sides(), Sides()], image, "two.png", **OPTIONS)
    assert frames(path)[0].size == (1000, 480)


class Equivariant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = LiftingConv2d(3, 2, 5, group="C4")
        self.head = VectorHead(2, 2, group="C4")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lift(x).relu())


def test_the_ring_of_a_layer_turns_as_one(place: Path) -> None:
    torch.manual_seed(0)
    explorer, id = opened(place, Equivariant())
    upright, turned = (draw(explorer, id, angle, step=90, layer="lift", feature=1) for angle in (0, 90))
    assert upright.size == (720, 780)
    ring = (440, 488, 440 + 256, 488 + 256)
    first, second = (np.asarray(one.crop(ring), dtype=int) for one in (upright, turned))
    # the maps, and the picture in their middle, stand where they should: only the mark does not turn with them
    assert np.mean(np.abs(np.rot90(first) - second).max(2) > 60) < 0.05
    assert np.mean(np.abs(first - second).max(2) > 60) > 0.1
    with pytest.raises(UsageError, match="layer: no layer 'lit' with maps; did you mean 'lift'"):
        draw(explorer, id, layer="lit")
    with pytest.raises(UsageError, match="feature: expected 0 to 1 for lift, got 99"):
        draw(explorer, id, layer="lift", feature=99)


def test_a_plain_network_beside_it_is_read_in_blocks_of_the_same_group(place: Path) -> None:
    album = Album()
    id = album.add((place / "cells.png").read_bytes(), "cells.png").id
    plain = nn.Sequential(OrderedDict(lift=nn.Conv2d(3, 8, 5), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    networks = {"equivariant": Equivariant(), "plain": plain, "function": lambda x: x.mean((2, 3))}
    options = {key: value for key, value in OPTIONS.items() if key != "classes"}
    explorer = Explorer([as_subject(one, name=name, **options) for name, one in networks.items()], album)
    maps = Maps(explorer, id, False, (0, 1, 2), "lift", 1)
    *_, found = _all(maps.at(90))
    assert [one and (one["group"], one["feature"]) for one in found] == [("C4", 1), ("C4", 1), None]
    assert draw(explorer, id, 90, step=90, layer="lift").size == (1280, 780)


def _all(pieces: Generator[None, None, list]) -> Iterator[object]:
    yield (yield from pieces)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": 7}, "step: expected whole degrees that divide 360, such as 5, 10 or 15, got 7"),
        ({"seconds": 0.0}, "seconds: expected 0.5 to 120, got 0"),
        ({"theme": "drak"}, "did you mean 'dark'"),
        ({"width": 3}, "width: expected 320 to 4096"),
    ],
)
def test_wrong_numbers_are_said(place: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        animate(Sides(), place / "cells.png", "turn.gif", **OPTIONS, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="models: expected 1 to 4, got 5"):
        animate([Sides()] * 5, place / "cells.png", "turn.gif", **OPTIONS)


def test_the_ending_names_the_format() -> None:
    assert [format_of(Path(name)) for name in ("a.GIF", "b.webp", "c.mp4", "d.png")] == ["gif", "webp", "mp4", "png"]
    with pytest.raises(UsageError, match=r"should end in one of .gif, .webp, .mp4, .png; did you mean '.mp4'"):
        format_of(Path("a.mp5"))
    with pytest.raises(UsageError, match="format: unknown 'gfi'; did you mean 'gif'"):
        next(iter(film_pieces(None, "0", format="gfi")))  # type: ignore[arg-type]


def test_a_place_for_a_file_is_needed(place: Path) -> None:
    (place / "taken.gif").mkdir()
    with pytest.raises(UsageError, match=r"expected the path of a file, got '.*taken\.gif'"):
        check_place(place / "taken.gif")
    with pytest.raises(RoteqError, match="no file can be written into"):
        check_place(place / "cells.png" / "turn.gif")

    def asked(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked before it was known that nothing can be written")

    with pytest.raises(UsageError, match="path: expected the path of a file"):
        animate(asked, place / "cells.png", place / "taken.gif", **OPTIONS)


# The command.


def test_the_command_says_what_it_wrote(roteq: Roteq, place: Path) -> None:
    call = ("animate", "mine.py:sides", "cells.png", "turn.gif", "--step", 72, *GIVEN)
    code, out, err = roteq(*call)
    assert code == 0, err
    assert "Written: turn.gif" in out and "720 x 480" in out and "5 frames" in out
    assert len(frames(place / "turn.gif")) == 5
    code, out, err = roteq(*call, "--json", "--theme", "dark", "--mirror", "--width", 360)
    assert code == 0, err
    told = json.loads(out)
    size = (place / "turn.gif").stat().st_size
    expected = {"path": "turn.gif", "bytes": size, "width": 360, "height": 240, "frames": 5, "seconds": 6.0}
    assert told == expected


def test_one_frame(roteq: Roteq, place: Path) -> None:
    code, out, err = roteq("animate", "mine.py:sides", "cells.png", "at.png", "--angle", 37, "--layer", "see", *GIVEN)
    assert code == 0, err
    assert "at.png" in out and "1 frame" in out and frames(place / "at.png")[0].size == (720, 780)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mine.py:sides", "cells.png"], 2, "expected MODEL... IMAGE OUT"),
        (["mine.py:sides", "none.png", "turn.gif"], 2, "IMAGE: none.png: no such file"),
        (["mine.py:sides", ".", "turn.gif"], 2, "IMAGE: .: a folder; give one of its images"),
        (["mine.py:sides", "mine.py", "turn.gif"], 1, "a text file, not an image"),
        (["mine.py:sides", "broken.png", "turn.gif"], 1, "broken.png"),
        (["mine.py:sides", "cells.png", "turn.avi"], 2, "OUT: 'turn.avi' should end in one of .gif"),
        (["mine.py:sides", "cells.png", "taken.gif"], 2, "OUT: expected the path of a file"),
        (["mine.py:sides", "cells.png", "cells.png/turn.gif"], 1, "OUT: cells.png/turn.gif: no file can be written"),
        (["mine.py:fails", "cells.png", "turn.gif"], 1, "not today"),
        (["mine.py:later", "cells.png", "turn.gif"], 1, "not for long"),
        (
            ["mine.py:sides", "cells.png", "turn.gif", "--layer", "sea"],
            2,
            "--layer: no layer 'sea' with maps; did you mean 'see'",
        ),
        (
            ["mine.py:sides", "cells.png", "turn.gif", "--layer", "see", "--feature", "7"],
            2,
            "--feature: expected 0 to 0 for see, got 7",
        ),
        (
            ["mine.py:sides", "cells.png", "turn.gif", "--step", "7"],
            2,
            "--step: expected whole degrees that divide 360",
        ),
        (
            ["mine.py:sides", "cells.png", "turn.gif", "--theme", "drak"],
            2,
            "--theme: unknown 'drak'; did you mean 'dark'",
        ),
        (["mine.py:sides", "cells.png", "turn.gif", "--angle", "9"], 2, "--angle: only for one frame, a .png"),
        (["nowhere.onnx", "cells.png", "turn.gif"], 2, "nowhere.onnx: no such file"),
        (["mine.py:sides", "cells.png", "turn.gif", "--size", "x"], 2, "--size: expected the height and width"),
    ],
)
def test_wrong_calls_are_one_sentence_and_leave_no_file(
    roteq: Roteq, place: Path, arguments: list[str], code: int, words: str
) -> None:
    (place / "taken.gif").mkdir()
    (place / "broken.png").write_bytes((place / "cells.png").read_bytes()[:200])
    before = sorted(path for path in place.rglob("*") if "__pycache__" not in path.parts)
    more = GIVEN if "--size" not in arguments else GIVEN[:2]
    found, out, err = roteq("animate", *arguments, *more)
    assert found == code, err
    assert (
        words in err.replace("\n", " ")
        and sum(line.startswith("Error:") for line in err.splitlines()) == 1
        and out == ""
    )
    assert sorted(path for path in place.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_file_that_is_there_stays_when_a_model_fails(roteq: Roteq, place: Path) -> None:
    (place / "turn.gif").write_bytes(b"mine")
    code, _, _ = roteq("animate", "mine.py:later", "cells.png", "turn.gif", *GIVEN)
    assert code == 1 and (place / "turn.gif").read_bytes() == b"mine"


def test_help_shows_an_example(roteq: Roteq) -> None:
    code, out, _ = roteq("animate", "--help")
    assert code == 0 and "Example:" in out and "turn.gif" in out and "--layer" in out


def test_a_picture_of_the_ring_is_read_from_its_address() -> None:
    file = io.BytesIO()
    Image.new("L", (3, 2), 7).save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    assert picture_of(address).size == (3, 2) and picture_of(address).getpixel((0, 0)) == (7, 7, 7)
