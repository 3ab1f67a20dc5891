import numpy as np
import pytest
import torch
from auditing import smooth_images
from scipy import ndimage

from roteq.auditing.config import AuditConfig
from roteq.auditing.turning import Element, Turner, Turning, center, disc, elements, prefilter, sampling_matrix
from roteq.config import load_config
from roteq.errors import UsageError

CPU = torch.device("cpu")


def turned_by(picture: np.ndarray, angle: float, **options: str) -> np.ndarray:
    size = len(picture)
    pixels = torch.from_numpy(picture)[:, :, None]
    pixels = prefilter(pixels) if options.get("interpolation", "spline") == "spline" else pixels
    matrix = sampling_matrix(angle, size, size, **options).to_dense().double()
    return (matrix @ pixels.reshape(-1)).reshape(size, size).numpy()


def a_picture(size: int, sigma: float = 1) -> np.ndarray:
    return smooth_images(1, size=size, sigma=sigma)[0, 0].astype(np.float64)


@pytest.mark.parametrize("size", [31, 32], ids=["odd", "even"])
@pytest.mark.parametrize("angle", [15.0, -30.0, 45.0, 77.0])
@pytest.mark.parametrize(("interpolation", "order"), [("spline", 3), ("bilinear", 1)])
def test_turning_equals_scipy_rotate(angle: float, size: int, interpolation: str, order: int) -> None:
    picture = a_picture(size)
    expected = ndimage.rotate(picture, angle, reshape=False, order=order, mode="mirror")
    np.testing.assert_allclose(turned_by(picture, angle, interpolation=interpolation), expected, atol=2e-4)


def test_bicubic_reproduces_a_plane_and_its_pixels() -> None:
    y, x = np.mgrid[:21, :21].astype(float)
    turned = turned_by(3 * x - 2 * y, 30.0, interpolation="bicubic")
    expected = ndimage.rotate(3 * x - 2 * y, 30.0, reshape=False, order=3, mode="mirror")
    np.testing.assert_allclose(turned[8:13, 8:13], expected[8:13, 8:13], atol=1e-4)
    picture = a_picture(20)
    np.testing.assert_allclose(turned_by(picture, 0.0, interpolation="bicubic"), picture, atol=1e-4)


def test_the_spline_loses_least() -> None:
    picture = a_picture(64, sigma=1.5)
    inside = disc(64).numpy() & (ndimage.distance_transform_edt(disc(64).numpy()) > 6)
    lost = {}
    for interpolation in ("spline", "bicubic", "bilinear"):
        back = turned_by(turned_by(picture, 30.0, interpolation=interpolation), -30.0, interpolation=interpolation)
        lost[interpolation] = np.abs(back - picture)[inside].mean()
    assert lost["spline"] < lost["bicubic"] < lost["bilinear"]


@pytest.mark.parametrize(("corners", "expected"), [("black", 0.0), ("edge", 200.0), ("mirror", 200.0)])
def test_what_fills_the_corners(corners: str, expected: float) -> None:
    turned = turned_by(np.full((20, 20), 200.0), 45.0, corners=corners)
    assert turned[0, 0] == pytest.approx(expected, abs=1e-3) and turned[10, 10] == pytest.approx(200, abs=1e-3)


def test_convention_positive_is_counter_clockwise_as_rot90() -> None:
    picture = a_picture(20)
    scipys = ndimage.rotate(picture, 90, reshape=False, order=3, mode="mirror")
    np.testing.assert_allclose(scipys, np.rot90(picture), atol=1e-6)
    np.testing.assert_allclose(turned_by(picture, 90), np.rot90(picture), atol=1e-3)


@pytest.mark.parametrize("element", [Element(True, 1), Element(False, 3), Element(True, 0)])
def test_convention_mirror_first_then_turn_and_its_inverse(element: Element) -> None:
    x = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.rot90(x.flip(3) if element.mirror else x, element.quarters, (2, 3))
    torch.testing.assert_close(element.place(x), expected)
    torch.testing.assert_close(element.replace(element.place(x)), x)


@pytest.mark.parametrize("angles", [1, 4, 7, 24, 28])
def test_elements_cover_the_circle_once(angles: int) -> None:
    orbit = elements(AuditConfig(angles=angles))
    assert [e.exact for e in orbit] == [True] * 7 + [False] * (len(orbit) - 7)
    found = sorted({0.0} | {e.angle for e in orbit if not e.mirror})
    expected = sorted({0.0, 90.0, 180.0, 270.0} | {360 * i / angles for i in range(angles)})
    np.testing.assert_allclose(found, expected)
    assert len({e.base for e in orbit}) <= max(angles, 1)


