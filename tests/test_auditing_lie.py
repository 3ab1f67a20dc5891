"""Lie derivatives against turned, moved and scaled pictures of scipy, and against theorems."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from auditing import make_cnn, radial, smooth_images
from scipy import ndimage
from torch import nn

from roteq.auditing.config import AuditConfig
from roteq.auditing.lie import BORDER, lie_errors
from roteq.auditing.loading import as_subject
from roteq.auditing.looking import Asker
from roteq.auditing.subject import Normalization
from roteq.auditing.turning import Turning, disc
from roteq.metrics.robustness import centred, image_variation
from roteq.results import LieError

CROP, SIDE, T = 24, 48, 1e-4


def derivatives(model: object, patches: np.ndarray, crop: int = CROP, variation: float = 1.0) -> dict[str, LieError]:
    asker = Asker(as_subject(model), Normalization((10.0,), (50.0,)))
    turning = Turning(patches.shape[2:], (crop, crop), AuditConfig(), torch.device("cpu"), False)  # type: ignore[arg-type]
    pixels = torch.from_numpy(patches)
    asker(turning.upright(pixels))  # which tells the kind of answer
    return {found.motion: found for found in lie_errors(asker, pixels, turning, variation)}


def moved(patches: np.ndarray, motion: str, t: float, down: bool = False) -> np.ndarray:
    """T_t of every patch, by scipy; the centre is cut."""
    c, s = (math.cos(t), math.sin(t)) if motion == "rotation" else (1.0, 0.0)
    matrix = np.array([[c, s], [-s, c]]) * (math.exp(-t) if motion == "scale" else 1)
    shift = np.array([t, 0.0] if down else [0.0, t]) if motion == "translation" else np.zeros(2)
    middle = (SIDE - 1) / 2
    offset = middle - matrix @ np.full(2, middle) - shift
    found = np.stack(
        [ndimage.affine_transform(x.astype(float), matrix, offset, order=3, mode="mirror") for x in patches[:, 0]]
    )
    cut = (SIDE - CROP) // 2
    return found[:, None, cut : cut + CROP, cut : cut + CROP]


@pytest.mark.parametrize("motion", ["rotation", "translation", "scale"])
def test_forward_mode_equals_finite_differences_of_scipys_pictures(motion: str) -> None:
    patches, net = smooth_images(12, size=SIDE), make_cnn()
    exact = nn.Sequential(*[type(layer)() if isinstance(layer, nn.ReLU) else layer for layer in net])
    for i, layer in enumerate(exact):  # a kink would blur the differences
        exact[i] = nn.Tanh() if isinstance(layer, nn.ReLU) else layer

    def f(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return centred(exact.double()((torch.from_numpy(x) - 10) / 50))

    squares = []
    for down in (False, True) if motion == "translation" else (False,):
        change = (f(moved(patches, motion, T, down)) - f(moved(patches, motion, -T, down))) / (2 * T)
        squares.append(np.square(change).sum(1).mean())
    expected = math.sqrt(np.mean(squares))
    variation = image_variation(f(moved(patches, motion, 0.0)))
    found = derivatives(exact.float(), patches, variation=variation)[motion]
    assert found.method == "forward-mode differentiation"
    assert found.between_image_error == pytest.approx(expected / variation, rel=1e-3)
    assert found.mean_square == pytest.approx(expected**2 / 3, rel=1e-3)
    assert expected / variation > 0.01


def test_rotation_is_counter_clockwise_and_its_derivative_that_of_scipy() -> None:
    patches = smooth_images(1, size=SIDE)
    np.testing.assert_allclose(
        moved(patches, "rotation", math.radians(30))[0, 0],
        ndimage.rotate(patches[0, 0].astype(float), 30, reshape=False, order=3, mode="mirror")[12:36, 12:36],
        atol=1e-6,
    )


def test_a_model_without_forward_mode_is_differentiated_by_central_differences() -> None:
    patches, net = smooth_images(12, size=SIDE), make_cnn()
    forward, central = derivatives(net, patches), derivatives(lambda x: net(x), patches)
    for motion, found in central.items():
        assert found.method == "central differences"
        assert found.between_image_error == pytest.approx(forward[motion].between_image_error, rel=0.05)


def test_the_error_of_a_map_is_against_the_variation_of_the_pixels_that_are_compared() -> None:
    patches, size = smooth_images(12, size=SIDE), CROP - 2 * BORDER
    net = nn.Conv2d(1, 3, (1, 9), padding="same", padding_mode="reflect").double()
    cut = slice((SIDE - CROP) // 2, (SIDE + CROP) // 2)
    with torch.no_grad():
        maps = net((torch.from_numpy(patches[:, :, cut, cut]).double() - 10) / 50)
    inner = maps[..., BORDER:-BORDER, BORDER:-BORDER][..., disc(size)].flatten(1)
    variation = math.sqrt(2 * float(inner.var(0).sum()))
    for found in derivatives(net, patches, variation=1e6).values():
        expected = math.sqrt((found.mean_square or 0.0) * inner.shape[1]) / variation
        assert found.between_image_error == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_differentiated_in_forward_mode_too(dtype: torch.dtype) -> None:
    patches = smooth_images(12, size=SIDE)
    expected, found = derivatives(make_cnn(), patches), derivatives(make_cnn().to(dtype), patches)
    for motion, one in found.items():
        assert one.method == "forward-mode differentiation"
        assert one.between_image_error == pytest.approx(expected[motion].between_image_error, rel=0.03)


@pytest.mark.parametrize("how", ["pixels", "half precision"])
def test_a_function_that_rounds_has_no_derivative(how: str) -> None:
    net, half = make_cnn(), make_cnn().bfloat16()
    ask = {"pixels": lambda x: net((x * 50 + 10).round() / 50), "half precision": lambda x: half(x.bfloat16()).float()}
    for found in derivatives(ask[how], smooth_images(12, size=SIDE), variation=0.1).values():
        assert (found.between_image_error, found.mean_square) == (None, None)
        assert found.method.startswith("central differences that depend on their step")


def test_a_function_that_does_not_see_a_rotation_is_not_taken_for_one_that_rounds() -> None:
    patches = smooth_images(12, size=64)
    variation = image_variation(radial((torch.from_numpy(patches[:, :, 16:48, 16:48]).float() - 10) / 50))
    found = derivatives(lambda x: radial(x), patches, crop=32, variation=variation)["rotation"]
    assert found.method == "central differences" and (found.between_image_error or 0.0) < 0.02


def test_the_centre_of_the_motion_is_that_of_the_crop_also_in_an_odd_margin() -> None:
    class Radial(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return radial(x)

    even, odd = (derivatives(Radial(), smooth_images(12, size=64)[..., :s, :s], crop=32) for s in (64, 63))
    assert (odd["rotation"].mean_square or 0.0) < 1e-2 * (even["translation"].mean_square or 0.0)


def test_a_radial_function_does_not_see_a_rotation() -> None:
    class Radial(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return radial(x)

    found = derivatives(Radial(), smooth_images(12, size=64), crop=32)
    assert found["rotation"].mean_square is not None and found["translation"].mean_square is not None
    assert found["rotation"].mean_square < 0.01 * found["translation"].mean_square
    assert found["scale"].mean_square is not None and found["scale"].mean_square > 0


def test_a_constant_does_not_move() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x[:, 0, :3, 0] + torch.arange(3.0)

    for found in derivatives(Constant(), smooth_images(4, size=SIDE), variation=0.0).values():
        assert found.between_image_error is None and found.mean_square == 0


def test_a_convolution_moves_with_the_picture_and_a_window_of_no_direction_turns_with_it() -> None:
    axis = torch.arange(7) - 3.0
    window = torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / 4)

    class Blur(nn.Module):
        def __init__(self, kernel: torch.Tensor) -> None:
            super().__init__()
            self.kernel = kernel[None, None]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.conv2d(x, self.kernel)
            return torch.cat([y, -y], 1)

    patches = smooth_images(8, size=SIDE, sigma=4)
    round_one, oblong = (derivatives(Blur(k), patches) for k in (window, window * (axis > 0)))

    def squares(found: dict[str, LieError]) -> dict[str, float]:
        return {motion: one.mean_square or 0.0 for motion, one in found.items()}

    assert squares(round_one)["rotation"] < 0.05 * squares(oblong)["rotation"]
    still: Callable[[dict[str, LieError]], float] = lambda found: squares(found)["translation"] ** 0.5  # noqa: E731
    assert still(oblong) < 0.2 * squares(oblong)["rotation"] ** 0.5
