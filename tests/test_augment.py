"""Augmentation: what each policy may and may not do to a batch."""

import math

import pytest
import torch
from torch.testing import assert_close

from roteq.data.augment import Augment, augment, center_crop, needed_size
from roteq.errors import UsageError
from roteq.groups import turn_image


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int = 64, channels: int = 3, size: int = 12) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=generator(9)) * 255


def waves(n: int, size: int) -> torch.Tensor:
    """Smooth images in which every direction and side looks different."""
    y, x = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    bump = torch.exp(-((x - 6) ** 2 + (y + 2) ** 2) / 40) + 0.5 * torch.exp(-((x + 1) ** 2 + (y - 7) ** 2) / 60)
    return (60 + 100 * bump).expand(n, 1, size, size).clone()


def orbit(image: torch.Tensor) -> list[torch.Tensor]:
    return [torch.rot90(m, r, (-2, -1)) for m in (image, image.flip(-1)) for r in range(4)]


def test_rot90_gives_each_image_one_of_its_eight_exact_copies_and_uses_all_eight():
    images = random_images(200)
    turned = augment(images, Augment(turn="rot90"), None, generator())
    seen = [
        next(g for g, copy in enumerate(orbit(a)) if torch.equal(copy, b)) for a, b in zip(images, turned, strict=True)
    ]
    assert set(seen) == set(range(8))
    assert max(seen.count(g) for g in range(8)) < 45  # 25 expected


def test_turning_before_or_after_an_even_crop_is_the_same():
    images = random_images(30)
    after = augment(center_crop(images, 6), Augment(turn="rot90"), None, generator())
    assert torch.equal(augment(images, Augment(turn="rot90"), 6, generator()), after)


def test_none_is_the_centre_crop_alone():
    images = random_images()
    assert torch.equal(augment(images, Augment(turn="none"), 8, generator()), images[..., 2:10, 2:10])
    assert augment(images, Augment(turn="none"), None, generator()) is images


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_any_angle_agrees_with_exact_turns_where_they_exist(monkeypatch, degrees, mirrored):
    numbers = iter([degrees / 360, 0.75 if mirrored else 0.25])
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, next(numbers)))
    images = waves(2, 20)
    expected = torch.rot90(images.flip(-1) if mirrored else images, degrees // 90, (-2, -1))
    turned = augment(images, Augment(turn="any"), 10, generator())
    assert_close(turned, center_crop(expected, 10), atol=1e-3, rtol=0)


def test_any_angle_turns_counter_clockwise_as_scipy_does(monkeypatch):
    from scipy.ndimage import rotate

    numbers = iter([30 / 360, 0.0])
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, next(numbers)))
    images = waves(1, 41)
    expected = torch.from_numpy(rotate(images[0, 0].numpy(), 30, reshape=False, order=3))
    turned = augment(images, Augment(turn="any"), 21, generator())[0, 0]
    assert_close(turned, center_crop(expected, 21), atol=1.5, rtol=0)  # bicubic against spline; the other way: 60


def test_any_angle_covers_the_circle_and_both_sides():
    spot = torch.zeros(400, 1, 31, 31)
    spot[..., 7:10, 14:17] = 255  # above the centre
    spot[..., 10:13, 14:16] = 255  # and, lower, left of the axis: tells a mirror
    turned = augment(spot, Augment(turn="any"), None, generator())[:, 0]
    y, x = torch.meshgrid(*[torch.arange(31.0) - 15] * 2, indexing="ij")
    angle = torch.atan2((turned * y).sum((1, 2)), (turned * x).sum((1, 2)))
    counts = torch.histc(angle, 8, -math.pi, math.pi)
    assert counts.min() > 25  # 50 expected
    upright = torch.stack([spot[0, 0], spot[0, 0].flip(-1)])
    handed = torch.stack([_handedness(image) for image in turned])
    sides = torch.stack([_handedness(image) for image in upright])
    assert 150 < ((handed - sides[0]).abs() < (handed - sides[1]).abs()).sum() < 250


def _handedness(image: torch.Tensor) -> torch.Tensor:
    """Third moment across the line from the centre to the centroid: changes sign under a mirror."""
    y, x = torch.meshgrid(*[torch.arange(31.0) - 15] * 2, indexing="ij")
    a = torch.stack([(image * x).sum(), (image * y).sum()])
    a = a / a.norm()
    along, across = x * a[0] + y * a[1], y * a[0] - x * a[1]
    return (image * along * across).sum() / image.sum()


def test_no_pixel_is_invented_when_the_source_is_large_enough():
    crop = 16
    size = needed_size(crop)
    framed = torch.full((200, 1, size + 8, size + 8), 0.0)
    framed[..., 3:-3, 3:-3] = 200  # one pixel more than the need: the support of the bicubic kernel
    assert augment(framed, Augment(turn="any"), crop, generator()).min() > 199


def test_a_small_source_is_continued_by_reflection():
    flat = torch.full((20, 1, 16, 16), 100.0)
    turned = augment(flat, Augment(turn="any"), 16, generator())
    assert_close(turned, flat, atol=1e-3, rtol=0)


