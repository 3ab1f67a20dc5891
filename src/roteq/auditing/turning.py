"""Pictures turned by any angle, whole batches at a time, on their device.

Exact elements (multiples of 90 degrees, mirrors) permute pixels. Every other angle t is a quarter turn times a
rotation by t mod 90, made by a cubic spline: what scipy.ndimage.rotate(order=3, mode="mirror") does, which loses far
less than bicubic interpolation, but as one sparse matrix for all images, evaluated only where the crop will look.
Resampling on a square grid commutes with quarter turns, so 24 angles cost five interpolations, and five floors serve
all of them.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from .config import AuditConfig

MARGIN = 12  # pixels a spline coefficient still looks at: 0.268^12 = 1e-7


@dataclass(frozen=True)
class Element:
    """Mirror left-right if `mirror`, then turn by `base` degrees (0 <= base < 90) and by `quarters` times 90."""

    mirror: bool
    quarters: int
    base: float = 0.0

    @property
    def angle(self) -> float:
        return 90 * self.quarters + self.base

    @property
    def exact(self) -> bool:
        return self.base == 0

    def place(self, look: Tensor) -> Tensor:
        """The exact part: the picture (..., H, W), turned by `base` before, mirrored and turned by quarters."""
        return torch.rot90(look.flip(-1) if self.mirror else look, self.quarters, (-2, -1))

    def replace(self, look: Tensor) -> Tensor:
        """The inverse of `place`."""
        turned = torch.rot90(look, -self.quarters, (-2, -1))
        return turned.flip(-1) if self.mirror else turned


def elements(config: AuditConfig, oblong: bool = False) -> list[Element]:
    """The exact elements without the identity (3, or 7 with mirrors), then the angles that are not multiples of 90.
    oblong pictures keep the half turn and the mirrors along their sides.

    >>> [e.angle for e in elements(AuditConfig(angles=8, mirrors=False))]
    [90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0]
    """
    step = 2 if oblong else 1
    exact = [Element(m, q) for m in ([False, True] if config.mirrors else [False]) for q in range(0, 4, step) if m or q]
    if oblong:
        return exact
    if isinstance(config.angles, int):
        n = config.angles
        others = [(4 * i // n, 90 * (4 * i % n) / n) for i in range(n) if 4 * i % n]
    else:
        others = [(int(angle // 90), angle % 90) for angle in config.angles if angle % 90]
    return exact + [Element(False, quarters, base) for quarters, base in others]


class Turner:
    """Turns by one angle between 0 and 90 degrees, and back, for a whole batch at once."""

    def __init__(self, angle: float, side: int, crop: int, config: AuditConfig, device: torch.device) -> None:
        """Only the pixels are made that the crop, turned back, can see; `window` is their square."""
        seen = math.ceil(math.sqrt(2) * crop) + 2 * MARGIN
        self.window = min(side, seen + (side - seen) % 2)
        self.crop = crop
        self.spline = config.interpolation == "spline"
        options = (config.interpolation, config.corners)
        self.there = sampling_matrix(angle, side, self.window, *options).to(device)
        self.back = sampling_matrix(-angle, self.window, crop, *options).to(device)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (S, S, M), or their spline coefficients -> the crops (crop, crop, M), turned, and turned there and
        back."""
        turned = _apply(self.there, pixels, self.window)
        back = _apply(self.back, prefilter(turned) if self.spline else turned, self.crop)
        return center(turned, self.crop), back


def _apply(matrix: Tensor, pixels: Tensor, size: int) -> Tensor:
    return (matrix @ pixels.reshape(-1, pixels.shape[2])).reshape(size, size, -1)


def center(pixels: Tensor, height: int, width: int | None = None) -> Tensor:
    """The central height x width pixels of (H, W, M)."""
    width = height if width is None else width
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def prefilter(pixels: Tensor) -> Tensor:
    """Cubic B-spline coefficients of (S, S, M) that reproduce the pixels, mirrored at the border (no repeated edge)."""
    filtering = spline_filter(len(pixels)).to(pixels)
    rows = (filtering @ pixels.reshape(len(pixels), -1)).reshape(pixels.shape)
    return torch.matmul(filtering, rows)


