"""Pictures that a run keeps for its report."""

import base64
import io

from PIL import Image
from torch import Tensor, nn

from ..nn import LiftingConv2d


def png(picture: Tensor) -> str:
    """(C, H, W) uint8 as base64 PNG; one channel is grey, more than three show the first three."""
    array = picture[:3].permute(1, 2, 0).numpy() if len(picture) >= 3 else picture[0].numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def grey(chances: Tensor) -> str:
    """(H, W) in 0..1 as base64 PNG, 1 is white."""
    return png((255 * chances.clamp(0, 1)).round().byte()[None])


def first_kernels(
    model: nn.Module, features: int = 4, largest: int = 11
) -> tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]:
    """The first convolution, mean over input channels: (features, |G|, k, k), with |G| = 1 for a plain network."""
    for layer in model.modules():
        if isinstance(layer, LiftingConv2d):
            bank, order = layer.bank(), layer.group.order
        elif isinstance(layer, nn.Conv2d):
            bank, order = layer.weight, 1
        else:
            continue
        if bank.shape[-1] > largest:
            return ()
        kernels = bank.detach().mean(1).unflatten(0, (-1, order))[:features]
        return tuple(tuple(tuple(tuple(row) for row in k) for k in f) for f in kernels.double().cpu().tolist())
    return ()
