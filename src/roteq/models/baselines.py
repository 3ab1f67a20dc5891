"""The standard networks that equivariant ones are compared with: ResNet and DenseNet from timm, AlexNet from
(timm has none). From scratch, from a local file of weights, or pretrained on ImageNet, frozen or free.

Nothing is downloaded unless weights="pretrained".
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RoteqError, UsageError

LAYERS = {  # first convolution, head, smallest side in pixels that survives the strides
    "alexnet": ("features.0", "classifier.6", 63),
    "densenet121": ("features.conv0", "classifier", 32),
    "resnet18": ("conv1", "fc", 32),
    "resnet50": ("conv1", "fc", 32),
}
LEGACY_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")  # norm.1 in torchvision's file, norm1 elsewhere


class Baseline(nn.Module):
    """A torchvision or timm network that resizes its own input and can keep its backbone frozen.

    Shapes: (B, in_channels, H, W) -> (B, num_classes)
    Frozen: all but the head has requires_grad False and stays in eval mode when train() is called, so BatchNorm neither
    normalises with batch statistics nor changes its averages.
    Raises: UsageError in forward if the picture is too small for the strides.
    """

    def __init__(self, name: str, net: nn.Module, *, freeze: bool, resize: int | None) -> None:
        super().__init__()
        _, self.head_name, self.smallest = LAYERS[name]
        if resize is not None and resize < self.smallest:
            raise UsageError(f"{name}: resize: expected at least {self.smallest} pixels, got {resize}")
        self.name, self.net, self.frozen, self.resize = name, net, freeze, resize
        if freeze:
            net.requires_grad_(False)
            self.head.requires_grad_(True)

    @property
    def head(self) -> nn.Module:
        return self.net.get_submodule(self.head_name)

    def train(self, mode: bool = True) -> "Baseline":
        super().train(mode)
        if self.frozen:
            self.net.eval()
            self.head.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.resize is not None:
            x = F.interpolate(x, (self.resize, self.resize), mode="bilinear", antialias=True, align_corners=False)
        elif min(x.shape[-2:]) < self.smallest:
            raise UsageError(
                f"{self.name}: expected pictures of at least {self.smallest}x{self.smallest} pixels, "
                f"got {x.shape[-2]}x{x.shape[-1]}; set resize={2 * self.smallest}, say"
            )
        return self.net(x)


def resnet18(
    in_channels: int = 3,
    num_classes: int = 2,
    weights: str | None = None,
    freeze: bool = False,
    resize: int | None = None,
) -> nn.Module:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385), 11.2 million parameters.

    weights: None (random), "pretrained" (ImageNet, downloaded) or the path of a .pth, .pt or .safetensors file, whose
    first convolution is adapted to in_channels and a head of another size is left out. resize: side in pixels to
    which pictures are brought inside the network.

    >>> resnet18(in_channels=1)(torch.zeros(2, 1, 48, 48)).shape
    torch.Size([2, 2])
    """
    return baseline("resnet18", in_channels, num_classes, weights, freeze, resize)


def resnet50(
    in_channels: int = 3,
    num_classes: int = 2,
    weights: str | None = None,
    freeze: bool = False,
    resize: int | None = None,
) -> nn.Module:
    """ResNet-50 (He et al. 2016, arXiv 1512.03385), 23.5 million parameters; options as for resnet18."""
    return baseline("resnet50", in_channels, num_classes, weights, freeze, resize)