@lru_cache(maxsize=8)
def spline_filter(size: int) -> Tensor:
    """(size, size): values along a line -> its cubic B-spline coefficients.

    The inverse of the tridiagonal matrix (1, 4, 1)/6. As a dense product it is faster than the usual recursion.
    """
    tridiagonal = 4 * np.eye(size)
    for i in range(size):
        for j in (i - 1, i + 1):
            tridiagonal[i, mirrored(np.array(j), size)] += 1
    inverse = np.linalg.inv(tridiagonal / 6)
    inverse[np.abs(inverse) < 1e-12] = 0  # float32 would make slow denormal numbers of them
    return torch.from_numpy(inverse)


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """... 2 1 0 1 2 ... size-2 size-1 size-2 ...: scipy's mode "mirror".

    >>> mirrored(np.arange(-2, 6), 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    folded = np.mod(index, max(2 * size - 2, 1))
    return np.where(folded < size, folded, 2 * size - 2 - folded)


def sampling_matrix(
    angle: float, size: int, out: int, interpolation: str = "spline", corners: str = "mirror"
) -> Tensor:
    """Sparse (out^2, size^2): pixels, or their spline coefficients -> the central pixels of the picture turned
    counter-clockwise.

    Pixel (i, j), measured from the centre, takes its value at (cos t i + sin t j, cos t j - sin t i), from 4 x 4
    neighbours (bilinear: 2 x 2). 90 degrees is np.rot90. corners: where a neighbour outside of the picture is looked
    up; "black" pixels are those that lie outside themselves.
    """
    t = math.radians(angle)
    y, x = np.meshgrid(*[np.arange(out) - (out - 1) / 2] * 2, indexing="ij")
    position = [
        source.ravel() + (size - 1) / 2
        for source in (math.cos(t) * y + math.sin(t) * x, math.cos(t) * x - math.sin(t) * y)
    ]
    if corners == "edge":
        position = [np.clip(p, 0, size - 1) for p in position]
    (row, row_weight), (column, column_weight) = (_taps(p, size, interpolation) for p in position)  # each (out^2, taps)
    index = (row[:, :, None] * size + column[:, None, :]).reshape(out * out, -1)
    weight = (row_weight[:, :, None] * column_weight[:, None, :]).reshape(out * out, -1)
    if corners == "black":
        weight[_outside(position, size)] = 0
    pixel = np.arange(0, index.size + 1, index.shape[1])
    found = csr_array((weight.ravel().astype(np.float32), index.ravel(), pixel), shape=(out * out, size * size))
    found.sum_duplicates()  # neighbours that were mirrored onto each other
    rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (found.indptr, found.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        values = torch.from_numpy(found.data)
        return torch.sparse_csr_tensor(rows, columns, values, found.shape, check_invariants=True)


def _outside(position: list[np.ndarray], size: int) -> np.ndarray:
    return np.any([(p < -0.5) | (p > size - 0.5) for p in position], axis=0)


def _taps(position: np.ndarray, size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours of each position and their weights."""
    first = np.floor(position).astype(int)
    f = position - first
    if interpolation == "bilinear":
        return mirrored(first[:, None] + np.arange(2), size), np.stack([1 - f, f], axis=1)
    if interpolation == "bicubic":  # Keys 1981, a = -1/2
        weights = [-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, -(f**2) + f**3]
        return mirrored(first[:, None] + np.arange(-1, 3), size), np.stack(weights, axis=1) / 2
    weights = [(1 - f) ** 3, 4 - 6 * f**2 + 3 * f**3, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3]
    return mirrored(first[:, None] + np.arange(-1, 3), size), np.stack(weights, axis=1) / 6


def disc(size: int) -> Tensor:
    """(size, size) bool: pixels whose centres lie in the inscribed disc."""
    axis = torch.arange(size) - (size - 1) / 2
    return axis[:, None] ** 2 + axis[None] ** 2 <= (size / 2) ** 2


