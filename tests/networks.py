"""Every network of the registry in a small form: what the sweeps of the tests run over."""

import copy
from functools import cache

import pytest
import torch

from roteq.models import create
from roteq.models.registry import GROUP_NETWORKS, ModelConfig

NETWORKS = {  # name -> (model, options, channels, side of the picture)
    "allcnn_c p4m": ("allcnn_c", {"width": 3, "dropout": False}, 3, 8),
    "alexnet": ("alexnet", {}, 3, 64),
    "cnn": ("cnn", {"group": "C12"}, 3, 32),
    "densenet121": ("densenet121", {}, 3, 64),
    "e2_mnist D4|C4": ("e2_mnist", {"group": "D4", "restrict": "C4", "width": 0.1, "kernel": 3}, 1, 22),
    "e2_mnist C8": ("e2_mnist", {"group": "C8", "width": 0.1, "kernel": 3}, 1, 28),
    "p4cnn": ("p4cnn", {"width": 3}, 1, 29),
    "p4cnn_rotation_pooling": ("p4cnn_rotation_pooling", {"group": "p4m", "width": 3}, 1, 29),
    "p4m_densenet": ("p4m_densenet", {"growth": 2, "depth": 3}, 3, 25),
    "p4m_densenet C8": ("p4m_densenet", {"group": "C8", "growth": 2, "depth": 2}, 3, 24),
    "resnet18": ("resnet18", {}, 3, 64),
    "resnet26 p4m": ("resnet26", {"width": 2}, 3, 9),
    "resnet44 p4": ("resnet44", {"group": "p4", "width": 2}, 3, 9),
    "resnet50": ("resnet50", {}, 3, 64),
    "se2_pcam C8": ("se2_pcam", {"width": 2}, 3, 89),
    "se2cnn C12": ("se2cnn", {"group": "C12"}, 3, 32),
    "se2cnn C8 harmonic": ("se2cnn", {"group": "C8", "basis": "harmonic", "width": 2}, 3, 36),
    "se2cnn D4": ("se2cnn", {"group": "D4"}, 3, 33),
    "se2cnn_study": ("se2cnn_study", {}, 1, 36),
    "twin resnet18 p4": ("twin", {"of": "resnet18", "group": "p4", "width": 0.1}, 3, 64),
    "z2cnn": ("z2cnn", {"width": 4}, 1, 29),
}
HEAVY = ("resnet50", "densenet121", "alexnet")
RANDOM = ("alexnet", "z2cnn", "e2_mnist D4|C4", "e2_mnist C8")  # dropout: no two passes are alike in train mode
INVARIANT = [name for name, (model, *_) in NETWORKS.items() if model in GROUP_NETWORKS and model != "se2cnn_study"]


def sweep(names=NETWORKS, slow=HEAVY):
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def config(name):
    model, options, _, _ = NETWORKS[name]
    return ModelConfig.model_validate({"name": model, **options})


def images(name, n=4):
    _, _, channels, side = NETWORKS[name]
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1))


def made(name):
    torch.manual_seed(0)
    model, options, channels, _ = NETWORKS[name]
    return create(model, in_channels=channels, num_classes=4, **options)


made_once = cache(made)


def untrained(name):
    return copy.deepcopy(made_once(name)) if NETWORKS[name][0] == "twin" else made(name)  # a conversion takes seconds


def trained(name):
    """With statistics and biases that are not those of the start, in eval mode."""
    net = untrained(name)
    with torch.no_grad():
        net.train()(images(name))
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()
