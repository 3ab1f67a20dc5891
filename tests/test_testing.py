import pytest
import torch
from torch import nn

from roteq.nn import GroupConv2d, GroupPool, LiftingConv2d
from roteq.testing import assert_equivariant, equivariance_error

x = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(3))


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 4) + 0 * x.mean()


class OneFilterTurnedWrongly(GroupConv2d):
    def bank(self):
        bank = super().bank().clone()
        bank[1] = torch.rot90(bank[1], 1, (-2, -1))
        return bank


def test_a_plain_cnn_fails():
    with pytest.raises(
        AssertionError, match="not equivariant under D4: element 90°, float32, train mode, 12x12: error"
    ):
        assert_equivariant(nn.Conv2d(1, 8, 3), "D4", x)


def test_a_constant_fails():
    with pytest.raises(AssertionError, match="does not vary between images"):
        assert_equivariant(Constant(), "C4", x)
    assert equivariance_error(Constant(), "C4", x, 1) is None


def test_one_filter_turned_wrongly_fails():
    torch.manual_seed(0)
    good = nn.Sequential(LiftingConv2d(1, 2, 3, group="C4"), GroupConv2d(2, 2, 3, group="C4"))
    bad = nn.Sequential(good[0], OneFilterTurnedWrongly(2, 2, 3, group="C4"))
    assert_equivariant(good, "C4", x)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(bad, "C4", x)


def test_equal_orientations_fail():
    flat = LiftingConv2d(1, 2, 3, group="C4")
    with torch.no_grad():
        flat.weight.fill_(1.0)
    with pytest.raises(AssertionError, match="all orientations of a feature are equal"):
        assert_equivariant(flat, "C4", x)


def test_a_pool_that_forgets_one_orientation_fails():
    class Forgetful(GroupPool):
        def forward(self, x):
            return x.unflatten(1, (-1, 4))[:, :, 1:].amax(2)

    net = nn.Sequential(LiftingConv2d(1, 2, 3, group="C4"), Forgetful("C4"))
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(net, "C4", x, output="trivial")


def test_the_module_is_left_untouched():
    net = nn.Sequential(LiftingConv2d(1, 2, 3, group="C4"), nn.BatchNorm2d(8)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert equivariance_error(net, "C4", x, 1) < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training


def test_the_error_of_an_unrelated_output_is_about_one():
    class Scrambled(nn.Module):
        def forward(self, x):
            return torch.sin(1e3 * x.flatten(1) @ torch.arange(1.0, 145.0)[:, None]).repeat(1, 3)

    error = equivariance_error(Scrambled(), "C4", x.repeat(16, 1, 1, 1) + torch.rand(64, 1, 12, 12), 1)
    assert 0.6 < error < 1.6


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="at least 2 images"):
        equivariance_error(nn.Conv2d(1, 4, 3), "C4", x[:1], 1)
