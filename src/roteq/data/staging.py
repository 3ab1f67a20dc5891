"""The first pass of preparation: decode, hash, crop and encode every image into a staging folder, in parallel.

Images go through in chunks of 64. A chunk writes its files, then one record; a chunk with a record is never done
again, one without is simply written over: that is all a restart needs. A bounded number of chunks is in flight, so
memory does not grow with the number of images. No torch here: every process imports this file.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import RoteqError
from ..files import write_text
from .images import BadImage, decode, encode, fit
from .sources import Item

CHUNK = 64
Chunk = tuple[int, list[Item]]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one image. `content` is the hash of its decoded pixels before the crop, `sha256` of the file."""

    content: str = ""
    sha256: str = ""
    size: tuple[int, int] = (0, 0)  # height, width, prepared
    converted: str = ""
    reason: str = ""  # why it was left out; "" if it was not
    detail: str = ""
    mask: str = ""  # hash of the mask, of images that have one
    values: dict[str, int] = field(default_factory=dict)  # value in the mask -> pixels


@dataclass(frozen=True)
class Recipe:
    """How an image becomes a file."""

    crop: int | None
    size: int | None
    mode: Literal["rgb", "grey"]
    format: Literal["png", "jpeg"]
    quality: int

    @property
    def suffix(self) -> str:
        return ".png" if self.format == "png" else ".jpg"

    def make(self, item: Item, pixels: Any, root: Path, folder: Path) -> "Done":
        """Prepare one image into `folder`."""
        return prepare_image(pixels, folder / (item.id + self.suffix), self)


def staged(staging: Path, index: int, item: Item, recipe: Recipe) -> Path:
    """Where image number `index` of the table waits for its split."""
    return staging / f"{index // CHUNK:06d}" / (item.id + recipe.suffix)


def chunks(items: list[Item]) -> list[Chunk]:
    return [(start // CHUNK, items[start : start + CHUNK]) for start in range(0, len(items), CHUNK)]


def run_chunk(chunk: Chunk, root: Path, staging: Path, recipe: Recipe) -> list[Done]:
    """Prepare one chunk, or read its record.

    Raises: RoteqError if a file cannot be written.
    """
    number, items = chunk
    record = staging / f"{number:06d}.json"
    try:
        return [Done(**row | {"size": tuple(row["size"])}) for row in json.loads(record.read_bytes())]
    except FileNotFoundError:
        pass
    folder = staging / f"{number:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = [
            recipe.make(item, pixels, root, folder)
            for item, pixels in zip(items, _pixels(items, root, staging), strict=True)
        ]
    except OSError as error:
        raise RoteqError(f"{folder}: could not be written: {error.strerror or error}") from None
    write_text(record, json.dumps([asdict(done) for done in results]))
    return results


def prepare_image(pixels: Any, target: Path, recipe: Recipe) -> Done:
    """Decode, hash, fit, encode, write; a bad image is a result, not an error."""
    try:
        image, converted = decode(pixels)
        content = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:32]
        grey_source = image.mode == "L" and recipe.mode == "rgb"
        image = fit(image, crop=recipe.crop, size=recipe.size, mode=recipe.mode)
    except BadImage as bad:
        return Done(reason=bad.reason, detail=bad.detail)
    data = encode(image, recipe.format, recipe.quality)
    target.write_bytes(data)
    size = (image.height, image.width)
    return Done(content, hashlib.sha256(data).hexdigest(), size, converted or "grey" * grey_source)


def _pixels(items: list[Item], root: Path, staging: Path) -> Iterator[Any]:
    """For each item what `decode` takes: a path, or the pixels of runs of neighbouring rows of a file."""
    from .arrays import array_rows
    from .pcam import rows

    start = 0
    while start < len(items):
        first = items[start]
        if first.row is None:
            yield root / first.path
            start += 1
            continue
        stop = start
        while stop < len(items) and items[stop].path == first.path and items[stop].row == first.row + stop - start:
            stop += 1
        until = first.row + stop - start
        if not first.path.endswith((".h5", ".h5.gz")):
            yield from array_rows(staging, first.path, first.row, until)
        else:
            packed = first.path.endswith(".gz")
            yield from rows(staging / first.path.removesuffix(".gz") if packed else root / first.path, first.row, until)
        start = stop


def run_all(
    items: list[Item], root: Path, staging: Path, recipe: Recipe, workers: int | None
) -> Generator[tuple[list[Item], list[Done]], None, None]:
    """Results chunk by chunk, in order. Small jobs stay in this process, where starting others would not pay."""
    todo = chunks(items)
    work = partial(run_chunk, root=root, staging=staging, recipe=recipe)
    workers = min(workers or available_cores(), len(todo))
    if workers <= 1 or (workers > 1 and len(todo) <= 4):
        for chunk in todo:
            yield chunk[1], work(chunk)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads (torch has them) may hang
    pool = ProcessPoolExecutor(workers, context, initializer=start_worker)
    try:
        for chunk, results in bounded_map(pool, work, todo, 3 * workers):
            yield chunk[1], results
    except BrokenProcessPool:
        raise RoteqError(
            "prepare: a process died; out of memory? In a script of your own, call prepare below "
            "`if __name__ == '__main__':`, or give workers=1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def bounded_map(pool: Executor, work: Callable[[Chunk], R], todo: list[Chunk], ahead: int) -> Iterator[tuple[Chunk, R]]:
    """`map` in order with at most `ahead` chunks submitted and not yet taken."""
    waiting: deque[tuple[Chunk, Future[R]]] = deque()
    for chunk in todo:
        waiting.append((chunk, pool.submit(work, chunk)))
        if len(waiting) >= ahead:
            done, future = waiting.popleft()
            yield done, future.result()
    while waiting:
        done, future = waiting.popleft()
        yield done, future.result()


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is killed: an orphan would go on writing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
