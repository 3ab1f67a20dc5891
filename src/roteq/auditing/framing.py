"""How pictures of all sizes become patches of one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import UsageError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
Sides = tuple[int, int]  # height and width


class Header(NamedTuple):
    """What is known of an image before it is decoded. kind: "picture" (files, PIL), "pixels" (uint8) or "input"
    (float), which are arrays (C, H, W)."""

    size: Sides
    channels: int
    kind: str
    label: Any = None


class Frame(NamedTuple):
    """How a picture becomes a patch: resized until its shorter side is `shorter` (0: not at all), or a little larger
    to cover the patch, whose height and width are then cut out of its centre."""

    size: Sides
    shorter: int
    filter: Image.Resampling = Image.Resampling.BICUBIC

    def scale(self, height: int, width: int) -> float:
        """Pixels of the picture for one of the patch."""
        if not self.shorter:
            return 1.0
        return min(min(height, width) / self.shorter, height / self.size[0], width / self.size[1])

    def cut(self, picture: Image.Image) -> Image.Image:
        """The same factor along both sides, and the exact centre: nothing is distorted. Filters are as wide as the
        factor asks for."""
        h, w = self.size
        scale = self.scale(picture.height, picture.width)
        if scale == 1.0:
            left, top = (picture.width - w) // 2, (picture.height - h) // 2
            return picture if picture.size == (w, h) else picture.crop((left, top, left + w, top + h))
        x, y = max(0.0, (picture.width - w * scale) / 2), max(0.0, (picture.height - h * scale) / 2)
        box = (x, y, min(picture.width, x + w * scale), min(picture.height, y + h * scale))
        return picture.resize((w, h), self.filter, box=box)


def frame_for(
    headers: Sequence[Header], names: Sequence[str], size: Sides | None, resize: int | None, interpolation: str
) -> tuple[Frame, str]:
    """How every picture is brought to one size, and that in words."""
    sizes, kind = np.array([header.size for header in headers]), headers[0].kind
    whole: Sides = (int(sizes[0, 0]), int(sizes[0, 1]))
    is_one_size = bool((sizes == sizes[0]).all())
    is_fixed = kind == "input" or not {header.channels for header in headers} <= {1, 3}
    if kind != "picture" and is_one_size and (is_fixed or not resize or whole == size):
        return Frame(whole, 0), "as they are"
    if is_fixed:
        other = int((sizes != sizes[0]).any(1).argmax())
        raise UsageError(
            f"images: expected one size, got {by(whole)} and {by(sizes[other])} ({names[other]}); only pictures "
            "(uint8, 1 or 3 channels) are brought to one"
        )
    shorter = sizes.min(1)
    is_oblong = size is not None and size[0] != size[1]
    side = resize if resize is not None else (min(size) if size is not None else 0)
    if side:
        frame = Frame(size if size is not None and is_oblong else (side, side), side, FILTERS[interpolation])
        scales = np.array([frame.scale(*both) for both in sizes.tolist()])
        if (scales != 1).any():
            how = f"to cover {by(frame.size)}" if is_oblong else f"to {side} pixels on the shorter side"
            enlarged = f", {(scales < 1).sum()} of them enlarged" if (scales < 1).any() else ""
            advice = "; --resize 0 keeps the stored resolution" if resize is None else ""
            return frame, f"resized {how} ({interpolation}), {_cut(is_oblong)}{enlarged}{advice}"
    least = int(shorter.argmin())
    patch = size if size is not None and is_oblong else (int(shorter[least]),) * 2
    small = (sizes < (patch if is_oblong else size or 0)).any(1)
    if small.any():
        assert size is not None
        i = int(small.argmax())
        raise UsageError(
            f"resize: {names[i]} is {by(sizes[i])} as stored, smaller than the model's input {by(size)}; give "
            f"--resize {min(size)} or more to enlarge it, or another --size"
        )
    if is_oblong or (sizes == patch).all():
        return Frame(patch, 0), "as stored" + (f", {_cut(True)}" if (sizes != patch).any() else "")
    smallest = f", the shorter side of the smallest ({names[least]})" if (shorter != shorter[0]).any() else ""
    return Frame(patch, 0), f"as stored, {_cut(False)} of {patch[0]} pixels{smallest}"


def _cut(is_oblong: bool) -> str:
    return "the centre cut" if is_oblong else "the centre square"


def by(size: Sequence[int] | np.ndarray) -> str:
    return f"{size[0]}x{size[1]}"