def densenet121(
    in_channels: int = 3,
    num_classes: int = 2,
    weights: str | None = None,
    freeze: bool = False,
    resize: int | None = None,
) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017, arXiv 1608.06993), 7.0 million parameters; options as for resnet18."""
    return baseline("densenet121", in_channels, num_classes, weights, freeze, resize)


def alexnet(
    in_channels: int = 3,
    num_classes: int = 2,
    weights: str | None = None,
    freeze: bool = False,
    resize: int | None = None,
) -> nn.Module:
    """AlexNet (Krizhevsky 2014, arXiv 1404.5997), 57 million parameters, pictures of 63 pixels or more; options as for
    resnet18."""
    return baseline("alexnet", in_channels, num_classes, weights, freeze, resize)


def baseline(
    name: str, in_channels: int, num_classes: int, weights: str | None, freeze: bool, resize: int | None
) -> Baseline:
    if freeze and weights is None:
        raise UsageError(f"{name}: freeze=True would keep random features; set weights too ('pretrained' or a file)")
    net = _untrained(name, in_channels, num_classes)
    if weights is not None:
        state = _downloaded(name) if weights == "pretrained" else read_weights(weights)
        where = name if weights == "pretrained" else f"{name}: {weights}"
        load_adapted(net, state, where, first=LAYERS[name][0], head=LAYERS[name][1])
    return Baseline(name, net, freeze=freeze, resize=resize)


def _untrained(name: str, in_channels: int, num_classes: int) -> nn.Module:
    if name != "alexnet":
        import timm

        return timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
    from torchvision.models import alexnet as build

    net = build(weights=None, num_classes=num_classes)
    first = net.features[0]
    if in_channels != first.in_channels:
        net.features[0] = nn.Conv2d(
            in_channels, first.out_channels, first.kernel_size, stride=first.stride, padding=first.padding
        )
    return net


def _downloaded(name: str) -> dict[str, Tensor]:
    try:
        if name == "alexnet":
            from torchvision.models import AlexNet_Weights

            return dict(AlexNet_Weights.DEFAULT.get_state_dict(progress=False, check_hash=True))
        import timm

        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # urllib, requests, httpx and the hub each raise their own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RoteqError(
            f"{name}: the pretrained weights could not be downloaded ({reason}); "
            "fetch the file elsewhere and give its path as weights="
        ) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a .safetensors file or of a torch checkpoint (bare, or below "state_dict" or "model").

    Raises: UsageError if there is no such file, RoteqError if it is not a checkpoint. No code in the file is run.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"weights: no file {path}; expected 'pretrained' or the path of a .pth, .pt or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors errors of many kinds, all meaning the same
        raise RoteqError(f"{path}: not a checkpoint of weights, or a damaged one ({type(error).__name__})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise RoteqError(f"{path}: not a checkpoint of weights: expected tensors by name")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_adapted(net: nn.Module, state: dict[str, Tensor], where: str, *, first: str, head: str) -> None:
    """Load `state` into `net`: first convolution adapted to the input channels as timm does (sum for one channel,
    repeat and rescale for others), a head of another size left at its new initialisation. Anything
    else that does not fit: UsageError that lists it."""
    from timm.models import adapt_input_conv

    state = {LEGACY_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    own = net.state_dict()
    kernel, target = state.get(f"{first}.weight"), own.get(f"{first}.weight")
    if kernel is not None and target is not None and kernel.ndim == 4 and kernel.shape[1] == 3:
        state[f"{first}.weight"] = adapt_input_conv(target.shape[1], kernel)
    old_head, new_head = state.get(f"{head}.weight"), own.get(f"{head}.weight")
    if new_head is not None and (old_head is None or old_head.shape != new_head.shape):
        state |= {key: own[key] for key in (f"{head}.weight", f"{head}.bias") if key in own}
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # absent from files older than torch 0.4.1
    missing = sorted(own.keys() - state.keys() - counters)
    unknown = sorted(state.keys() - own.keys())
    other = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or unknown or other:
        lists = [("missing", missing), ("unknown", unknown), ("of another shape", other)]
        detail = "; ".join(
            f"{len(keys)} {word} ({', '.join(keys[:4])}{', ...' * (len(keys) > 4)})" for word, keys in lists if keys
        )
        raise UsageError(f"{where}: a checkpoint of another model: {detail}")
    net.load_state_dict({**own, **state})
