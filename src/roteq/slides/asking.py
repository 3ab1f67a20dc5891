"""A trained network that answers a whole tile at once, whatever kind it is."""

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import RoteqError, UsageError
from ..nn.geometry import Geometry
from ..training import Classifier
from .config import SlideConfig
from .plan import Tiling, tiling

CHANNELS = 3  # of a slide
CELL = 4  # pixels of a cell, at least, where a network has an answer for every pixel
WINDOWS = 64  # at once, of a network that answers one at a time
TILES = {"cuda": 4}  # at once; else 1


class Asker:
    """Tiles in, cells of the map out.

    A dense network answers a tile in one pass; so does a classifier of patches that has a dense form (`network.dense`),
    with the same weights. Any other is asked about every window that is wanted.
    """

    def __init__(self, classifier: Classifier, config: SlideConfig) -> None:
        if classifier.channels != CHANNELS:
            raise UsageError(
                f"{classifier.model_config.label}: expected a network for the {CHANNELS} channels of a slide, got one "
                f"for {classifier.channels}"
            )
        self.dense = classifier.dense or all(hasattr(classifier.network, name) for name in ("dense", "geometry"))
        if self.dense and not classifier.dense:
            classifier = deepcopy(classifier)
            classifier.network.dense = True  # type: ignore[assignment]
        self.classifier = classifier.eval()
        self.device = classifier.mean.device
        self.classes = classifier.classes if len(classifier.classes) > 2 else classifier.classes[-1:]
        geometry = classifier.network.geometry if self.dense else self._windows(config)
        if not isinstance(geometry, Geometry):
            raise UsageError(
                f"{classifier.model_config.label}: an answer depends on the whole picture, so tiles would not join; "
                "expected a network with a geometry, such as g_unet"
            )
        self.geometry = geometry
        self.tiling: Tiling = tiling(geometry, config.tile, self._pool(geometry, config.stride))
        self.batch_size = config.batch_size or TILES.get(self.device.type, 1)

    def _windows(self, config: SlideConfig) -> Geometry:
        """Of a classifier of patches without a dense form."""
        known = self.classifier.crop
        if known and config.window not in (None, known):
            raise UsageError(f"window: the network was trained on {known} pixels, got {config.window}; leave it out")
        window = known or config.window
        if window is None:
            raise UsageError(
                f"window: the checkpoint of {self.classifier.model_config.label} does not say how large the patches "
                "were that it was trained on; give it, such as window=96"
            )
        return Geometry(window, config.stride or max(1, window // 4))

    def _pool(self, geometry: Geometry, stride: int | None) -> int:
        """Answers along a side of a cell."""
        own = geometry.stride
        stride = stride or (own if own > 1 or not self.dense else CELL)
        if stride % own:
            raise UsageError(
                f"stride: {self.classifier.model_config.label} answers every {own} pixels; expected a multiple of "
                f"that, got {stride}; nearest: {max(1, round(stride / own)) * own}"
            )
        return stride // own

    def __call__(self, tiles: Tensor, wanted: Tensor) -> Tensor:
        """uint8 (B, 3, side, side), bool (B, n, n) -> uint8 (B, C, n, n): values of a map, 0 where not wanted.

        Raises: RoteqError if the memory of the device does not suffice.
        """
        try:
            with torch.inference_mode():
                answer = self._dense if self.dense else self._one_by_one
                found = answer(tiles.to(self.device), wanted.to(self.device))
                return found * wanted[:, None].to(self.device)
        except torch.OutOfMemoryError as error:
            raise RoteqError(
                f"{self.classifier.model_config.label}: {len(tiles)} tiles of {self.tiling.side} pixels need more "
                "memory than the device has; give batch_size=1, or a smaller tile"
            ) from error

    def _dense(self, tiles: Tensor, wanted: Tensor) -> Tensor:
        chances = self.classifier.answer(tiles.float()).float().softmax(1)[:, -len(self.classes) :]
        drop, n = self.tiling.drop, self.tiling.cells * self.tiling.pool
        return values(F.avg_pool2d(chances[:, :, drop : drop + n, drop : drop + n], self.tiling.pool))

    def _one_by_one(self, tiles: Tensor, wanted: Tensor) -> Tensor:
        window, stride = self.geometry.window, self.geometry.stride
        views = tiles.unfold(2, window, stride).unfold(3, window, stride).permute(0, 2, 3, 1, 4, 5)
        n = self.tiling.cells
        found = torch.zeros(len(tiles), n, n, len(self.classes), dtype=torch.uint8, device=self.device)
        for places in wanted.nonzero().split(WINDOWS):
            at = places.unbind(1)
            chances = self.classifier(views[at]).float().softmax(1)[:, -len(self.classes) :]
            found[at] = values(chances)
        return found.movedim(3, 1)


def values(chances: Tensor) -> Tensor:
    """Probabilities as a map holds them; what is no number is unknown.

    >>> values(torch.tensor([0.0, 0.5, 1.0, float("nan")])).tolist()
    [1, 128, 255, 0]
    """
    return torch.where(chances.isnan(), 0, (chances * 254).round() + 1).to(torch.uint8)
