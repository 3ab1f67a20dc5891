"""The whole circle as a film: the picture turns, and what each model says of it."""

import io
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from typing import Any

from PIL import Image

from ..data.images import BadImage
from ..errors import RoteqError, UsageError, nearest
from ..files import atomic_path
from .album import Album
from .drawing import Maps, Scene, setting
from .explorer import MODELS, STEP, Explorer
from .video import FORMATS, check_format, encode, measured

SECONDS = 6.0
SHORTEST, LONGEST = 0.5, 120
AHEAD = 4  # frames that wait for the encoder
PATIENCE = 0.01  # s, while the encoder works


def film_pieces(
    explorer: Explorer,
    id: str,
    mirror: bool = False,
    models: Sequence[int] | None = None,
    theme: str = "light",
    format: str = "gif",
    *,
    degrees: int | None = None,
    step: int = STEP,
    seconds: float = SECONDS,
    layer: str | None = None,
    feature: int = 0,
    width: int | None = None,
    strict: bool = False,
) -> Iterator[bytes | None]:
    """The circle in pieces of a few ten milliseconds: None after each, and the bytes of the file at the end.

    format: "gif", "webp" or "mp4", or "png", one frame at `degrees`. A model that fails has its error in its
    place; strict: raises it. Closing the iterator early ends everything.
    """
    if format not in (*FORMATS, "png"):
        raise UsageError(f"format: unknown {format!r}; {nearest(format, (*FORMATS, 'png'))}")
    if not 1 <= step <= 180 or 360 % step:
        raise UsageError(f"step: expected whole degrees that divide 360, such as 5, 10 or 15, got {step}")
    if not SHORTEST <= seconds <= LONGEST:
        raise UsageError(f"seconds: expected {SHORTEST} to {LONGEST}, got {seconds:g}")
    check_format(format)
    others = () if degrees is None or format != "png" else (degrees % 360,)
    options: Any = {"others": others, "layer": layer, "feature": feature, "width": width, "strict": strict}
    circle = STEP if step % STEP == 0 else step  # fewer frames show as much around the circle
    scene, maps = yield from setting(explorer, id, mirror, models, theme, circle, **options)
    if format == "png":
        rings, out = (yield from maps.at(degrees or 0)) if maps else None, io.BytesIO()
        scene.frame((degrees or 0) % 360, rings).save(out, format="PNG")
        yield out.getvalue()
    else:
        yield from _filmed(scene, maps, format, seconds, step)


def _filmed(scene: Scene, maps: Maps | None, format: str, seconds: float, step: int) -> Iterator[bytes | None]:
    """Frames are drawn here and encoded meanwhile in a thread, a few behind."""
    angles, waiting = range(0, 360, step), Queue[Image.Image | None](AHEAD)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(encode, _taken(waiting, len(angles)), format, seconds, len(angles), scene.colours)
        try:
            for angle in angles:
                rings = (yield from maps.at(angle)) if maps else None
                image = scene.frame(angle, rings)
                while waiting.full() and not made.done():
                    yield from _wait()
                if made.done():  # it failed
                    break
                waiting.put(image)
                yield None
            while not made.done():
                yield from _wait()
        finally:
            _end(waiting, made)
        yield made.result()


def _wait() -> Iterator[None]:
    time.sleep(PATIENCE)
    yield None


def _taken(waiting: "Queue[Image.Image | None]", count: int) -> Iterator[Image.Image]:
    for _ in range(count):
        image = waiting.get()
        if image is None:
            raise RoteqError("film: ended early")
        yield image


def _end(waiting: "Queue[Image.Image | None]", made: "Future[bytes]") -> None:
    """Nobody waits for the encoder any more: it gets nothing else."""
    while not made.done():
        while not waiting.empty():
            waiting.get()
        waiting.put(None)
        time.sleep(PATIENCE)


