import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from roteq.audit import AuditConfig, Element, Turner, audit, center, elements, prefilter, spline_matrix
from roteq.errors import RoteqError, UsageError
from roteq.files import load_json, save_json
from roteq.results import AuditResult

QUICK = AuditConfig(angles=8, images=0, bootstrap=20)


def smooth_images(n: int = 40, channels: int = 1, size: int = 48, seed: int = 0, sigma: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(n, channels, size, size))
    blurred = ndimage.gaussian_filter(noise, (0, 0, sigma, sigma), mode="wrap")
    return np.clip(127 + 50 * blurred / blurred.std(), 0, 255).astype(np.uint8)


def make_cnn(channels: int = 1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 8, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.LazyLinear(3)).eval()


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


@pytest.mark.parametrize("size", [31, 32], ids=["odd", "even"])
@pytest.mark.parametrize("angle", [15.0, -30.0, 45.0, 77.0])
def test_turning_equals_scipy_rotate(angle: float, size: int) -> None:
    picture = smooth_images(1, size=size, sigma=1)[0, 0].astype(np.float64)
    turned = spline_matrix(angle, size, size).astype(np.float64) @ prefilter(picture[:, :, None]).reshape(-1)
    expected = ndimage.rotate(picture, angle, reshape=False, order=3, mode="mirror")
    np.testing.assert_allclose(turned.reshape(size, size), expected, atol=2e-4)


def test_convention_positive_is_counter_clockwise_as_rot90() -> None:
    picture = smooth_images(1, size=20)[0, 0].astype(np.float64)
    ours = (spline_matrix(90, 20, 20) @ prefilter(picture[:, :, None]).reshape(-1)).reshape(20, 20)
    scipys = ndimage.rotate(picture, 90, reshape=False, order=3, mode="mirror")
    np.testing.assert_allclose(scipys, np.rot90(picture), atol=1e-6)
    np.testing.assert_allclose(ours, np.rot90(picture), atol=1e-3)


