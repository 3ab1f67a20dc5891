import itertools

import pytest
import torch

from roteq.errors import UsageError
from roteq.groups import Group, group, turn_image

GROUPS = ["C1", "C2", "C4", "C8", "C12", "D1", "D4", "D6"]


@pytest.fixture
def image():
    return torch.randn(2, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", GROUPS)
def test_group_axioms_hold(name):
    g = group(name)
    elements = range(g.order)
    for a, b in itertools.product(elements, elements):
        assert g.product(a, b) in elements
        for c in elements:
            assert g.product(g.product(a, b), c) == g.product(a, g.product(b, c))
    for a in elements:
        assert g.product(a, 0) == g.product(0, a) == a
        assert g.product(a, g.inverse(a)) == g.product(g.inverse(a), a) == 0


@pytest.mark.parametrize("name", GROUPS)
def test_matrices_represent_the_group(name):
    g = group(name)
    for a, b in itertools.product(range(g.order), range(g.order)):
        torch.testing.assert_close(g.matrix(a) @ g.matrix(b), g.matrix(g.product(a, b)))


@pytest.mark.parametrize("name", ["C1", "C4", "D1", "D4", "C8", "D12"])
def test_actions_are_homomorphisms_on_exact_elements(name, image):
    g = group(name)
    features = image.repeat(1, g.order, 1, 1)
    features = features + torch.arange(features.shape[1])[:, None, None]
    for a, b in itertools.product(g.exact_elements, g.exact_elements):
        ab = g.product(a, b)
        assert torch.equal(g.act_on_image(g.act_on_image(image, b), a), g.act_on_image(image, ab))
        assert torch.equal(g.act_on_features(g.act_on_features(features, b), a), g.act_on_features(features, ab))


def test_convention_positive_angle_is_counter_clockwise(image):
    p4 = group("p4")
    assert torch.equal(p4.act_on_image(image, 1), torch.rot90(image, 1, (-2, -1)))
    smooth = torch.nn.functional.interpolate(image, scale_factor=9, mode="bilinear")
    torch.testing.assert_close(turn_image(smooth, 90.0), torch.rot90(smooth, 1, (-2, -1)), atol=1e-10, rtol=0)


def test_convention_mirror_comes_before_the_turn(image):
    p4m = group("p4m")
    assert torch.equal(p4m.act_on_image(image, 5), torch.rot90(image.flip(-1), 1, (-2, -1)))


def test_turning_a_map_that_is_not_square_keeps_distances():
    x = torch.zeros(1, 1, 41, 81, dtype=torch.float64)
    x[..., 20, 60] = 1.0  # 20 pixels right of the centre
    turned = turn_image(x, 90.0, mode="bilinear")
    assert turned[0, 0].argmax() == 0 * 81 + 40  # 20 pixels above it


def test_exact_elements_are_quarter_turns_and_mirrors():
    assert group("C12").exact_elements == (0, 3, 6, 9)
    assert group("D4").exact_elements == tuple(range(8))
    assert group("D6").exact_elements == (0, 3, 6, 9)
    assert group("C3").exact_elements == (0,)


@pytest.mark.parametrize(
    ("name", "order", "printed"),
    [("p4", 4, "C4"), ("p4m", 8, "D4"), ("C12", 12, "C12"), ("d6", 12, "D6"), ("Z2", 1, "Z2"), ("SE(2,8)", 8, "C8")],
)
def test_names(name, order, printed):
    assert (group(name).order, group(name).name) == (order, printed)
    assert group(group(name)) is not None


@pytest.mark.parametrize("name", ["p5", "C0", "C", "D-4", "", "rot4", 4])
def test_unknown_group_is_refused(name):
    with pytest.raises(UsageError, match="expected 'Z2', 'p4', 'p4m'"):
        group(name)


def test_group_without_rotations_is_refused():
    with pytest.raises(UsageError, match="at least 1 rotation, got 0"):
        Group(0)
