import pytest
import torch
from auditing import smooth_images
from torch.testing import assert_close

from roteq.auditing import AuditConfig
from roteq.auditing.looks import Looker, turned, turned_back
from roteq.auditing.turning import Turner, Turning, disc, prefilter
from roteq.errors import UsageError

CPU = torch.device("cpu")
SIZES = {"masked": (32, 32), "unmasked": (48, 24), "odd": (47, 30), "window": (120, 20)}  # patch and crop


def patch(side: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(smooth_images(1, channels, side, seed, sigma=1.0))[0]


def batch_look(pixels: torch.Tensor, crop: int, degrees: float, **options: str) -> torch.Tensor:
    """What an audit shows of this angle."""
    config = AuditConfig(angles=(degrees,), mirrors=False, **options)
    turning = Turning((pixels.shape[1], pixels.shape[2]), (crop, crop), config, CPU, pixels.is_floating_point())
    [element] = [e for e in turning.orbit if not e.exact]
    [(_, look, _)] = turning.looks(pixels[None], turning.upright(pixels[None]))
    return element.place(look)


@pytest.mark.parametrize("degrees", [37, 100.5, 200, 355])
@pytest.mark.parametrize("size", SIZES)
def test_one_look_is_that_of_an_audit(size: str, degrees: float) -> None:
    side, crop = SIZES[size]
    pixels = patch(side)
    look = Looker(pixels, (crop, crop))(degrees)
    assert look.std() > 20 and not torch.equal(look, Looker(pixels, (crop, crop))(0))
    assert_close(look, batch_look(pixels, crop, degrees), atol=1e-3, rtol=0)


@pytest.mark.parametrize("corners", ["disc", "mirror", "edge", "black"])
def test_corners_are_filled_as_in_an_audit(corners: str) -> None:
    pixels = patch(24)
    found = Looker(pixels, (24, 24), corners=corners)(30)
    assert_close(found, batch_look(pixels, 24, 30, corners=corners), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mirror", [False, True])
def test_exact_turns_permute_the_pixels_after_the_mirror(size: str, mirror: bool) -> None:
    side, crop = SIZES[size]
    look = Looker(patch(side), (crop, crop))
    upright = look(0).flip(-1) if mirror else look(0)
    assert look(0).shape == (1, 3, crop, crop) and look(0).is_contiguous() and look(90, mirror).is_contiguous()
    for quarters in range(4):
        assert torch.equal(look(90 * quarters, mirror), torch.rot90(upright, quarters, (-2, -1)))
    assert torch.equal(look(-90), look(270)) and torch.equal(look(450), look(90))


def test_the_mirror_comes_before_the_turn() -> None:
    pixels = patch(48)
    look = Looker(pixels, (24, 24))
    assert_close(look(37, True), Looker(pixels.flip(-1), (24, 24))(37), atol=1e-3, rtol=0)
    assert (look(37, True) - look(37).flip(-1)).abs().max() > 50  # which turns the other way


@pytest.mark.parametrize(("side", "masked"), [(32, True), (44, True), (46, False)])
def test_only_the_disc_is_shown_at_every_angle_where_the_patch_has_no_corners_left(side: int, masked: bool) -> None:
    look = Looker(patch(side), (32, 32))
    assert look.masked == masked
    inside = disc(32)
    for degrees in (0, 90, 37):
        outside = look(degrees)[0, :, ~inside]
        expected = look(0)[0, :, inside].mean(1, keepdim=True).expand_as(outside)
        assert torch.allclose(outside, expected) == masked


def test_a_turn_is_counter_clockwise_as_displayed() -> None:
    pixels = torch.zeros(1, 41, 41)
    pixels[0, 20, 30:36] = 255  # east of the centre
    look = Looker(pixels, (41, 41), corners="mirror")
    row = look(80)[0, 0].argmax() // 41
    assert row < 10 and look(90)[0, 0].argmax() // 41 < 10  # and north of it afterwards


def test_floats_keep_their_own_range() -> None:
    pixels = (patch(40).float() - 127) / 50
    found = Looker(pixels, (24, 24), is_float=True)(37)
    assert_close(found, batch_look(pixels, 24, 37), atol=1e-5, rtol=0)
    assert found.min() < -1


def test_oblong_pictures_have_half_turns_and_mirrors_only() -> None:
    look = Looker(patch(40), (32, 16))
    assert not look.masked and look(0).shape == (1, 3, 32, 16)
    assert torch.equal(look(180), look(0).flip(-1, -2)) and torch.equal(look(0, True), look(0).flip(-1))
    for degrees in (90, 37, 190):
        with pytest.raises(UsageError, match=f"expected 0 or 180 degrees for an input of 32x16, got {degrees}"):
            look(degrees)


def test_maps_are_turned_as_in_an_audit() -> None:
    maps = patch(33, 2).float()
    turner = Turner(25.0, 33, 33, AuditConfig(corners="mirror"), CPU)
    there, _ = turner(prefilter(maps.permute(1, 2, 0).contiguous()))
    assert_close(turned(maps, 25), there.permute(2, 0, 1), atol=2e-3, rtol=0)
    assert torch.equal(turned(maps, 180), maps.flip(-1, -2))


@pytest.mark.parametrize("mirror", [False, True])
def test_what_was_mirrored_and_turned_is_turned_back(mirror: bool) -> None:
    maps = torch.from_numpy(smooth_images(1, 2, 40, sigma=4.0))[0].float()
    before = maps.flip(-1) if mirror else maps
    assert torch.equal(turned_back(torch.rot90(before, 3, (-2, -1)), 270, mirror), maps)
    inside = torch.nn.functional.pad(disc(32), (4, 4, 4, 4))  # corners that were turned out are felt at the rim
    assert_close(turned_back(turned(before, 37), 37, mirror)[:, inside], maps[:, inside], atol=1, rtol=0)
    assert (turned_back(turned(before, 37), -37, mirror) - maps)[:, inside].abs().max() > 30
