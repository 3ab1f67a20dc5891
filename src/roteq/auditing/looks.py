"""One picture turned by any angle, at once: what `turning` gives for whole batches, without making a matrix first."""

import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..errors import UsageError
from .framing import Sides, by
from .turning import MARGIN, center, disc, needs_corners


class Looker:
    """A patch (C, H, W), ready to be turned by any number of degrees: mirrored left-right first, if at all, then turned
    counter-clockwise, then its central `crop` is cut.

    Multiples of 90 degrees and mirrors permute the pixels of the upright look, all other angles are cubic splines, as
    those of `turning.Turning`. masked: the patch is smaller than crop x sqrt 2, so that only the inscribed disc is
    shown, upright too; the rest is the mean of the picture inside.

    Raises: UsageError for turns that do not exist: other than 0 and 180 degrees where the crop is no square.

    >>> look = Looker(torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4), (2, 2))
    >>> look(0).tolist(), look(90).tolist()
    ([[[[5.0, 6.0], [9.0, 10.0]]]], [[[[6.0, 10.0], [5.0, 9.0]]]])
    """

    def __init__(self, patch: Tensor, crop: Sides, *, corners: str = "disc", is_float: bool = False) -> None:
        height, width = (side - (side - wanted) % 2 for side, wanted in zip(patch.shape[1:], crop, strict=True))
        self.crop, self.corners, self.is_oblong = crop, corners, crop[0] != crop[1]
        side = min(height, width)
        self.masked = not self.is_oblong and corners == "disc" and needs_corners(side, crop[0])
        pixels = patch[:, :height, :width].float()
        self._upright = _central(pixels, *crop).contiguous()
        self._mask = disc(crop[0]) if self.masked else None
        self._fill = None if self._mask is None else self._upright[:, self._mask].mean(1)[:, None, None]
        self._upright = self._masked(self._upright)
        whole = None if self.is_oblong else _central(pixels, side, side)
        self._range = (0.0, 255.0) if not is_float or whole is None else (whole.amin((1, 2)), whole.amax((1, 2)))
        self._splines = None if whole is None else _splines(_central(whole, *(_window(side, crop[0]),) * 2))
        self._last: tuple[tuple[float, bool], Tensor] | None = None

    @property
    def weight(self) -> int:
        """Numbers that it keeps."""
        return self._upright.numel() * 2 + (0 if self._splines is None else self._splines.size)

    def __call__(self, degrees: float, mirror: bool = False) -> Tensor:
        """Float (1, C, h, w), 0..255 of pixels."""
        quarters, base = divmod(degrees % 360, 90)
        if self.is_oblong and (base or quarters % 2):
            raise UsageError(
                f"angle: expected 0 or 180 degrees for an input of {by(self.crop)}, got {degrees:g}; other turns of "
                "oblong pictures do not exist"
            )
        look = self._turned(base, mirror) if base else self._upright.flip(-1) if mirror else self._upright
        return torch.rot90(look, int(quarters), (-2, -1))[None].contiguous()

    def _turned(self, base: float, mirror: bool) -> Tensor:
        if self._last is None or self._last[0] != (base, mirror):  # quarter turns of one look come one after the other
            assert self._splines is not None
            splines = self._splines[:, :, ::-1] if mirror else self._splines
            found = _sampled(splines, base, self.crop[0], self.corners)
            low, high = (torch.as_tensor(value).reshape(-1, 1, 1) for value in self._range)
            look = self._masked(torch.minimum(torch.maximum(found, low), high))
            self._last = ((base, mirror), look)
        return self._last[1]

    def _masked(self, look: Tensor) -> Tensor:
        return look if self._mask is None or self._fill is None else torch.where(self._mask, look, self._fill)


def turned(maps: Tensor, degrees: float) -> Tensor:
    """Square maps (C, S, S), turned counter-clockwise: whole quarter turns permute pixels, other angles are cubic
    splines, mirrored at the border."""
    quarters, base = divmod(degrees % 360, 90)
    found = _sampled(_splines(maps), base, maps.shape[-1]) if base else maps
    return torch.rot90(found, int(quarters), (-2, -1))


def turned_back(maps: Tensor, degrees: float, mirror: bool = False) -> Tensor:
    """Undo a mirror and then a turn of square maps (C, S, S); half turns and mirrors of oblong ones too."""
    found = turned(maps, -degrees)
    return found.flip(-1) if mirror else found


def _splines(maps: Tensor) -> np.ndarray:
    """Coefficients (C, S, S)."""
    found = [ndimage.spline_filter(one, 3, output=np.float64, mode="mirror") for one in maps.float().cpu().numpy()]
    return np.stack(found).astype(np.float32)


def _sampled(splines: np.ndarray, degrees: float, crop: int, corners: str = "mirror") -> Tensor:
    """(C, S, S) coefficients -> (C, crop, crop), turned."""
    t, side = math.radians(degrees), splines.shape[-1]
    matrix = np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]])
    offset = (side - 1) / 2 - matrix @ np.full(2, (crop - 1) / 2)
    found = np.empty((len(splines), crop, crop), dtype=np.float32)
    options: dict[str, Any] = {"order": 3, "mode": "mirror", "prefilter": False}
    if corners not in ("edge", "black"):
        for one, out in zip(splines, found, strict=True):
            ndimage.affine_transform(one, matrix, offset, output=out, output_shape=out.shape, **options)
        return torch.from_numpy(found)
    place = np.tensordot(matrix, np.indices((crop, crop)), 1) + offset[:, None, None]
    for one, out in zip(splines, found, strict=True):
        ndimage.map_coordinates(one, place.clip(0, side - 1) if corners == "edge" else place, output=out, **options)
    if corners == "black":
        found[:, ((place < -0.5) | (place > side - 0.5)).any(0)] = 0
    return torch.from_numpy(found)


def _window(side: int, crop: int) -> int:
    """The central pixels that a turned crop can see."""
    seen = math.ceil(math.sqrt(2) * crop) + 2 * MARGIN
    return min(side, seen + (side - seen) % 2)


def _central(maps: Tensor, height: int, width: int) -> Tensor:
    return center(maps.movedim(0, -1), height, width).movedim(-1, 0)
