"""Images larger than a network can take at once: tiles whose answers join to those of one pass over the whole."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..nn.geometry import Geometry

PATIENCE = 2.0  # seconds before a bar appears

Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Span:
    """One tile along a side: the pixels begin ... begin + side - 1 of the image, zero outside it, and the answers
    first ... last - 1 of the image, which begin at answer `skip` of the tile."""

    begin: int
    side: int
    first: int
    last: int
    skip: int = 0
    weights: Tensor | None = None  # (last - first,): what its answers count where tiles are blended


def tiles(side: int, tile: int, geometry: Geometry) -> list[Span]:
    """Tiles of equal sides, at most `tile` pixels, whose kept answers are those of one pass over a side.

    What the network pads to fill its grid (Geometry.framing) is part of the tiles, so they begin up to `framing` pixels
    before the image, lie a multiple of the grid apart, and need no more of it. Answers that see beyond a tile are
    dropped, unless the tile ends there because the image does: there the network saw the same zeros. A side that fits
    into `tile` is one tile.

    Raises: UsageError if the side is too small for one answer, or a tile for what an answer sees.

    >>> [(t.begin, t.side, t.first, t.last) for t in tiles(128, 112, Geometry(window=96, stride=16))]
    [(0, 112, 0, 2), (16, 112, 2, 3)]
    >>> [(t.begin, t.side, t.first, t.last) for t in tiles(98, 80, Geometry(window=45, padding=22, grid=4))]
    [(-1, 72, 0, 49), (27, 72, 49, 98)]
    """
    window, stride, padding, grid = geometry.window, geometry.stride, geometry.padding, geometry.grid
    frame, answers = geometry.framing(side), geometry.answers(side)
    whole, hidden = side + 2 * frame, frame // stride  # hidden: answers to the frame
    if not answers:
        raise UsageError(f"expected an image of at least {window - 2 * padding} pixels a side, got {side}")
    if side <= tile:
        return [Span(-frame, whole, 0, answers, hidden)]
    blind = -(-padding // stride)  # answers at the beginning of a tile that see beyond it

    def seeing(size: int) -> int:
        """The end of the answers that see only the tile."""
        return (size + padding - window) // stride + 1

    def step(size: int) -> int:
        return (seeing(size) - blind) * stride // grid * grid

    smallest = window - padding + (blind - 1) * stride + grid
    smallest += (whole - smallest) % grid
    if tile < smallest:
        raise UsageError(
            f"tile: expected at least {smallest} pixels for a side of {side} (an answer sees {window}, tiles lie "
            f"a multiple of {grid} apart), got {tile}"
        )
    size = tile - (tile - whole) % grid
    steps = math.ceil((whole - size) / step(size))
    while size > smallest and size - grid + steps * step(size - grid) >= whole:  # as many tiles, smaller ones
        size -= grid
    spans: list[Span] = []
    for begin in [*range(0, whole - size, step(size)), whole - size]:
        first = spans[-1].last if spans else 0
        before = begin // stride - hidden  # answers of the image before those of the tile
        last = answers if begin == whole - size else min(answers, before + seeing(size))
        spans.append(Span(begin - frame, size, first, last, first - before))
    return spans


def blended(side: int, tile: int) -> list[Span]:
    """Tiles that overlap by half or more, for networks with an answer for each pixel that sees the whole tile: none of
    these joins exactly, so each counts most in its middle (squared sine), all together 1 at every pixel.

    >>> sum(t.weights.sum() for t in blended(100, 40)).round().item()
    100.0
    """
    size = min(side, tile)
    count = math.ceil((side - size) / max(1, size // 2))
    begins = [round(k * (side - size) / max(1, count)) for k in range(count + 1)]
    hill = ((torch.arange(size, dtype=torch.float64) + 0.5) * math.pi / size).sin().square()
    total = torch.zeros(side, dtype=torch.float64)
    for begin in begins:
        total[begin : begin + size] += hill
    return [Span(b, size, b, b + size, 0, hill / total[b : b + size]) for b in begins]


def map_answers(
    ask: nn.Module,
    image: Tensor,
    geometry: Geometry | None,
    *,
    tile: int = 1024,
    batch_size: int = 1,
    prepare: Prepare | None = None,
    progress: bool = False,
) -> Tensor:
    """The answers of a dense network, in eval mode, to an image of any size, tile by tile, on the CPU.

    Equal to ask(image) but for rounding wherever the network has a geometry. `geometry` None: one with an answer for
    each pixel that depends on all of them (a global mean, attention); its tiles are blended, which is not one pass.
    Memory: the answers, and one batch of tiles, on the device of the network. `prepare` is applied to the pixels of the
    image that a tile holds, there, before zeros are added; None: they are normalised already.

    Shapes: image (C, H, W) -> (K, h, w)
    Raises: UsageError for another shape, for an image or a tile that is too small (naming the smallest), and for
    answers that are not where the geometry says.
    """
    if image.ndim != 3:
        raise UsageError(f"map_answers: expected an image (C, H, W), got {tuple(image.shape)}")
    if batch_size < 1 or tile < 1:
        raise UsageError(f"expected batch_size and tile of at least 1, got {batch_size} and {tile}")
    sides = image.shape[-2:]
    rows, columns = (tiles(n, tile, geometry) if geometry else blended(n, tile) for n in sides)
    size = (rows[0].side, columns[0].side)
    expected = tuple(geometry.answers(n) for n in size) if geometry else size
    device = next((tensor.device for tensor in (*ask.parameters(), *ask.buffers())), image.device)
    pairs = list(product(rows, columns))
    batches = [pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)]
    out = torch.empty(0)
    for batch in _shown(batches) if progress else batches:
        with torch.inference_mode():
            answers = ask(torch.stack([_read(image, *spans, device, prepare) for spans in batch])).cpu()
        if answers.shape[-2:] != expected:
            raise UsageError(f"expected {expected} answers to a tile of {size} pixels, got {(*answers.shape[-2:],)}")
        if not out.numel():
            out = torch.zeros(answers.shape[1], rows[-1].last, columns[-1].last, dtype=answers.dtype)
        for (row, column), answer in zip(batch, answers, strict=True):
            _add(out, answer, row, column)
    return out


def _read(image: Tensor, row: Span, column: Span, device: torch.device, prepare: Prepare | None) -> Tensor:
    part, zeros = image, []
    for dim, span in ((-1, column), (-2, row)):
        begin, end, side = span.begin, span.begin + span.side, image.shape[dim]
        part = part.narrow(dim, max(0, begin), min(end, side) - max(0, begin))
        zeros += [max(0, -begin), max(0, end - side)]
    part = part.to(device)
    return F.pad(prepare(part) if prepare else part, zeros)


def _add(out: Tensor, answer: Tensor, row: Span, column: Span) -> None:
    number = (row.last - row.first, column.last - column.first)
    answer = answer[:, row.skip : row.skip + number[0], column.skip : column.skip + number[1]]
    if row.weights is not None and column.weights is not None:
        answer = answer * torch.outer(row.weights, column.weights).to(answer.dtype)
    out[:, row.first : row.last, column.first : column.last] += answer


def _shown(batches: list[list[tuple[Span, Span]]]) -> Iterator[list[tuple[Span, Span]]]:
    """A bar on stderr for what takes more than PATIENCE seconds."""
    from rich.console import Console
    from rich.progress import Progress

    began, bar = time.monotonic(), None
    try:
        for done, batch in enumerate(batches):
            if bar is None and time.monotonic() - began > PATIENCE:
                bar = Progress(console=Console(stderr=True), transient=True)
                task = bar.add_task("mapping", total=len(batches))
                bar.start()
            if bar:
                bar.update(task, completed=done)
            yield batch
    finally:
        if bar:
            bar.stop()