def animate(
    models: Any,
    image: Any,
    path: str | Path,
    *,
    mirror: bool = False,
    step: int = STEP,
    seconds: float = SECONDS,
    theme: str = "light",
    layer: str | None = None,
    feature: int = 0,
    degrees: int = 0,
    width: int | None = None,
    corners: str = "disc",
    progress: bool = False,
    **options: Any,
) -> Path:
    """Write a picture turning all the way round, and beside it what the models say: .gif, .webp or .mp4; .png is one
    frame, at `degrees`.

    models: one, or up to four in a list, of anything that `auditing.loading.as_subject` takes; options are its own.
    image: a file, or a PIL image. step: whole degrees between two frames. seconds: of the whole turn. layer, feature: a
    ring of feature maps below each model that has the layer. width: of the frame in pixels.

    Raises: UsageError for a wrong call, RoteqError where a picture or a model fails; then there is no file.
    """
    path = Path(path)
    format_of(path)
    check_place(path)
    opened = _opened(models, image, corners, options)
    look: Any = {"mirror": mirror, "step": step, "seconds": seconds, "theme": theme, "layer": layer, "feature": feature}
    write(*opened, path, degrees=degrees, width=width, progress=progress, **look)
    return path


@dataclass(frozen=True)
class Written:
    """What a file holds. seconds: of the whole turn; None of one frame."""

    path: str
    bytes: int
    width: int
    height: int
    frames: int
    seconds: float | None


def write(
    explorer: Explorer,
    id: str,
    path: Path,
    *,
    degrees: int = 0,
    step: int = STEP,
    seconds: float = SECONDS,
    progress: bool = False,
    **options: Any,
) -> Written:
    """The film of one image, or its frame at `degrees`, as the ending of the path says. options: of `film_pieces`."""
    format = format_of(path)
    options |= {"degrees": degrees, "step": step, "seconds": seconds, "strict": True}
    pieces = film_pieces(explorer, id, format=format, **options)
    found = _shown(pieces, len(explorer.networks) * 360 // STEP + 360 // max(1, step), progress)
    with atomic_path(path) as temporary:
        temporary.write_bytes(found)
    return Written(str(path), len(found), *measured(found, format), None if format == "png" else seconds)


def _shown(pieces: Iterator[bytes | None], total: int, progress: bool) -> bytes:
    """The last piece; the bar counts the answers and the frames."""
    from ..auditing.looking import bar

    with bar(total, "turning", progress) as shown:
        for count, piece in enumerate(pieces):
            shown.update(shown.task_ids[0], completed=min(count, total))
            found = piece
    assert isinstance(found, bytes)
    return found


def _opened(models: Any, image: Any, corners: str, options: dict[str, Any]) -> tuple[Explorer, str]:
    from ..auditing.loading import as_subject

    several = list(models) if isinstance(models, list | tuple) else [models]
    if not 1 <= len(several) <= MODELS:
        raise UsageError(f"models: expected 1 to {MODELS}, got {len(several)}")
    album, id = album_of(image)
    subjects = [as_subject(model, **options) for model in several]
    names = [one.name for one in subjects]
    counted = [
        name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]
    named = [replace(subject, name=name) for subject, name in zip(subjects, counted, strict=True)]
    return Explorer(named, album, corners=corners), id


def album_of(image: Any) -> tuple[Album, str]:
    """An album of one image, a file or a PIL image. Raises: RoteqError where it cannot be read."""
    album = Album()
    data, name = _bytes(image)
    try:
        return album, album.add(data, name).id
    except BadImage as bad:
        raise BadImage(bad.reason, f"{name}: {bad.detail}") from None


def _bytes(image: Any) -> tuple[bytes, str]:
    if isinstance(image, Image.Image):
        out = io.BytesIO()
        image.save(out, format="PNG")
        return out.getvalue(), Path(getattr(image, "filename", "") or "image").name
    path = Path(image)
    if not path.is_file():
        what = "a folder; give one of its images" if path.is_dir() else "no such file"
        raise UsageError(f"image: {path}: {what}")
    return path.read_bytes(), path.name


def format_of(path: Path) -> str:
    """The format that the ending of the name asks for."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in (*FORMATS, "png"):
        endings = [f".{one}" for one in (*FORMATS, "png")]
        raise UsageError(
            f"path: {str(path)!r} should end in one of {', '.join(endings)}; {nearest(path.suffix, endings)}"
        )
    return suffix


def check_place(path: Path) -> None:
    """A file can be written there; said before the long work."""
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UsageError(f"path: expected the path of a file, got {str(path)!r}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RoteqError(f"path: {path}: no file can be written into {parent}")
