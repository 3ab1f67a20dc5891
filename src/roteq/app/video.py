"""Frames to a file that any slide shows: GIF and WebP by Pillow, MP4 by PyAV. Frames come one after the other and are
never all in memory as they were drawn."""

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from ..errors import RoteqError, UsageError, nearest

FORMATS = ("gif", "webp", "mp4")
COLOURS = 255  # of a GIF; the last one is kept for what did not change
KEPT = 12  # of them exactly as they are
NEAR = 8  # of 255
SAMPLE = 6  # frames whose colours make the palette
QUALITY = 85  # of WebP


def encode(
    frames: Iterable[Image.Image], format: str, seconds: float, count: int, colours: Iterable[str] = ()
) -> bytes:
    """An endless animation (MP4: a film) of `count` RGB frames of one size, which takes so many seconds.

    colours: codes such as "#b3151b" of small things, which a GIF keeps although its palette is made of large areas.
    Raises: UsageError for another format; RoteqError where MP4 needs what is not installed.
    """
    if format not in FORMATS:
        raise UsageError(f"format: unknown {format!r}; {nearest(format, FORMATS)}")
    if format == "gif":
        return _gif(iter(frames), seconds, count, [ImageColor.getrgb(code) for code in colours])
    return {"webp": _webp, "mp4": _mp4}[format](iter(frames), seconds, count)


def check_format(format: str) -> None:
    """Raises: as `encode`, before any frame is drawn."""
    if format == "mp4":
        _av()


def measured(data: bytes, format: str) -> tuple[int, int, int]:
    """Width, height and frames of what was encoded, or of a PNG."""
    if format != "mp4":
        with Image.open(io.BytesIO(data)) as image:
            return *image.size, getattr(image, "n_frames", 1)
    with _av().open(io.BytesIO(data)) as film:
        stream = film.streams.video[0]
        return stream.width, stream.height, stream.frames


def _durations(seconds: float, count: int, unit: int) -> list[int]:
    """Milliseconds of each frame, whole units, so that together they last as long as they should.

    >>> _durations(0.25, 3, 10)
    [80, 90, 80]
    """
    ends = [round(1000 * seconds * (i + 1) / count / unit) * unit for i in range(count)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _gif(frames: Iterator[Image.Image], seconds: float, count: int, colours: Sequence[tuple[int, ...]]) -> bytes:
    """One palette for all frames and no dithering, so that nothing flickers; only what changed is written."""
    first = list(islice(frames, SAMPLE))
    palette = _palette(first, colours)
    indexed = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in chain(first, frames))
    out = io.BytesIO()
    next(indexed).save(
        out,
        format="GIF",
        save_all=True,
        append_images=indexed,
        duration=_durations(seconds, count, 10),
        loop=0,
        optimize=True,
        disposal=1,
    )
    return out.getvalue()


def _palette(frames: list[Image.Image], colours: Sequence[tuple[int, ...]]) -> Image.Image:
    """The colours of the frames. Those of large areas, paper and ink, are kept as they are, and those given too."""
    w, h = frames[0].size
    sheet = Image.new("RGB", (w, h * len(frames)))
    for i, frame in enumerate(frames):
        sheet.paste(frame, (0, i * h))
    found = sheet.getcolors(w * h * len(frames)) or []
    frequent: Any = [color for _, color in sorted(found, reverse=True)[:KEPT]]
    kept = _apart([*colours, *frequent])
    mean = sheet.quantize(COLOURS - len(kept), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette() or []
    others = np.array(mean).reshape(-1, 3)[: COLOURS - len(kept)]
    is_near = abs(others[:, None] - kept).max(2) < NEAR
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([kept, others[~is_near.any(1)]]).ravel().tolist())
    return palette


def _apart(colours: Iterable[tuple[int, ...]]) -> np.ndarray:
    """(n, 3): the first of those that are near each other. Pillow looks colours up in steps of 4, and could prefer a
    neighbour of the paper to the paper."""
    found: list[np.ndarray] = []
    for color in map(np.array, colours):
        if all(abs(color - other).max() >= NEAR for other in found):
            found.append(color)
    return np.array(found)


def _webp(frames: Iterator[Image.Image], seconds: float, count: int) -> bytes:
    out = io.BytesIO()
    durations = _durations(seconds, count, 1)
    _Reel(frames, count).save(
        out, format="WEBP", save_all=True, duration=durations, loop=0, lossless=False, quality=QUALITY, method=2
    )
    return out.getvalue()


class _Reel(Image.Image):
    """A stream of frames as the picture of several frames that Pillow's WebP writer goes through: it would keep a
    list of pictures."""

    def __init__(self, frames: Iterator[Image.Image], count: int) -> None:
        super().__init__()
        self.frames, self.n_frames, self.at = frames, count, -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame == self.at + 1:
            image = next(self.frames)
            self.im, self._mode, self._size, self.at = image.im, image.mode, image.size, frame

    def tell(self) -> int:
        return self.at


def _mp4(frames: Iterator[Image.Image], seconds: float, count: int) -> bytes:
    """H.264 in yuv420p, which every browser and slide show plays, or MPEG-4 where there is no encoder for it. It can
    start before all of it is there."""
    av = _av()
    first = next(frames)
    with tempfile.TemporaryDirectory() as folder:  # what comes first in the file is written last
        path = Path(folder) / "film.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as film:
            stream = _stream(film, av, Fraction(count / seconds).limit_denominator(1000))
            stream.width, stream.height = (side + side % 2 for side in first.size)
            stream.pix_fmt = "yuv420p"
            for image in chain([first], frames):
                film.mux(stream.encode(av.VideoFrame.from_ndarray(_even(image), format="rgb24")))
            film.mux(stream.encode())
        return path.read_bytes()


def _stream(film: Any, av: Any, rate: Fraction) -> Any:
    try:
        return film.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "medium"})
    except (av.FFmpegError, ValueError):
        stream = film.add_stream("mpeg4", rate=rate)
        stream.bit_rate = 4_000_000
        return stream


def _even(image: Image.Image) -> Any:
    """The pixels with even sides: the last row and column once more."""
    return np.pad(np.asarray(image), ((0, image.height % 2), (0, image.width % 2), (0, 0)), mode="edge")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise RoteqError("MP4 needs PyAV: pip install 'roteq[app]'; GIF and WebP work without") from None
    return av
