"""Every public layer of roteq.nn once in each of its forms, and one network: what the sweeps of the tests run over."""

import torch
from torch import nn

from roteq.nn import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupDropout2d,
    GroupInstanceNorm2d,
    GroupLayerNorm,
    GroupLayerNorm2d,
    GroupLinear,
    GroupNorm2d,
    GroupPool,
    LiftingConv2d,
    MapHead,
    RectangularGroupConv2d,
    RectangularLiftingConv2d,
    Restriction,
    SeparableGroupConv2d,
    SymmetricAvgPool2d,
    SymmetricBlurPool2d,
    SymmetricMaxPool2d,
    SymmetricUpsample2d,
    VectorHead,
)


def network():
    return nn.Sequential(
        LiftingConv2d(2, 3, 5, padding=2, bias=False, group="C8"),
        GroupBatchNorm2d(3, group="C8"),
        nn.ReLU(),
        SymmetricMaxPool2d(),
        GroupConv2d(3, 4, 3, padding=1, group="C8"),
        VectorHead(4, 3, group="C8"),
    )


CONVOLUTIONS = {  # name -> (make, shapes of its inputs without the batch)
    "lifting": (lambda: LiftingConv2d(2, 3, 3, padding="same", group="D4"), (2, 6, 5)),
    "lifting harmonic": (lambda: LiftingConv2d(2, 2, 5, padding=2, bias=False, group="C8"), (2, 6, 6)),
    "lifting strided, reflect": (
        lambda: LiftingConv2d(2, 3, 3, stride=2, padding=2, dilation=2, padding_mode="reflect", group="C4"),
        (2, 7, 7),
    ),
    "group": (lambda: GroupConv2d(2, 3, 3, padding=1, group="C4"), (8, 6, 5)),
    "group harmonic": (lambda: GroupConv2d(2, 3, 3, bias=False, group="C8"), (16, 6, 6)),
    "strided": (lambda: GroupConv2d(2, 3, 3, stride=2, padding=1, group="D4"), (16, 7, 7)),
    "dilated": (lambda: GroupConv2d(2, 3, 3, padding=2, dilation=2, group="C4"), (8, 6, 6)),
    "grouped": (lambda: GroupConv2d(4, 6, 3, padding=1, groups=2, group="C4"), (16, 6, 6)),
    "depthwise": (lambda: GroupConv2d(3, 3, 3, padding=1, groups=3, group="D4", basis="harmonic"), (24, 6, 6)),
    "circular": (lambda: GroupConv2d(2, 3, 3, padding=1, padding_mode="circular", group="C4"), (8, 6, 6)),
    "reflect": (lambda: GroupConv2d(2, 3, 3, padding=1, padding_mode="reflect", group="C4"), (8, 6, 6)),
    "transposed": (lambda: GroupConvTranspose2d(2, 3, 4, stride=2, padding=1, group="C8"), (16, 4, 4)),
    "transposed, grouped": (lambda: GroupConvTranspose2d(4, 6, 3, dilation=2, groups=2, group="C4"), (16, 4, 4)),
    "separable": (lambda: SeparableGroupConv2d(2, 3, 3, padding=1, group="D4"), (16, 6, 6)),
    "separable strided, reflect": (
        lambda: SeparableGroupConv2d(2, 3, 3, stride=2, padding=1, padding_mode="reflect", group="C8"),
        (16, 7, 7),
    ),
    "rectangular": (lambda: RectangularGroupConv2d(2, 3, (1, 3), padding=(0, 1), group="C4"), (8, 6, 5)),
    "rectangular strided, grouped": (
        lambda: RectangularGroupConv2d(4, 2, (5, 3), 2, (2, 1), groups=2, bias=False, group="D4"),
        (32, 5, 7),
    ),
    "rectangular without quarter turns": (lambda: RectangularGroupConv2d(2, 3, (3, 2), group="D2"), (8, 6, 5)),
    "rectangular lifting": (lambda: RectangularLiftingConv2d(2, 3, (3, 1), padding="same", group="D4"), (2, 6, 5)),
}
OTHERS = {
    "batch norm": (lambda: GroupBatchNorm2d(3, group="C4"), (12, 4, 5)),
    "batch norm of the batch": (lambda: GroupBatchNorm2d(3, track_running_stats=False, group="C4"), (12, 4, 5)),
    "group norm": (lambda: GroupNorm2d(2, 4, group="C4"), (16, 4, 5)),
    "instance norm": (lambda: GroupInstanceNorm2d(3, affine=True, group="C4"), (12, 4, 5)),
    "layer norm": (lambda: GroupLayerNorm2d(3, group="C4"), (12, 4, 5)),
    "group norm, not shared": (lambda: GroupNorm2d(2, 4, group="C4", shared=False), (16, 4, 5)),
    "instance norm, not shared": (lambda: GroupInstanceNorm2d(3, affine=True, group="C4", shared=False), (12, 4, 5)),
    "layer norm, not shared": (lambda: GroupLayerNorm2d(3, group="C4", shared=False), (12, 4, 5)),
    "layer norm of vectors": (lambda: GroupLayerNorm(3, group="C4"), (5, 12)),
    "layer norm of vectors, not shared": (lambda: GroupLayerNorm(3, group="C4", shared=False), (5, 12)),
    "linear": (lambda: GroupLinear(2, 3, group="D4"), (5, 16)),
    "dropout": (lambda: GroupDropout2d(0.5, group="C4"), (32, 4, 5)),
    "max over the group": (lambda: GroupPool("D4"), (24, 4, 5)),
    "mean over the group": (lambda: GroupPool("D4", "mean"), (24, 4, 5)),
    "vectors": (lambda: GroupPool("D4", "argmax"), (24, 4, 5)),
    "symmetric max pool": (SymmetricMaxPool2d, (3, 8, 9)),
    "symmetric average pool": (SymmetricAvgPool2d, (3, 8, 9)),
    "symmetric blur pool": (SymmetricBlurPool2d, (3, 8, 9)),
    "upsample": (SymmetricUpsample2d, (3, 4, 4)),
    "upsample like": (SymmetricUpsample2d, (3, 4, 4), (1, 9, 8)),
    "restriction": (lambda: Restriction("D4", "D2"), (16, 4, 5)),
    "vector head": (lambda: VectorHead(3, 2, group="C8"), (24, 4, 5)),
    "map head": (lambda: MapHead(3, 2, group="D4", pool="mean"), (24, 4, 5)),
    "map head, vectors": (lambda: MapHead(3, 2, group="C8", pool="argmax"), (24, 4, 5)),
}
NETWORKS = {"network, odd map": (network, (2, 9, 9)), "network, even map": (network, (2, 8, 8))}
VECTORS = ("linear", "layer norm of vectors", "layer norm of vectors, not shared")  # channels in the last dimension
LAST = ", channels_last"  # layers whose code depends on the memory layout, on such maps
CASES = CONVOLUTIONS | OTHERS | NETWORKS
CASES |= {
    name + LAST: CASES[name]
    for name in (
        *("circular", "batch norm", "layer norm", "vectors", "restriction", "network, odd map"),
        *("group norm, not shared", "layer norm, not shared", "rectangular"),
    )
}
BFLOAT16_IN_AUTOCAST = {*CONVOLUTIONS, *NETWORKS, "vector head", "map head", "map head, vectors", "circular" + LAST}
BFLOAT16_IN_AUTOCAST |= {"linear", "rectangular" + LAST, "network, odd map" + LAST}
SAME_CODE = {  # other numbers through the same lines: the costliest sweeps leave these to `make slow`
    *("lifting harmonic", "group harmonic", "strided", "dilated", "grouped", "depthwise", "reflect"),
    *("separable strided, reflect", "instance norm", "symmetric average pool", "map head", "network, even map"),
    *("instance norm, not shared", "layer norm of vectors", "layer norm of vectors, not shared"),
    *("rectangular strided, grouped", "rectangular lifting"),
}
OTHER_IN_TRAINING = ("batch norm", "dropout", "network, odd map", "batch norm" + LAST, "network, odd map" + LAST)
RUNS = [*((name, False) for name in CASES), *((name, True) for name in OTHER_IN_TRAINING)]  # (name, training)


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def images(name, batch=3, seed=1, dtype=torch.float32):
    maps = (noise(batch, *shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(CASES[name][1:]))
    layout = torch.channels_last if name.endswith(LAST) else torch.contiguous_format
    return tuple(x.contiguous(memory_format=layout) for x in maps)


def layer(name, training=False, dtype=torch.float32, seed=0):
    """The layer of a case, its biases, scales and running statistics moved away from 0 and 1."""
    torch.manual_seed(seed)
    module = CASES[name][0]()
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if value.ndim == 1:
                value.add_(noise(*value.shape, seed=len(key) + seed).sigmoid())
    return module.train(training).to(dtype)


def run(module, inputs):
    """The output; random layers see the same random numbers."""
    torch.manual_seed(0)
    return module(*inputs)


def outcome(module, inputs):
    """The output, its gradient for inputs and parameters in a random direction, and the state afterwards."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = run(module, inputs)
    leaves = [*inputs, *module.parameters()]
    direction = noise(*y.shape, dtype=y.dtype)
    gradients = torch.autograd.grad(y, leaves, direction, allow_unused=True, materialize_grads=True)
    return y.detach(), gradients, {name: value.clone() for name, value in module.state_dict().items()}
