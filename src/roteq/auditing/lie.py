"""The Lie derivative of a model: how fast its output changes when the picture begins to move.

L f = d/dt f(T_t x) at t = 0, T_t a rotation about the centre, a translation or a scaling. The picture is its cubic
spline, so the velocity of its pixels is exact, and one pass in forward mode carries it through the network. Of maps the
velocity of the output map itself is taken off: L f = d/dt T_t^-1 f(T_t x).

Source: Gruver et al. 2022 (arXiv 2210.02984). Their published code averages absolute values over class probabilities;
here it is the root mean square of the judged scores, divided by the variation between images, so that models can be
compared and a constant has none.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import RoteqError
from ..results import LieError
from .answers import log_probabilities, read_answer
from .asking import evaluating
from .looking import Asker
from .rows import Moments
from .safety import hushed
from .turning import Turning, center, disc, spline_filter

BORDER = 4  # pixels of a map that its mirrored border reaches: 0.268^4 = 0.005
STEP = 3e-4  # of central differences, against the size of the input: less is rounding, more blurs the kinks of ReLU
LARGE = 3e-3  # another step: where the two disagree, by more than a half and by more than that, the model rounds
SETTLED, SETTLED_TO = 0.5, 0.01
FORWARD, CENTRAL = "forward-mode differentiation", "central differences"
UNSETTLED = "central differences that depend on their step: the model rounds, or computes in half precision"
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
MOTIONS: tuple[tuple[str, str, tuple[Velocity, ...]], ...] = (
    ("rotation", "radian", (lambda down, right, y, x: x * down - y * right,)),  # counter-clockwise as displayed
    ("translation", "pixel", (lambda down, right, y, x: -right, lambda down, right, y, x: -down)),
    ("scale", "e-fold", (lambda down, right, y, x: -(y * down + x * right),)),
)


def lie_errors(asker: Asker, patches: Tensor, turning: Turning, variation: float) -> tuple[LieError, ...]:
    """For the centre of each patch (B, C, S, S); translations are the root mean square over both directions.

    variation: the root mean square distance of the outputs of two images (rows.Moments.variation). A module without
    forward-mode formulas, or no module, is differentiated by central differences, which `method` says.
    """
    pixels = turning.reference(turning.upright(patches))
    h, w = (side - (side - crop) % 2 for side, crop in zip(patches.shape[2:], turning.crop, strict=True))
    spatial = patches[..., :h, :w].to(turning.device).float()  # whose centre is that of the crop
    inside = 1 if turning.mask is None else turning.mask
    found = []
    for name, unit, velocities in MOTIONS:
        squares, outputs, methods = 0.0, 1, list[str]()
        for velocity in velocities:
            moving = _cut(_velocity(spatial, velocity), turning) * inside
            output, change, method = _derivative(asker, pixels, moving, variation)
            methods.append(method)
            if asker.kind == "map":
                stride = output.shape[-1] / pixels.shape[-1] if unit == "pixel" else 1.0
                change = change - stride * _velocity(output, velocity)
                inner = _inside(output.shape[-1]).to(output.device)
                change, moments = change[..., inner], Moments()
                moments.add(output[..., inner])  # of as many pixels
                variation = moments.variation if variation > 0 else 0.0
            elif asker.kind == "classes":
                change = change - change.mean(1, keepdim=True)
            squares += float(change.double().flatten(1).square().sum(1).mean()) / len(velocities)
            outputs = change[0].numel()
        between = squares**0.5 / variation if variation > 0 else None
        square: float | None = squares / outputs
        method = UNSETTLED if UNSETTLED in methods else methods[-1]
        if method == UNSETTLED:
            between, square = None, None
        found.append(LieError(name, unit, between, square, method))  # type: ignore[arg-type]
    return tuple(found)


def _velocity(maps: Tensor, velocity: Velocity) -> Tensor:
    """How fast every pixel of (B, C, H, W) changes: the generator of the motion on the cubic spline."""
    h, w = maps.shape[2:]
    parts = []
    for x in (maps, maps.transpose(2, 3)):  # along rows, along columns: across, the spline goes through its pixels
        filtering = spline_filter(x.shape[2]).to(x)
        coefficients = filtering @ x
        beyond = torch.cat([coefficients[:, :, 1:2], coefficients, coefficients[:, :, -2:-1]], 2)  # mirrored
        parts.append((beyond[:, :, 2:] - beyond[:, :, :-2]) / 2)
    down, right = parts[0], parts[1].transpose(2, 3)
    y, x = (torch.arange(n, device=maps.device) - (n - 1) / 2 for n in (h, w))
    return velocity(down, right, y[:, None], x[None, :])


def _inside(size: int) -> Tensor:
    """The disc of a map whose splines do not see the border."""
    border = min(BORDER, (size - 1) // 4)
    return F.pad(disc(size - 2 * border), [border] * 4)


def _cut(moving: Tensor, turning: Turning) -> Tensor:
    return center(moving.movedim((0, 1), (2, 3)), *turning.crop).movedim((2, 3), (0, 1)).contiguous()


def _derivative(asker: Asker, pixels: Tensor, moving: Tensor, variation: float) -> tuple[Tensor, Tensor, str]:
    """(output, its change, how it was differentiated)."""
    module = asker.subject.module
    if module is not None:
        try:
            output, change = _forward_mode(asker, module, pixels, moving)
            return output, change, FORWARD
        except (AssertionError, RuntimeError, RoteqError):
            pass  # an operation without formula, an unusual output: by differences, as `method` says
    unit = float(pixels.norm() / moving.norm().clamp(min=1e-12))
    with torch.inference_mode():
        small, large = (
            (asker(pixels + step * moving) - asker(pixels - step * moving)) / (2 * step)
            for step in (STEP * unit, LARGE * unit)
        )
        least = SETTLED_TO * variation * len(pixels) ** 0.5
        is_settled = float((small - large).norm()) <= max(SETTLED * float(large.norm()), least)
        return asker(pixels), small, CENTRAL if is_settled else UNSETTLED


def _forward_mode(asker: Asker, module: torch.nn.Module, pixels: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    if asker.normalize is not None:
        still = asker.normalize(torch.zeros_like(pixels))
        pixels, moving = asker.normalize(pixels), asker.normalize(moving) - still
    dtype = next((value.dtype for value in module.parameters() if value.is_floating_point()), pixels.dtype)
    with torch.no_grad(), evaluating(module), hushed(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        dual = module(forward_ad.make_dual(pixels.to(dtype), moving.to(dtype)))
        answer, _ = read_answer(dual, len(pixels), asker.kind, asker.subject.name)
        answer = log_probabilities(answer) if asker.logarithm else answer
        output, change = forward_ad.unpack_dual(answer)
    if change is None:
        raise RuntimeError("the output does not follow the input")
    return output, change
