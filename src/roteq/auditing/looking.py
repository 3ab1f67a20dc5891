"""Ask a model about every look at every picture, a batch at a time; the next batch is read meanwhile."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import RoteqError
from .answers import checked_ask, log_probabilities, looks_like_one_probability, looks_like_probabilities, read_answer
from .rows import REFERENCE, UPRIGHT, Key, Plan
from .subject import Normalization, Subject
from .turning import Turning

PIXELS = {"cpu": 1 << 22, "cuda": 1 << 25}  # floats of one batch of patches
MOST = {"cpu": 128, "cuda": 1024}  # images


class Asker:
    """Pixels (B, C, h, w) in 0..255 (or what the model takes) -> checked answers (B, ...), float32, on the device.

    The largest batch that fits is found by itself: it is halved when memory runs out. A model of one batch size gets
    batches of that size, the last one filled up. Probabilities become their logarithms, so that softmax gives them
    back; whether they are probabilities is decided once, by all pictures of the first question together.
    """

    def __init__(self, subject: Subject, normalize: Normalization | None) -> None:
        self.subject, self.normalize = subject, normalize
        self.most: int | None = subject.batch
        self.kind = subject.kind
        self.logarithm: bool | None = None
        self.passes = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        x = pixels if self.normalize is None else self.normalize(pixels)
        while True:
            try:
                return self._in_parts(x)
            except torch.OutOfMemoryError:
                size = min(self.most or len(x), len(x))
                if size == 1 or self.subject.batch is not None:
                    raise RoteqError(
                        f"{self.subject.name}: not even {size} picture(s) of {tuple(x.shape[1:])} fit into the memory "
                        f"of {self.subject.device}; use --device cpu, or a smaller --size"
                    ) from None
                self.most = size // 2
                torch.cuda.empty_cache()

    def _in_parts(self, x: Tensor) -> Tensor:
        found = [self._ask(part) for part in x.split(self.most or len(x))]
        answer = torch.cat(found) if len(found) > 1 else found[0]
        if self.logarithm is None:
            self.logarithm = self.kind in ("classes", "map") and (
                looks_like_probabilities(answer) or looks_like_one_probability(answer)
            )
        return log_probabilities(answer) if self.logarithm else answer

    def _ask(self, x: Tensor) -> Tensor:
        n, fixed = len(x), self.subject.batch
        if fixed and n < fixed:
            x = torch.cat([x, x[-1:].expand(fixed - n, *x.shape[1:])])
        self.passes += n
        answer, kind = read_answer(checked_ask(self.subject, x), len(x), self.kind, self.subject.name)
        self.kind = self.kind or kind
        return answer[:n].detach()


class Tally(Protocol):
    """What takes the answers: `add` for every look at one batch, then `close`."""

    def add(self, key: Key, answer: Tensor) -> None: ...
    def close(self) -> None: ...


def answers(asker: Asker, turning: Turning, plan: Plan, patches: Tensor) -> Iterator[tuple[Key, Tensor]]:
    """Every look at one batch of patches, and the model's answer to it."""
    upright = turning.upright(patches)
    yield UPRIGHT, asker(upright)
    if plan.masked:
        reference = turning.reference(upright)
        yield REFERENCE, asker(reference)
        for q in plan.quarters:
            yield Key("quarter", q), asker(torch.rot90(reference, q, (-2, -1)))
    for e in plan.orbit:
        if e.exact:
            yield Key("turn", e), asker(e.place(upright))
    for base, look, back in turning.looks(patches, upright):
        for e in plan.orbit:
            if e.base == base:
                yield Key("turn", e), asker(e.place(look))
        yield Key("back", base), asker(back)


Loaded = tuple[Tensor, np.ndarray]


def batches(load: Callable[[np.ndarray], Loaded], order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(indices, patches) of the images that could be read; one batch is read ahead."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(load, parts[0]) if parts else None
        for i, part in enumerate(parts):
            assert coming is not None
            patches, kept = coming.result()
            coming = pool.submit(load, parts[i + 1]) if i + 1 < len(parts) else None
            if len(patches):
                yield part[kept], patches


def batch_size(device: torch.device, shape: tuple[int, ...], fixed: int | None) -> int:
    """Pictures at a time: few enough for the memory, a multiple of the only size that the model takes."""
    most = max(1, min(MOST.get(device.type, 256), PIXELS.get(device.type, 1 << 24) // int(np.prod(shape))))
    return most if fixed is None else max(fixed, most // fixed * fixed)


def bar(total: int, name: str, shown: bool) -> Any:
    """A progress bar on stderr with the time left, or nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
    progress.add_task(name, total=total)
    return progress


def stopwatch() -> Callable[[], float]:
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
