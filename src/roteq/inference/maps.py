"""The map of an image of any size: class probabilities at every pixel."""

from torch import Tensor

from ..data.windows import reflected
from ..errors import UsageError
from ..nn.geometry import Geometry
from ..training.segmenter import Segmenter, at_pixels
from .tiles import map_answers

CHUNK = 256  # rows


def predict_map(
    segmenter: Segmenter, image: Tensor, *, tile: int = 1024, batch_size: int = 1, progress: bool = False
) -> Tensor:
    """Class probabilities at every pixel of an image, on the CPU; its tiles leave no seam (`map_answers`).

    The image is continued by reflection, so that every pixel has an answer of a network without padding, and one with
    padding sees around the image what it saw around the windows of its training. A map of stride s is read between its
    answers as in training (`at_pixels`).

    Shapes: (C, H, W) uint8 or float, 0..255 -> (K, H, W) float32
    Exactness: turns with the image for the exact elements of an equivariant network. Not, by up to a pixel, where cells
    cannot lie symmetrically about the centre: an odd side and an even stride, or window - stride odd.
    Raises: UsageError for another shape or number of channels, an empty image, or a tile that is too small.
    """
    channels, name = segmenter.channels, segmenter.model_config.label
    if image.ndim != 3 or image.shape[0] != channels or not image.numel():
        raise UsageError(f"predict_map: {name} expects an image ({channels}, H, W), got {tuple(image.shape)}")
    height, width = image.shape[-2:]
    geometry = segmenter.geometry
    frame = segmenter.frame
    (rows, top), (columns, left) = (
        continued(side, geometry)
        if geometry and not geometry.padding
        else (reflected(-frame, side + 2 * frame, side), frame)
        for side in (height, width)
    )
    image = image[:, rows.to(image.device)][:, :, columns.to(image.device)]

    def normalise(pixels: Tensor) -> Tensor:
        return (pixels.float() - segmenter.mean) / segmenter.std

    was_training = segmenter.training
    segmenter.eval()
    try:
        answers = map_answers(
            segmenter.network, image, geometry,
            tile=tile, batch_size=batch_size, prepare=normalise, progress=progress,
        )  # fmt: skip
    finally:
        segmenter.train(was_training)
    stride = geometry.stride if geometry else 1
    out = at_pixels(answers.float()[None], stride)[0, :, top : top + height, left : left + width].contiguous()
    assert out.shape[-2:] == (height, width), "padding goes with stride 1"
    for part in out.split(CHUNK, 1):
        part.copy_(part.softmax(0))
    return out


def continued(side: int, geometry: Geometry) -> tuple[Tensor, int]:
    """The pixels of a side, continued by reflection on both ends (again and again where it is short) until a network
    without padding answers for each, and how many pixels its answers begin before the side.

    >>> continued(4, Geometry(window=5))
    (tensor([2, 1, 0, 1, 2, 3, 2, 1]), 0)
    """
    stride = geometry.stride
    answers = -(-side // stride)
    if stride % 2:
        answers += (answers * stride - side) % 2  # as many pixels on both ends
    before = (answers * stride - side) // 2
    return reflected(-before - geometry.begin, (answers - 1) * stride + geometry.window, side), before
