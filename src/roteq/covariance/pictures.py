"""What the five pictures of the covariance test show: the numbers behind every pixel of them, ready to be drawn."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..groups import Group, left_translation
from .layers import Layers, control_of
from .waves import Waves

FRAME = 33  # pixels a side of the formula's disc, at least


@dataclass(frozen=True)
class CovariancePictures:
    """One picture x, its copy g x, and what two layers make of both. The differences are the largest ones, divided by
    the largest value of what they should be; None where there is nothing to compare."""

    group: str
    turn: str  # of the copy: "90°"
    exact: bool  # the turn maps the pixel grid to itself; otherwise x is a smooth picture by a formula
    inputs: tuple[tuple[str, np.ndarray], ...]  # name and (channels, s, s): x, gx; then a smooth picture and its copy
    lifting_kernels: np.ndarray  # (features, |G|, k, k), of the first channel
    sheet: np.ndarray  # (|G|, |G|, k, k): row g is the kernel turned by g, column h its slice; first feature to first
    lifted: np.ndarray  # (4, |G|, h, w), first feature: of x, of gx, of gx undone by rho(g)^-1, undone minus x
    responses: np.ndarray  # (3, |G|), first feature of the second layer, centre pixel: of x, of gx, of gx undone
    control_responses: np.ndarray | None  # the same of a plain CNN
    sheet_difference: float | None  # row g of the sheet, and row 0 turned and shifted by g, over the exact elements
    lifted_difference: float | None  # where the turn is not exact: at the centre only
    response_difference: float | None
    control_response_difference: float | None


def picture(layers: Layers, *, seed: int = 0) -> CovariancePictures:
    """The five pictures of two layers, on U(0, 1) noise where the group has an exact element beside the identity.

    The copy is turned by 90 degrees where the group has that, else by its first exact element, else by its first. Over
    the trivial group it is turned by 90 degrees, and there is no shift to undo.

    >>> from roteq import covariance
    >>> covariance.picture(covariance.untrained("C8")).sheet.shape
    (8, 8, 5, 5)
    """
    group, seen = layers.group, sum(layers.extents) - 1
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, layers.channels, seen, seen, generator=generator, dtype=torch.float64)
    scene = _Scene(group, noise, Waves(1, layers.channels, frame(seen), generator))
    kernels, bank = layers.banks
    lifted = _lifted(layers, scene, frame(seen))
    centre = _lifted(layers, scene, layers.extents[0])
    responses = _responses(layers, scene, seen)
    control = _responses(control_of(layers, seed), scene, seen) if layers.promised else None
    return CovariancePictures(
        group=group.name,
        turn=scene.name,
        exact=scene.exact,
        inputs=scene.inputs(),
        lifting_kernels=kernels[:, :, 0].numpy(),
        sheet=bank[0, :, 0].numpy(),
        lifted=torch.cat([lifted, lifted[2:] - lifted[:1]]).numpy(),
        responses=responses.numpy(),
        control_responses=None if control is None else control.numpy(),
        sheet_difference=_sheet_difference(group, bank[0, :, 0]),
        lifted_difference=_difference(centre[2], centre[0]),
        response_difference=_difference(responses[2], responses[0]),
        control_response_difference=None if control is None else _difference(control[2], control[0]),
    )


def frame(seen: int) -> int:
    """Pixels a side of the formula's pictures; their disc leaves alone what one pixel of the output sees."""
    return max(FRAME, 2 * seen + 1)


class _Scene:
    """A picture and its copy, turned by one element of the group, and how to undo that."""

    def __init__(self, group: Group, noise: Tensor, waves: Waves) -> None:
        self.group, self.noise, self.waves = group, noise, waves
        others = group.exact_elements[1:]
        self.exact = bool(others) or group.order == 1
        self.actor = Group(4) if group.order == 1 else group  # the trivial group turns nothing: turn by 90 degrees
        self.element = [*others, 1][0]  # a quarter turn, where there is one, comes first
        self.name = self.actor.describe(self.element)

    def pair(self, side: int) -> tuple[Tensor, Tensor]:
        """x and gx: the noise, or where g is not exact the formula's central side x side pixels."""
        if self.exact:
            return self.noise, self.actor.act_on_image(self.noise, self.element)
        return self._smooth(0, side), self._smooth(self.element, side)

    def _smooth(self, g: int, side: int) -> Tensor:
        return self.waves.sample(self.group.matrix(g), side)

    def undo(self, y: Tensor) -> Tensor:
        """rho(g)^-1 on one feature (1, |G|, H, W)."""
        back = self.actor.inverse(self.element)
        return self.actor.act_on_image(y, back) if self.group.order == 1 else self.group.act_on_features(y, back)

    def inputs(self) -> tuple[tuple[str, np.ndarray], ...]:
        found = []
        if self.exact:
            x, gx = self.pair(0)
            found = [("noise", x), (f"noise, {self.name}", gx)]
        between = [g for g in range(self.group.order) if g not in self.group.exact_elements]
        if between:
            side, name = self.waves.frame, self.group.describe(between[0])
            found += [("formula", self._smooth(0, side)), (f"formula, {name}", self._smooth(between[0], side))]
        return tuple((name, x[0].numpy()) for name, x in found)


def _lifted(layers: Layers, scene: _Scene, side: int) -> Tensor:
    """The first feature of x, of gx, and of gx undone: (3, |G|, h, w)."""
    x, gx = (layers.lifting(image)[:, : layers.group.order] for image in scene.pair(side))
    return torch.cat([x, gx, scene.undo(gx)])


def _responses(layers: Layers, scene: _Scene, seen: int) -> Tensor:
    """The same after both layers, at the one pixel that is left: (3, |G|)."""
    x, gx = (layers.whole(image)[:, : layers.group.order] for image in scene.pair(seen))
    return torch.cat([x, gx, scene.undo(gx)])[:, :, 0, 0]


def _sheet_difference(group: Group, sheet: Tensor) -> float | None:
    """bank[g, h] = L_g bank[0, g^-1 h]: rows of the sheet (|G|, |G|, k, k) against row 0, over the exact elements."""
    others = group.exact_elements[1:]
    if not others:
        return None
    expected = torch.stack([group.act_on_image(sheet[0][left_translation(group)[g]], g) for g in others])
    return _difference(sheet[list(others)], expected)


def _difference(found: Tensor, expected: Tensor) -> float | None:
    size = expected.abs().max()
    return ((found - expected).abs().max() / size).item() if size > 0 else None
