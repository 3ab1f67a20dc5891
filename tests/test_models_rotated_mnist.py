"""The rotated MNIST networks: their maps, their dropout, and what they refuse."""

import pytest
import torch
from torch import nn

from roteq.errors import UsageError
from roteq.models.rotated_mnist import p4cnn, p4cnn_rotation_pooling, z2cnn
from roteq.nn import GroupConv2d, GroupPool, LiftingConv2d
from roteq.testing import assert_equivariant

NETWORKS = (z2cnn, p4cnn, p4cnn_rotation_pooling)


@pytest.mark.parametrize("make", NETWORKS)
def test_the_maps_have_the_published_sides(make):
    net, sides = make(width=2).eval(), []
    for layer in net.modules():
        if isinstance(layer, LiftingConv2d | GroupConv2d):
            layer.register_forward_hook(lambda _, x, y: sides.append((x[0].shape[-1], y.shape[-1])))
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert sides == [(28, 26), (26, 24), (12, 10), (10, 8), (8, 6), (6, 4), (4, 1)]


def test_layers_are_as_published():
    for make, features, order in ((z2cnn, 20, 1), (p4cnn, 10, 4), (p4cnn_rotation_pooling, 20, 4)):
        convolutions = [m for m in make().modules() if isinstance(m, LiftingConv2d | GroupConv2d)]
        assert [(c.out_channels, c.group.order) for c in convolutions] == [(features, order)] * 6 + [(10, order)]
    lifts = [isinstance(m, LiftingConv2d) for m in p4cnn().modules() if isinstance(m, LiftingConv2d | GroupConv2d)]
    assert lifts == [True] + [False] * 6
    pools = [m for m in p4cnn_rotation_pooling().modules() if isinstance(m, GroupPool)]
    assert len(pools) == 7 and all(pool.mode == "max" for pool in pools)


def test_dropout_follows_every_layer_but_the_second_and_is_the_plain_network_s_alone():
    kinds = [type(m).__name__ for m in z2cnn().features if isinstance(m, LiftingConv2d | GroupConv2d | nn.Dropout)]
    assert "".join("D" if kind == "Dropout" else "c" for kind in kinds) == "cDccDcDcDcD"
    assert all(m.p == 0.3 for m in z2cnn().modules() if isinstance(m, nn.Dropout))
    assert not any(isinstance(m, nn.Dropout) for make in NETWORKS[1:] for m in make().modules())


@pytest.mark.parametrize("make", NETWORKS)
def test_wrong_calls_are_refused(make):
    with pytest.raises(UsageError, match=f"{make.__name__}: expected width of at least 1, got 0"):
        make(width=0)
    with pytest.raises(UsageError, match=r"expected pictures of at least 28x28 pixels.*pads nothing.*got 28x27"):
        make(width=1)(torch.zeros(1, 1, 28, 27))


@pytest.mark.parametrize("make", NETWORKS[1:])
def test_larger_pictures_are_looked_at_everywhere(make):
    torch.manual_seed(0)
    net, x = make(width=2).double().eval(), torch.randn(3, 1, 34, 34, dtype=torch.float64)
    assert_equivariant(net, "p4", x.float(), output="invariant", parities=False)
    with torch.no_grad():
        corner = x.clone()
        corner[..., :17, :17] += torch.randn(17, 17)
        assert not torch.equal(net(corner), net(x)) and not torch.equal(net(corner.flip(-1, -2)), net(x.flip(-1, -2)))
