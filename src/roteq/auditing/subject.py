"""What is audited: any model, as a function from pictures to answers, with what is known about its input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, nearest
from ..results.audit import Kind

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # 255 times the usual ones


@dataclass(frozen=True)
class Normalization:
    """Input = (pixel - mean) / std, pixels in 0..255; one number for all channels, or one for each.

    >>> Normalization.of("unit")
    Normalization(mean=(0.0,), std=(255.0,))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, given: "str | Normalization | tuple[Sequence[float], Sequence[float]]") -> "Normalization":
        """From "raw" (0..255), "unit" (0..1), "imagenet", "MEAN/STD" such as "0.5,0.5,0.5/0.5,0.5,0.5", or (mean, std).

        Numbers of mean and std are in 0..1 if none of them is above 2, as torchvision and timm give them, else in
        0..255. Raises: UsageError for anything else.
        """
        if isinstance(given, Normalization):
            return given
        named = {"raw": cls((0.0,), (1.0,)), "unit": cls((0.0,), (255.0,)), "imagenet": cls(*IMAGENET)}
        if isinstance(given, str):
            if given in named:
                return named[given]
            try:
                mean, std = ([float(v) for v in part.split(",")] for part in given.split("/"))
            except ValueError:
                raise UsageError(
                    f"normalize: expected raw, unit, imagenet or MEAN/STD such as 0.5/0.5, got {given!r}; "
                    f"{nearest(given, named)}"
                ) from None
        else:
            mean, std = (list(map(float, part)) for part in given)
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise UsageError(f"normalize: expected as many means as positive standard deviations, got {mean}, {std}")
        scale = 255.0 if max(map(abs, [*mean, *std])) <= 2 else 1.0
        return cls(tuple(scale * v for v in mean), tuple(scale * v for v in std))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Float pixels (B, C, H, W) in 0..255 -> the input of the model."""
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (pixels - mean) / std


@dataclass(frozen=True)
class Subject:
    """A model under audit.

    ask: float32 input (B, C, H, W) on `device`, normalised -> what the model returns, unchecked: a tensor, an array, a
    tuple or a dictionary. It runs in evaluation mode and without gradients where that means something.
    """

    name: str
    ask: Callable[[Tensor], Any]
    module: nn.Module | None = None  # the same as a torch module, for layers and derivatives
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    channels: int | None = None  # None: whatever the pictures have
    size: tuple[int, int] | None = None  # height and width of the input; None: any
    resize: int | None = None  # the shorter side of a picture before its centre is cut; 0: as stored; None: unsaid
    interpolation: str = "bicubic"  # of that resizing: "bicubic", "bilinear", "nearest", "lanczos"
    normalize: Normalization | None = None  # None: unsaid
    classes: tuple[str, ...] | None = None  # names of the outputs
    batch: int | None = None  # the only batch size it takes; None: any
    kind: Kind | None = None  # None: told by the shape of the output
    notes: tuple[str, ...] = ()  # where these facts come from, and what to know
