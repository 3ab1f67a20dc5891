"""What the pictures of the covariance test show, in numbers.

The arrangement is that of the public code of SE(2)-CNNs (tueimage/SE2CNN; Bekkers et al. 2018, arXiv 1804.03393), which
looked at pictures and asserted nothing: N = 8, 5x5 kernels, 9x9 pixels of 5 channels from U(0, 1), 3 features, then 5.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import UsageError
from ..filters import make_basis
from ..groups import Group, left_translation
from ..results import (
    AngleError,
    CovarianceErrors,
    CovarianceResult,
    ElementEnergy,
    ElementError,
    ErrorRange,
    Finding,
    MapError,
)
from ..testing import DEGENERATE
from .layers import Layers, control_of
from .pictures import frame, picture
from .waves import SHORTEST, Waves

IMAGES = 32
ANGLES = (90, 45, 30, 15)
BASES = ("pixel", "disc", "harmonic")
PARTS = ("lifting", "convolution", "whole")
EXACT = 1e-6  # an exact element with a larger error is not equivariant
Map = Callable[[Tensor], Tensor]
ORDER_1 = 0.1  # a control with a smaller error could not be told from an equivariant network


def measure(layers: Layers, *, seed: int = 0) -> CovarianceResult:
    """The equivariance error of two layers at every group element, and that of a plain CNN beside them.

    Law: f(gx) = rho(g) f(x) for the lifting (trivial to regular), the group convolution on any features (regular to
    regular) and both (trivial to regular).
    Shapes: pictures (32, C, s, s), s = what one pixel of the output sees (9 for two 5x5 kernels); all in float64.
    Exact elements: pictures and features of U(0, 1) noise, every pixel of the output. The others: smooth pictures by
    a formula (`Waves`), sampled at the turned angle, so that nothing is resampled, and compared at the centre of the
    map, which stays where it is, so that no corner enters. The two kinds are never averaged together.
    Errors: between-image ||f(gx) - rho(g) f(x)|| / ||f(x) - f(x')||, and relative to ||f(x)|| beside it.
    `angles`: turning the smooth pictures by 90, 45, 30 and 15 degrees, in the group or not, the error of the maximum
    over the group at the centre, which should not change.
    Findings: 'stop' for an output that does not vary, an exact element above 1e-6, a control below 0.1.
    Source: the pictures of tueimage/SE2CNN (Bekkers et al. 2018, arXiv 1804.03393).

    >>> from roteq import covariance
    >>> result = covariance.measure(covariance.untrained("p4"))
    >>> result.errors.exact["whole"].max < 1e-12, result.control.exact["whole"].mean > 0.5
    (True, True)
    """
    if not all(bank.isfinite().all() for bank in layers.banks):
        raise UsageError(f"{layers.label}: expected finite weights, got NaN or infinity; did the training diverge?")
    control = control_of(layers, seed) if layers.promised else None
    shown = picture(layers, seed=seed)
    errors, *others = _errors([layers] if control is None else [layers, control], seed)
    of_control = others[0] if others else None
    return CovarianceResult(
        label=layers.label,
        group=layers.group.name,
        promised=layers.promised,
        layers=layers.names,
        channels=layers.channels,
        features=layers.features,
        kernel_sizes=layers.kernel_sizes,
        seed=seed,
        images=IMAGES,
        method=_method(layers),
        errors=errors,
        control=of_control,
        energies=_energies(layers),
        angles=_angles(layers, control, seed),
        turn=shown.turn,
        turn_exact=shown.exact,
        sheet_difference=shown.sheet_difference,
        lifted_difference=shown.lifted_difference,
        response_difference=shown.response_difference,
        control_response_difference=shown.control_response_difference,
        findings=tuple(_findings(layers, errors, of_control)),
    )


def _errors(tested: list[Layers], seed: int) -> list[CovarianceErrors]:
    """Of several pairs of layers of the same group and sizes, on the same pictures."""
    group, channels, (first, second) = tested[0].group, tested[0].channels, tested[0].extents
    seen, regular = first + second - 1, tested[0].features[0] * group.order
    found = {
        "lifting": _part([x.lifting for x in tested], group, channels, first, seen, seed, regular=False),
        "convolution": _part([x.convolution for x in tested], group, regular, second, seen, seed, regular=True),
        "whole": _part([x.whole for x in tested], group, channels, seen, seen, seed, regular=False),
    }
    exact = set(group.exact_elements)
    errors = []
    for i in range(len(tested)):
        elements = tuple(
            ElementError(g, group.describe(g), g in exact, **{part: found[part][g][i] for part in PARTS})
            for g in range(group.order)
        )
        errors.append(CovarianceErrors(elements, _ranges(elements, True), _ranges(elements, False)))
    return errors


def _part(
    maps: Sequence[Map], group: Group, channels: int, extent: int, seen: int, seed: int, *, regular: bool
) -> list[list[MapError]]:
    """The error at every element, of every map. extent: pixels that one pixel of an output sees, of `seen` of a
    picture; regular: the maps take features."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(IMAGES, channels, seen, seen, generator=generator, dtype=torch.float64)
    waves = Waves(IMAGES, channels, frame(seen), generator)
    smooth = waves.sample(group.matrix(0), extent)
    upright = {True: [f(noise) for f in maps], False: [f(smooth) for f in maps]}
    found = []
    for g in range(group.order):
        exact = group.quarter_turns(g) is not None
        if exact:
            turned = group.act_on_features(noise, g) if regular else group.act_on_image(noise, g)
        else:
            turned = waves.sample(group.matrix(g), extent)
            turned = _shifted(turned, group=group, g=g) if regular else turned
        act = group.act_on_features if exact else partial(_shifted, group=group)  # one pixel: nothing to move
        found.append([_map_error(f(turned), act(y, g=g), y) for f, y in zip(maps, upright[exact], strict=True)])
    return found


def _shifted(x: Tensor, *, group: Group, g: int) -> Tensor:
    """rho(g) on the group axis alone: entry h takes the value of g^-1 h."""
    return x.unflatten(1, (-1, group.order)).index_select(2, left_translation(group)[g]).flatten(1, 2)


def _map_error(turned: Tensor, expected: Tensor, upright: Tensor) -> MapError:
    distance, size, variation = (y.norm().item() for y in (turned - expected, upright, upright - upright.roll(1, 0)))
    return MapError(
        between_image_error=None if variation <= DEGENERATE * size else distance / variation,
        relative_error=distance / size if size > 0 else None,
    )


def _ranges(elements: tuple[ElementError, ...], exact: bool) -> dict[str, ErrorRange]:
    """Mean and maximum over the elements of one kind, the identity left out."""
    chosen = [e for e in elements[1:] if e.exact == exact]
    return {part: _range([getattr(e, part) for e in chosen]) for part in PARTS} if chosen else {}


def _range(errors: list[MapError]) -> ErrorRange:
    between = [e.between_image_error for e in errors if e.between_image_error is not None]
    relative = [e.relative_error for e in errors if e.relative_error is not None]
    return ErrorRange(
        elements=len(errors),
        mean=sum(between) / len(between) if len(between) == len(errors) else None,
        max=max(between) if len(between) == len(errors) else None,
        relative_mean=sum(relative) / len(relative) if len(relative) == len(errors) else None,
        relative_max=max(relative) if len(relative) == len(errors) else None,
    )


def _energies(layers: Layers) -> tuple[ElementEnergy, ...]:
    group, size = layers.group, layers.kernel_sizes[0]
    first, second = (bank.square().transpose(0, 1).flatten(1).sum(1) for bank in layers.banks)
    columns = {"lifting": _shares(first), "convolution": _shares(second)}
    for name in BASES:
        possible = name != "disc" or size % 2
        basis = make_basis(name, group, size).square().sum((1, 2)) if possible else torch.zeros(group.order)
        columns[name] = _shares(basis)
    return tuple(
        ElementEnergy(g, group.describe(g), **{name: values[g] for name, values in columns.items()})
        for g in range(group.order)
    )


def _shares(energies: Tensor) -> list[float | None]:
    """Of every element against that of the identity; None where that is 0."""
    return (energies / energies[0]).tolist() if energies[0] > 0 else [None] * len(energies)


def _angles(layers: Layers, control: Layers | None, seed: int) -> tuple[AngleError, ...]:
    """Turn the smooth pictures by any angle: how far the maximum over the group moves, at the centre."""
    group, seen = layers.group, sum(layers.extents) - 1
    waves = Waves(IMAGES, layers.channels, frame(seen), torch.Generator().manual_seed(seed))

    def error(tested: Layers, degrees: int) -> MapError:
        upright, turned = (
            tested.whole(waves.sample(Group(360).matrix(angle), seen)).unflatten(1, (-1, group.order)).amax(2)
            for angle in (0, degrees)
        )
        return _map_error(turned, upright, upright)

    return tuple(
        AngleError(
            angle=float(degrees),
            in_group=degrees * group.rotations % 360 == 0,
            error=error(layers, degrees),
            control=None if control is None else error(control, degrees),
        )
        for degrees in ANGLES
    )


def _findings(layers: Layers, errors: CovarianceErrors, control: CovarianceErrors | None) -> list[Finding]:
    """What voids the test. A plain CNN promises nothing, so its errors void nothing."""
    found = []
    if any(getattr(e, part).between_image_error is None for e in errors.elements for part in PARTS):
        found.append(
            Finding(
                "degenerate",
                "stop",
                "the output hardly varies between pictures; a constant is not equivariant, it is nothing.",
                "Look at the weights: are they all zero?",
            )
        )
    if control is None:
        return found
    if not _differs_between_orientations(layers):
        found.append(
            Finding(
                "no orientation",
                "stop",
                "all orientations of a lifted feature are equal; so nothing shows that they follow the picture.",
                "Take kernels of more than one pixel, which look different when they are turned.",
            )
        )
    for part, spread in errors.exact.items():
        if spread.max is not None and spread.max > EXACT:
            found.append(
                Finding(
                    "not equivariant",
                    "stop",
                    f"{part}: the error at an exact element is {spread.max:.2g}, expected at most {EXACT:g}.",
                    "A filter is turned the wrong way, or a step is not symmetric: this layer is broken.",
                )
            )
    for part, spread in (*control.exact.items(), *control.interpolated.items()):
        if spread.mean is None or spread.mean < ORDER_1:
            found.append(
                Finding(
                    "blind control",
                    "stop",
                    f"{part}: a plain CNN has an error of {spread.mean}, so this test could not tell it from an "
                    "equivariant network.",
                    "Take more features or a larger kernel.",
                )
            )
    return found


def _differs_between_orientations(layers: Layers) -> bool:
    kernels, _ = layers.banks
    spread = (kernels - kernels.mean(1, keepdim=True)).norm()
    return layers.group.order == 1 or bool(spread > DEGENERATE * kernels.norm())


def _method(layers: Layers) -> str:
    group, seen = layers.group, sum(layers.extents) - 1
    parts = [f"{IMAGES} pictures, float64"]
    if len(group.exact_elements) > 1:
        parts.append(f"exact elements: U(0, 1) noise of {seen} x {seen} pixels, all of the output")
    if len(group.exact_elements) < group.order:
        parts.append(
            f"the others: smooth formula pictures (waves of {SHORTEST:g} pixels or more under a disc of "
            f"{frame(seen)} pixels), sampled at the turned angle without resampling, the centre of the output"
        )
    return "; ".join(parts)