def test_any_list_of_angles() -> None:
    orbit = elements(AuditConfig(angles=(10, 100, 180, -5, 370), mirrors=False))
    assert [e.angle for e in orbit] == [90, 180, 270, 10, 100, 355]
    assert {e.base for e in orbit} == {0.0, 10.0, 85.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("angles=[0, 360]", "angles other than 0"),
        ("angles=0", "at least 1 angle"),
        ("angles=1000000", "3600 at most"),
        ("angles=[.nan]", "finite degrees"),
        ("seed=-1", "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(AuditConfig, overrides=[setting])


def test_24_angles_need_five_interpolations() -> None:
    assert {e.base for e in elements(AuditConfig())} == {0.0, 15.0, 30.0, 45.0, 60.0, 75.0}


def test_oblong_pictures_keep_the_half_turn_and_the_mirrors() -> None:
    assert elements(AuditConfig(), oblong=True) == [Element(False, 2), Element(True, 0), Element(True, 2)]


def turning(patches: torch.Tensor, crop: int, config: AuditConfig) -> Turning:
    return Turning(tuple(patches.shape[2:]), (crop, crop), config, CPU, patches.is_floating_point())  # type: ignore[arg-type]


def test_a_quarter_turn_of_a_rotation_is_the_rotation_by_the_sum() -> None:
    patches = torch.from_numpy(smooth_images(2, channels=3, size=40))
    work = turning(patches, 20, AuditConfig(angles=8))
    (base, look, _), *_ = work.looks(patches, work.upright(patches))
    for element in [Element(False, q, base) for q in range(4)]:
        expected = ndimage.rotate(
            patches.double().numpy(), element.angle, axes=(3, 2), reshape=False, order=3, mode="mirror"
        )
        found = element.place(look).numpy()
        np.testing.assert_allclose(found, np.clip(expected[:, :, 10:30, 10:30], 0, 255), atol=0.02)


def test_the_window_loses_nothing() -> None:
    pixels = prefilter(torch.from_numpy(smooth_images(3, size=96)[:, 0]).float().permute(1, 2, 0))
    part, whole = (Turner(30.0, 96, 32, AuditConfig(corners="mirror"), CPU) for _ in range(2))
    whole.window, whole.there, whole.back = 96, sampling_matrix(30, 96, 96), sampling_matrix(-30, 96, 32)
    assert part.window < 96
    for ours, expected in zip(part(pixels), whole(pixels), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)


def test_there_and_back_is_nearly_the_picture() -> None:
    patches = torch.from_numpy(smooth_images(2, size=64))
    work = turning(patches, 32, AuditConfig(angles=8))
    upright = work.upright(patches)
    for _, look, back in work.looks(patches, upright):
        assert (back - upright).abs().mean() < 0.5 < 10 < (look - upright).abs().mean()


@pytest.mark.parametrize("crop", [48, 40, 35])
def test_small_patches_show_the_disc_on_both_sides(crop: int) -> None:
    patches = torch.from_numpy(smooth_images(3, channels=3, size=48))
    work = turning(patches, crop, AuditConfig(angles=8))
    upright = work.upright(patches)
    reference = work.reference(upright)
    (_, look, back), *_ = work.looks(patches, upright)
    outside = ~disc(crop)
    assert work.masked and outside.any()
    for picture in (look, back):
        torch.testing.assert_close(picture[:, :, outside], reference[:, :, outside])
    torch.testing.assert_close(reference[:, :, ~outside], upright[:, :, ~outside])
    torch.testing.assert_close(reference.rot90(1, (2, 3))[:, :, outside], reference[:, :, outside])


def test_large_patches_need_no_disc() -> None:
    patches = torch.from_numpy(smooth_images(3, size=48))
    work = turning(patches, 33, AuditConfig(angles=8))
    assert not work.masked
    torch.testing.assert_close(work.reference(work.upright(patches)), work.upright(patches))


def test_turned_pixels_stay_in_the_range_of_pictures() -> None:
    black_and_white = 255 * np.random.default_rng(0).integers(0, 2, (4, 1, 32, 32), dtype=np.uint8)
    for patches in (torch.from_numpy(black_and_white), torch.from_numpy(black_and_white) / 100.0 - 1):
        work = turning(patches, 16, AuditConfig(angles=8))
        looks = torch.cat([torch.cat(found[1:]) for found in work.looks(patches, work.upright(patches))])
        assert looks.min() == patches.min() and looks.max() == patches.max()


def test_an_odd_margin_is_trimmed() -> None:
    patches = torch.from_numpy(smooth_images(2, size=49))
    even = turning(patches[:, :, :48, :48], 24, AuditConfig(angles=8))
    odd = turning(patches, 24, AuditConfig(angles=8))
    assert "stored 48 x 48 patch" in odd.method
    torch.testing.assert_close(odd.upright(patches), even.upright(patches[:, :, :48, :48]))
    torch.testing.assert_close(
        next(iter(odd.looks(patches, odd.upright(patches))))[1],
        next(iter(even.looks(patches[:, :, :48, :48], even.upright(patches[:, :, :48, :48]))))[1],
    )


@pytest.mark.parametrize(
    ("crop", "corners", "words"),
    [
        (24, "disc", "no corner is invented"),
        (40, "disc", "only the inscribed disc is shown, upright too"),
        (48, "mirror", "corners are filled with the mirrored picture"),
        (48, "black", "corners are filled with black"),
    ],
)
def test_method_says_where_the_corners_come_from(crop: int, corners: str, words: str) -> None:
    patches = torch.from_numpy(smooth_images(2, size=48))
    work = turning(patches, crop, AuditConfig(corners=corners))
    assert words in work.method and "48 x 48" in work.method


def test_center_is_symmetric() -> None:
    assert center(torch.arange(6)[:, None, None] * torch.ones(1, 6, 1), 2)[:, 0, 0].tolist() == [2, 3]
