"""Augmentation of whole batches: turns and mirrors about the centre of the source patch, then the crop, then the stain.

Any angle is bicubic. Measured on 96x96 H&E patches of colon, turned by 15, 30 and 45 degrees and cropped to 32x32,
against band-limited interpolation: bicubic misses 8 % of the norm and keeps 92 % of the gradient energy, bilinear
misses 15 % and keeps 64 %, which a network could tell from an upright picture. The price is 94 against 39 microseconds
an image on one core.
"""

import math
from typing import Literal, overload

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..config import Config
from ..errors import UsageError

IGNORE = -100  # the class of pixels of which nothing is known; F.cross_entropy leaves it out
ANGLES = {"any": math.pi, "radians_as_degrees": math.radians(math.pi)}  # the largest angle, in radians


class Augment(Config):
    """What happens to a training batch.

    turn: "none"; "rot90" for the exact quarter turns; "any" for a uniform angle; "radians_as_degrees" for the trap of
    the published rotated MNIST experiment, whose 2 pi went to a function of degrees: +-3.14 degrees, hardly a turn.
    mirror: of half of the images; None: where they are turned by "rot90" (the 8 elements of D4) or "any".
    shift: by up to so many pixels in both directions, zeros outside, after the turn.
    stain: strength s. Colour: the optical density of each channel times its own factor from [1-s, 1+s], so white stays
    white. Grey: contrast times a factor from [1-s, 1+s] and brightness shifted by up to 255 s / 2.
    """

    turn: Literal["none", "rot90", "any", "radians_as_degrees"] = "rot90"
    mirror: bool | None = None
    shift: int = Field(default=0, ge=0)
    stain: float = Field(default=0.0, ge=0, lt=1)

    @property
    def mirrors(self) -> bool:
        return self.turn in ("rot90", "any") if self.mirror is None else self.mirror


@overload
def augment(images: Tensor, policy: Augment, crop: int | None, generator: torch.Generator) -> Tensor: ...


@overload
def augment(
    images: Tensor, policy: Augment, crop: int | None, generator: torch.Generator, masks: Tensor
) -> tuple[Tensor, Tensor]: ...


