"""Training of dense networks: windows and their masks in, logits of every pixel out."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import augment, center_crop
from ..data.masks import IGNORE
from ..nn.geometry import Geometry
from .module import Classifier

PIXELS = 4096  # of a window that validation looks at, evenly spread


class Segmenter(Classifier):
    """A dense network with its preprocessing: images as they are stored in, a map of logits out.

    Shapes: (B, C, H, W) uint8 or float, 0..255 -> (B, K, h, w), one answer for each cell of `geometry`.
    """

    dense = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.crop = None  # any image, whatever the windows were

    @property
    def geometry(self) -> Geometry:
        return self.network.geometry  # type: ignore[return-value]

    @property
    def frame(self) -> int:
        """Pixels around an image by which it is continued before a padded network is asked: as around a window."""
        return self.config.context if self.geometry.padding else 0

    def augmented(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = augment(images, self.config.augment, self.config.patch, generator, labels)
        return images, unframed(labels, self.config.context)

    def judged(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return at_pixels(logits.float(), self.geometry.stride), labels_of(labels, logits, self.geometry)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, masks = batch
        logits, masks = self.judged(self(images), masks)
        step = max(1, int((masks[0].numel() / PIXELS) ** 0.5))  # the same pixels of a window in every epoch
        masks = masks[:, step // 2 :: step, step // 2 :: step]
        known = masks != IGNORE
        if known.any():
            self.val_logits.update(logits[:, :, step // 2 :: step, step // 2 :: step].movedim(1, 3)[known])
            self.val_labels.update(masks[known])


def at_pixels(answers: Tensor, stride: int) -> Tensor:
    """Answers between which `stride` pixels lie, read at every pixel of their cells by bilinear interpolation (Long et
    al. 2015, arXiv 1411.4038, section 3.3): symmetric, so it turns with the picture; beyond the outermost they stay.

    Shapes: (B, K, h, w) -> (B, K, h*stride, w*stride)
    """
    if stride == 1:
        return answers
    return F.interpolate(answers, scale_factor=stride, mode="bilinear", align_corners=False)


def labels_of(masks: Tensor, answers: Tensor, geometry: Geometry) -> Tensor:
    """The part of the masks (B, H, W) for which the answers (B, K, h, w) stand."""
    height, width = (side * geometry.stride for side in answers.shape[-2:])
    begin = geometry.begin
    return masks[..., begin : begin + height, begin : begin + width]


def unframed(masks: Tensor, margin: int) -> Tensor:
    """The masks with IGNORE in a frame of `margin` pixels."""
    framed = torch.full_like(masks, IGNORE)
    side = masks.shape[-1] - 2 * margin
    center_crop(framed, side).copy_(center_crop(masks, side))
    return framed
