"""The regions of a plan, read ahead by other processes. No torch in here: they start in a moment and stay small."""

import math
import multiprocessing
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.staging import start_worker
from ..errors import RoteqError
from .opening import BadRegion, Slide, open_slide

WHITE = 255
_hiding = threading.Lock()
_opened = threading.local()  # each process, and each thread, opens the slide itself


@dataclass(frozen=True)
class Scale:
    """Which level is read, and how its pixels become those of the network."""

    level: int
    factor: float  # pixels of the level per pixel of the network
    mpp: float  # microns per pixel of the network
    downsample: float  # pixels of level 0 per pixel of the network


@dataclass(frozen=True)
class Source:
    """What a reader must know."""

    path: Path
    slide_mpp: float | None
    scale: Scale
    side: int


@dataclass(frozen=True)
class Batch:
    """uint8 (B, side, side, 3), and for each region that did not decode its reason; it is white."""

    pixels: np.ndarray
    failed: dict[int, str]


def read_batch(source: Source, corners: list[tuple[int, int]]) -> Batch:
    """The regions whose first pixels, in those of the network, are `corners`."""
    slide, failed = _slide(source), {}
    pixels = np.full((len(corners), source.side, source.side, 3), WHITE, np.uint8)
    for i, (y, x) in enumerate(corners):
        try:
            pixels[i] = read_region(slide, source.scale, y, x, source.side)
        except BadRegion as error:
            failed[i] = str(error)
    return Batch(pixels, failed)


def read_region(slide: Slide, scale: Scale, y: int, x: int, side: int) -> np.ndarray:
    """uint8 (side, side, 3) at the network's resolution. A pixel's value does not depend on the region it is read in:
    all are on one grid, and each region is read with as much around it as the interpolation sees."""
    if scale.factor == 1:
        return slide.read(scale.level, y, x, side, side)
    from PIL import Image

    around = math.ceil(max(1.0, scale.factor)) + 1
    top, left = (math.floor(start * scale.factor) - around for start in (y, x))
    extent = math.ceil(side * scale.factor) + 2 * around + 1
    image = Image.fromarray(slide.read(scale.level, top, left, extent, extent))
    first = x * scale.factor - left, y * scale.factor - top
    box = (*first, first[0] + side * scale.factor, first[1] + side * scale.factor)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))


def stream(source: Source, batches: list[list[tuple[int, int]]], workers: int) -> Generator[Batch, None, None]:
    """The batches in order, a few of them ahead: memory does not grow with their number.

    Raises: RoteqError if a reading process dies.
    """
    if not batches:
        return
    pool: Executor
    if workers and not multiprocessing.current_process().daemon:  # a daemon may not start processes
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        pool = ProcessPoolExecutor(min(workers, len(batches)), context, initializer=start_worker)
    else:
        pool = ThreadPoolExecutor(1)
    waiting: deque[Future[Batch]] = deque()
    try:
        for batch in batches:
            with main_hidden():
                waiting.append(pool.submit(read_batch, source, batch))
            if len(waiting) > 2 * max(1, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RoteqError(
            f"{source.path}: a reading process died; out of memory? Give fewer workers, or workers=0"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _slide(source: Source) -> Slide:
    if getattr(_opened, "source", None) != source:
        _opened.slide, _opened.source = open_slide(source.path, mpp=source.slide_mpp), source
    return _opened.slide  # type: ignore[no-any-return]


@contextmanager
def main_hidden() -> Iterator[None]:
    """A process that is started meanwhile does not run the caller's script again, as spawned ones do: a reader needs
    nothing of it, it may import much, and it may have no `if __name__ == "__main__"`."""
    main = sys.modules["__main__"].__dict__
    with _hiding:
        hidden: dict[str, Any] = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
        main["__spec__"] = None
        try:
            yield
        finally:
            main.update(hidden)
