"""Numbers as small pictures: maps in colours, side by side in one PNG, as a data: address."""

import base64
import io
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

TILE, INPUT = 96, 256  # px a side at most: of a map, and of what the network sees


@cache
def colours(name: str) -> bytes:
    """The 256 colours of a map of matplotlib, R, G, B after each other."""
    from matplotlib import colormaps

    return (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes()


def palette(codes: Sequence[str]) -> bytes:
    """Colours from codes, over and over: 256 of them.

    >>> palette(["#ff0000", "#0000ff"])[:9].hex()
    'ff00000000ffff0000'
    """
    one = b"".join(bytes.fromhex(code.removeprefix("#")) for code in codes)
    return (one * 256)[: 3 * 256]


def shrunk(tiles: Tensor, most: int = TILE) -> Tensor:
    """Maps (n, h, w) of at most so many pixels a side, each the mean of those that it stands for."""
    height, width = tiles.shape[-2:]
    scale = most / max(height, width)
    if scale >= 1:
        return tiles
    return F.adaptive_avg_pool2d(tiles, (max(1, round(height * scale)), max(1, round(width * scale))))


def sprite(tiles: Tensor, low: float, high: float, name: str) -> str:
    """Maps (n, h, w) beside each other in the colours of matplotlib, from `low` to `high`; what is beyond takes the
    colour of the end, NaN that of the low one."""
    values = ((tiles - low) * (255 / (high - low))).nan_to_num(0).round_().clamp_(0, 255)
    return indexed(np.hstack(list(values.byte().numpy())), colours(name))


def indexed(places: np.ndarray, table: bytes, transparent: int | None = None) -> str:
    """(h, w) uint8, places in a table of colours."""
    image = Image.fromarray(np.ascontiguousarray(places, dtype=np.uint8))
    image.putpalette(table)
    return _address(image, transparent)


def picture(pixels: Tensor) -> str:
    """(C, h, w) of 0..255, grey or RGB."""
    found = shrunk(pixels.float().cpu(), INPUT).round().clamp(0, 255).byte().movedim(0, -1).numpy()
    return _address(Image.fromarray(np.ascontiguousarray(found[..., 0] if found.shape[-1] == 1 else found)))


def _address(image: Image.Image, transparent: int | None = None) -> str:
    out = io.BytesIO()
    more = {} if transparent is None else {"transparency": transparent}
    image.save(out, "PNG", compress_level=1, **more)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def number(value: float) -> float | None:
    """What JSON can hold."""
    return float(value) if math.isfinite(value) else None
