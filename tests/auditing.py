"""Pictures and models of the audit's tests."""

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from roteq.auditing import AuditConfig

QUICK = AuditConfig(angles=8, images=0, bootstrap=20)


def smooth_images(n: int = 40, channels: int = 1, size: int = 48, seed: int = 0, sigma: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(n, channels, size, size))
    blurred = ndimage.gaussian_filter(noise, (0, 0, sigma, sigma), mode="wrap")
    return np.clip(127 + 50 * blurred / blurred.std(), 0, 255).astype(np.uint8)


def make_cnn(channels: int = 1, seed: int = 0) -> nn.Module:
    """Its classes are balanced on smooth pictures: the mean answer is taken off."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 8, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.LazyLinear(3)).eval()
    with torch.no_grad():
        x = torch.from_numpy(smooth_images(200, channels, size=24, seed=9)).float()
        net[-1].bias -= net(x).mean(0)
    return net


class GroupMean(nn.Module):
    """The mean of a network over the eight exact elements: invariant to them by construction."""

    def __init__(self, body: nn.Module, mirrors: bool = True) -> None:
        super().__init__()
        self.body, self.mirrors = body, mirrors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        looks = [x, x.flip(3)] if self.mirrors else [x]
        return torch.stack([self.body(torch.rot90(y, r, (2, 3))) for y in looks for r in range(4)]).mean(0)


def radial(x: torch.Tensor) -> torch.Tensor:
    """Smooth windows that depend on the radius alone: invariant to every angle, up to resampling."""
    axis = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    square = axis[:, None] ** 2 + axis[None] ** 2
    bank = torch.stack([torch.exp(-square / (2 * s**2)) for s in (3.0, 5.0)])
    return (torch.einsum("bchw,khw->bk", x / 255, bank) * torch.tensor([1.0, 0.4])).float()