@pytest.mark.parametrize("turn", ["none", "rot90", "any"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_generator_gives_the_same_batch_and_the_range_is_kept(turn, channels):
    images = (random_images(16, channels) > 128).float() * 255
    policy = Augment(turn=turn, stain=0.3)
    first = augment(images, policy, 8, generator(1))
    assert torch.equal(first, augment(images, policy, 8, generator(1)))
    assert not torch.equal(first, augment(images, policy, 8, generator(2)))
    assert first.min() >= -1e-3 and first.max() <= 255.001
    assert first.isfinite().all()


def test_the_input_batch_is_not_changed():
    images = random_images()
    before = images.clone()
    for turn in ("none", "rot90", "any"):
        augment(images, Augment(turn=turn, stain=0.5), 8, generator())
    assert torch.equal(images, before)


def test_stain_scales_the_optical_density_of_each_channel_and_keeps_white():
    images = torch.stack([torch.full((3, 4), v) for v in (255.0, 127.0, 63.0)], -1)[None].repeat(50, 1, 1, 1)
    stained = augment(images, Augment(turn="none", stain=0.2), None, generator())
    density = -torch.log((stained + 1) / 256)
    assert_close(density[..., 0], torch.zeros_like(density[..., 0]), atol=1e-5, rtol=0)
    assert_close(density[..., 2], 2 * density[..., 1], atol=1e-4, rtol=0)
    factor = density[..., 1].mean(2) / math.log(2)
    assert factor.min() >= 0.8 and factor.max() <= 1.2 and factor.std() > 0.08
    assert (factor[:, 0] - factor[:, 1]).abs().mean() > 0.05


def test_stain_on_grey_changes_brightness_and_contrast():
    images = random_images(100, 1) / 2 + 60
    stained = augment(images, Augment(turn="none", stain=0.2), None, generator())
    shift = stained.mean((1, 2, 3)) - images.mean((1, 2, 3))
    ratio = stained.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 20 < shift.abs().max() <= 25.6 and 0.79 < ratio.min() < 0.85 and 1.15 < ratio.max() < 1.21


@pytest.mark.parametrize("crop", [1, 5, 32, 33, 88])
def test_needed_size_holds_the_diagonal_and_keeps_parity(crop):
    size = needed_size(crop)
    assert size >= crop * math.sqrt(2) and size - crop * math.sqrt(2) < 2 and (size - crop) % 2 == 0


def test_center_crop_of_mixed_parity_lies_half_a_pixel_up_and_left():
    assert_close(center_crop(torch.arange(25).reshape(5, 5), 2), torch.tensor([[6, 7], [11, 12]]))


@pytest.mark.parametrize("turn", ["none", "rot90", "any"])
@pytest.mark.parametrize("crop", [0, 13])
def test_a_crop_that_does_not_fit_is_refused(turn, crop):
    with pytest.raises(UsageError, match=f"crop: expected 1 to 12 pixels for images of 12x12, got {crop}"):
        augment(random_images(), Augment(turn=turn), crop, generator())


@pytest.mark.parametrize("turn", ["rot90", "any"])
def test_turning_needs_square_images(turn):
    with pytest.raises(UsageError, match=f"turn='{turn}' expects square images, got 12x10"):
        augment(random_images()[..., :10], Augment(turn=turn), 8, generator())


def test_quarter_turns_without_mirrors_use_four_elements():
    images = random_images(100)
    turned = augment(images, Augment(turn="rot90", mirror=False), None, generator())
    pairs = zip(images, turned, strict=True)
    seen = {next(g for g, copy in enumerate(orbit(a)) if torch.equal(copy, b)) for a, b in pairs}
    assert seen == {0, 1, 2, 3}


def test_mirrors_alone():
    images = random_images(100)
    turned = augment(images, Augment(turn="none", mirror=True), None, generator())
    flipped = torch.tensor([torch.equal(a.flip(-1), b) for a, b in zip(images, turned, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(images, turned, strict=True)])
    assert (flipped ^ kept).all() and 30 < flipped.sum() < 70


def test_any_angle_without_mirrors_never_mirrors():
    images = waves(40, 20)
    turned = augment(images, Augment(turn="any", mirror=False), None, generator())
    centre = slice(5, 15)
    for image in turned:
        unmirrored = min(
            (turn_image(waves(1, 20)[0], angle) - image)[..., centre, centre].norm() for angle in range(0, 360, 5)
        )
        mirrored = min(
            (turn_image(waves(1, 20)[0].flip(-1), angle) - image)[..., centre, centre].norm()
            for angle in range(0, 360, 5)
        )
        assert unmirrored < mirrored


def test_radians_taken_for_degrees_hardly_turn():
    images = waves(200, 20)
    turned = augment(images, Augment(turn="radians_as_degrees", mirror=False), None, generator())
    angles = torch.linspace(-5, 5, 101)
    copies = torch.stack([turn_image(waves(1, 20)[0], float(angle)) for angle in angles])[..., 5:15, 5:15]
    nearest = angles[torch.cdist(turned[..., 5:15, 5:15].flatten(1), copies.flatten(1)).argmin(1)]
    assert nearest.abs().max() <= 3.2 and nearest.max() > 2.5 and nearest.min() < -2.5


def test_shift_moves_whole_images_by_whole_pixels_and_uses_every_one():
    images = random_images(300, size=6) + 1
    moved = augment(images, Augment(turn="none", shift=2), None, generator())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for i in range(len(images)):
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[i, :, y : y + 6, x : x + 6], moved[i])]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25