def test_convention_mirror_first_then_turn() -> None:
    seen: list[torch.Tensor] = []
    images = smooth_images(2, size=8)

    def predict(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x[:, 0, :2, 0]

    result = audit(predict, images, config=AuditConfig(angles=4, bootstrap=0))
    x = torch.from_numpy(images).float()
    for turn, given in zip(result.turns, seen[1:], strict=True):
        y = x.flip(3) if turn.mirror else x
        torch.testing.assert_close(given, torch.rot90(y, int(turn.angle) // 90, (2, 3)))
    assert len(result.turns) == 7 and all(turn.exact for turn in result.turns)
    assert result.interpolated_error is None and result.interpolated_floor is None


@pytest.mark.parametrize("angles", [1, 4, 7, 24, 28])
def test_elements_cover_the_circle_once(angles: int) -> None:
    orbit = elements(AuditConfig(angles=angles))
    assert [e.base == 0 for e in orbit] == [True] * 7 + [False] * (len(orbit) - 7)
    found = sorted({0.0} | {e.angle for e in orbit if not e.mirror})
    expected = sorted({0.0, 90.0, 180.0, 270.0} | {360 * i / angles for i in range(angles)})
    np.testing.assert_allclose(found, expected)
    assert len({e.base for e in orbit}) <= max(angles, 1)


def test_24_angles_need_five_interpolations() -> None:
    assert {e.base for e in elements(AuditConfig())} == {0.0, 15.0, 30.0, 45.0, 60.0, 75.0}


def test_a_quarter_turn_of_a_rotation_is_the_rotation_by_the_sum() -> None:
    picture = smooth_images(1, size=40)[0, 0].astype(np.float64)
    seen: dict[int, np.ndarray] = {}

    def predict(x: torch.Tensor) -> torch.Tensor:
        seen[len(seen)] = x[0, 0].numpy()
        return x[:, 0, :2, 0]

    images = np.stack([picture, picture[::-1]])[:, None].astype(np.uint8)
    config = AuditConfig(angles=8, mirrors=False, bootstrap=0)
    audit(predict, images, crop=20, config=config)
    turned = dict(zip(elements(config), [seen[i] for i in sorted(seen)][2:], strict=True))  # one floor, then upright
    for element in [Element(False, q, 45.0) for q in range(4)]:
        expected = ndimage.rotate(images[0, 0].astype(float), element.angle, reshape=False, order=3, mode="mirror")
        np.testing.assert_allclose(turned[element], np.clip(expected[10:30, 10:30], 0, 255), atol=0.02)


def test_the_window_loses_nothing() -> None:
    pixels = np.moveaxis(smooth_images(3, size=96)[:, 0], 0, 2).astype(np.float32)
    whole, part = Turner(30.0, 96, 32), Turner(30.0, 96, 32)
    whole.window, whole.there, whole.back = 96, spline_matrix(30, 96, 96), spline_matrix(-30, 96, 32)
    assert part.window < 96
    for ours, expected in zip(part(prefilter(pixels)), whole(prefilter(pixels)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_an_invariant_function_has_no_exact_error_and_never_flips() -> None:
    result = audit(GroupMean(make_cnn()), smooth_images(), np.zeros(40, int), crop=24, config=QUICK)
    assert not result.degenerate
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert result.mirror_error is not None and result.mirror_error < 1e-5
    assert result.exact_flip_rate == 0 and result.mirror_flip_rate == 0
    assert result.interpolated_error is not None and result.interpolated_error > 0.05


def test_mirrors_do_not_spoil_the_exact_error_of_a_rotation_group() -> None:
    result = audit(GroupMean(make_cnn(), mirrors=False), smooth_images(), crop=24, config=QUICK)
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert result.mirror_error is not None and result.mirror_error > 0.05


def test_a_plain_cnn_is_not_invariant() -> None:
    result = audit(make_cnn(), smooth_images(), crop=24, config=QUICK)
    for error in (result.exact_error, result.mirror_error, result.interpolated_error):
        assert error is not None and error > 0.3
    assert result.exact_flip_rate is not None and result.exact_flip_rate > 0
    assert result.upright_accuracy is None and result.turns[0].accuracy.value is None


@pytest.mark.parametrize("noise", [0.0, 1e-7], ids=["exact", "with float noise"])
def test_a_constant_is_degenerate_and_has_no_error(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 3.0]) + noise * torch.randn(len(x), 2, generator=generator)

    result = audit(predict, smooth_images(), np.ones(40, int), crop=24, config=QUICK)
    assert result.degenerate
    assert result.exact_error is None and result.interpolated_error is None and result.interpolated_floor is None
    assert all(turn.between_image_error is None and turn.floor is None for turn in result.turns)
    assert result.exact_flip_rate == 0 and result.always_right == 1


def test_a_radial_function_is_at_the_floor_of_resampling() -> None:
    result = audit(radial, smooth_images(size=64), crop=32, config=QUICK)
    assert not result.degenerate
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert result.interpolated_error is not None and result.interpolated_error < 0.01
    assert result.interpolated_floor is not None and 0 < result.interpolated_floor < 0.01


def test_accuracies_count_the_images_right_at_every_turn() -> None:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    images[:, 0, 0, 0] = [0, 255, 255, 0]  # one bright corner; class 1 where the top left corner is bright
    images[:, 0, 7, 7] = [0, 0, 255, 0]

    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full((len(x),), 127.0), x[:, 0, 0, 0]], dim=1)

    result = audit(predict, images, [0, 1, 1, 1], config=AuditConfig(angles=4, mirrors=False, bootstrap=0))
    accuracy = {turn.angle: turn.accuracy.value for turn in result.turns}
    assert accuracy == {90.0: 0.25, 180.0: 0.5, 270.0: 0.25}
    assert {turn.angle: turn.flip_rate.value for turn in result.turns} == {90.0: 0.5, 180.0: 0.25, 270.0: 0.5}
    assert (result.upright_accuracy, result.worst_angle_accuracy, result.always_right) == (0.75, 0.25, 0.25)


def test_turned_pixels_stay_in_the_range_of_pictures() -> None:
    lowest, highest = [], []

    def predict(x: torch.Tensor) -> torch.Tensor:
        lowest.append(x.min().item())
        highest.append(x.max().item())
        return x[:, 0, :2, 0]

    black_and_white = 255 * np.random.default_rng(0).integers(0, 2, (4, 1, 32, 32), dtype=np.uint8)
    audit(predict, black_and_white, crop=16, config=QUICK)
    assert min(lowest) == 0 and max(highest) == 255


def test_images_are_drawn_once_for_a_seed_and_groups_widen_the_interval() -> None:
    images, config = smooth_images(60), AuditConfig(angles=4, images=50, bootstrap=200)
    labels = np.arange(60) // 30
    groups = [f"slide {i // 20}" for i in range(60)]
    model = make_cnn()
    alone, again = (audit(model, images, labels, crop=24, config=config) for _ in range(2))
    clustered = audit(model, images, labels, crop=24, config=config, groups=groups)
    assert alone == again and alone.images == 50
    other = audit(model, images, labels, crop=24, config=AuditConfig(angles=4, images=50, bootstrap=0, seed=1))
    assert other.exact_error != alone.exact_error
    assert clustered.turns[0].accuracy.value == alone.turns[0].accuracy.value
    assert clustered.turns[0].accuracy != alone.turns[0].accuracy
    assert other.turns[0].accuracy.low is None


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images, model = torch.from_numpy(smooth_images(21, channels=3)), make_cnn(channels=3)
    whole = audit(model, images, crop=24, config=QUICK)
    monkeypatch.setattr("roteq.audit.BATCH", 8)
    parts = audit(model, images, crop=24, config=QUICK, progress=True)
    assert parts.exact_error == pytest.approx(whole.exact_error, rel=1e-4)
    assert parts.interpolated_floor == pytest.approx(whole.interpolated_floor, rel=1e-4)


def test_a_module_is_asked_in_evaluation_mode_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.9), make_cnn()).train()
    result = audit(GroupMean(model).train(), smooth_images(), crop=24, config=QUICK)
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert model.training