def augment(
    images: Tensor, policy: Augment, crop: int | None, generator: torch.Generator, masks: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Apply `policy` to float images 0..255, and to their masks but for the stain; all randomness comes from
    `generator`, and masks draw nothing.

    Shapes: (B, C, S, S) -> (B, C, crop, crop); crop None keeps S. With masks int64 (B, S, S) a pair.
    Turned before it is cropped: with S >= needed_size(crop) no pixel is invented. Smaller sources are continued
    by reflection at their border, masks by IGNORE; a mask turned by any angle takes the nearest pixel.
    Raises: UsageError if the images are not square and turned, or smaller than the crop.

    >>> images, masks = torch.rand(4, 3, 96, 96) * 255, torch.zeros(4, 96, 96, dtype=torch.long)
    >>> augment(images, Augment(turn="any"), 32, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 32, 32])
    >>> images, masks = augment(images, Augment(turn="any"), 96, torch.Generator().manual_seed(0), masks)
    >>> masks.unique()
    tensor([-100,    0])
    """
    height, width = images.shape[-2:]
    if policy.turn != "none" and height != width:
        raise UsageError(f"augment: turn={policy.turn!r} expects square images, got {height}x{width}")
    both = [images] if masks is None else [images, masks[:, None]]
    if policy.turn in ANGLES:
        both = _turn_any(both, height if crop is None else crop, ANGLES[policy.turn], policy.mirrors, generator)
    else:
        both = both if crop is None else [center_crop(tensor, crop) for tensor in both]
        both = _turn_exact(both, 4 if policy.turn == "rot90" else 1, policy.mirrors, generator)
    images, *turned = _shift(both, policy.shift, generator) if policy.shift else both
    images = _jitter(images, policy.stain, generator) if policy.stain else images
    return (images, turned[0][:, 0]) if turned else images


def center_crop(images: Tensor, crop: int) -> Tensor:
    """The centre of (..., H, W): (..., crop, crop).

    Pitfall: where H - crop is odd there is no centre; the crop lies half a pixel up and left, and turning before
    and after cropping differ by one pixel. Choose a crop with the parity of the source.

    >>> center_crop(torch.arange(16).reshape(4, 4), 2)
    tensor([[ 5,  6],
            [ 9, 10]])
    """
    height, width = images.shape[-2:]
    if not 1 <= crop <= min(height, width):
        raise UsageError(f"crop: expected 1 to {min(height, width)} pixels for images of {height}x{width}, got {crop}")
    top, left = (height - crop) // 2, (width - crop) // 2
    return images[..., top : top + crop, left : left + crop]


def needed_size(crop: int) -> int:
    """Side of the source patch that holds a crop x crop square at every angle, of the same parity as the crop.

    >>> needed_size(32), needed_size(33)
    (46, 47)
    """
    size = math.ceil(crop * math.sqrt(2))
    return size + (size - crop) % 2


def _turn_exact(both: list[Tensor], turns: int, mirrors: bool, generator: torch.Generator) -> list[Tensor]:
    """One of so many quarter turns for each image, mirrored or not, by permutation of pixels; turns * m + r: mirror if
    m, then r turns."""
    elements = turns * (1 + mirrors)
    if elements == 1:
        return both
    choice = _draw(both[0], generator, elements, whole=True)
    out = [torch.empty_like(tensor) for tensor in both]
    for element in range(elements):
        chosen = choice == element
        for tensor, turned in zip(both, out, strict=True):
            part = tensor[chosen]
            turned[chosen] = torch.rot90(part.flip(-1) if element >= turns else part, element % turns, (-2, -1))
    return out


def _turn_any(both: list[Tensor], crop: int, largest: float, mirrors: bool, generator: torch.Generator) -> list[Tensor]:
    """Only the pixels of the crop are computed: output pixel q (from the centre) takes the source at M^-1 q."""
    images, *masks = both
    size = images.shape[-1]
    if not 1 <= crop <= size:
        raise UsageError(f"crop: expected 1 to {size} pixels for images of {size}x{size}, got {crop}")
    angle = 2 * largest * _draw(images, generator) - largest * (largest < math.pi)
    mirror = 1 - 2 * _draw(images, generator, 1 + mirrors, whole=True).to(angle.dtype)
    scale = crop / size  # affine_grid measures the output in half-crops, grid_sample the input in half-sizes
    c, s, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros_like(angle)
    # y points down: counter-clockwise as displayed takes (x, y) from (c x - s y, s x + c y); the mirror then flips x
    theta = torch.stack([mirror * c, -mirror * s, zero, s, c, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images.dtype), [len(images), 1, crop, crop], align_corners=False)
    turned = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    turned.clamp_(0, 255)  # bicubic overshoots at edges
    return [turned, *(_sample(mask, grid) for mask in masks)]


def _sample(mask: Tensor, grid: Tensor) -> Tensor:
    """The nearest pixel of a mask; as floats above IGNORE, since zeros lie outside."""
    above = F.grid_sample((mask - IGNORE).to(grid.dtype), grid, mode="nearest", align_corners=False)
    return above.to(mask.dtype) + IGNORE


def _shift(both: list[Tensor], most: int, generator: torch.Generator) -> list[Tensor]:
    """Each image by its own whole number of pixels, from -most to most, down and to the right."""
    images = both[0]
    height, width = images.shape[-2:]
    down, right = (_draw(images, generator, 2 * most + 1, whole=True).view(-1, 1) for _ in range(2))
    rows = (down + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (right + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(len(images), device=images.device)[:, None, None, None]
    shifted = []
    for tensor, outside in zip(both, (0, IGNORE), strict=False):
        channel = torch.arange(tensor.shape[1], device=images.device)[:, None, None]
        padded = F.pad(tensor, (most, most, most, most), value=outside)
        shifted.append(padded[image, channel, rows, columns])
    return shifted


def _jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    batch, channels = images.shape[:2]
    factor = 1 + strength * (2 * _draw(images, generator, columns=channels) - 1).view(batch, channels, 1, 1)
    if channels > 1:
        # density -log((I + 1) / 256) times the factor: 255 stays 255, and black may pass 0 by less than one grey value
        return (256 * ((images + 1) / 256) ** factor - 1).clamp_(min=0)
    shift = 255 * strength * (_draw(images, generator) - 0.5).view(batch, 1, 1, 1)
    mean = images.mean((2, 3), keepdim=True)
    return ((images - mean) * factor + mean + shift).clamp_(0, 255)


def _draw(
    images: Tensor, generator: torch.Generator, bound: int = 1, *, columns: int = 0, whole: bool = False
) -> Tensor:
    """One uniform number in [0, bound) (whole: integer) for each image, drawn where the generator lives."""
    shape = (len(images), columns) if columns else (len(images),)
    numbers = bound * torch.rand(shape, generator=generator, device=generator.device)
    return (numbers.floor().long() if whole else numbers).to(images.device)
