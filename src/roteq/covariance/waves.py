"""Pictures by a formula, which turn by any angle without being resampled."""

import math

import torch
from torch import Tensor

from ..filters import pixel_grid

SHORTEST = 8.0  # pixels
WAVES = 16  # in a picture


class Waves:
    """Random smooth pictures: `WAVES` plane waves of 8 pixels and more under a disc that fades out.

    f(x) = w(|x|) sum_j cos(k_j x + phi_j); w = 1 up to 0.7 of half the frame, 0 from 0.95 of it on.
    A turned picture is the formula at the turned points, (L_g f)(x) = f(g^-1 x).
    """

    def __init__(self, images: int, channels: int, frame: int, generator: torch.Generator) -> None:
        def random() -> Tensor:
            return torch.rand(WAVES, images, channels, 1, generator=generator, dtype=torch.float64)

        k, direction = 2 * math.pi / SHORTEST * random().sqrt(), 2 * math.pi * random()
        self.waves = torch.stack((k * direction.cos(), k * direction.sin(), 2 * math.pi * random()), 1)
        self.frame = frame

    def sample(self, matrix: Tensor, side: int) -> Tensor:
        """The central side x side pixels of every picture, turned by a 2x2 orthogonal matrix: (images, channels, side,
        side), float64."""
        x, y = matrix.T @ torch.stack(pixel_grid(side))  # the inverse is the transpose
        total = sum((kx * x + ky * y + phase).cos() for kx, ky, phase in self.waves)
        fade = ((2 * torch.hypot(x, y) / self.frame - 0.7) / 0.25).clamp(0, 1)
        disc = (math.pi / 2 * fade).cos().square()
        return (total * disc / math.sqrt(WAVES / 2)).unflatten(2, (side, side))