def needs_corners(side: int, crop: int) -> bool:
    """Whether the crop of a turned patch looks outside of the patch."""
    return (crop - 1) * math.sqrt(2) > side - 1


class Turning:
    """Every look at a batch of patches that an audit needs.

    masked: the interpolated looks, and `reference`, the upright one they are compared with, show the inscribed disc
    only.
    """

    def __init__(
        self, side: tuple[int, int], crop: tuple[int, int], config: AuditConfig, device: torch.device, is_float: bool
    ) -> None:
        self.crop, self.device, self.is_float = crop, device, is_float
        self.orbit = elements(config, oblong=crop[0] != crop[1])
        bases = sorted({e.base for e in self.orbit} - {0.0})
        self.side = min(side[0] - (side[0] - crop[0]) % 2, side[1] - (side[1] - crop[1]) % 2) if bases else 0
        self.spline = config.interpolation == "spline"
        self.masked = bool(bases) and config.corners == "disc" and needs_corners(self.side, crop[0])
        self.mask = disc(crop[0]).to(device) if self.masked else None
        self.turners = {base: Turner(base, self.side, crop[0], config, device) for base in bases}
        self.method = _method(self, config)

    def upright(self, patches: Tensor) -> Tensor:
        """(B, C, S, S) as stored -> float (B, C, h, w), its centre."""
        h, w = self.crop
        pixels = patches.to(self.device).movedim((0, 1), (2, 3))  # an odd margin loses its last row and column
        pixels = pixels[: pixels.shape[0] - (pixels.shape[0] - h) % 2, : pixels.shape[1] - (pixels.shape[1] - w) % 2]
        return center(pixels, h, w).movedim((2, 3), (0, 1)).float().contiguous()

    def reference(self, upright: Tensor) -> Tensor:
        return upright if self.mask is None else torch.where(self.mask, upright, self._fill(upright))

    def looks(self, patches: Tensor, upright: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Yield (base, look, back) for each interpolated base angle: (B, C, h, w), turned, and there and back."""
        if not self.turners:
            return
        b, c = patches.shape[:2]
        stack = patches.to(self.device)[:, :, : self.side, : self.side].float()
        pixels = stack.reshape(b * c, self.side, self.side).permute(1, 2, 0).contiguous()
        low, high = stack.amin((2, 3), True), stack.amax((2, 3), True)  # floats have no range but their own
        if not self.is_float:
            low, high = torch.zeros_like(low), torch.full_like(high, 255)
        fill = None if self.mask is None else self._fill(upright)
        pixels = prefilter(pixels) if self.spline else pixels
        for base, turner in self.turners.items():
            found = []
            for look in turner(pixels):
                look = look.permute(2, 0, 1).reshape(b, c, *self.crop).clamp(low, high)
                found.append(look if fill is None or self.mask is None else torch.where(self.mask, look, fill))
            yield base, found[0], found[1]

    def _fill(self, upright: Tensor) -> Tensor:
        assert self.mask is not None
        return upright[:, :, self.mask].mean(2)[:, :, None, None]


def _method(turning: Turning, config: AuditConfig) -> str:
    if turning.crop[0] != turning.crop[1]:
        return "half turns and mirrors: pixels permuted, exact; quarter turns of oblong pictures do not exist"
    exact = "multiples of 90 degrees and mirrors: pixels permuted, exact"
    if not turning.turners:
        return exact
    side, crop = turning.side, turning.crop[0]
    kind = {"spline": "cubic spline"}.get(config.interpolation, config.interpolation)
    corners = "no corner is invented"
    if needs_corners(side, crop):
        filled = {"mirror": "the mirrored picture", "edge": "its border", "black": "black"}.get(config.corners)
        corners = f"the patch is smaller than {crop} x sqrt 2, so "
        corners += (
            "only the inscribed disc is shown, upright too" if turning.masked else f"corners are filled with {filled}"
        )
    return (
        f"{exact}; other angles: {kind} on the stored {side} x {side} patch, then its centre {crop} x {crop}; {corners}"
    )