def test_an_odd_margin_keeps_exactness() -> None:
    result = audit(GroupMean(make_cnn()), smooth_images(size=49), crop=24, config=QUICK)
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert "stored 48 x 48 patch" in result.method


@pytest.mark.parametrize(
    ("crop", "words"),
    [(24, "no corner is invented"), (40, "corners are filled with the mirrored picture"), (None, "mirrored picture")],
)
def test_method_says_where_the_corners_come_from(crop: int | None, words: str) -> None:
    result = audit(radial, smooth_images(4, size=48), crop=crop, config=QUICK)
    assert words in result.method and "48 x 48" in result.method


def test_result_survives_json(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = audit(make_cnn(), smooth_images(), np.zeros(40, int), crop=24, config=QUICK)
    save_json(result, tmp_path / "audit.json")
    assert load_json(AuditResult, tmp_path / "audit.json") == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((5, 1, 8, 9), np.uint8)}, "square uint8 images"),
        ({"images": np.zeros((5, 1, 8, 8), np.float32)}, "square uint8 images"),
        ({"images": np.zeros((1, 1, 8, 8), np.uint8)}, "at least two"),
        ({"crop": 9}, "a crop from 1 to 8"),
        ({"labels": [0, 1]}, "one label for each of 5 images"),
        ({"labels": [0, 1, 2, 3, 4]}, "labels from 0 to 1"),
        ({"groups": ["a"]}, "one group for each of 5"),
        ({"predict": lambda x: x[:, 0, :1, 0]}, "two classes or more"),
        ({"predict": lambda x: x}, "expected the model to give logits"),
    ],
)
def test_wrong_calls_are_named(change: dict, message: str) -> None:
    call = {"predict": lambda x: x[:, 0, :2, 0], "images": smooth_images(5, size=8), **change}
    with pytest.raises(UsageError, match=message):
        audit(config=AuditConfig(angles=4, bootstrap=0), **call)


def test_a_model_without_finite_output_is_refused() -> None:
    with pytest.raises(RoteqError, match="NaN or infinity"):
        audit(lambda x: x[:, 0, :2, 0] / 0, smooth_images(5, size=8), config=AuditConfig(angles=4))


def test_center_is_symmetric() -> None:
    assert center(np.arange(6)[:, None, None] * np.ones((1, 6, 1)), 2)[:, 0, 0].tolist() == [2, 3]
