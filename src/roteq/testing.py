"""Checks of equivariance that cannot pass by accident, for roteq's own tests and for yours.

A constant output is perfectly equivariant, so every check here also demands that the output varies.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from .groups import Group
from .groups import group as named_group

Representation = Literal["trivial", "regular", "vector", "invariant"]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # rounding through a deep network, against the variation
DEGENERATE = 1e-5  # variation between images below this share of the output's norm is no variation


def act(group: Group, x: Tensor, g: int, representation: Representation) -> Tensor:
    """rho(g) x for an image or trivial map, a regular feature map, a vector field, or an invariant vector."""
    if representation == "vector":
        return group.act_on_vectors(x, g)
    if representation == "trivial":
        return group.act_on_image(x, g)
    return group.act_on_features(x, g) if representation == "regular" else x


def equivariance_error(
    module: nn.Module,
    group: str | Group,
    x: Tensor,
    g: int,
    *,
    input: Representation = "trivial",
    output: Representation | None = None,
) -> float | None:
    """The between-image error ||f(gx) - rho(g) f(x)|| / ||f(x) - f(x')||, x' the next image of the batch.

    0 is equivariant; 1 means that turning a picture changes the output as much as exchanging it. None where the output
    hardly varies between the images: a constant has no equivariance error. `output` None: "invariant" for (B, K)
    outputs, "regular" for maps. The module runs as it is (mode, dtype); random layers see the same random numbers.

    Raises: ValueError if the batch holds fewer than two images.

    >>> from roteq.nn import LiftingConv2d
    >>> layer = LiftingConv2d(1, 2, 3, group="p4").double()
    >>> x = torch.randn(2, 1, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> equivariance_error(layer, "p4", x, 1) < 1e-12
    True
    """
    if len(x) < 2:
        raise ValueError(
            "equivariance_error: expected at least 2 images, got 1; the error is measured against their difference"
        )
    group = named_group(group)
    with torch.no_grad():
        upright = _run(module, x)
        turned = _run(module, act(group, x, g, input))
    output = output or ("regular" if upright.ndim == 4 else "invariant")
    variation = torch.linalg.vector_norm(upright - upright.roll(1, 0))
    if variation <= DEGENERATE * torch.linalg.vector_norm(upright):
        return None
    return (torch.linalg.vector_norm(turned - act(group, upright, g, output)) / variation).item()


def assert_equivariant(
    module: nn.Module,
    group: str | Group,
    x: Tensor,
    *,
    input: Representation = "trivial",
    output: Representation | None = None,
    parities: bool = True,
) -> None:
    """Assert f(gx) = rho(g) f(x) for every exact element g, in float32 and float64, in train and eval mode, and with
    `parities` also on a map that is one pixel smaller. The module itself is left untouched.

    Raises: AssertionError naming the element, mode, dtype, size and error; also where the output does not vary
    between the images, or where it does not move although rho(g) should move it.

    >>> from roteq.nn import GroupPool, LiftingConv2d
    >>> x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    >>> net = nn.Sequential(LiftingConv2d(1, 4, 3, group="p4m"), nn.ReLU(), GroupPool("p4m"))
    >>> assert_equivariant(net, "p4m", x, output="trivial")
    >>> assert_equivariant(nn.Conv2d(1, 8, 3), "p4m", x)
    Traceback (most recent call last):
    AssertionError: Conv2d is not equivariant under D4: element 90°, float32, train mode, 9x9: error ...
    """
    group = named_group(group)
    for dtype, tolerance in TOLERANCE.items():
        for training in (True, False):
            twin = copy.deepcopy(module).to(dtype).train(training)
            for images in (x, x[..., 1:, 1:]) if parities else (x,):
                images = images.to(dtype)
                where = (
                    f"{str(dtype)[6:]}, {'train' if training else 'eval'} mode, {images.shape[-2]}x{images.shape[-1]}"
                )
                if input == "trivial":
                    _assert_moves(twin, group, images, where, output)
                for g in group.exact_elements[1:]:
                    error = equivariance_error(twin, group, images, g, input=input, output=output)
                    name = type(module).__name__
                    assert error is not None, (
                        f"{name}: the output does not vary between images ({where}); a constant proves nothing"
                    )
                    assert error < tolerance, (
                        f"{name} is not equivariant under {group.name}: element {group.describe(g)}, {where}: "
                        f"error {error:.2g}, expected below {tolerance:g}"
                    )


def _assert_moves(module: nn.Module, group: Group, x: Tensor, where: str, output: Representation | None) -> None:
    """A regular map must differ between orientations, or equivariance says nothing about the group axis."""
    with torch.no_grad():
        y = _run(module, x)
    if y.ndim != 4 or output not in (None, "regular") or group.order == 1 or y.shape[1] % group.order:
        return
    blocks = y.unflatten(1, (-1, group.order))
    spread = (blocks - blocks.mean(2, keepdim=True)).norm()
    assert spread > DEGENERATE * blocks.norm(), (
        f"{type(module).__name__}: all orientations of a feature are equal ({where}); this proves nothing"
    )


def _run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module(x)
