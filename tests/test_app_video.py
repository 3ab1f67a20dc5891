"""Frames become files that can be read again."""

import io
import sys
import weakref
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from roteq.app import video
from roteq.app.video import FORMATS, SAMPLE, check_format, encode
from roteq.errors import RoteqError, UsageError

SIZE, COUNT = (101, 60), 9


def frames(count: int = COUNT):
    """A square that moves over a paper that never changes, one frame at a time."""
    for i in range(count):
        frame = Image.new("RGB", SIZE, (254, 255, 253))
        frame.paste((0, 114, 178), (5 * i, 20, 5 * i + 12, 40))
        yield frame


def decoded(data: bytes, format: str) -> list[np.ndarray]:
    if format == "mp4":
        av = pytest.importorskip("av")
        with av.open(io.BytesIO(data)) as film:
            return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    image, found = Image.open(io.BytesIO(data)), []
    for i in range(image.n_frames):
        image.seek(i)
        found.append(np.asarray(image.convert("RGB")))
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_every_frame_comes_back(format: str) -> None:
    found = decoded(encode(frames(), format, 0.9, COUNT), format)
    assert len(found) == COUNT
    for got, drawn in zip(found, frames(), strict=True):
        h, w = np.asarray(drawn).shape[:2]
        assert got.shape[0] - h in (0, h % 2) and got.shape[1] - w in (0, w % 2)
        assert np.abs(got[:h, :w].astype(int) - np.asarray(drawn)).mean() < (0.1 if format == "gif" else 4)
    assert all((a != b).any() for a, b in pairwise(found))


def test_the_paper_of_a_gif_does_not_flicker() -> None:
    def shaded():
        """With a picture on it that is nearly as white as the paper."""
        shades = np.random.default_rng(0).integers(246, 256, (15, 40, 3), dtype=np.uint8)
        for frame in frames():
            frame.paste(Image.fromarray(shades), (50, 42))
            frame.paste((252, 252, 252), (10, 45, 40, 55))
            yield frame

    found = decoded(encode(shaded(), "gif", 1.0, COUNT), "gif")
    assert {tuple(frame[2, 2]) for frame in found} == {(254, 255, 253)}
    assert {tuple(frame[30, 5 * i + 4]) for i, frame in enumerate(found)} == {(0, 114, 178)}


def test_a_gif_keeps_the_colours_of_small_things_that_come_late() -> None:
    """The palette is made of the first frames, in which they are not."""

    def late():
        for i, frame in enumerate(frames(SAMPLE + 2)):
            frame.paste((179, 21, 27), (90, 50, 92, 52) if i > SAMPLE else (0, 0, 0, 0))
            yield frame

    for colours, expected in (((), False), (("#b3151b",), True)):
        found = decoded(encode(late(), "gif", 1.0, SAMPLE + 2, colours), "gif")
        assert (tuple(found[-1][51, 91]) == (179, 21, 27)) is expected


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_an_animation_repeats_for_ever_and_lasts_as_long_as_it_should(format: str) -> None:
    image = Image.open(io.BytesIO(encode(frames(), format, 0.75, COUNT)))
    durations = []
    for i in range(image.n_frames):
        image.seek(i)
        image.load()
        durations.append(image.info["duration"])
    assert image.info["loop"] == 0
    assert sum(durations) == pytest.approx(750, abs=5)


def test_a_film_is_what_slides_and_browsers_play() -> None:
    av = pytest.importorskip("av")
    data = encode(frames(), "mp4", 0.9, COUNT)
    with av.open(io.BytesIO(data)) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.codec_context.name in ("h264", "mpeg4")
        assert (stream.width, stream.height) == (102, 60)
        assert float(film.duration) / 1e6 == pytest.approx(0.9, abs=0.02)
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # it can start before it is all there


def test_without_h264_a_film_is_mpeg4(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")

    class Container:
        def add_stream(self, name: str, **options: object) -> str:
            if name == "libx264":
                raise av.codec.codec.UnknownCodecError(name)
            return Stream(name)

    class Stream:
        def __init__(self, name: str) -> None:
            self.name, self.bit_rate = name, 0

    assert video._stream(Container(), av, 12).name == "mpeg4"


def test_frames_are_not_all_kept() -> None:
    """When a frame is asked for, those long before it are gone."""
    for format in ("webp", "mp4"):
        alive: list[weakref.ref] = []
        most = 0

        def counted(alive=alive):
            nonlocal most
            for frame in frames(30):
                alive.append(weakref.ref(frame))
                most = max(most, sum(one() is not None for one in alive))
                yield frame

        encode(counted(), format, 1.0, 30)
        assert len(alive) == 30 and most <= 5, format


def test_an_unknown_format_and_a_missing_library_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="format: unknown 'mp5'; did you mean 'mp4'"):
        encode(frames(), "mp5", 1.0, COUNT)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RoteqError, match=r"MP4 needs PyAV: pip install 'roteq\[app\]'; GIF and WebP work without"):
        check_format("mp4")
    check_format("gif")
    assert len(decoded(encode(frames(), "gif", 1.0, COUNT), "gif")) == COUNT
